"""Lanes: the channels that a device processes together, and widths rounded to them."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from lightning_nas.graph.sizes import round_to_multiple
from lightning_nas.io.numbers import check_number

__all__ = ["HasLanes", "aligned_width", "round_to_lanes"]


@runtime_checkable
class HasLanes(Protocol):
    """An object that knows the lanes of a device, such as an estimator."""

    @property
    def lanes(self) -> int:
        """Channels that the device processes together."""
        ...


def round_to_lanes(width: float, lanes: int) -> int:
    """Return the multiple of `lanes` next to `width`, rounded half up, at least one and never 10 % below it.

    Example::

        >>> round_to_lanes(0.75 * 24, 8), round_to_lanes(0.75 * 32, 16), round_to_lanes(3, 8)
        (24, 32, 8)

    Raises:
        ValueError: `lanes` is not positive.
    """
    check_number("width", width, above=0)
    check_number("lanes", lanes, whole=True, least=1)
    return round_to_multiple(width, lanes)


def aligned_width(size: int, ratio: float, unit: int, lanes: int) -> int:
    """Return a part of a width whose channels fill the lanes, and no more than all of it.

    Args:
        size: The width.
        ratio: The part of it.
        unit: Channels of its tensor for one of the width, such as those that a convolution in groups keeps together.
        lanes: The lanes of the device.

    Example::

        >>> aligned_width(64, 0.75, 1, 16), aligned_width(32, 0.6, 4, 16)
        (48, 20)
    """
    return min(size, -(-round_to_lanes(size * unit * ratio, lanes) // unit))
