"""Networks by latency and metric, with the Pareto front: those that no other network beats in both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from lightning_nas.report.svg import CHAR_WIDTH, frame, svg, text

__all__ = ["Mark", "pareto_chart", "pareto_front"]

_STYLES = {
    "baseline": ("grey", "square"),
    "widths (V1)": ("c0", "circle"),
    "kinds (V2)": ("c1", "circle"),
    "both (V3)": ("c2", "circle"),
    "plain multiplier": ("c3", "diamond"),
    "random subnets": ("c3", "triangle"),
    "expert's rule": ("c3", "square"),
}
_OTHER = ("c3", "cross")
_SHAPES = {
    "square": "M{0} {1}h{2}v{2}h-{2}Z",
    "diamond": "M{x} {y0}L{x1} {y}L{x} {y1}L{x0} {y}Z",
    "triangle": "M{x} {y0}L{x1} {y1}L{x0} {y1}Z",
    "cross": "M{x0} {y0}L{x1} {y1}M{x0} {y1}L{x1} {y0}",
}
_RADIUS = 5.0
_SMALL = 2.2
_LINE = 13.0
_ROW = 17
_FRONT = "Pareto front"


@dataclass(frozen=True)
class Mark:
    """A network in the chart.

    Attributes:
        x: Latency.
        y: Metric.
        series: What it is, such as ``baseline`` or ``both (V3)``; each has a colour and a shape.
        label: Text beside it, or nothing.
        tip: What shows when the pointer rests on it.
        deviation: Half the length of a whisker, for a mean over seeds.
        is_single: Whether it is a single seed of a mean, which is drawn small and is not on the front.
    """

    x: float
    y: float
    series: str
    label: str = ""
    tip: str = ""
    deviation: float = 0.0
    is_single: bool = False


def pareto_front(marks: Sequence[Mark], larger_is_better: bool = True) -> list[Mark]:
    """Return those of the marks, single seeds apart, that no other one beats, the fastest first.

    Args:
        marks: The networks.
        larger_is_better: Whether more is better of the metric.

    Example::

        >>> marks = [Mark(1.0, 0.8, "a"), Mark(2.0, 0.7, "b"), Mark(3.0, 0.9, "c")]
        >>> [mark.series for mark in pareto_front(marks)]
        ['a', 'c']
    """
    front: list[Mark] = []
    sign = 1.0 if larger_is_better else -1.0
    means = [mark for mark in _drawable(marks) if not mark.is_single]
    # Of equal latencies the best comes first, so that the others do not get onto the front.
    for mark in sorted(means, key=lambda mark: (mark.x, -sign * mark.y)):
        if not front or sign * mark.y > sign * front[-1].y:
            front.append(mark)
    return front


def pareto_chart(
    title: str,
    marks: Sequence[Mark],
    *,
    x_label: str,
    y_label: str,
    size: tuple[int, int] = (1036, 440),
    larger_is_better: bool = True,
) -> str:
    """Return the chart as SVG.

    Args:
        title: Heading of the chart.
        marks: The networks; those whose figures are not finite are left out.
        x_label: Name and unit of the latency.
        y_label: Name of the metric.
        size: Width and height in pixels, without further rows of the legend.
        larger_is_better: Whether more is better of the metric.

    Example::

        >>> pareto_chart("", [Mark(1.0, 0.8, "baseline")], x_label="ms", y_label="accuracy").count("<title>")
        1
    """
    marks = _drawable(marks)
    legend, num_rows = _legend(marks, size[0])
    top, size = 54 + _ROW * (num_rows - 1), (size[0], size[1] + _ROW * (num_rows - 1))
    xs = [mark.x for mark in marks]
    room = 0.05 * (max(xs, default=0.0) - min(xs, default=0.0))
    heights = [mark.y + side * mark.deviation for mark in marks for side in (-1, 1)]
    ends = [min(xs, default=0.0) - room, max(xs, default=1.0) + room]
    x_axis, y_axis, body = frame(title, ends, heights, x_label, y_label, size, top)
    front = [(x_axis(mark.x), y_axis(mark.y)) for mark in pareto_front(marks, larger_is_better)]
    if front:
        body.append(_staircase(front, x_axis.end))
    # Single seeds lie below the means.
    for mark in sorted(marks, key=lambda mark: not mark.is_single):
        x, y = x_axis(mark.x), y_axis(mark.y)
        if mark.deviation:
            ends_px = (y_axis(mark.y - mark.deviation), y_axis(mark.y + mark.deviation))
            body.append(f'<path class="{_style(mark.series)[0]}" d="M{x:.1f} {ends_px[0]:.1f}V{ends_px[1]:.1f}"/>')
        body.append(_shape(x, y, mark.series, _SMALL if mark.is_single else _RADIUS, mark))
    places = [(x_axis(mark.x), y_axis(mark.y), mark) for mark in marks]
    body += _labels(places, (x_axis.start, y_axis.end, x_axis.end, y_axis.start))
    return svg(*size, [*body, *legend], title)


def _drawable(marks: Sequence[Mark]) -> list[Mark]:
    return [mark for mark in marks if math.isfinite(mark.x) and math.isfinite(mark.y)]


def _style(series: str) -> tuple[str, str]:
    return _STYLES.get(series, _OTHER)


def _staircase(points: Sequence[tuple[float, float]], end: float) -> str:
    """Return the front: at each latency the best metric that any network reaches in it."""
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    path += "".join(f"H{x:.1f}V{y:.1f}" for x, y in points[1:])
    return f'<path class="front" d="{path}H{end:g}"/>'


def _shape(x: float, y: float, series: str, radius: float, mark: Mark | None = None) -> str:
    css, shape = _style(series)
    tip = f"<title>{escape(mark.tip or mark.label or series)}</title>" if mark else ""
    look = ' fill-opacity="0.5" stroke="none" style="stroke:none"' if mark and mark.is_single else ""
    if shape == "circle" or (mark and mark.is_single):
        return f'<circle class="{css}"{look} cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}">{tip}</circle>'
    # So that all shapes look equally large.
    half = 0.88 * radius if shape == "square" else 1.1 * radius
    sides = {"x0": x - half, "x1": x + half, "y0": y - half, "y1": y + half, "x": x, "y": y}
    rounded = {name: f"{value:.1f}" for name, value in sides.items()}
    path = _SHAPES[shape].format(rounded["x0"], rounded["y0"], f"{2 * half:.1f}", **rounded)
    width = ' style="stroke-width:2.2"' if shape == "cross" else ""
    return f'<path class="{css}"{width} d="{path}">{tip}</path>'


def _legend(marks: Sequence[Mark], width: float) -> tuple[list[str], int]:
    """Return the legend below the title, and its number of rows."""
    present = {mark.series for mark in marks}
    names = [name for name in _STYLES if name in present]
    names += [name for name in dict.fromkeys(mark.series for mark in marks) if name not in _STYLES]
    items, x, row = [], 14.0, 0
    entries = [*names, _FRONT, *(["small: single seeds"] if any(mark.is_single for mark in marks) else [])]
    for name in entries:
        needed = 16 + CHAR_WIDTH * len(name)
        if x + needed > width - 14 and x > 14:
            x, row = 14.0, row + 1
        y = 38 + _ROW * row
        if name == _FRONT:
            items.append(f'<path class="front" d="M{x:g} {y}h12"/>')
        elif name in present:
            items.append(_shape(x + 6, y, name, _RADIUS))
        else:
            items.append(f'<circle class="grey" fill-opacity="0.5" cx="{x + 6:g}" cy="{y}" r="{_SMALL}"/>')
        items.append(text(round(x + 16, 1), y + 4, name, "dim small"))
        x += needed + 18
    return items, row + 1


Box = tuple[float, float, float, float]


def _labels(places: Sequence[tuple[float, float, Mark]], within: Box) -> list[str]:
    """Return the labels that find room beside their marks; the others show as tips alone."""
    taken = [_around(x, y, _SMALL if mark.is_single else _RADIUS + 1) for x, y, mark in places]
    items = []
    for x, y, mark in places:
        if not mark.label:
            continue
        for box in _candidates(x, y, CHAR_WIDTH * len(mark.label) + 2):
            inside = within[0] <= box[0] and box[2] <= within[2] and within[1] <= box[1] and box[3] <= within[3]
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                items.append(text(round(box[0] + 1, 1), round(box[3] - 3, 1), mark.label, "small"))
                break
    # A ground of its own, where the front passes behind.
    return ['<g class="halo">', *items, "</g>"]


def _around(x: float, y: float, radius: float) -> Box:
    return x - radius, y - radius, x + radius, y + radius


def _candidates(x: float, y: float, width: float) -> list[Box]:
    near, far = _RADIUS + 3, _RADIUS + 2
    lefts = {"right": x + near, "left": x - near - width, "middle": x - width / 2}
    tops = {"above": y - far - _LINE, "beside": y - _LINE / 2, "below": y + far}
    order = [("right", "above"), ("left", "above"), ("right", "beside"), ("right", "below"), ("left", "below")]
    order += [("left", "beside"), ("middle", "above"), ("middle", "below")]
    return [(lefts[a], tops[b], lefts[a] + width, tops[b] + _LINE) for a, b in order]


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
