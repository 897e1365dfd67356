"""HTML report of an estimator: its measurements, its errors, and the curves that show its lanes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import TypedDict

import numpy as np

from lightning_nas.estimator.fit.staircase import Curve, Staircase
from lightning_nas.estimator.judge.parity import PredictionPairs
from lightning_nas.estimator.judge.verdict import NetworkVerdict, Verdict
from lightning_nas.report.page import figures, page, table, terms
from lightning_nas.report.parity_svg import parity_chart
from lightning_nas.report.svg import line_chart

__all__ = ["EstimatorRecord", "LanesRecord", "estimator_page"]

Figures = Mapping[str, float]

_COLUMNS = ("", "Number", "Mean error", "Nine of ten within", "Largest", "Bias", "Within 5 %", "Within 10 %")
_MAX_NAMED = 3
# More subnets than this are a chart, no list.
_MAX_LISTED = 12


class LanesRecord(TypedDict):
    """The lanes of a device in ``result.json``: those that are used, those of its file, those that were found."""

    used: int
    documented: int | None
    found: int | None
    reason: str


class EstimatorRecord(TypedDict):
    """The content of ``result.json`` of an estimator, see `lightning_nas.jobs.estimator.build_estimator`."""

    recipe: str
    device: str
    backend: str
    settings: Mapping[str, object]
    seed: int
    rows: int
    networks: int
    lanes: LanesRecord
    granularity: Mapping[str, float] | None
    fit: str
    correction: Mapping[str, float] | None
    error: Mapping[str, Mapping[str, float]]
    measured_by: Mapping[str, object] | None
    file: str
    versions: Mapping[str, str]


def estimator_page(result: EstimatorRecord, verdict: Verdict, staircase: Staircase) -> str:
    """Return the page of an estimator as HTML.

    Args:
        result: Content of ``result.json``.
        verdict: How far the estimator is off.
        staircase: The curves of latency against channels, and what they say of the lanes.
    """
    rows = verdict.rows.parity if verdict.rows is not None else None
    sections = [
        _headline(result, rows, verdict.networks),
        _rows(rows),
        _networks(verdict),
        _staircase(result, staircase),
        f"<h2>How it was made</h2>{terms(_provenance(result))}",
    ]
    return page(f"Estimator of {result['device']}", _subtitle(result), sections)


def _subtitle(result: EstimatorRecord) -> str:
    by = f"measured by {result['backend']}" if result["backend"] != "csv" else "from a table"
    return f"{result['rows']:,} rows and {result['networks']:,} whole networks, {by}"


def _headline(result: EstimatorRecord, rows: PredictionPairs | None, networks: NetworkVerdict | None) -> str:
    items = []
    if networks is not None:
        overall = networks.estimated.figures
        name = f"mean error on {overall['count']} whole networks"
        items.append((_share(overall["mape"]), name, "good" if overall["mape"] <= 0.05 else "bad"))
        if networks.intervals is not None:
            interval = networks.intervals.figures
            name = f"of them are within their interval of {_percent(interval['level'])}"
            items.append((_percent(interval["coverage"]), name, ""))
    if rows is not None:
        items.append((_share(rows.figures["mape"]), "mean error on held-out rows", ""))
        items.append((_share(rows.figures["nine_of_ten"]), "nine of ten rows are within", ""))
    lanes = result["lanes"]
    found = lanes["found"]
    agrees = found == lanes["used"]
    said = "not to be told" if found is None else "as found" if agrees else f"but {found} were found"
    items.append((str(lanes["used"]), f"lanes, {said}", "good" if agrees else "" if found is None else "bad"))
    return figures(items)


def _rows(rows: PredictionPairs | None) -> str:
    if rows is None:
        return ""
    series = _by_kind(rows)
    chart = parity_chart("Rows, each predicted by a fit without it", series, size=(760, 520))
    tables = (
        f"<h2>By operator</h2>{_errors(rows.by_group())}",
        f'<h2 style="margin-top:20px">By size</h2>{_errors(rows.by_size())}',
    )
    note = (
        "Rows of the table are held out in turn and predicted from the others. A row that the table holds is returned"
        " as measured, so this is the error of what lies between."
    )
    return f"<h2>Error on single rows</h2>{_note(note)}{chart}{''.join(tables)}"


def _networks(verdict: Verdict) -> str:
    networks = verdict.networks
    if networks is None:
        note = (
            "No network was measured whole, so whether the sum over its parts is the latency of the whole is not known."
        )
        return f"<h2>Whole networks</h2>{_note(note)}"
    by_name = {
        "subnets": networks.estimated.only(~networks.is_stock),
        "stock": networks.estimated.only(networks.is_stock),
    }
    series = {name: _points(parity) for name, parity in by_name.items() if parity.groups}
    charts = [parity_chart("Whole networks, estimated", series)]
    if networks.sums is not None:
        sums = {"networks": _points(networks.sums)}
        charts.append(parity_chart("Additivity: sums of measured parts", sums, y_label="sum of parts (ms)"))
    named = {
        "estimated": networks.estimated,
        **({f"estimated, {name}": parity for name, parity in by_name.items()} if len(series) > 1 else {}),
        "estimated, sums not corrected": networks.uncorrected,
        "predicted, without their rows": networks.predicted,
        "sum of their parts, each measured": networks.sums,
    }
    errors = {name: parity.figures for name, parity in named.items() if parity is not None}
    note = (
        "Where the sum of measured parts is off, no regressor can help: the device runs them otherwise in a network."
        " Estimated is what a search sees: rows of the table are returned as measured. Predicted is by a fit from which"
        " all rows that the networks contain were kept out."
    )
    shown = networks.is_stock if networks.is_stock.any() else np.full(len(networks.is_stock), True)
    each = ""
    if networks.is_stock.any() or len(shown) <= _MAX_LISTED:
        each = f'<h2 style="margin-top:20px">One by one</h2>{_each(networks, np.flatnonzero(shown).tolist())}'
    said = "".join(f'<p style="margin:12px 0 0">{escape(text)}</p>' for text in _findings(verdict))
    drawn = f'<div class="charts">{"".join(charts)}</div>'
    return f"<h2>Whole networks</h2>{_note(note)}{drawn}{_errors(errors)}{said}{each}"


def _findings(verdict: Verdict) -> Iterator[str]:
    networks = verdict.networks
    if verdict.refusal is not None:
        yield verdict.refusal
    named = {"estimates": networks and networks.intervals, "predictions": networks and networks.predicted_intervals}
    for name, intervals in named.items():
        if intervals:
            row = intervals.figures
            yield (
                f"Intervals of {_percent(row['level'])} around {name} hold {_share(row['coverage'])} of the networks;"
                f" their half width is {_share(row['half_width'])} of the latency on average."
            )
    if (found := verdict.correction) is not None:
        used = f"a factor of {found['factor']:.4g} is used" if found["factor"] != 1 else "no factor is used"
        yield (
            f"Correction of sums: {_share(found['without'])} off on average without, {_share(found['with'])} with a"
            f" factor that was fitted to other networks ({found['networks']} that judge nothing); {used}."
        )
    if (pairs := verdict.pairs) is not None:
        yield (
            f"Which of an unfused and a fused block is faster is predicted correctly in {_share(pairs['right'])} of"
            f" {pairs['count']} pairs that the fit has not seen, {_share(pairs['right_where_clear'])} where they differ"
            " by more than 10 %."
        )


def _staircase(result: EstimatorRecord, staircase: Staircase) -> str:
    lanes = result["lanes"]
    note = staircase.reason
    if lanes["documented"] is not None:
        note += f" Documented are {lanes['documented']}."
    if staircase.lanes not in (None, lanes["used"]):
        note += f" Used are {lanes['used']}: say lanes={staircase.lanes} to use what was found."
    charts = "".join(_curve(curve, lanes["used"]) for curve in staircase.curves)
    caption = f"Dashed lines are the widths that a search offers: multiples of {lanes['used']}."
    drawn = f'{_note(caption)}<div class="charts">{charts}</div>' if charts else ""
    return f"<h2>Latency against channels</h2>{_note(note)}{drawn}"


def _curve(curve: Curve, lanes: int) -> str:
    grid = [width for width in curve.channels if width % lanes == 0] if lanes > 1 else []
    points = list(zip(curve.channels, curve.latency_ms, strict=True))
    return line_chart(curve.name, {"measured": points}, x_label="output channels c", y_label="ms", marks=grid)


def _by_kind(rows: PredictionPairs) -> dict[str, list[tuple[float, float]]]:
    """Return the points of the most frequent kinds, and of the others together."""
    counts = list(rows.by_group())
    named = counts[:_MAX_NAMED] if len(counts) > _MAX_NAMED + 1 else counts
    series: dict[str, list[tuple[float, float]]] = {name: [] for name in named}
    for kind, point in zip(rows.groups, _points(rows), strict=True):
        series.setdefault(kind if kind in named else "others", []).append(point)
    return series


def _points(parity: PredictionPairs) -> list[tuple[float, float]]:
    """Return what is drawn on logarithmic axes; a bad fit may find less than nothing."""
    least = parity.true_ms.min() / 10
    return list(zip(parity.true_ms.tolist(), np.maximum(parity.predicted_ms, least).tolist(), strict=True))


def _errors(groups: Mapping[str, Figures]) -> str:
    lines = []
    for name, row in groups.items():
        shares = [_share(row[key]) for key in ("mape", "nine_of_ten", "max")]
        within = [f"{100 * row[key]:.0f} %" for key in ("within_5", "within_10")]
        lines.append([name, f"{row['count']:,}", *shares, _signed(row["bias"] - 1), *within])
    return table(_COLUMNS, lines)


def _each(networks: NetworkVerdict, chosen: Sequence[int]) -> str:
    parity, intervals = networks.estimated, networks.intervals
    head = ["", "Measured", "Estimated", "Off"]
    rows = []
    for number in chosen:
        predicted_ms, true_ms = float(parity.predicted_ms[number]), float(parity.true_ms[number])
        off = _signed(predicted_ms / true_ms - 1)
        row = [parity.groups[number], f"{true_ms:.4g} ms", f"{predicted_ms:.4g} ms", off]
        if intervals is not None:
            low, high = intervals.bounds_ms[number].tolist()
            row.append(f"{low:.4g} to {high:.4g} ms")
        rows.append(row)
    return table([*head, f"Interval of {_percent(intervals.level)}"] if intervals is not None else head, rows)


def _provenance(result: EstimatorRecord) -> Sequence[tuple[str, str]]:
    measured_by = result.get("measured_by") or {}
    versions = result.get("versions") or {}
    items = [
        ("Fit", result["fit"]),
        ("Granularity", _granularity(result.get("granularity"))),
        ("Measured by", ", ".join(f"{name} {value}" for name, value in measured_by.items()) or result["backend"]),
        ("Settings", ", ".join(f"{name} {value}" for name, value in result["settings"].items()) or "none"),
        ("To hand on", result["file"]),
        ("Versions", ", ".join(f"{name} {value}" for name, value in sorted(versions.items())) or "n/a"),
    ]
    return [item for item in items if item[1]]


def _granularity(record: Mapping[str, float] | None) -> str:
    if not record:
        return ""
    errors = [f"by {name} {_share(record[name])}" for name in ("operators", "subgraphs")]
    return f"whole networks are off {', '.join(errors)}"


def _share(value: float) -> str:
    # Three digits in all, whatever the value.
    return f"{100 * value:.2f} %" if value < 0.0995 else f"{100 * value:.0f} %"


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _signed(value: float) -> str:
    return f"{100 * value:+.1f} %".replace("-", "\u2212")


def _note(text: str) -> str:
    return f'<p class="dim" style="margin:0 0 12px">{escape(text)}</p>'
