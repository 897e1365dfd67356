"""The parallelism factor of a device, found where its latency steps as output channels grow one by one.

An array that computes ``p`` channels at once takes as long for one channel as for ``p``, so latency against channels is
a staircase that rises after each multiple of ``p``. Real compilers add steps elsewhere (a tensor that no longer fits
into memory) and drops (another schedule), which differ from operator to operator: several curves vote.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lightning_nas.estimator.measurements import Figures
from lightning_nas.graph.subgraph import Subgraph
from lightning_nas.io.numbers import check_number

__all__ = ["Curve", "Staircase", "curve_subgraphs", "curves_in", "find_lanes", "short_curve"]

FIRST_WIDTH = 33
"""Curves begin right after a multiple of 32, so that multiples of 8, 16 and 32 weigh the same in them."""

MIN_POINTS = 32
"""A shorter run of channels has too few steps to tell one period from twice that."""

# A step is a rise of this part of what it would be if all of the growth were in steps at multiples of the period.
_PART_OF_STEP = 0.2
# And of this many deviations of what two neighbours differ by on a tread.
_DEVIATIONS = 2.5
# How many of all steps must be at multiples of the lanes, and how many of the multiples must have one.
_MIN_PRECISION = 0.7
_MIN_RECALL = 0.6
_MIN_GROWTH = 0.1
# Where the spread hides single steps: how much of all growth is at the multiples of the lanes, how much of it at those
# that are none of twice the lanes, and by how many deviations that is more than without steps.
_MIN_SHARE = 0.75
_MIN_ODD_SHARE = 0.25
_MIN_SIGNIFICANCE = 4.0


@dataclass(frozen=True)
class Curve:
    """Latency against output channels that grow one by one.

    Attributes:
        name: What was measured, with ``c`` for the channels.
        channels: Output channels, each one more than the one before.
        latency_ms: Latency at each of them.
    """

    name: str
    channels: tuple[int, ...]
    latency_ms: tuple[float, ...]

    @property
    def growth(self) -> float:
        """Exponent of the growth of latency with the channels, from the first to the last quarter of the curve.

        Example::

            >>> round(Curve("c", (1, 2, 3, 4), (1.0, 4.0, 9.0, 16.0)).growth, 6)
            2.0
        """
        count = max(len(self.channels) // 4, 1)
        ends = [np.log([values[:count], values[-count:]]).mean(axis=1) for values in (self.latency_ms, self.channels)]
        latency, channels = (float(last - first) for first, last in ends)
        return latency / channels

    def steps(self, period: int) -> tuple[int, ...]:
        """Return after which channels latency steps, where only steps count that `period` channels could make.

        Example::

            >>> steps = Curve("c", tuple(range(33, 66)), tuple(float(-(-c // 8)) for c in range(33, 66)))
            >>> steps.steps(8)
            (40, 48, 56, 64)
        """
        before = np.array(self.channels[:-1])
        expected = self.growth * np.log1p(period / before)
        return tuple(before[self.rises > np.maximum(_PART_OF_STEP * expected, _DEVIATIONS * self.noise)].tolist())

    @property
    def rises(self) -> np.ndarray:
        """Difference in the logarithm of latency from each channel to the next."""
        rises: np.ndarray = np.diff(np.log(self.latency_ms))
        return rises

    @property
    def noise(self) -> float:
        """Standard deviation of `rises` that the spread of the measurements explains.

        It is that of their differences, in which even growth is nothing; they have three times the variance.
        """
        # The median of absolute values, times 1.4826, is the standard deviation of a normal distribution.
        return 1.4826 * float(np.median(np.abs(np.diff(self.rises)))) / 3**0.5


@dataclass(frozen=True)
class Staircase:
    """The lanes that curves of latency against channels show.

    Attributes:
        lanes: The parallelism factor; 1 where latency grows evenly, None where the curves cannot tell.
        reason: Why, in a sentence.
        curves: The curves that were looked at.
        votes: For each candidate which share of the steps is at its multiples, and which share of those has a step.
    """

    lanes: int | None
    reason: str
    curves: tuple[Curve, ...] = ()
    votes: Mapping[int, tuple[float, float]] = field(default_factory=dict)


def curve_subgraphs(last_width: int = 129) -> list[Subgraph]:
    """Return the subgraphs of the curves: convolutions and blocks with output channels in steps of one.

    Args:
        last_width: The widest. Lanes up to half of it can be found.

    Raises:
        ValueError: Too narrow for a curve.
    """
    check_number("last_width", last_width, whole=True, least=FIRST_WIDTH + MIN_POINTS - 1)
    shapes = [
        Subgraph("conv", 28, 28, 64, 1, 1, 3),
        Subgraph("conv", 28, 28, 64, 1, 1),
        Subgraph("ibn", 28, 28, 24, 144, 1, 3),
        Subgraph("fused", 56, 56, 16, 96, 1, 3),
        Subgraph("conv", 56, 56, 32, 1, 1, 3),
        Subgraph("conv", 14, 14, 96, 1, 1),
    ]
    return [_widened(shape, width) for shape in shapes for width in range(FIRST_WIDTH, last_width + 1)]


def short_curve() -> list[Subgraph]:
    """Return the shortest curve that tells 8 lanes from 16: one convolution, for measurements by hand."""
    return [_widened(Subgraph("conv", 28, 28, 64, 1, 1, 3), FIRST_WIDTH + number) for number in range(MIN_POINTS + 1)]


def curves_in(measurements: Mapping[Subgraph, Figures], planned: Iterable[Subgraph] = ()) -> list[Curve]:
    """Return the curves that a table holds: runs of rows that differ by one in their output channels alone.

    Args:
        measurements: Figures of subgraphs or of operators.
        planned: Subgraphs that are priced as the sum of their operators, if those are what the table has.
    """
    known = {part: figures.latency_ms for part, figures in measurements.items() if part.kind in ("conv", *_BLOCKS)}
    for part in planned:
        if part not in known and all(operator in measurements for operator in part.operators):
            known[part] = sum(measurements[operator].latency_ms for operator in part.operators)
    families: dict[Subgraph, dict[int, float]] = {}
    for part, latency_ms in known.items():
        # With as many output as input channels a residual is added, which is no step of the staircase.
        if not part.residual:
            families.setdefault(_widened(part, 1), {})[part.out_channels] = latency_ms
    return [
        Curve(_name(shape), tuple(run), tuple(widths[width] for width in run))
        for shape, widths in families.items()
        for run in _runs(sorted(widths))
    ]


def find_lanes(curves: Sequence[Curve]) -> Staircase:
    """Return the parallelism factor that most steps of the curves agree on.

    It is the largest period that has most of the steps at its multiples, and a step at most of its multiples. At twice
    the period half of the steps is missed; at half of it, every other multiple is without one. Where all curves
    together are not clear, half of them must agree.

    Args:
        curves: At least one; those that do not grow have no vote.

    Example::

        >>> widths = tuple(range(33, 98))
        >>> find_lanes([Curve("conv", widths, tuple(float(-(-width // 8)) for width in widths))]).lanes
        8
    """
    if not curves:
        return Staircase(None, _NO_CURVES)
    growing = [curve for curve in curves if curve.growth > _MIN_GROWTH]
    if not growing:
        return Staircase(None, "Latency does not grow with the channels, so it has no steps.", tuple(curves))
    votes, lanes = _voted(growing)
    if lanes is not None:
        return Staircase(lanes, _reason(lanes, votes, growing), tuple(curves), votes)
    lanes = next((period for period in reversed(votes) if _has_share(growing, period)), None)
    if lanes is not None:
        return Staircase(lanes, _reason(lanes, votes, growing), tuple(curves), votes)
    # A simulator's curves may step elsewhere too, where memory and not the array is in the way.
    alone = Counter(found for curve in growing if (found := _voted([curve])[1]) is not None)
    lanes, agreeing = max(alone.items(), key=lambda item: item[1], default=(None, 0))
    if lanes is None or agreeing < max(2, len(growing) / 2):
        return Staircase(None, _reason(None, votes, growing), tuple(curves), votes)
    reason = f"{agreeing} of {len(growing)} curves step after multiples of {lanes} channels; others step elsewhere too."
    return Staircase(lanes, reason, tuple(curves), votes)


def _voted(curves: Sequence[Curve]) -> tuple[dict[int, tuple[float, float]], int | None]:
    """Return the votes of curves for each candidate, and the largest that has enough of them, if there is one."""
    span = max(curve.channels[-1] - curve.channels[0] for curve in curves)
    counted = {period: _votes(curves, period) for period in _candidates(span // 2)}
    votes = {period: vote for period, vote in counted.items() if vote is not None}
    clear = [period for period, (here, filled) in votes.items() if here >= _MIN_PRECISION and filled >= _MIN_RECALL]
    return votes, max(clear, default=None)


_BLOCKS = ("ds", "ibn", "fused")
_NO_CURVES = (
    f"The table has no convolution with {MIN_POINTS} output channels one after the other, so where latency steps cannot"
    " be told from it."
)


def _candidates(limit: int) -> list[int]:
    """Return the sizes that arrays are built in: powers of two, and three times those."""
    sizes = [size << exponent for exponent in range(limit.bit_length()) for size in (1, 3)]
    return sorted(size for size in sizes if size <= limit)


def _reason(lanes: int | None, votes: Mapping[int, tuple[float, float]], growing: Sequence[Curve]) -> str:
    if lanes is None:
        return "Steps of latency come at no regular distance, or are hidden by the spread of the measurements."
    if lanes == 1:
        return "Latency grows evenly with every channel: there are no steps."
    here, filled = votes[lanes]
    num_curves = f"{len(growing)} curves" if len(growing) > 1 else "one curve"
    twice = f" ({votes[2 * lanes][0]:.0%} by multiples of {2 * lanes})" if 2 * lanes in votes else ""
    return (
        f"{here:.0%} of the steps in {num_curves} are after multiples of {lanes} channels, {filled:.0%} of which have"
        f" one{twice}."
    ).replace("%", " %")


def _votes(curves: Sequence[Curve], period: int) -> tuple[float, float] | None:
    """Return the share of all steps at multiples of `period`, and of the multiples with a step; None for too few."""
    multiples = sum(_num_multiples(curve, period) for curve in curves)
    if multiples < 2 * len(curves):
        return None
    steps = [step for curve in curves for step in curve.steps(period)]
    here = sum(step % period == 0 for step in steps)
    return (here / len(steps) if steps else 0.0), here / multiples


def _has_share(curves: Sequence[Curve], period: int) -> bool:
    """Return whether latency grows at multiples of a period, though single steps may be within the spread.

    Rises and falls of the spread cancel in the sum; rises and falls of a rocky curve do so too, and mislead it, so
    votes come first.
    """
    total = sum(float(curve.rises.sum()) for curve in curves)
    here = odd = variance = 0.0
    for curve in curves:
        number, left = np.divmod(curve.channels[:-1], period)
        here += float(curve.rises[left == 0].sum())
        odd += float(curve.rises[(left == 0) & (number % 2 == 1)].sum())
        variance += float((left == 0).sum()) * curve.noise**2
    is_significant = here - total / period > _MIN_SIGNIFICANCE * variance**0.5
    return is_significant and here > _MIN_SHARE * total and odd > _MIN_ODD_SHARE * total


def _num_multiples(curve: Curve, period: int) -> int:
    # The step after a multiple shows one channel later, so the last channel of a curve is none to step after.
    return (curve.channels[-1] - 1) // period - (curve.channels[0] - 1) // period


def _widened(part: Subgraph, width: int) -> Subgraph:
    hidden = width if part.kind == "conv" else part.hidden_channels
    return replace(part, out_channels=width, hidden_channels=hidden, path="")


def _runs(widths: Sequence[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for width in widths:
        if runs and width == runs[-1][-1] + 1:
            runs[-1].append(width)
        else:
            runs.append([width])
    return [run for run in runs if len(run) >= MIN_POINTS]


def _name(shape: Subgraph) -> str:
    hidden = f" to {shape.hidden_channels}" if shape.kind in ("ibn", "fused") else ""
    return f"{shape.kind} {shape.kernel}x{shape.kernel}, {shape.height}x{shape.width}, {shape.in_channels}{hidden} to c"
