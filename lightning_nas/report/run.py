"""The report of a run directory, as one HTML file, and the picture of a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Protocol

from lightning_nas.io.units import bytes_text, count_text
from lightning_nas.io.writing import write_text
from lightning_nas.report.architecture_svg import BlockCost, architecture_svg
from lightning_nas.report.network_record import BudgetRecord, ComparisonRecord, NetworkRecord
from lightning_nas.report.page import figures as page_figures
from lightning_nas.report.page import page, table, terms
from lightning_nas.report.rivals import shown_name
from lightning_nas.report.run_record import RunRecord
from lightning_nas.report.search_record import SearchRecord
from lightning_nas.report.svg import Point, line_chart, scatter_chart, standalone
from lightning_nas.report.text import budget_text, metric_text

__all__ = [
    "BlockCost",
    "Point",
    "write_architecture_svg",
    "write_report",
]

Logged = Mapping[str, float]
"""What a search logged at one step, by the names of the columns."""

# The costs of a record, in words, and the form of their figures.
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


class Reach(Protocol):
    """What a search space can reach of one cost, such as `lightning_nas.budget.solver.Reach`."""

    @property
    def minimum(self) -> float:
        """The smallest cost."""
        ...

    @property
    def median(self) -> float:
        """The median cost of random members."""
        ...

    @property
    def maximum(self) -> float:
        """The largest cost."""
        ...


def write_report(
    run_dir: str | Path,
    record: RunRecord,
    blocks: Sequence[BlockCost],
    history: Sequence[Logged] = (),
    frontier: Sequence[Point] | None = None,
    *,
    baseline_blocks: Sequence[BlockCost] = (),
    feasibility: Mapping[str, Reach] | None = None,
) -> Path:
    """Write ``report.html``, one file without scripts or anything to fetch.

    Args:
        run_dir: Directory of the run.
        record: What the run found.
        blocks: Blocks of the subnet.
        history: One record a logged step: ``step`` and any of the columns whose names hold ``latency``, ``entropy``,
            ``loss``, ``penalty`` or ``acc``; records may lack columns.
        frontier: Networks by latency in ms (x) and metric (y).
        baseline_blocks: Blocks of the baseline.
        feasibility: What the space can reach of each cost, by its name, such as ``latency_ms``.

    Returns:
        Path of the report.
    """
    sections = [
        _headline(record),
        architecture_svg(blocks, baseline_blocks, "Block by block"),
        f"<h2>Cost and quality</h2>{_cost_table(record)}",
        _curves(history, record.budget.latency_ms),
        "" if record.search is None else _readiness(record.search),
        _frontier(frontier, record),
        _feasibility(feasibility, record.budget),
        f"<h2>The run</h2>{_versions(record)}",
    ]
    path = Path(run_dir) / "report.html"
    write_text(path, page(f"{record.recipe} on {record.device}", _subtitle(record), sections))
    return path


def write_architecture_svg(
    path: str | Path, blocks: Sequence[BlockCost], baseline_blocks: Sequence[BlockCost] = (), title: str = ""
) -> None:
    """Write the picture of a network block by block as an SVG file, in the light theme.

    Args:
        path: File to write.
        blocks: Blocks of the network.
        baseline_blocks: Blocks of the network it is compared with, or nothing.
        title: Heading of the picture.

    Raises:
        ValueError: There are no blocks.
    """
    write_text(Path(path), standalone(architecture_svg(blocks, baseline_blocks, title)))


def _subtitle(record: RunRecord) -> str:
    search = record.search
    spent = "" if search is None else f", search {search.seconds:.0f} s in {search.steps} steps"
    return f"{record.task or ''}, seed {record.seed}{spent}".lstrip(", ")


def _headline(record: RunRecord) -> str:
    before_ms, after_ms = record.baseline.cost.latency_ms, record.subnet.cost.latency_ms
    change = after_ms / before_ms - 1 if before_ms else 0.0
    within = record.is_within_budget
    metrics = record.baseline.metric, record.subnet.metric
    return page_figures(
        [
            (f"{before_ms:.3g} → {after_ms:.3g} ms", "latency, baseline → subnet", ""),
            (f"{change:+.0%}".replace("-", "\u2212"), "latency", ""),
            (budget_text(record.budget), "budget: kept" if within else "budget: exceeded", "good" if within else "bad"),
            (f"{metrics[0].value:.3f} → {metrics[1].value:.3f}", metric_text(metrics[1]), ""),
        ]
    )


def _cost_table(record: RunRecord) -> str:
    networks: dict[str, NetworkRecord | ComparisonRecord] = {
        "Baseline": record.baseline,
        **{shown_name(name, other.network): other for name, other in record.comparisons.items()},
        "Subnet": record.subnet,
    }
    rows = []
    for field, name, form in COST_ROWS:
        values = [getattr(network.cost, field) for network in networks.values()]
        rows.append([name, *("n/a" if value is None else form(value) for value in values), _change(values)])
    metrics = [network.metric for network in networks.values()]
    names = {metric_text(metric) for metric in metrics if metric is not None}
    texts = ["n/a" if metric is None else f"{metric.value:.3f}" for metric in metrics]
    difference = f"{record.subnet.metric.value - record.baseline.metric.value:+.3f}"
    rows.append([", ".join(sorted(names)), *texts, difference.replace("-", "\u2212")])
    return table(["", *networks, "Change"], rows)


def _change(values: Sequence[float | None]) -> str:
    first, last = values[0], values[-1]
    return f"{last / first - 1:+.0%}".replace("-", "\u2212") if first and last is not None else ""


def _curves(history: Sequence[Logged], budget_ms: float | None) -> str:
    columns = dict.fromkeys(name for logged in history for name in logged if name not in ("step", "epoch"))
    charts = []
    for title, parts, unit in CHARTS:
        names = [name for name in columns if any(part in name for part in parts)]
        series = {
            name.removesuffix("_ms").replace("_", " "): [
                (float(logged.get("step", index)), float(logged[name]))
                for index, logged in enumerate(history)
                if logged.get(name) is not None
            ]
            for name in names
        }
        if series:
            limit = budget_ms if "latency" in parts else None
            charts.append(line_chart(title, series, y_label=unit, limit=limit))
    return f'<h2>The search</h2><div class="charts">{"".join(charts)}</div>' if charts else ""


def _readiness(search: SearchRecord) -> str:
    """Return what the log says of the supernet: how ready it was, and what was warned of."""
    if search.supernet is None:
        return ""
    readiness = search.supernet.readiness
    lines = [*([] if readiness is None else [f"Supernet: {readiness.text}."]), *search.supernet.warnings]
    texts = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return f"<h2>How sure the search is</h2>{texts}" if texts else ""


def _frontier(frontier: Sequence[Point] | None, record: RunRecord) -> str:
    if not frontier:
        return ""
    metric = record.subnet.metric.name
    chart = scatter_chart(
        f"{metric} against latency",
        frontier,
        x_label="latency (ms)",
        y_label=metric,
        limit=record.budget.latency_ms,
        size=(1036, 360),
    )
    return f"<h2>Trade-off</h2>{chart}"


def _feasibility(feasibility: Mapping[str, Reach] | None, budget: BudgetRecord) -> str:
    if not feasibility:
        return ""
    forms = {field: (name, form) for field, name, form in COST_ROWS}
    rows = []
    for field, reach in feasibility.items():
        name, form = forms.get(field, (field, "{:.4g}".format))
        limit = budget.limits.get(field)
        ends = [form(figure) for figure in (reach.minimum, reach.median, reach.maximum)]
        rows.append([name, *ends, "none" if limit is None else form(limit)])
    return "<h2>What the space can reach</h2>" + table(["", "Minimum", "Median", "Maximum", "Budget"], rows)


def _versions(record: RunRecord) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in sorted(record.versions.items()))
    return terms([("Versions", versions or "n/a")])
