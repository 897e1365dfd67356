"""Recorded runs: result.json files read, checked and grouped by what was asked for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_nas.io.reading import read_json, shown
from lightning_nas.report.text import COST_FIELDS, limits

__all__ = [
    "PICTURE",
    "PRIVATE",
    "Run",
    "group_key",
    "grouped",
    "read_results",
    "read_run",
    "training_text",
]

PICTURE = "picture_"
"""How the names of a run's pictures begin; pages of results show them."""

PRIVATE = "private_"
"""How the names of pictures begin whose images may not be shown."""

_FIELDS = ("recipe", "device", "seed", "budget", "baseline", "subnet")
_MAY_BE_TOLD = ("verified_latency_ms", "macs")
# Beyond, sums and quotients are no numbers any more.
_MOST = 1e100
_CHOICES = ("widths", "kinds", "both")


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: Where its files are.
        result: Content of ``result.json``, with that of ``run.json`` where there is one.
        overrides: What the command line changed, by key; of runs of a sweep.
        architecture: Content of ``architecture.json``, empty where there is none.
    """

    folder: Path
    result: Mapping[str, Any]
    overrides: Mapping[str, str] = field(default_factory=dict)
    architecture: Mapping[str, Any] = field(default_factory=dict)


def read_run(path: Path, overrides: Mapping[str, str] | None = None) -> Run:
    """Return the run whose result is in the file `path`.

    Args:
        path: A file in the form of ``result.json``; ``run.json`` and ``architecture.json`` beside it are read too.
        overrides: What its command line changed, by key.

    Raises:
        ValueError: The file, or one beside it, is not in its form.
    """
    result = read_json(path, finite=False)
    _check(path, result)
    whole = {**_read_beside(path, "run.json"), **result}
    _check_described(path, whole)
    architecture = _read_beside(path, "architecture.json")
    _check_architecture(path.with_name("architecture.json"), architecture)
    return Run(path.parent, whole, overrides or {}, architecture)


def read_results(folder: Path) -> list[Run]:
    """Return all recorded runs in `folder`, at any depth, by seed.

    Raises:
        ValueError: There is no result in the folder, or one of them is not in the form of ``result.json``.
    """
    runs = []
    for path in sorted(folder.rglob("*.json")):
        if path.name == "run.json":
            continue
        # A run's folder may hold its architecture.json as well.
        if path.name != "result.json" and not _looks_like_result(path):
            continue
        runs.append(read_run(path))
    if not runs:
        raise ValueError(f"`folder` must hold a result.json; '{folder}' has none.")
    return sorted(runs, key=lambda run: run.result["seed"])


def grouped(runs: Iterable[Run]) -> list[list[Run]]:
    """Return the runs that differ in nothing but their seed together, the largest budget first."""
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(group_key(run.result), []).append(run)
    return [groups[key] for key in sorted(groups)]


def group_key(result: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what a group of runs has in common; keys sort the largest budget first, and results without one last."""
    given = dict(limits(result))
    choices = str(result.get("choices") or "both")
    return (
        str(result["recipe"]),
        str(result["device"]),
        str(result.get("data", "")),
        # Four digits: the baseline of a relative budget may differ in the last bits from seed to seed.
        tuple(-float(f"{given.get(name, 0):.4g}") for name in COST_FIELDS),
        _finetuned_epochs(result) or 0,
        _taught_by(result),
        _CHOICES.index(choices) if choices in _CHOICES else len(_CHOICES),
        choices,
    )


def _finetuned_epochs(result: Mapping[str, Any]) -> int | None:
    """Return for how many epochs the subnet was fine-tuned; None where the record does not tell."""
    epochs = result.get("epochs")
    found = epochs.get("finetune") if isinstance(epochs, Mapping) else None
    return found if isinstance(found, int) else None


def _taught_by(result: Mapping[str, Any]) -> str:
    """Return what the subnet began from and imitated; older records do not tell that it was the source."""
    return str(result.get("taught_by") or "source")


def training_text(result: Mapping[str, Any]) -> str:
    """Return how long and by what other teacher the subnet was fine-tuned; nothing where the record does not tell."""
    epochs = _finetuned_epochs(result)
    length = "" if epochs is None else "1 epoch" if epochs == 1 else f"{epochs} epochs"
    teacher = "" if _taught_by(result) == "source" else f"taught by the {_taught_by(result)}"
    return ", ".join(filter(None, [length, teacher]))


def _read_beside(path: Path, name: str) -> Mapping[str, Any]:
    beside = path.with_name(name)
    content = read_json(beside, finite=False) if beside.exists() else {}
    if not isinstance(content, dict):
        raise ValueError(f"'{beside}' must hold an object; got {type(content).__name__}.")
    return content


def _looks_like_result(path: Path) -> bool:
    data = read_json(path, finite=False)
    return isinstance(data, dict) and "subnet" in data


def _check(path: Path, result: Any) -> None:
    if not isinstance(result, dict):
        raise ValueError(f"'{path}' must hold an object; got {type(result).__name__}.")
    for name in _FIELDS:
        if name not in result:
            raise ValueError(f"'{path}' must be a result with the field {name!r}; it has {', '.join(result)}.")
    if not isinstance(result["seed"], int) or abs(result["seed"]) > _MOST:
        raise ValueError(f"'{path}' must have a whole number as its seed; got {shown(result['seed'])}.")
    if not isinstance(result["budget"], dict):
        raise ValueError(f"'{path}' must have an object as its budget; got {shown(result['budget'])}.")
    _check_cost(path, "budget", result["budget"], (), COST_FIELDS)
    for name in ("baseline", "subnet"):
        _check_cost(path, name, result[name], COST_FIELDS)
        _check_metric(path, name, result[name].get("metric"))
    compared = result.get("comparisons") or {}
    if not isinstance(compared, dict):
        raise ValueError(f"'{path}' must map names to costs as its comparisons; got {type(compared).__name__}.")
    for name, cost in compared.items():
        _check_cost(path, name, cost, ("latency_ms",))
        if cost.get("metric") is not None:
            _check_metric(path, name, cost["metric"])


def _check_described(path: Path, result: Mapping[str, Any]) -> None:
    """Check what a result or the run.json beside it may tell, and older ones do not."""
    for name in ("search", "versions", "fusing"):
        if not isinstance(result.get(name) or {}, dict):
            raise ValueError(f"'{path}' must have an object as its {name}; got {shown(result[name])}.")
    if not isinstance(result.get("command") or "", str):
        raise ValueError(f"'{path}' must have text as its command; got {shown(result['command'])}.")
    if search := result.get("search"):
        _check_cost(path, "search", search, ("steps", "seconds"))
    if told := result.get("fusing"):
        for name in ("all", "where_faster"):
            _check_cost(path, name, told.get(name), ("latency_ms",))
        blocks = told.get("blocks")
        if not isinstance(blocks, list) or not all(_is_number(number) for number in blocks):
            raise ValueError(f"'{path}' must list numbers as the blocks of its fusing; got {shown(blocks)}.")


def _check_architecture(path: Path, content: Mapping[str, Any]) -> None:
    """Check what pages tell of an architecture, which may be of an older format."""
    if not isinstance(content.get("input_size", []), list) or not isinstance(content.get("stem", {}), dict):
        raise ValueError(f"'{path}' must have a list as its `input_size` and an object as its `stem`.")
    if not isinstance(content.get("stages") or [], list):
        raise ValueError(f"'{path}' must have a list as its `stages`; got {shown(content['stages'])}.")


def _check_cost(path: Path, network: str, cost: Any, needed: Iterable[str], told: Iterable[str] = _MAY_BE_TOLD) -> None:
    figures = cost if isinstance(cost, dict) else {}
    for name in needed:
        if not _is_number(figures.get(name)):
            raise ValueError(f"'{path}' must give a number as {name!r} of {network!r}; got {shown(figures.get(name))}.")
    for name in told:
        if figures.get(name) is not None and not _is_number(figures[name]):
            raise ValueError(f"'{path}' must give a number or null as {name!r} of {network!r}.")


def _check_metric(path: Path, network: str, metric: Any) -> None:
    known = isinstance(metric, dict) and {"name", "split"} <= metric.keys()
    if not known or not (_is_number(metric.get("value")) or _is_nan(metric.get("value"))):
        raise ValueError(f"'{path}' must give name, value and split as the metric of {network!r}; got {shown(metric)}.")


def _is_nan(value: Any) -> bool:
    """Return whether a metric was none, as of a training that diverged."""
    return isinstance(value, float) and math.isnan(value)


def _is_number(value: Any) -> bool:
    """Return whether figures can be computed with a value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MOST
