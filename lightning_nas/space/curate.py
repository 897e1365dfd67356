"""Curated widths: a few multiples of the device's lanes, since latency over channels is a staircase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lightning_nas.io.numbers import check_number, check_numbers
from lightning_nas.space.lanes import round_to_lanes
from lightning_nas.space.multiplier import HEAD, STEM, DepthMultiplier
from lightning_nas.space.options import SpaceOptions
from lightning_nas.space.spec import SearchSpace

__all__ = ["curate", "curated_widths"]


def curated_widths(full: int, ratios: Sequence[float], lanes: int) -> tuple[int, ...]:
    """Return the distinct lane-aligned widths of `ratios` of `full`, ascending and ending at `full`.

    The full width always is an option, on the grid or not: it is the user's own network.

    Example::

        >>> curated_widths(16, (0.5, 0.75, 1.0), lanes=8)
        (8, 16)

    Raises:
        ValueError: A ratio outside (0, 1].
    """
    check_number("full", full, whole=True, least=1)
    check_numbers("ratios", ratios, above=0, most=1)
    # Rounding up must not pass the full width.
    return tuple(sorted({full, *(min(full, round_to_lanes(full * ratio, lanes)) for ratio in ratios)}))


def curate(space: SearchSpace, lanes: int, options: SpaceOptions | None = None) -> SearchSpace:
    """Return `space` with depth multipliers whose widths fill the device's lanes.

    The stem is scaled, too: it and the block behind it work at the highest resolution, and a device whose lanes its
    three input channels hardly fill may spend a fifth of a small network's time there. So is a classifier's head, which
    holds a fifth of MobileNetV2's weights.

    Args:
        space: The space whose stem, stages and head are scaled.
        lanes: Parallelism factor of the device: channels that it computes at once.
        options: The ratios or the explicit widths; what it says of blocks is not read.

    Raises:
        ValueError: The lanes are not positive, or an explicit width is not a multiple of them.
    """
    check_number("lanes", lanes, whole=True, least=1)
    options = options or SpaceOptions()
    ratios, widths, head_widths = options.ratios, options.widths, options.head_widths
    if options.scope == "model":
        ends = {STEM: space.stem, **({HEAD: space.head} if space.head and head_widths is None else {})}
        full = (*(stage.width for stage in space.stages), *(end.width for end in ends.values()))
        rows = {tuple(min(w, round_to_lanes(w * ratio, lanes)) for w in full) for ratio in ratios} | {full}
        places = (*range(len(space.stages)), *ends)
        return replace(space, multipliers=(DepthMultiplier(places, tuple(sorted(rows))),))
    if widths is None:
        columns = dict(enumerate(curated_widths(stage.width, ratios, lanes) for stage in space.stages))
    else:
        columns = _checked_widths(space, lanes, widths)
    for place, end, offered in ((STEM, space.stem, options.stem_widths), (HEAD, space.head, head_widths)):
        if end is None:
            continue
        if offered is not None:
            column = _checked("the stem" if place == STEM else "the head", end.width, lanes, offered)
        else:
            column = curated_widths(end.width, ratios if widths is None else (), lanes)
        if len(column) > 1:  # what has no choice stays an ordinary convolution
            columns[place] = column
    multipliers = tuple(DepthMultiplier((place,), tuple((w,) for w in column)) for place, column in columns.items())
    return replace(space, multipliers=multipliers)


def _checked_widths(space: SearchSpace, lanes: int, widths: Sequence[Sequence[int]]) -> dict[int, tuple[int, ...]]:
    if len(widths) != len(space.stages):
        raise ValueError(f"`widths` must give one list for each of {len(space.stages)} stages; got {len(widths)}.")
    stages = enumerate(zip(space.stages, widths, strict=True))
    return {n: _checked(f"stage {n}", stage.width, lanes, offered) for n, (stage, offered) in stages}


def _checked(place: str, full: int, lanes: int, offered: Sequence[int]) -> tuple[int, ...]:
    for width in offered:
        if not 0 < width <= full:
            raise ValueError(f"Width {width} of {place} must be above 0 and at most {full}.")
        if width % lanes and width != full:
            valid = list(range(lanes, full + 1, lanes))
            raise ValueError(
                f"Width {width} of {place} is not a multiple of the device's {lanes} lanes; valid are "
                f"{', '.join(map(str, valid))} and the full width {full}."
            )
    return tuple(sorted({*offered, full}))
