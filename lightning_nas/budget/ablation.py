"""Searching a part of the choices: widths alone, kinds alone, or both, in the same supernet."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from lightning_nas.budget.forbidden import Forbidden
from lightning_nas.space.spec import SearchSpace

__all__ = ["Choices", "searched_options", "unsearched"]

Choices = Literal["both", "widths", "kinds"]
"""``widths``: depth multipliers only, each block as the source has it; ``kinds``: blocks only, at full width."""


def searched_options(space: SearchSpace, choices: Choices) -> list[list[int]]:
    """Return for each node the options that are searched: all, or the source's where nothing is to be chosen.

    Args:
        space: What can be chosen.
        choices: What is.

    Raises:
        ValueError: `choices` is none of those.
    """
    if choices not in get_args(Choices):
        raise ValueError(f"`choices` must be one of {', '.join(get_args(Choices))}; got {choices!r}.")
    # Encodings have the nodes of widths first, then those of blocks.
    num_widths, count = len(space.multipliers), len(space.node_sizes)
    fixed = {"both": range(0), "kinds": range(num_widths), "widths": range(num_widths, count)}[choices]
    return [
        [source] if node in fixed else list(range(size))
        for node, (size, source) in enumerate(zip(space.node_sizes, space.reference_encoding, strict=True))
    ]


def unsearched(space: SearchSpace, choices: Choices) -> Forbidden | None:
    """Return what forbids all options but those that are searched; None where that is all of them."""
    found = []
    for node, (kept, size) in enumerate(zip(searched_options(space, choices), space.node_sizes, strict=True)):
        if len(kept) < size:
            cells = np.ones(size, dtype=bool)
            cells[kept] = False
            found.append(((node,), cells))
    return Forbidden(tuple(found)) if found else None
