"""Search spaces as a table of text, for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_nas.space.choice import Choice
from lightning_nas.space.multiplier import DepthMultiplier

__all__ = ["LeftOut", "space_table"]

_MAX_PATH = 48


@dataclass(frozen=True)
class LeftOut:
    """A part of a network that is not searched.

    Attributes:
        path: The module.
        what: ``width``, ``block`` or ``skip``.
        reason: Why.
    """

    path: str
    what: str
    reason: str


def space_table(multipliers: Sequence[DepthMultiplier], choices: Sequence[Choice], left_out: Sequence[LeftOut]) -> str:
    """Return what can be chosen in a space, and what of the network is not searched, with the reason.

    Args:
        multipliers: The depth multipliers.
        choices: The blocks with their options.
        left_out: What is not searched.

    Example::

        >>> from lightning_nas.space.multiplier import DepthMultiplier
        >>> rest = LeftOut("2", "width", "it is an output of the network")
        >>> print(space_table([DepthMultiplier("0", (0,), ((16,), (24,), (32,)))], [], [rest]))
        widths (1)
          0  16, 24, 32
        not searched (1)
          2  width: it is an output of the network
        3 architectures
    """
    widths = [(multiplier.name, _widths(multiplier.widths)) for multiplier in multipliers]
    blocks = [(choice.path, ", ".join(map(str, choice.options))) for choice in choices]
    rest = [(left.path, f"{left.what}: {left.reason}") for left in left_out]
    lines = []
    for title, rows in (("widths", widths), ("blocks", blocks), ("not searched", rest)):
        if rows:
            size = min(_MAX_PATH, max(len(path) for path, _ in rows))
            lines += [f"{title} ({len(rows)})", *(f"  {path:<{size}}  {text}" for path, text in rows)]
    count = math.prod([*(len(m.widths) for m in multipliers), *(len(c.options) for c in choices)])
    return "\n".join([*lines, f"{count:.3g} architectures"])


def _widths(rows: Sequence[Sequence[int]]) -> str:
    return ", ".join("/".join(map(str, row)) for row in rows)
