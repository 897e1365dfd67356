"""The best architecture at every budget, from one table of scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..estimator.table import CostTable
from .solve import Limit, reach, solve

__all__ = ["FrontierPoint", "frontier"]


@dataclass(frozen=True)
class FrontierPoint:
    """An architecture that no other has a higher score than at its cost.

    Attributes:
        nodes: The architecture.
        cost: Its cost.
        score: Sum of the scores of its options.
    """

    nodes: tuple[int, ...]
    cost: float
    score: float


def frontier(
    scores: Sequence[NDArray[np.float64]],
    limit: Limit,
    others: Sequence[Limit] = (),
    forbidden: Sequence[CostTable] = (),
    count: int = 16,
) -> list[FrontierPoint]:
    """Return the architectures of the highest score under budgets between the least and the greatest cost.

    Args:
        scores: For each node the score of each option.
        limit: The cost whose budget varies, up to its own.
        others: Budgets that hold for all.
        forbidden: Tables whose combinations with a positive value may not be chosen.
        count: How many budgets, at equal ratios; equal architectures are given once.
    """
    least = reach(limit.table, samples=1).minimum
    found: dict[tuple[int, ...], FrontierPoint] = {}
    # A hair above the least cost, which rounding could miss.
    for budget in np.geomspace(least * (1 + 1e-6), max(limit.budget, least * (1 + 1e-6)), count):
        nodes = solve(scores, [replace(limit, budget=float(budget), floor=0.0), *others], forbidden)
        if nodes is not None and nodes not in found:
            score = sum(float(row[node]) for row, node in zip(scores, nodes, strict=True))
            found[nodes] = FrontierPoint(nodes, limit.table.exact(nodes), score)
    return list(found.values())
