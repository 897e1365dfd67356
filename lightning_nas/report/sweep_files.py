"""The runs of a Hydra sweep: finished and unfinished ones, and in which overrides they differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lightning_nas.report.recorded import RecordedRun, group_key, read_run

__all__ = ["Sweep", "read_sweep", "same_settings"]

_RESULT = "result.json"
# Its column stands by itself.
_SEED = "seed"


@dataclass(frozen=True)
class Sweep:
    """What lies in the folder of a sweep.

    Attributes:
        folder: The folder.
        runs: Finished runs, in the order of their folders.
        unfinished: Folders of runs without a result, from the sweep's folder on.
    """

    folder: Path
    runs: tuple[RecordedRun, ...]
    unfinished: tuple[str, ...]

    def name(self, run: RecordedRun) -> str:
        """Return the folder of a run from the sweep's folder on."""
        return run.folder.relative_to(self.folder).as_posix()

    def differing(self, run: RecordedRun) -> str:
        """Return those of a run's overrides that not all runs share, but for the seed."""
        keys = dict.fromkeys(key for other in self.runs for key in other.overrides if key != _SEED)
        differ = [key for key in keys if len({other.overrides.get(key) for other in self.runs}) > 1]
        return " ".join(f"{key}={run.overrides[key]}" for key in differ if key in run.overrides)


def read_sweep(folder: str | Path) -> Sweep:
    """Return the runs in `folder`, at any depth.

    A run is a folder with ``result.json``. One without is unfinished if it holds Hydra's ``.hydra``, or is a numbered
    job beside ``multirun.yaml``.

    Args:
        folder: Folder of a sweep, such as ``multirun/2026-11-22/16-49-10``, or one above it.

    Raises:
        ValueError: There is no such folder or no result in it, or a file is not in its form.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"The sweep '{folder}' is no folder.")
    finished = {path.parent for path in folder.rglob(_RESULT)}
    started = {path.parent for path in folder.rglob(".hydra") if path.is_dir()}
    for path in folder.rglob("multirun.yaml"):
        started |= {job for job in path.parent.iterdir() if job.is_dir() and job.name.isdigit()}
    unfinished = [job.relative_to(folder).as_posix() for job in sorted(started - finished, key=_order)]
    if not finished:
        left = f"; unfinished: {', '.join(unfinished)}" if unfinished else ""
        raise ValueError(f"A sweep must hold a {_RESULT}; '{folder}' has none{left}.")
    runs = tuple(read_run(job / _RESULT, _overrides(job)) for job in sorted(finished, key=_order))
    return Sweep(folder, runs, tuple(unfinished))


def same_settings(runs: Sequence[RecordedRun]) -> list[list[RecordedRun]]:
    """Return the runs that differ in nothing but their seed together, in the order of `runs`."""
    groups: dict[object, list[RecordedRun]] = {}
    for run in runs:
        overrides = frozenset((key, value) for key, value in run.overrides.items() if key != _SEED)
        groups.setdefault((overrides, *group_key(run)), []).append(run)
    return list(groups.values())


def _overrides(job: Path) -> dict[str, str]:
    path = job / ".hydra" / "overrides.yaml"
    if not path.exists():
        return {}
    try:
        found = OmegaConf.load(path)
    except (OmegaConfBaseException, YAMLError, OSError) as error:
        raise ValueError(f"'{path}' must be a list of overrides; {' '.join(str(error).split())}.") from error
    if not isinstance(found, ListConfig):
        # Hydra writes an empty list where there are none.
        raise ValueError(f"'{path}' must be a list of overrides; got {type(found).__name__}.")
    items = OmegaConf.to_container(found, resolve=False)
    parts = (str(item).partition("=") for item in (items if isinstance(items, list) else ()))
    # Hydra's +key and ++key are of the same setting as key.
    return {key.lstrip("+"): value for key, _, value in parts}


def _order(path: Path) -> list[tuple[int, str]]:
    """Return a key that sorts job 10 after job 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in path.parts]
