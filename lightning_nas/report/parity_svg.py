"""Predicted against measured latency: points on logarithmic axes about the line where both are equal."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

from lightning_nas.report.svg import CHAR_WIDTH, PALETTE, rect, svg, text

__all__ = ["parity_chart"]

# More points hide each other, and make the page slow.
MAX_POINTS = 1200
# Of these, each may be larger.
_FEW = 60
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 18, 62, 46


def parity_chart(
    title: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x_label: str = "measured (ms)",
    y_label: str = "predicted (ms)",
    band: float = 0.1,
    size: tuple[int, int] = (510, 440),
) -> str:
    """Return points by series, with a line where both are equal and a band around it.

    Args:
        title: Heading of the chart.
        series: Points (measured, predicted) by name, all positive; the fourth and later have one colour.
        x_label: Name of the horizontal axis.
        y_label: Name of the vertical axis.
        band: Half width of the band, as a share of the measured value.
        size: Width and height in pixels.

    Example::

        >>> parity_chart("Rows", {"conv": [(1.0, 1.1), (2.0, 1.9)]}).count("<circle")
        2
    """
    values = [value for points in series.values() for point in points for value in point]
    low, high = math.log10(min(values)), math.log10(max(values))
    # So that no point sits on the frame, and equal values have an axis too.
    room = 0.04 * (high - low) + 0.01
    axes = _Axes(low - room, high + room, size)
    body = [rect(0, 0, *size, "page", 8), text(14, 22, title, "strong"), *_grid(axes)]
    body.append(f'<path class="band" d="{_band(axes, band)}"/>')
    body.append(f'<path class="ghost" d="{_diagonal(axes)}"/>')
    body.append(text(size[0] - _RIGHT, size[1] - _BOTTOM - 8, f"band: within {100 * band:g} %", "dim small", "end"))
    names = list(series)
    radius = 2.4 if _count(series) > _FEW else 4.0
    for number, (_, points) in enumerate(series.items()):
        css = _colour(number)
        for measured, predicted in _thinned(points, MAX_POINTS * len(points) / max(_count(series), 1)):
            x, y = axes.place(math.log10(measured), math.log10(predicted))
            place = f'cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"'
            body.append(f'<circle class="{css}" style="stroke:none" fill-opacity="0.45" {place}/>')
    middle = ((_LEFT + size[0] - _RIGHT) / 2, (_TOP + size[1] - _BOTTOM) / 2)
    body.append(text(round(middle[0], 1), size[1] - 10, x_label, "dim small", "middle"))
    body.append(text(15, round(middle[1], 1), y_label, "dim small", "middle", rotate=-90))
    return svg(*size, [*body, *_legend(names)], title)


class _Axes:
    """Maps logarithms of both values to pixels, with the same range on both axes."""

    def __init__(self, low: float, high: float, size: tuple[int, int]) -> None:
        self.low, self.high = low, high
        self.left, self.right, self.top, self.bottom = _LEFT, size[0] - _RIGHT, _TOP, size[1] - _BOTTOM

    def place(self, x: float, y: float) -> tuple[float, float]:
        span = self.high - self.low
        across = self.left + (x - self.low) / span * (self.right - self.left)
        return across, self.bottom - (y - self.low) / span * (self.bottom - self.top)

    @property
    def ticks(self) -> list[float]:
        """Values at round places: powers of ten, with 2 and 5 times those where the range is small."""
        factors = (1,) if self.high - self.low > 3.2 else (1, 2, 5) if self.high - self.low > 0.5 else range(1, 10)
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        values = [factor * 10.0**power for power in powers for factor in factors]
        return [value for value in values if self.low <= math.log10(value) <= self.high]


def _grid(axes: _Axes) -> list[str]:
    lines = []
    for value in axes.ticks:
        x, y = axes.place(math.log10(value), math.log10(value))
        lines.append(f'<path class="rule" d="M{axes.left} {y:.1f}H{axes.right}M{x:.1f} {axes.bottom}V{axes.top}"/>')
        lines.append(text(axes.left - 7, round(y + 4, 1), f"{value:g}", "dim small", "end"))
        lines.append(text(round(x, 1), axes.bottom + 16, f"{value:g}", "dim small", "middle"))
    return lines


def _band(axes: _Axes, band: float) -> str:
    up, down = math.log10(1 + band), math.log10(1 - band)
    corners = [
        (axes.low, axes.low),
        (axes.low, axes.low + up),
        (axes.high - up, axes.high),
        (axes.high, axes.high),
        (axes.high, axes.high + down),
        (axes.low - down, axes.low),
    ]
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in (axes.place(*corner) for corner in corners)) + "Z"


def _diagonal(axes: _Axes) -> str:
    (x0, y0), (x1, y1) = axes.place(axes.low, axes.low), axes.place(axes.high, axes.high)
    return f"M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}"


def _legend(names: Sequence[str]) -> list[str]:
    """Return the names of the series below the title; one series needs none."""
    if len(names) < 2:
        return []
    items, x = [], 14.0
    for number, name in enumerate(names):
        items.append(rect(x, 36, 10, 10, f"{_colour(number)} bar", 2))
        items.append(text(round(x + 15, 1), 45, name, "dim small"))
        x += 15 + CHAR_WIDTH * len(name) + 18
    return items


def _colour(number: int) -> str:
    return PALETTE[number] if number < len(PALETTE) - 1 else "grey"


def _count(series: Mapping[str, Sequence[tuple[float, float]]]) -> int:
    return sum(len(points) for points in series.values())


def _thinned(points: Sequence[tuple[float, float]], limit: float) -> Sequence[tuple[float, float]]:
    count = max(1, round(limit))
    # The same points each time, so that a page of the same figures is the same.
    return points if len(points) <= count else random.Random(0).sample(list(points), count)
