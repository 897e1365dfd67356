"""The page of recorded results: markdown as a pure function of ``result.json`` files."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["budget_text", "bytes_text", "count_text", "is_within_budget", "results_page"]

Result = Mapping[str, Any]
COST_FIELDS = ("latency_ms", "peak_activation_bytes", "parameter_bytes")


def results_page(folder: str | Path) -> str:
    """Return the markdown page of all results in `folder`, at any depth.

    The page depends on the files alone: no dates, no machine of the moment, so that a check can compare it.

    Args:
        folder: Folder of one task, such as ``recipes/results/classification``.

    Raises:
        ValueError: There is no result in the folder, or one of them is not in the form of ``result.json``.
    """
    folder = Path(folder)
    results = _read(folder)
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for result in results:
        groups.setdefault(_group_key(result), []).append(result)
    # The largest budget first; groups without one last.
    ordered = [groups[key] for key in sorted(groups, key=lambda key: (key[0], key[1], key[2], [-v for v in key[3]]))]
    title = folder.name.replace("_", " ").capitalize()
    parts = [
        f"# Recorded results: {title}",
        f"Written by `python -m lightning_nas.report` from the {len(results)} recorded `result.json` files in "
        f"`{folder.name}/`; edit those, not this page. The search starts from a trained source network, which "
        "teaches the subnet too; the baseline is that source, trained on for as many steps. Figures are means over "
        "seeds, ± is the standard deviation; the difference is the mean over seeds of subnet minus baseline of the "
        "same seed.",
        _metric_table(ordered),
        "## Cost",
        "Latency is the estimator's; *verified* is the measurement of the whole network by the target's own compiler, "
        "simulator or clock, where it was available.",
        _cost_table(ordered),
        *_comparisons(ordered),
        "## How they were made",
        _provenance(ordered),
    ]
    return "\n\n".join(parts) + "\n"


def is_within_budget(result: Result) -> bool:
    """Return whether the subnet keeps every budget, by the estimator.

    Example::

        >>> is_within_budget({"budget": {"latency_ms": 2.0}, "subnet": {"latency_ms": 2.1}})
        False
    """
    return all(result["subnet"][field] <= limit for field, limit in _limits(result))


def budget_text(result: Result) -> str:
    """Return the budgets in words.

    Example::

        >>> budget_text({"budget": {"latency_ms": 8.0, "parameter_bytes": 262144, "peak_activation_bytes": None}})
        '8 ms, 256 KiB parameters'
    """
    words = {"latency_ms": "", "peak_activation_bytes": " peak", "parameter_bytes": " parameters"}
    texts = [
        (f"{limit:.4g} ms" if field == "latency_ms" else bytes_text(limit)) + words[field]
        for field, limit in _limits(result)
    ]
    requested = result.get("budget", {}).get("requested")
    return ", ".join(texts) + (f" ({requested})" if requested else "") or "none"


def bytes_text(count: float) -> str:
    """Return a number of bytes in binary units.

    Example::

        >>> bytes_text(900), bytes_text(262144), bytes_text(3 * 2**20)
        ('900 B', '256 KiB', '3.00 MiB')
    """
    if count < 1024:
        return f"{count:.0f} B"
    return f"{count / 1024:.3g} KiB" if count < 999.5 * 1024 else f"{count / 2**20:.2f} MiB"


def count_text(count: float) -> str:
    """Return a large count with a decimal unit.

    Example::

        >>> count_text(314_000_000)
        '314 M'
    """
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.0f}"


def _read(folder: Path) -> list[Result]:
    results = []
    for path in sorted(folder.rglob("*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        if path.name == "run.json":
            continue
        # A run's folder may hold its architecture.json as well.
        if path.name != "result.json" and not (isinstance(data, dict) and "subnet" in data):
            continue
        for field in ("recipe", "device", "seed", "budget", "baseline", "subnet"):
            if field not in data:
                raise ValueError(f"'{path}' must be a result with the field {field!r}; it has {', '.join(data)}.")
        beside = path.with_name("run.json")
        described = json.loads(beside.read_text(encoding="utf-8")) if beside.exists() else {}
        results.append({**described, **data})
    if not results:
        raise ValueError(f"`folder` must hold a result.json; '{folder}' has none.")
    return sorted(results, key=lambda result: result["seed"])


def _limits(result: Result) -> list[tuple[str, float]]:
    budget = result["budget"]
    return [(field, budget[field]) for field in COST_FIELDS if budget.get(field) is not None]


def _group_key(result: Result) -> tuple[Any, ...]:
    limits = dict(_limits(result))
    # Four digits: the baseline of a relative budget may differ in the last bits from seed to seed.
    return (
        str(result["recipe"]),
        str(result["device"]),
        str(result.get("data", "")),
        tuple(float(f"{limits.get(field, 0):.4g}") for field in COST_FIELDS),
    )


def _metric_table(groups: Sequence[Sequence[Result]]) -> str:
    rows = []
    for group in groups:
        metric = group[0]["subnet"]["metric"]
        rows.append(
            [
                *_names(group),
                f"{metric['name']} ({metric['split']})",
                _spread([r["baseline"]["metric"]["value"] for r in group], ".3f"),
                _spread([r["subnet"]["metric"]["value"] for r in group], ".3f"),
                _spread([r["subnet"]["metric"]["value"] - r["baseline"]["metric"]["value"] for r in group], "+.3f"),
                _reduction(group, "latency_ms"),
                _all_within(group),
            ]
        )
    head = [
        "Recipe",
        "Device",
        "Budget",
        "Seeds",
        "Metric",
        "Baseline",
        "Subnet",
        "Difference",
        "Latency",
        "Within budget",
    ]
    return _table(head, rows)


def _cost_table(groups: Sequence[Sequence[Result]]) -> str:
    rows = []
    for group in groups:
        rows.append(
            [
                *_names(group)[:3],
                _pair(group, "latency_ms", lambda value: f"{value:.3g}"),
                _pair(group, "verified_latency_ms", lambda value: f"{value:.3g}"),
                _reduction(group, "verified_latency_ms"),
                _pair(group, "parameter_bytes", bytes_text),
                _pair(group, "peak_activation_bytes", bytes_text),
                _pair(group, "macs", count_text),
            ]
        )
    head = ["Recipe", "Device", "Budget", "Latency (ms)", "Verified (ms)", "Verified change", "Parameters"]
    return _table([*head, "Peak activations", "MACs"], rows)


def _comparisons(groups: Sequence[Sequence[Result]]) -> list[str]:
    """Return the table of the other networks that a run was compared with, where any were recorded."""
    rows = []
    for group in groups:
        names = dict.fromkeys(name for result in group for name in result.get("comparisons") or {})
        for name in names:
            costs = [result["comparisons"][name] for result in group if name in (result.get("comparisons") or {})]
            values = [cost["metric"]["value"] for cost in costs if cost.get("metric")]
            latency_ms = statistics.fmean(cost["latency_ms"] for cost in costs)
            rows.append([*_names(group)[:3], name, _spread(values, ".3f"), f"{latency_ms:.3g}", str(len(costs))])
    if not rows:
        return []
    head = ["Recipe", "Device", "Budget", "Network", "Metric", "Latency (ms)", "Seeds"]
    return ["## Other networks within reach of the budget", _table(head, rows)]


def _provenance(groups: Sequence[Sequence[Result]]) -> str:
    lines = []
    for group in groups:
        recipe, device, budget, _ = _names(group)
        facts = [f"seeds {', '.join(str(result['seed']) for result in group)}"]
        for field in ("data", "epochs", "machine"):
            facts += [f"{field}: {value}" for value in _distinct(result.get(field) for result in group)]
        search = [result["search"] for result in group if result.get("search")]
        if search:
            seconds = statistics.fmean(item["seconds"] for item in search)
            facts.append(f"search {seconds:.0f} s, {_distinct(item['steps'] for item in search)[0]} steps")
        facts += [f"command `{value}`" for value in _distinct(result.get("command") for result in group)]
        facts += [f"versions: {value}" for value in _distinct(_versions(result) for result in group)]
        lines.append(f"* **{recipe}, {device}, {budget}**: " + "; ".join(facts) + ".")
    return "\n".join(lines)


def _names(group: Sequence[Result]) -> list[str]:
    first = group[0]
    return [str(first["recipe"]), str(first["device"]), budget_text(first), str(len(group))]


def _versions(result: Result) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted((result.get("versions") or {}).items()))


def _distinct(values: Iterable[Any]) -> list[str]:
    texts = (_fact(value) for value in values if value)
    return list(dict.fromkeys(texts))


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return str(value)


def _values(group: Sequence[Result], network: str, field: str) -> list[float]:
    values = [result[network].get(field) for result in group]
    return [value for value in values if value is not None]


def _pair(group: Sequence[Result], field: str, form: Callable[[float], str]) -> str:
    sides = [_values(group, network, field) for network in ("baseline", "subnet")]
    return " → ".join(form(statistics.fmean(side)) if side else "n/a" for side in sides)


def _reduction(group: Sequence[Result], field: str) -> str:
    pairs = [(result["baseline"].get(field), result["subnet"].get(field)) for result in group]
    changes = [subnet / baseline - 1 for baseline, subnet in pairs if baseline and subnet is not None]
    return f"{statistics.fmean(changes):+.0%}".replace("-", "\u2212") if changes else "n/a"


def _all_within(group: Sequence[Result]) -> str:
    num_within = sum(is_within_budget(result) for result in group)
    return "yes" if num_within == len(group) else f"no ({num_within} of {len(group)})"


def _spread(values: Sequence[float], form: str) -> str:
    if not values:
        return "n/a"
    mean = format(statistics.fmean(values), form).replace("-", "\u2212")
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    # A bar inside a cell would end it.
    lines = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *lines])
