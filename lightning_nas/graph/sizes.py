"""Sizes that follow from others: hidden channels of a block, height and width behind a stride."""

from __future__ import annotations

__all__ = ["hidden_width", "out_size"]


def hidden_width(in_width: int, expansion: float) -> int:
    """Return the hidden channels of a block: rounded to 8 as timm rounds, so that its strings rebuild the network.

    Example::

        >>> hidden_width(24, 6), hidden_width(24, 1)
        (144, 24)
    """
    # timm's make_divisible(v, 8): round half up, but never lose more than 10 % of the channels.
    exact = in_width * expansion
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * exact else rounded


def out_size(size: int, stride: int) -> int:
    """Return height or width after a convolution with an odd kernel, padded by half of it."""
    return -(-size // stride)
