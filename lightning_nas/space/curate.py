"""Curated widths: a few multiples of the device's lanes, since latency over channels is a staircase."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_nas.io.numbers import check_number, check_numbers
from lightning_nas.space.lanes import round_to_lanes

__all__ = ["curated_widths"]


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
