"""Searching a part of the choices: widths alone, kinds alone, or both, in the same supernet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from lightning_nas.estimator.table import CostTable, Factor
from lightning_nas.space.spec import SearchSpace

__all__ = ["Choices", "fixed_choices", "restricted", "searched_options"]

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
    num_widths, count = len(space.multipliers), len(space.node_sizes)
    fixed = {"both": range(0), "kinds": range(num_widths), "widths": range(num_widths, count)}[choices]
    return [
        [source] if node in fixed else list(range(size))
        for node, (size, source) in enumerate(zip(space.node_sizes, space.reference_nodes, strict=True))
    ]


def fixed_choices(space: SearchSpace, choices: Choices) -> tuple[CostTable, ...]:
    """Return tables that forbid all options but those that are searched; none where that is all of them."""
    factors = []
    for node, (kept, size) in enumerate(zip(searched_options(space, choices), space.node_sizes, strict=True)):
        if len(kept) < size:
            cost = np.ones(size)
            cost[kept] = 0.0
            factors.append(Factor((node,), cost))
    return (CostTable(tuple(factors), space.node_sizes),) if factors else ()


def restricted(table: CostTable, options: Sequence[Sequence[int]]) -> CostTable:
    """Return the table of a space that has only some options of each node, in the order given."""
    factors = (Factor(f.nodes, np.asarray(f.cost[np.ix_(*(options[n] for n in f.nodes))])) for f in table.factors)
    return CostTable(tuple(factors), tuple(map(len, options)))
