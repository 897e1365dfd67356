"""Charts as text: SVG that follows the reader's light or dark theme, without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from string import Template

__all__ = ["PALETTE", "Point", "STYLE", "frame", "line_chart", "rect", "scatter_chart", "standalone", "svg", "text"]

PALETTE = ("c0", "c1", "c2", "c3")
"""Classes of the colours of series, in the order of use."""

_LIGHT = {
    "ink": "#1c2430",
    "dim": "#5d6878",
    "rule": "#d5dae1",
    "band": "#f3f5f8",
    "page": "#ffffff",
    "c0": "#2f6fd0",
    "c1": "#d9680f",
    "c2": "#1f8f78",
    "c3": "#8a4fbf",
    "grey": "#8b95a3",
    "budget": "#c22f3d",
}
_DARK = {
    "ink": "#e6eaf0",
    "dim": "#9aa6b6",
    "rule": "#3a4452",
    "band": "#1d242e",
    "page": "#141a22",
    "c0": "#6ba4f5",
    "c1": "#f29a4f",
    "c2": "#4fc4aa",
    "c3": "#bd8cec",
    "grey": "#7d8899",
    "budget": "#f2717d",
}
_COLOURED = Template("""
svg.nas text { fill:$ink; } svg.nas text.dim { fill:$dim; } svg.nas text.over { fill:$budget; }
svg.nas .c0 { fill:$c0; stroke:$c0; } svg.nas .c1 { fill:$c1; stroke:$c1; }
svg.nas .c2 { fill:$c2; stroke:$c2; } svg.nas .c3 { fill:$c3; stroke:$c3; }
svg.nas .grey { fill:$grey; stroke:$grey; } svg.nas .page { fill:$page; } svg.nas .band { fill:$band; }
svg.nas .rule { stroke:$rule; } svg.nas .ghost { stroke:$dim; } svg.nas .budget { stroke:$budget; }
svg.nas .front { stroke:$ink; } svg.nas .halo { stroke:$page; }
""")
# Behind the colours, some of which it takes back.
_SHAPES = """
svg.nas { font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Liberation Sans','DejaVu Sans',sans-serif; }
svg.nas text { font-size:12px; } svg.nas text.small { font-size:10.5px; } svg.nas text.strong { font-weight:600; }
svg.nas text.title { font-size:16px; } svg.nas .bar { stroke:none; } svg.nas .line { fill:none; stroke-width:1.8; }
svg.nas .rule { stroke-width:1; fill:none; }
svg.nas .ghost { fill:none; stroke-width:1; stroke-dasharray:3 2.5; }
svg.nas .budget { stroke-width:1.4; stroke-dasharray:5 3; fill:none; }
svg.nas .front { fill:none; stroke-width:1.4; stroke-opacity:0.55; }
svg.nas .halo { paint-order:stroke; stroke-width:3px; }
"""
_DARK_STYLE = f"@media (prefers-color-scheme: dark) {{{_COLOURED.substitute(_DARK)}}}"
# Colours are literal: viewers other than browsers know no variables, and draw black where they meet one.
STYLE = f"{_COLOURED.substitute(_LIGHT)}{_DARK_STYLE}{_SHAPES}"
# Beyond it a curve has more points than the chart has pixels.
MAX_POINTS = 300
# Of the small text, on average.
CHAR_WIDTH = 5.6


@dataclass(frozen=True)
class Point:
    """A labelled point of a scatter chart.

    Attributes:
        x: Position along the horizontal axis.
        y: Position along the vertical axis.
        label: Text beside the point, or nothing.
        series: Name of the series; each has a colour.
    """

    x: float
    y: float
    label: str = ""
    series: str = ""


@dataclass(frozen=True)
class _Axis:
    """Maps values to pixels, with round ticks."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        step = _step(self.high - self.low)
        # A tick at the very end of an axis must survive rounding.
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


def svg(width: float, height: float, body: Sequence[str], label: str) -> str:
    """Return a whole SVG image; `label` is what a screen reader says."""
    head = (
        f'<svg class="nas" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}" role="img" aria-label="{escape(label)}">'
    )
    return "\n".join([head, f"<style>{STYLE}</style>", *body, "</svg>\n"])


def standalone(image: str) -> str:
    """Return an SVG image for a file of its own: in the light theme, whatever that of the reader.

    Args:
        image: What `svg` returned.

    Example::

        >>> "@media" in standalone(svg(8, 8, [], "Empty"))
        False
    """
    return image.replace(_DARK_STYLE, "")


def text(x: float, y: float, content: str, css: str = "", anchor: str = "start", rotate: float = 0) -> str:
    """Return a text element; `css` names classes of `STYLE`.

    Example::

        >>> text(1, 2, "a < b", "dim")
        '<text x="1" y="2" class="dim" text-anchor="start">a &lt; b</text>'
    """
    turn = f' transform="rotate({rotate:g} {x:g} {y:g})"' if rotate else ""
    return f'<text x="{x:g}" y="{y:g}" class="{css}" text-anchor="{anchor}"{turn}>{escape(content)}</text>'


def rect(x: float, y: float, width: float, height: float, css: str, radius: float = 0, tip: str = "") -> str:
    """Return a rectangle; `tip` shows when the pointer rests on it."""
    shape = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{radius:g}" class="{css}"'
    return f"<rect {shape}><title>{escape(tip)}</title></rect>" if tip else f"<rect {shape}/>"


def line_chart(
    title: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x_label: str = "step",
    y_label: str = "",
    limit: float | None = None,
    marks: Sequence[float] = (),
    size: tuple[int, int] = (460, 260),
) -> str:
    """Return curves over a common horizontal axis.

    Args:
        title: Heading of the chart.
        series: Points (x, y) of each curve, by name; values that are not finite are left out.
        x_label: Name of the horizontal axis.
        y_label: Name and unit of the vertical axis.
        limit: Height of a dashed line named "budget", or None.
        marks: Where on the horizontal axis dashed vertical lines stand.
        size: Width and height in pixels.

    Example::

        >>> line_chart("Loss", {"train": [(0, 2.0), (1, 1.0)]}).count("<polyline")
        1
    """
    curves = {name: _thin([p for p in points if math.isfinite(p[1])]) for name, points in series.items()}
    curves = {name: points for name, points in curves.items() if points}
    values = [point for points in curves.values() for point in points]
    heights = [y for _, y in values] + ([] if limit is None else [limit])
    x_axis, y_axis, body = frame(title, [x for x, _ in values], heights, x_label, y_label, size)
    for mark in marks:
        body.append(f'<path class="ghost" d="M{x_axis(mark):.1f} {y_axis.start:g}V{y_axis.end:g}"/>')
    if limit is not None:
        y = y_axis(limit)
        body.append(f'<path class="budget" d="M{x_axis.start:g} {y:.1f}H{x_axis.end:g}"/>')
        body.append(text(x_axis.end, y - 5, f"budget {limit:.4g}", "small over", "end"))
    for (_, points), css in zip(curves.items(), _cycle(len(curves)), strict=True):
        if len(points) == 1:
            body.append(
                f'<circle class="{css}" cx="{x_axis(points[0][0]):.1f}" cy="{y_axis(points[0][1]):.1f}" r="3"/>'
            )
        path = " ".join(f"{x_axis(x):.1f},{y_axis(y):.1f}" for x, y in points)
        body.append(f'<polyline class="{css} line" style="fill:none" points="{path}"/>')
    return svg(*size, [*body, *_legend(list(curves), size[0])], title)


def scatter_chart(
    title: str,
    points: Sequence[Point],
    *,
    x_label: str = "",
    y_label: str = "",
    limit: float | None = None,
    size: tuple[int, int] = (460, 300),
) -> str:
    """Return labelled points; `limit` is a dashed vertical line named "budget"."""
    names = list(dict.fromkeys(point.series for point in points))
    colours = dict(zip(names, _cycle(len(names)), strict=True))
    xs = [point.x for point in points] + ([] if limit is None else [limit])
    # So that no point sits on the frame.
    room = 0.04 * (max(xs, default=0.0) - min(xs, default=0.0))
    xs = [edge for x in xs for edge in (x - room, x + room)]
    x_axis, y_axis, body = frame(title, xs, [point.y for point in points], x_label, y_label, size)
    if limit is not None:
        x = x_axis(limit)
        body.append(f'<path class="budget" d="M{x:.1f} {y_axis.start:g}V{y_axis.end:g}"/>')
        body.append(text(x + 5, y_axis.start - 6, "budget", "small over"))
    for point in points:
        x, y = x_axis(point.x), y_axis(point.y)
        tip = escape(f"{point.label or point.series}: {point.x:.4g}, {point.y:.4g}")
        body.append(
            f'<circle class="{colours[point.series]}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"><title>{tip}</title></circle>'
        )
        # A label beside the last points would leave the picture.
        left = x + 9 + CHAR_WIDTH * len(point.label) > size[0]
        body.append(text(x + (-8 if left else 8), y - 7, point.label, "small", "end" if left else "start"))
    return svg(*size, [*body, *_legend([name for name in names if name], size[0])], title)


def frame(
    title: str,
    xs: Sequence[float],
    ys: Sequence[float],
    x_label: str,
    y_label: str,
    size: tuple[int, int],
    top: float = 54,
) -> tuple[_Axis, _Axis, list[str]]:
    """Return both axes of a chart that holds the values, and its ground: grid, ticks and names.

    Args:
        title: Heading of the chart.
        xs: Values along the horizontal axis.
        ys: Values along the vertical axis; the axis reaches a little further.
        x_label: Name of the horizontal axis.
        y_label: Name of the vertical axis.
        size: Width and height in pixels.
        top: Height of the title and the legend in pixels.
    """
    width, height = size
    x_low, x_high = _range(xs, margin=0)
    y_low, y_high = _range(ys, margin=0.08)
    x_axis = _Axis(x_low, x_high, 58, width - 18)
    y_axis = _Axis(y_low, y_high, height - 44, top)
    body = [rect(0, 0, width, height, "page", 8), text(14, 22, title, "strong")]
    for tick in y_axis.ticks:
        body.append(f'<path class="rule" d="M{x_axis.start:g} {y_axis(tick):.1f}H{x_axis.end:g}"/>')
        body.append(text(x_axis.start - 7, round(y_axis(tick) + 4, 1), f"{_clean(tick):g}", "dim small", "end"))
    for tick in x_axis.ticks:
        body.append(text(round(x_axis(tick), 1), y_axis.start + 16, f"{_clean(tick):g}", "dim small", "middle"))
    body.append(text((x_axis.start + x_axis.end) / 2, height - 10, x_label, "dim small", "middle"))
    body.append(text(16, (y_axis.start + y_axis.end) / 2, y_label, "dim small", "middle", rotate=-90))
    return x_axis, y_axis, body


def _legend(names: Sequence[str], width: float) -> list[str]:
    """Return the names of the series in one row at the top, right-aligned; one series needs none."""
    if len(names) < 2:
        return []
    items = []
    x = width - 18.0
    for name, css in reversed(list(zip(names, _cycle(len(names)), strict=True))):
        items.append(text(round(x, 1), 42, name, "dim small", "end"))
        x -= CHAR_WIDTH * len(name) + 6
        items.append(rect(x - 10, 33, 10, 10, f"{css} bar", 2))
        x -= 24
    return items


def _cycle(count: int) -> list[str]:
    return [PALETTE[index % len(PALETTE)] for index in range(count)]


def _thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    stride = max(1, math.ceil(len(points) / MAX_POINTS))
    # The last point stays in any case: it says where a curve ended.
    kept = list(points[::stride])
    return kept if not points or kept[-1] == points[-1] else [*kept, points[-1]]


def _range(values: Sequence[float], margin: float) -> tuple[float, float]:
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    if low == high:
        low, high = low - abs(low) * 0.1 - 1e-6, high + abs(high) * 0.1 + 1e-6
    room = margin * (high - low)
    # An axis of quantities that are never negative must not begin below zero.
    return (max(0.0, low - room) if low >= 0 else low - room), high + room


def _step(span: float) -> float:
    """Return the round step (1, 2 or 5 times a power of ten) that gives about five ticks."""
    exact = span / 5
    power = 10.0 ** math.floor(math.log10(exact))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= exact * 0.999)


def _clean(value: float) -> float:
    # Multiples of a step such as 0.1 are off in their last digits.
    return float(f"{value:.6g}")
