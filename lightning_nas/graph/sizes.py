"""Sizes that follow from others: rounded channels, height and width behind a stride, values as they are stored."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["NPU_BRICK", "hidden_width", "out_size", "round_to_multiple", "stored_values"]

NPU_BRICK = 16
"""Channels that Arm's Ethos-U stores together."""


def round_to_multiple(width: float, step: int) -> int:
    """Return the multiple of `step` next to `width`, rounded half up, at least one and never 10 % below it.

    The 10 % rule is that of the MobileNets and of timm (``make_divisible``): rounding must not take away the capacity
    that was asked for.

    Example::

        >>> round_to_multiple(18, 8), round_to_multiple(24, 16), round_to_multiple(3, 8)
        (24, 32, 8)
    """
    rounded = max(step, int(width + step / 2) // step * step)
    return rounded + step if rounded < 0.9 * width else rounded


def hidden_width(in_width: int, expansion: float) -> int:
    """Return the hidden channels of a block: rounded to 8 as timm rounds, so that its strings rebuild the network.

    Example::

        >>> hidden_width(24, 6), hidden_width(24, 1)
        (144, 24)
    """
    return round_to_multiple(in_width * expansion, 8)


def out_size(size: int, stride: int) -> int:
    """Return height or width after a convolution with an odd kernel, padded by half of it."""
    return -(-size // stride)


def stored_values(shape: Iterable[int], brick: int = NPU_BRICK) -> int:
    """Return the values that a tensor (height, width, channels) takes where channels are stored `brick` by `brick`."""
    height, width, channels = shape
    return height * width * -(-channels // brick) * brick
