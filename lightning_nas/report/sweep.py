"""The report of a sweep: one row a run, means over seeds, and the Pareto front of each device."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from statistics import fmean, stdev

from lightning_nas.io.units import bytes_text
from lightning_nas.io.writing import write_text
from lightning_nas.report.network_record import NetworkRecord
from lightning_nas.report.page import page, table
from lightning_nas.report.pareto_svg import Mark, pareto_chart, pareto_front
from lightning_nas.report.recorded import RecordedRun
from lightning_nas.report.rivals import GROUP_HEAD, group_cells, rivals, rivals_of, rivals_table, verdicts
from lightning_nas.report.run_record import RunRecord
from lightning_nas.report.sweep_files import Sweep, read_sweep, same_settings
from lightning_nas.report.text import (
    budget_text,
    change_text,
    markdown_table,
    metric_text,
    plain_table,
    searched_text,
    signed,
    spread_text,
)

__all__ = ["write_sweep_report"]

_RIVALS = "Other networks of the same budgets"

Table = tuple[list[str], list[list[str]]]


def write_sweep_report(folder: str | Path) -> str:
    """Write ``report.html`` and ``report.md`` into the folder of a sweep, and return its tables as text.

    Args:
        folder: Folder of a sweep, such as ``multirun/2026-11-22/16-49-10``.

    Raises:
        ValueError: There is no result in the folder, or a file in it is not in its form.
    """
    sweep = read_sweep(folder)
    parts = _by_task(sweep)
    write_text(sweep.folder / "report.html", _html(sweep, parts))
    write_text(sweep.folder / "report.md", _markdown(sweep, parts))
    return _text(sweep, parts)


def _by_task(sweep: Sweep) -> dict[str, list[RecordedRun]]:
    """Return the runs by a heading of their task: figures of different data or metrics are not to be compared."""
    parts: dict[str, list[RecordedRun]] = {}
    for run in sweep.runs:
        task = (run.record.task or run.record.recipe).capitalize()
        data = f" on {run.provenance.data}" if run.provenance.data else ""
        parts.setdefault(f"{task}{data}, {metric_text(run.record.subnet.metric)}", []).append(run)
    return parts


def _html(sweep: Sweep, parts: dict[str, list[RecordedRun]]) -> str:
    sections = []
    for heading, runs in parts.items():
        charts = "".join(_chart(device, same) for device, same in _by_device(runs).items())
        sections += [f"<h2>{escape(heading)}</h2>{charts}", f"<h2>Runs</h2>{_dense(_runs_table(sweep, runs))}"]
        means, (others, lines) = _means_table(sweep, runs), _rivals(sweep, runs)
        if means[1]:
            sections.append(f"<h2>Means over seeds</h2>{_dense(means)}")
        if others[1]:
            texts = "".join(f"<p>{escape(line.strip('* ').replace('**', ''))}</p>" for line in lines)
            sections.append(f"<h2>{_RIVALS}</h2>{_dense(others)}{texts}")
    if sweep.unfinished:
        sections.append(f"<h2>Unfinished</h2><p>{escape(', '.join(sweep.unfinished))}</p>")
    return page(_title(sweep), _subtitle(sweep), sections)


def _markdown(sweep: Sweep, parts: dict[str, list[RecordedRun]]) -> str:
    texts = [f"# {_title(sweep)}", f"{_subtitle(sweep)}. The plots are in `report.html`."]
    for heading, runs in parts.items():
        texts += [f"## {heading}", markdown_table(*_runs_table(sweep, runs))]
        means, (others, lines) = _means_table(sweep, runs), _rivals(sweep, runs)
        if means[1]:
            texts += ["### Means over seeds", markdown_table(*means)]
        texts += ["### Pareto front", "\n".join(_front_lines(runs))]
        if others[1]:
            texts += [f"### {_RIVALS}", markdown_table(*others), "\n".join(lines)]
    if sweep.unfinished:
        texts += ["## Unfinished", "\n".join(f"* `{name}`" for name in sweep.unfinished)]
    return "\n\n".join(text for text in texts if text) + "\n"


def _dense(content: Table) -> str:
    """Return a table with many columns, in which overrides and remarks in brackets wrap, but no figures."""
    head, rows = content
    kept = [[cell if set(cell) & set("=(") else cell.replace(" ", "\u00a0") for cell in row] for row in rows]
    return table(head, kept, "dense")


def _text(sweep: Sweep, parts: dict[str, list[RecordedRun]]) -> str:
    texts = []
    for heading, runs in parts.items():
        texts += [heading, plain_table(*_runs_table(sweep, runs)), ""]
        means = _means_table(sweep, runs)
        texts += ["Means over seeds", plain_table(*means), ""] if means[1] else []
    texts += [f"Unfinished: {', '.join(sweep.unfinished)}"] if sweep.unfinished else []
    return "\n".join([*texts, f"Written to {sweep.folder / 'report.html'} and report.md"])


def _title(sweep: Sweep) -> str:
    recipes = ", ".join(dict.fromkeys(run.record.recipe for run in sweep.runs))
    return f"Sweep of {recipes}"


def _subtitle(sweep: Sweep) -> str:
    unfinished = f", {len(sweep.unfinished)} unfinished" if sweep.unfinished else ""
    return f"{sweep.folder.resolve().name}: {len(sweep.runs)} finished{unfinished}"


def _runs_table(sweep: Sweep, runs: Sequence[RecordedRun]) -> Table:
    head = ["Run", "Overrides", "Searched", "Device", "Budget", "Seed", "Baseline", "Subnet", "Difference"]
    head += ["Latency (ms)", "Change", "Verified (ms)", "Change", "Parameters", "Peak activations", "Within budget"]
    return head, [[sweep.name(run), sweep.differing(run) or "-", *_run_cells(run.record)] for run in runs]


def _run_cells(record: RunRecord) -> list[str]:
    before, after = record.baseline, record.subnet
    values = before.metric.value, after.metric.value
    cells = [searched_text(record.choices), record.device, budget_text(record.budget), str(record.seed)]
    cells += [f"{values[0]:.3f}", f"{values[1]:.3f}", signed(f"{values[1] - values[0]:+.3f}")]
    for pair in (
        (before.cost.latency_ms, after.cost.latency_ms),
        (before.cost.verified_latency_ms, after.cost.verified_latency_ms),
    ):
        cells += [_arrow(*pair), change_text([pair])]
    cells += [bytes_text(after.cost.parameter_bytes), bytes_text(after.cost.peak_activation_bytes)]
    return [*cells, "yes" if record.is_within_budget else "no"]


def _arrow(before: float | None, after: float | None) -> str:
    return " → ".join("n/a" if value is None else f"{value:.3g}" for value in (before, after))


def _means_table(sweep: Sweep, runs: Sequence[RecordedRun]) -> Table:
    """Return the table of means over seeds, without rows where no setting has several."""
    head = ["Overrides", "Searched", "Device", "Budget", "Seeds", "Baseline", "Subnet", "Difference"]
    head += ["Latency change", "Verified change", "Within budget"]
    groups = same_settings(runs)
    several = any(len(group) > 1 for group in groups)
    return head, [_means_cells(sweep, group) for group in groups] if several else []


def _means_cells(sweep: Sweep, group: Sequence[RecordedRun]) -> list[str]:
    records = [run.record for run in group]
    _, device, budget, searched = group_cells(group)
    pairs = [(record.baseline, record.subnet) for record in records]
    costs = [(before.cost, after.cost) for before, after in pairs]
    num_within = sum(record.is_within_budget for record in records)
    return [
        sweep.differing(group[0]) or "-",
        searched,
        device,
        budget,
        ", ".join(str(record.seed) for record in records),
        spread_text([before.metric.value for before, _ in pairs]),
        spread_text([after.metric.value for _, after in pairs]),
        spread_text([after.metric.value - before.metric.value for before, after in pairs], "+.3f"),
        change_text([(before.latency_ms, after.latency_ms) for before, after in costs]),
        change_text([(before.verified_latency_ms, after.verified_latency_ms) for before, after in costs]),
        "yes" if num_within == len(group) else f"no ({num_within} of {len(group)})",
    ]


def _rivals(sweep: Sweep, runs: Sequence[RecordedRun]) -> tuple[Table, list[str]]:
    """Return the table of other networks, and a sentence for each group that is compared with them."""

    def cells(group: Sequence[RecordedRun]) -> list[str]:
        return [sweep.differing(group[0]), *group_cells(group)[1:]]

    groups = same_settings(runs)
    return rivals_table(groups, ["Overrides", *GROUP_HEAD[1:]], cells), verdicts(groups, cells)


def _by_device(runs: Sequence[RecordedRun]) -> dict[str, list[RecordedRun]]:
    devices: dict[str, list[RecordedRun]] = {}
    for run in runs:
        devices.setdefault(run.record.device, []).append(run)
    return devices


def _chart(device: str, runs: Sequence[RecordedRun]) -> str:
    metric = runs[0].record.subnet.metric
    name = metric_text(metric)
    return pareto_chart(
        f"{name} on {device}",
        _marks(runs),
        x_label="latency, estimated (ms)",
        y_label=name,
        larger_is_better=metric.larger_is_better,
    )


def _front_lines(runs: Sequence[RecordedRun]) -> list[str]:
    lines = []
    for device, same in _by_device(runs).items():
        front = pareto_front(_marks(same), same[0].record.subnet.metric.larger_is_better)
        lines.append(f"* **{device}**, the fastest first: " + "; ".join(mark.tip for mark in front) + ".")
    return lines


def _marks(runs: Sequence[RecordedRun]) -> list[Mark]:
    """Return baselines, subnets and other networks: a mean for each setting, and its seeds where there are several."""
    marks = _baselines(runs)
    for group in same_settings(runs):
        records = [run.record for run in group]
        budget = records[0].budget.requested or budget_text(records[0].budget)
        searched = searched_text(records[0].choices)
        subnets = [_point(record.subnet, record.seed) for record in records]
        marks += _averaged(subnets, searched, budget, f"{searched}, {budget}")
        for other in rivals(group):
            found = [(rivals_of(record.comparisons).get(other.kind), record.seed) for record in records]
            points = [(r.latency_ms, r.value, seed) for r, seed in found if r and r.value is not None]
            marks += _averaged(points, other.kind, "", f"{other.name}, {budget}")
    # Runs may share another network.
    return list({(mark.series, mark.x, mark.y, mark.is_single): mark for mark in marks}.values())


def _baselines(runs: Sequence[RecordedRun]) -> list[Mark]:
    """Return the mean of the baselines of each latency; runs of one seed may share theirs."""
    points = dict.fromkeys(_point(run.record.baseline, run.record.seed) for run in runs)
    latencies: dict[str, list[tuple[float, float, int]]] = {}
    for point in points:
        latencies.setdefault(f"{point[0]:.4g}", []).append(point)
    return [mark for same in latencies.values() for mark in _averaged(same, "baseline", "baseline", "baseline")]


def _point(network: NetworkRecord, seed: int) -> tuple[float, float, int]:
    return network.cost.latency_ms, network.metric.value, seed


def _averaged(points: Sequence[tuple[float, float, int]], series: str, label: str, name: str) -> list[Mark]:
    """Return the mean of points of latency, metric and seed, and each of them where there are several."""
    if not points:
        return []
    values = [value for _, value, _ in points]
    latency_ms = fmean(x for x, _, _ in points)
    tip = f"{name}: {latency_ms:.3g} ms, {spread_text(values)}"
    if len(points) == 1:
        return [Mark(latency_ms, values[0], series, label, tip)]
    singles = [
        Mark(x, value, series, tip=f"{name}, seed {seed}: {x:.3g} ms, {value:.3f}", is_single=True)
        for x, value, seed in points
    ]
    return [Mark(latency_ms, fmean(values), series, label, tip, stdev(values)), *singles]
