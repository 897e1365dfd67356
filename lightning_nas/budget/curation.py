"""Curated widths: only those that a device rewards, since its latency over channels is a staircase."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lightning_nas.budget.cost_table import CostTable, cost_table
from lightning_nas.estimator.cost_model import CostModel
from lightning_nas.space.spec import SearchSpace

__all__ = ["curated"]

# Sums in another order differ by their rounding.
_LESS = 1 - 1e-9


def curated(space: SearchSpace, estimator: CostModel) -> SearchSpace:
    """Return a space with its widths rounded to a device's lanes, without those that cost as much as wider ones.

    Latency then rises along each depth multiplier, others being at full width. The full width always is an option.

    Args:
        space: What can be chosen.
        estimator: Prices its parts.
    """
    rounded = space.curate(estimator.lanes)
    table = cost_table(rounded, estimator.predict_ms)
    multipliers = []
    for node, multiplier in enumerate(rounded.multipliers):
        lowest, kept = np.inf, []
        costs = _along(table, node, rounded.reference_encoding)
        for row, cost in zip(reversed(multiplier.widths), reversed(costs), strict=True):
            if cost < lowest * _LESS:
                kept.append(row)
                lowest = cost
        multipliers.append(replace(multiplier, widths=tuple(reversed(kept))))
    return replace(rounded, multipliers=tuple(multipliers))


def _along(table: CostTable, node: int, encoding: tuple[int, ...]) -> list[float]:
    """Return the cost of each option of a node, others as in an encoding."""
    return [table.exact((*encoding[:node], n, *encoding[node + 1 :])) for n in range(table.node_sizes[node])]
