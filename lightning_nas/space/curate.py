"""Curated widths: few, lane-aligned steps, so that the search sees a staircase's treads and not its edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from .lanes import HasLanes
from .spec import DepthMultiplier, SearchSpace

__all__ = ["Scope", "aligned", "curate", "curated_widths", "round_to_lanes"]

Scope = Literal["stage", "model"]
"""What one depth multiplier scales: each stage on its own, or the whole model at once."""


def round_to_lanes(width: float, lanes: int) -> int:
    """Return the multiple of `lanes` next to `width`, rounded half up, at least one and never 10 % below it.

    The 10 % rule is that of the MobileNets (``make_divisible``): rounding must not take away the capacity asked for.

    Example::

        >>> round_to_lanes(0.75 * 24, 8), round_to_lanes(0.75 * 32, 16), round_to_lanes(3, 8)
        (24, 32, 8)

    Raises:
        ValueError: `lanes` is not positive.
    """
    if lanes < 1:
        raise ValueError(f"`lanes` must be at least 1; got {lanes}.")
    rounded = max(lanes, int(width + lanes / 2) // lanes * lanes)
    return rounded + lanes if rounded < 0.9 * width else rounded


def curated_widths(full: int, ratios: Sequence[float], lanes: int) -> tuple[int, ...]:
    """Return the distinct lane-aligned widths of `ratios` of `full`, ascending and ending at `full`.

    The full width always is an option, on the grid or not: it is the user's own network.

    Example::

        >>> curated_widths(16, (0.5, 0.75, 1.0), lanes=8)
        (8, 16)

    Raises:
        ValueError: A ratio outside (0, 1].
    """
    for ratio in ratios:
        if not 0 < ratio <= 1:
            raise ValueError(f"A depth multiplier's ratio must be above 0 and at most 1; got {ratio}.")
    return tuple(sorted({full, *(min(full, round_to_lanes(full * ratio, lanes)) for ratio in ratios)}))


def curate(
    space: SearchSpace,
    lanes: int,
    ratios: Sequence[float] = (0.5, 0.75, 1.0),
    scope: Scope = "stage",
    widths: Sequence[Sequence[int]] | None = None,
) -> SearchSpace:
    """Return `space` with depth multipliers whose widths fill the device's lanes.

    Args:
        space: The space whose stages are scaled.
        lanes: Parallelism factor of the device: channels that it computes at once.
        ratios: Depth multipliers, each above 0 and at most 1; those that round to the same widths are one option.
        scope: One multiplier a ``stage``, or one for the whole ``model``.
        widths: Explicit options for each stage, instead of `ratios`; needs the scope ``stage``.

    Raises:
        ValueError: A ratio, a scope, or a width that is not valid for the lanes.
    """
    if scope not in ("stage", "model"):
        raise ValueError(f"`scope` must be 'stage' or 'model'; got {scope!r}.")
    if widths is not None:
        if scope != "stage":
            raise ValueError("Explicit `widths` are one list a stage and need scope='stage'; got scope='model'.")
        columns = _checked_widths(space, lanes, widths)
    else:
        columns = [curated_widths(stage.width, ratios, lanes) for stage in space.stages]
    if scope == "stage":
        multipliers = tuple(DepthMultiplier((i,), tuple((w,) for w in column)) for i, column in enumerate(columns))
    else:
        full = tuple(stage.width for stage in space.stages)
        rows = {tuple(min(w, round_to_lanes(w * ratio, lanes)) for w in full) for ratio in ratios} | {full}
        multipliers = (DepthMultiplier(tuple(range(len(full))), tuple(sorted(rows))),)
    return replace(space, multipliers=multipliers)


def aligned(space: SearchSpace, device: HasLanes | int) -> SearchSpace:
    """Return `space` with its widths rounded to the lanes of `device`; those that round to the same are one option.

    Args:
        space: The space whose depth multipliers are thinned out.
        device: Anything with `lanes`, such as an estimator, or their number.

    Raises:
        ValueError: The lanes are not positive.
    """
    lanes = device if isinstance(device, int) else device.lanes
    multipliers = []
    for multiplier in space.multipliers:
        full = multiplier.widths[-1]
        rows = (zip(row, full, strict=True) for row in multiplier.widths)
        rounded = {tuple(min(limit, round_to_lanes(width, lanes)) for width, limit in row) for row in rows}
        multipliers.append(replace(multiplier, widths=tuple(sorted({*rounded, full}))))
    return replace(space, multipliers=tuple(multipliers))


def _checked_widths(space: SearchSpace, lanes: int, widths: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    if len(widths) != len(space.stages):
        raise ValueError(f"`widths` must give one list for each of {len(space.stages)} stages; got {len(widths)}.")
    columns = []
    for index, (stage, offered) in enumerate(zip(space.stages, widths, strict=True)):
        for width in offered:
            if not 0 < width <= stage.width:
                raise ValueError(f"Width {width} of stage {index} must be above 0 and at most {stage.width}.")
            if width % lanes and width != stage.width:
                valid = list(range(lanes, stage.width + 1, lanes))
                raise ValueError(
                    f"Width {width} of stage {index} is not a multiple of the device's {lanes} lanes; valid are "
                    f"{', '.join(map(str, valid))} and the full width {stage.width}."
                )
        columns.append(tuple(sorted({*offered, stage.width})))
    return columns
