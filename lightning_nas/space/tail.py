"""Tail: a detector's or segmenter's neck and heads behind the blocks of a network, as frozen data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

__all__ = ["TailOperation", "block_number", "from_block", "resized", "sources"]


@dataclass(frozen=True)
class TailOperation:
    """One operator behind the blocks, with the norm and the activation folded into it.

    Attributes:
        operator: What it does: ``conv``, ``depthwise``, ``add``, ``resize`` and the like, as the estimator names them.
        height: Input rows.
        width: Input columns.
        in_channels: Input channels; those of all inputs together of a concatenation.
        out_channels: Output channels.
        inputs: What it reads: numbers of earlier operations of the tail, or blocks of the network, see `from_block`.
        kernel: Spatial size of the filter.
        stride: Spatial stride.
        form: What these sizes cannot say, as the estimator writes it; empty for most.
        path: The module that runs it.
        is_bounded: Whether a folded activation follows.
        is_output: Whether the network returns its result.
    """

    operator: str
    height: int
    width: int
    in_channels: int
    out_channels: int
    inputs: tuple[int, ...]
    kernel: int = 1
    stride: int = 1
    form: str = ""
    path: str = ""
    is_bounded: bool = False
    is_output: bool = False


def from_block(block: int) -> int:
    """Return the number by which operations of a tail read the output of a block, counted from 0 over all stages."""
    return -1 - block


def block_number(source: int) -> int | None:
    """Return the block that a number of `TailOperation.inputs` means, or None for an operation of the tail.

    Example::

        >>> block_number(from_block(3)), block_number(3)
        (3, None)
    """
    return -1 - source if source < 0 else None


def resized(tail: Sequence[TailOperation], block_widths: Sequence[int]) -> tuple[TailOperation, ...]:
    """Return the tail behind blocks of other widths: convolutions keep their outputs, all else what goes in.

    Args:
        tail: Operations in order.
        block_widths: Output channels of each block.

    Example::

        >>> lateral = TailOperation("conv", 8, 8, 32, 64, (from_block(0),))
        >>> resized([lateral, TailOperation("resize", 8, 8, 64, 64, (0,))], [24])[0].in_channels
        24
    """
    found: list[TailOperation] = []
    for operation in tail:
        widths = [block_widths[-1 - n] if n < 0 else found[n].out_channels for n in operation.inputs]
        in_channels = sum(widths) if operation.operator == "concat" else max(widths)
        keeps = operation.operator in ("conv", "linear", "transposed_conv")
        found.append(
            replace(operation, in_channels=in_channels, out_channels=operation.out_channels if keeps else in_channels)
        )
    return tuple(found)


def sources(tail: Sequence[TailOperation]) -> list[frozenset[int]]:
    """Return for each operation the blocks whose widths are its input's.

    Example::

        >>> head = [TailOperation("pool", 8, 8, 32, 32, (from_block(4),)), TailOperation("conv", 1, 1, 32, 64, (0,))]
        >>> [sorted(blocks) for blocks in sources([*head, TailOperation("conv", 1, 1, 64, 64, (1,))])]
        [[4], [4], []]
    """
    read: list[frozenset[int]] = []
    passed: list[frozenset[int]] = []  # those that decide the widths of what comes out
    for operation in tail:
        parts = [frozenset((-1 - n,)) if n < 0 else passed[n] for n in operation.inputs]
        read.append(frozenset().union(*parts))
        keeps = operation.operator in ("conv", "linear", "transposed_conv")
        passed.append(frozenset() if keeps else read[-1])
    return read
