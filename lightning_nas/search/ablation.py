"""Searching a part of the choices: widths alone, kinds alone, or both, in the same supernet."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from ..estimator.table import CostTable, Factor
from ..space.spec import SearchSpace

__all__ = ["Choices", "fixed_choices"]

Choices = Literal["both", "widths", "kinds"]
"""``widths``: depth multipliers only, each block as the source has it; ``kinds``: blocks only, at full width."""


def fixed_choices(space: SearchSpace, choices: Choices) -> tuple[CostTable, ...]:
    """Return tables that forbid all options but the source's where nothing is to be chosen.

    Args:
        space: What can be chosen.
        choices: What is.

    Raises:
        ValueError: `choices` is none of those.
    """
    if choices not in get_args(Choices):
        raise ValueError(f"`choices` must be one of {', '.join(get_args(Choices))}; got {choices!r}.")
    if choices == "both":
        return ()
    num_widths = len(space.multipliers)
    fixed = range(num_widths) if choices == "kinds" else range(num_widths, len(space.node_sizes))
    factors = []
    for node in fixed:
        cost = np.ones(space.node_sizes[node])
        cost[space.reference_nodes[node]] = 0.0
        factors.append(Factor((node,), cost))
    return (CostTable(tuple(factors), space.node_sizes),)
