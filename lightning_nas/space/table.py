"""Search spaces as a table of text, for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_nas.space.spec import SearchSpace

__all__ = ["space_table"]

_MAX_PATH = 48


def space_table(space: SearchSpace) -> str:
    """Return what can be chosen in a space, and what of the network is not searched, with the reason.

    Args:
        space: The space.

    Example::

        >>> import torch
        >>> from torch import nn
        >>> from lightning_nas.space.read import space_of
        >>> net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 4, 1))
        >>> print(space_table(space_of(net, torch.zeros(1, 3, 8, 8))))
        widths (1)
          0  16, 24, 32
        not searched (1)
          2  width: it is an output of the network
        3 architectures
    """
    widths = [(multiplier.name, _widths(multiplier.widths)) for multiplier in space.multipliers]
    blocks = [(choice.path, ", ".join(map(str, choice.options))) for choice in space.choices]
    rest = [(left.path, f"{left.what}: {left.reason}") for left in space.left_out]
    lines = []
    for title, rows in (("widths", widths), ("blocks", blocks), ("not searched", rest)):
        if rows:
            size = min(_MAX_PATH, max(len(path) for path, _ in rows))
            lines += [f"{title} ({len(rows)})", *(f"  {path:<{size}}  {text}" for path, text in rows)]
    return "\n".join([*lines, f"{space.num_architectures:.3g} architectures"])


def _widths(rows: Sequence[Sequence[int]]) -> str:
    return ", ".join("/".join(map(str, row)) for row in rows)
