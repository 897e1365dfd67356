"""Lanes: the channels that a device processes together, and widths rounded to them."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from lightning_nas.graph.sizes import round_to_multiple
from lightning_nas.io.numbers import check_number

__all__ = ["HasLanes", "round_to_lanes"]


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
