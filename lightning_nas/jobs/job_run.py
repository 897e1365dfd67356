"""`JobRun`: where a job writes, and its seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lightning_nas.io.numbers import check_seed

__all__ = ["JobRun"]


@dataclass(frozen=True)
class JobRun:
    """Where a job that trains nothing writes, and its seed.

    Attributes:
        recipe: Name of the recipe, for the record.
        output_dir: Directory of the run. An estimator's receives the table, the device, both in one ``.estimator.zip``
            to hand on, report.html and, last of all, result.json. Advice receives advice.json and report.html, and with
            ``apply=true`` architecture.json, subnet.safetensors and rebuild.py.
        seed: Seed of the subgraphs that are measured, or of the images that are drawn.
    """

    recipe: str
    output_dir: str | Path
    seed: int

    def __post_init__(self) -> None:
        check_seed(self.seed)

    @property
    def folder(self) -> Path:
        """The directory of the run."""
        return Path(self.output_dir)
