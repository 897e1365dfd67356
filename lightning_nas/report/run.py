"""The report of a run directory, as one HTML file, and the picture of a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from lightning_nas.io.writing import write_text
from lightning_nas.report.architecture_svg import BlockCost, architecture_svg
from lightning_nas.report.page import figures as page_figures
from lightning_nas.report.page import page, table, terms
from lightning_nas.report.svg import Point, line_chart, scatter_chart
from lightning_nas.report.text import budget_text, bytes_text, count_text, is_within_budget, metric_text

__all__ = [
    "BlockCost",
    "Point",
    "write_architecture_svg",
    "write_report",
]

Cost = Mapping[str, Any]
Record = Mapping[str, float]

COST_ROWS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("latency_ms", "Latency, estimated", lambda value: f"{value:.3g} ms"),
    ("verified_latency_ms", "Latency, verified", lambda value: f"{value:.3g} ms"),
    ("parameter_bytes", "Parameters", bytes_text),
    ("peak_activation_bytes", "Peak activations", bytes_text),
    ("macs", "Multiply-accumulates", count_text),
)
# Which columns of the history belong into one chart, by a part of their names.
CHARTS = (
    ("Expected latency", ("latency",), "ms"),
    ("Entropy of the choices, 1 is undecided", ("entropy",), ""),
    ("Losses", ("loss", "penalty"), ""),
    ("Accuracy", ("acc",), ""),
)


def write_report(
    run_dir: str | Path,
    result: Mapping[str, Any],
    blocks: Sequence[BlockCost],
    history: Sequence[Record] = (),
    frontier: Sequence[Point] | None = None,
    *,
    baseline_blocks: Sequence[BlockCost] = (),
    feasibility: Mapping[str, Mapping[str, float]] | None = None,
) -> Path:
    """Write ``report.html``, one file without scripts or anything to fetch.

    Args:
        run_dir: Directory of the run.
        result: Content of ``result.json``; an optional ``comparisons`` maps names of other networks to their costs.
        blocks: Blocks of the subnet.
        history: One record a logged step: ``step`` and any of the columns whose names hold ``latency``, ``entropy``,
            ``loss``, ``penalty`` or ``acc``; records may lack columns.
        frontier: Networks by latency in ms (x) and metric (y).
        baseline_blocks: Blocks of the baseline.
        feasibility: What the space can reach: for ``latency_ms`` and the like its ``minimum``, ``median`` and
            ``maximum``.

    Returns:
        Path of the report.
    """
    title = f"{result['recipe']} on {result['device']}"
    sections = [
        _headline(result),
        architecture_svg(blocks, baseline_blocks, "Block by block"),
        f"<h2>Cost and quality</h2>{_cost_table(result)}",
        _curves(history, result["budget"].get("latency_ms")),
        _readiness(result.get("search") or {}),
        _frontier(frontier, result),
        _feasibility(feasibility, result),
        f"<h2>The run</h2>{_provenance(result)}",
    ]
    path = Path(run_dir) / "report.html"
    write_text(path, page(title, _subtitle(result), sections))
    return path


def write_architecture_svg(
    path: str | Path, blocks: Sequence[BlockCost], baseline_blocks: Sequence[BlockCost] = (), title: str = ""
) -> None:
    """Write the picture of a network block by block as an SVG file.

    Args:
        path: File to write.
        blocks: Blocks of the network.
        baseline_blocks: Blocks of the network it is compared with, or nothing.
        title: Heading of the picture.

    Raises:
        ValueError: There are no blocks.
    """
    write_text(Path(path), architecture_svg(blocks, baseline_blocks, title))


def _subtitle(result: Mapping[str, Any]) -> str:
    search = result.get("search") or {}
    spent = f", search {search['seconds']:.0f} s in {search['steps']} steps" if search else ""
    return f"{result.get('task', '')}, seed {result['seed']}{spent}".lstrip(", ")


def _headline(result: Mapping[str, Any]) -> str:
    baseline, subnet = result["baseline"], result["subnet"]
    change = subnet["latency_ms"] / baseline["latency_ms"] - 1 if baseline["latency_ms"] else 0.0
    within = is_within_budget(result)
    figures = [
        (f"{baseline['latency_ms']:.3g} → {subnet['latency_ms']:.3g} ms", "latency, baseline → subnet", ""),
        (f"{change:+.0%}".replace("-", "\u2212"), "latency", ""),
        (budget_text(result), "budget: kept" if within else "budget: exceeded", "good" if within else "bad"),
    ]
    if subnet.get("metric") and baseline.get("metric"):
        values = f"{baseline['metric']['value']:.3f} → {subnet['metric']['value']:.3f}"
        figures.append((values, metric_text(subnet["metric"]), ""))
    return page_figures(figures)


def _cost_table(result: Mapping[str, Any]) -> str:
    costs: dict[str, Cost] = {
        "Baseline": result["baseline"],
        **(result.get("comparisons") or {}),
        "Subnet": result["subnet"],
    }
    rows = []
    for field, name, form in COST_ROWS:
        values = [cost.get(field) for cost in costs.values()]
        rows.append([name, *("n/a" if value is None else form(value) for value in values), _change(values)])
    metrics = [cost.get("metric") for cost in costs.values()]
    names = {metric_text(metric) for metric in metrics if metric}
    if names:
        texts = [f"{metric['value']:.3f}" if metric else "n/a" for metric in metrics]
        ends = (metrics[0], metrics[-1])
        difference = f"{ends[1]['value'] - ends[0]['value']:+.3f}" if ends[0] and ends[1] else ""
        rows.append([", ".join(sorted(names)), *texts, difference.replace("-", "\u2212")])
    return table(["", *costs, "Change"], rows)


def _change(values: Sequence[float | None]) -> str:
    first, last = values[0], values[-1]
    return f"{last / first - 1:+.0%}".replace("-", "\u2212") if first and last is not None else ""


def _curves(history: Sequence[Record], budget_ms: float | None) -> str:
    columns = dict.fromkeys(name for record in history for name in record if name not in ("step", "epoch"))
    charts = []
    for title, parts, unit in CHARTS:
        names = [name for name in columns if any(part in name for part in parts)]
        series = {
            name.removesuffix("_ms").replace("_", " "): [
                (float(record.get("step", index)), float(record[name]))
                for index, record in enumerate(history)
                if record.get(name) is not None
            ]
            for name in names
        }
        if series:
            limit = budget_ms if "latency" in parts else None
            charts.append(line_chart(title, series, y_label=unit, limit=limit))
    return f'<h2>The search</h2><div class="charts">{"".join(charts)}</div>' if charts else ""


def _readiness(search: Mapping[str, Any]) -> str:
    """Return what the log says of the supernet: how ready it was, and what was warned of."""
    readiness, warnings = search.get("readiness"), search.get("warnings") or ()
    said = [f"Supernet: {readiness['text']}."] if readiness else []
    told = "".join(f"<p>{escape(text)}</p>" for text in [*said, *warnings])
    return f"<h2>How sure the search is</h2>{told}" if told else ""


def _frontier(frontier: Sequence[Point] | None, result: Mapping[str, Any]) -> str:
    if not frontier:
        return ""
    metric = (result["subnet"].get("metric") or {}).get("name", "metric")
    chart = scatter_chart(
        f"{metric} against latency",
        frontier,
        x_label="latency (ms)",
        y_label=metric,
        limit=result["budget"].get("latency_ms"),
        size=(1036, 360),
    )
    return f"<h2>Trade-off</h2>{chart}"


def _feasibility(feasibility: Mapping[str, Mapping[str, float]] | None, result: Mapping[str, Any]) -> str:
    if not feasibility:
        return ""
    forms = {field: (name, form) for field, name, form in COST_ROWS}
    rows = []
    for field, reach in feasibility.items():
        name, form = forms.get(field, (field, "{:.4g}".format))
        budget = result["budget"].get(field)
        ends = [form(reach[key]) for key in ("minimum", "median", "maximum")]
        rows.append([name, *ends, "none" if budget is None else form(budget)])
    return "<h2>What the space can reach</h2>" + table(["", "Minimum", "Median", "Maximum", "Budget"], rows)


def _provenance(result: Mapping[str, Any]) -> str:
    rows = [[field.capitalize(), str(result[field])] for field in ("command", "data", "machine") if result.get(field)]
    versions = result.get("versions") or {}
    rows.append(["Versions", ", ".join(f"{name} {version}" for name, version in sorted(versions.items())) or "n/a"])
    return terms((name, value) for name, value in rows)
