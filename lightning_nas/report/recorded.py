"""Recorded runs: the files of finished runs, read and grouped by what was asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lightning_nas.report.architecture_record import ArchitectureRecord
from lightning_nas.report.fields import Fields
from lightning_nas.report.run_record import ProvenanceRecord, RunRecord

__all__ = [
    "PICTURE",
    "PRIVATE",
    "GroupKey",
    "RecordedRun",
    "group_key",
    "grouped",
    "read_run",
    "source_text",
    "training_text",
]

PICTURE = "picture_"
"""How the names of a run's pictures begin; pages of results show them."""

PRIVATE = "private_"
"""How the names of pictures begin whose images may not be shown."""

GroupKey = tuple[str, str, str, str, tuple[float, ...], int, str, int, str]
"""What a group of runs has in common, see `group_key`."""

_DEFAULT_SOURCE = "mobilenet_v2"
_CHOICES = ("widths", "kinds", "both")


@dataclass(frozen=True)
class RecordedRun:
    """A finished run.

    Attributes:
        folder: Where its files are.
        record: What it found.
        provenance: How it was made.
        overrides: What the command line changed, by key; of runs of a sweep.
        architecture: What it found, in detail; of no blocks where the file is missing.
    """

    folder: Path
    record: RunRecord
    provenance: ProvenanceRecord = field(default_factory=ProvenanceRecord)
    overrides: Mapping[str, str] = field(default_factory=dict)
    architecture: ArchitectureRecord = field(default_factory=ArchitectureRecord)


def read_run(path: Path, overrides: Mapping[str, str] | None = None) -> RecordedRun:
    """Return the run whose result is in the file `path`.

    Args:
        path: A file in the form of ``result.json``; ``run.json`` and ``architecture.json`` beside it are read too.
        overrides: What its command line changed, by key.

    Raises:
        ValueError: The file, or one beside it, is not in its form; the message names file and field.
    """
    result = Fields.read(path)
    record = RunRecord.from_fields(result)
    # Records before 2026-11-22 have all in one file.
    provenance = ProvenanceRecord.from_fields(_beside(path, "run.json").under(result))
    architecture = ArchitectureRecord.from_fields(_beside(path, "architecture.json"))
    return RecordedRun(path.parent, record, provenance, overrides or {}, architecture)


def grouped(runs: Iterable[RecordedRun]) -> list[list[RecordedRun]]:
    """Return the runs that differ in nothing but their seed together, the largest budget first."""
    groups: dict[GroupKey, list[RecordedRun]] = {}
    for run in runs:
        groups.setdefault(group_key(run), []).append(run)
    return [groups[key] for key in sorted(groups)]


def group_key(run: RecordedRun) -> GroupKey:
    """Return what a group of runs has in common; keys sort the largest budget first, and runs without one last."""
    record, provenance = run.record, run.provenance
    return (
        record.recipe,
        source_text(run),
        record.device,
        provenance.data or "",
        # Four digits: the baseline of a relative budget may differ in the last bits from seed to seed.
        tuple(-float(f"{limit or 0:.4g}") for limit in record.budget.limits.values()),
        _finetuned_epochs(provenance) or 0,
        provenance.taught_by,
        _CHOICES.index(record.choices) if record.choices in _CHOICES else len(_CHOICES),
        record.choices,
    )


def source_text(run: RecordedRun) -> str:
    """Return the network that was searched; nothing for MobileNetV2, which the recipes start from.

    Args:
        run: The run.
    """
    source = run.architecture.source
    return "" if source == _DEFAULT_SOURCE else source


def training_text(provenance: ProvenanceRecord) -> str:
    """Return how long and by what other teacher the subnet was fine-tuned; nothing where the record does not tell.

    Example::

        >>> from lightning_nas.report.run_record import EpochsRecord
        >>> training_text(ProvenanceRecord(epochs=EpochsRecord(finetune=12), taught_by="baseline"))
        '12 epochs, taught by the baseline'
    """
    epochs = _finetuned_epochs(provenance)
    length = "" if epochs is None else "1 epoch" if epochs == 1 else f"{epochs} epochs"
    teacher = "" if provenance.taught_by == "source" else f"taught by the {provenance.taught_by}"
    return ", ".join(filter(None, [length, teacher]))


def _finetuned_epochs(provenance: ProvenanceRecord) -> int | None:
    """Return for how many epochs the subnet was fine-tuned; None where the record does not tell."""
    return None if provenance.epochs is None else provenance.epochs.finetune


def _beside(path: Path, name: str) -> Fields:
    file = path.with_name(name)
    return Fields.read(file) if file.exists() else Fields(file, {})
