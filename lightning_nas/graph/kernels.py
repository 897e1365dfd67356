"""Kernels of other sizes: what a convolution says of itself then, and which forms a block can have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from lightning_nas.graph.blocks import Block, BlockForm, BlockKind

__all__ = ["OTHER_KIND", "form_of", "kernel_attributes", "refusal"]

OTHER_KIND: Mapping[BlockKind, BlockKind] = {"ibn": "fused", "fused": "ibn"}
"""Kinds that can become each other: two convolutions as one, and one as two."""


def form_of(block: Block, form: BlockForm) -> BlockForm:
    """Return a form with the block's kind where it says ``own``.

    Args:
        block: The block.
        form: The form.
    """
    return replace(form, kind=block.kind) if form.kind == "own" else form


def refusal(model: nn.Module, block: Block, form: BlockForm) -> str:
    """Return why a block cannot run in a form, as one sentence; empty where it can.

    Args:
        model: The network, of plain modules.
        block: One of its blocks.
        form: The form.
    """
    form, name = form_of(block, form), block.expand or block.depthwise
    if form.kind != block.kind and form.kind != OTHER_KIND.get(block.kind):
        return f"The block at {name!r} is {block.kind!r} and cannot run as {form.kind!r}."
    if form.kind != block.kind and block.unfusable:
        return f"The block at {name!r} cannot run as {form.kind!r}: {block.unfusable}."
    rows, columns = block.kernel
    if form.kernel == max(rows, columns):
        return ""
    if rows != columns or (form.kernel - rows) % 2 or form.kernel < 1:
        return f"The block at {name!r} has a {rows}x{columns} kernel, which cannot be {form.kernel}."
    conv = model.get_submodule(block.depthwise or block.expand)
    assert isinstance(conv, nn.Conv2d)
    padding = kernel_attributes(conv, form.kernel).get("padding")
    if isinstance(padding, tuple) and min(padding) < 0:
        return (
            f"The block at {name!r} cannot have the kernel {form.kernel}: its padding of {conv.padding} is too little"
            " for another size to give outputs as large."
        )
    return ""


def kernel_attributes(conv: nn.Conv2d, size: int) -> dict[str, object]:
    """Return what a convolution says of a kernel of another size with which it gives outputs as large.

    Args:
        conv: The convolution, with its own kernel.
        size: Taps along each side of the other kernel, odd where its own is, even where that is.

    Example::

        >>> kernel_attributes(nn.Conv2d(8, 8, 3, padding=2, dilation=2), 5)["padding"]
        (4, 4)
    """
    found: dict[str, object] = {"kernel_size": (size, size)}
    if not (isinstance(conv.padding, str) or _pads_itself(conv)):
        pairs = zip(conv.padding, conv.dilation, conv.kernel_size, strict=True)
        padding = tuple(before + step * (size - own) // 2 for before, step, own in pairs)
        found["padding"] = padding
        found["_reversed_padding_repeated_twice"] = tuple(taps for taps in reversed(padding) for _ in range(2))
    return found


@torch.no_grad()
def _pads_itself(conv: nn.Conv2d) -> bool:
    """Return whether a convolution pads by the size of its input, as TensorFlow does, and not as it says."""
    if type(conv).forward is nn.Conv2d.forward:
        return False
    reach, stride = conv.dilation[0] * (conv.kernel_size[0] - 1), conv.stride[0]
    for size in range(2 * reach + 2, 2 * reach + 2 + stride):
        result: Tensor = type(conv).forward(conv, conv.weight.new_zeros(1, conv.in_channels, size, size))
        if result.shape[2] != (size + 2 * int(conv.padding[0]) - reach - 1) // stride + 1:
            return True
    return False
