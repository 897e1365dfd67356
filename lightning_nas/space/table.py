"""Search spaces as a table of text, for people."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lightning_nas.space.choice import Choice
from lightning_nas.space.left_out import LeftOut
from lightning_nas.space.multiplier import DepthMultiplier

__all__ = ["space_table"]

_MAX_PATH = 48


def space_table(
    multipliers: Sequence[DepthMultiplier],
    choices: Sequence[Choice],
    left_out: Sequence[LeftOut] = (),
    units: Sequence[int] = (),
) -> str:
    """Return what can be chosen in a space, and what of the network is not searched, with the reason.

    Args:
        multipliers: Its depth multipliers.
        choices: Its blocks.
        left_out: What is not searched.
        units: For each width group the channels for one of its width; by default one.

    Example::

        >>> import torch
        >>> from torch import nn
        >>> from lightning_nas.space.read import space_of
        >>> net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 4, 1))
        >>> print(space_of(net, torch.zeros(1, 3, 8, 8)).table())
        widths (1)
          0  16, 24, 32
        not searched (1)
          2  width: it is an output of the network
        3 architectures
    """
    widths = [(multiplier.name, _channels(multiplier, units)) for multiplier in multipliers]
    blocks = [(choice.path, ", ".join(map(str, choice.options))) for choice in choices]
    rest = [(left.path, f"{left.what}: {left.reason}") for left in left_out]
    lines = []
    for title, rows in (("widths", widths), ("blocks", blocks), ("not searched", rest)):
        if rows:
            size = min(_MAX_PATH, max(len(path) for path, _ in rows))
            lines += [f"{title} ({len(rows)})", *(f"  {path:<{size}}  {text}" for path, text in rows)]
    count = math.prod([*(len(multiplier.widths) for multiplier in multipliers), *(len(c.options) for c in choices)])
    return "\n".join([*lines, f"{count:.3g} architectures"])


def _channels(multiplier: DepthMultiplier, units: Sequence[int]) -> str:
    own = [units[group] if units else 1 for group in multiplier.groups]
    rows = ([width * unit for width, unit in zip(row, own, strict=True)] for row in multiplier.widths)
    return ", ".join("/".join(map(str, row)) for row in rows)
