"""Multipliers of the budgets: the penalty on expected costs, and what moves its weight."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_nas.budget.solver import Limit
from lightning_nas.search.penalty import augmented_lagrangian, relative_excess
from lightning_nas.search.strategy import Strategy

__all__ = ["Multipliers"]


class Multipliers:
    """One multiplier for each budget, which grows while the expected cost is above it; see `augmented_lagrangian`.

    Args:
        limits: The budgets.
        strategy: Weight of the squared excess, and step of the multipliers.

    Attributes:
        values: The multipliers, in the order of the budgets.

    Example::

        >>> import numpy as np
        >>> from lightning_nas.budget.cost_table import CostTable, Factor
        >>> from lightning_nas.search.strategy import Rloo
        >>> table = CostTable((Factor((0,), np.array([2.0, 4.0])),), (2,))
        >>> multipliers = Multipliers([Limit(table, 2.0)], Rloo(rho=4.0, eta=0.1))
        >>> even = [torch.tensor([0.5, 0.5])]
        >>> float(multipliers.penalty(even))
        0.5
        >>> multipliers.update(even)
        >>> [round(value, 3) for value in multipliers.values]
        [0.05]
    """

    def __init__(self, limits: Sequence[Limit], strategy: Strategy) -> None:
        self._limits, self._strategy = limits, strategy
        self.values = [0.0] * len(limits)

    def penalty(self, probabilities: Sequence[Tensor]) -> Tensor:
        """Return the penalty of every budget on the exact expected costs: a scalar, a function of the probabilities.

        It is 0 where the strategy has the cost in its reward.

        Args:
            probabilities: Option probabilities of each node.
        """
        if self._strategy.gradient == "reinforce":
            return probabilities[0].new_zeros(())
        terms = []
        for limit, multiplier in zip(self._limits, self.values, strict=True):
            excess = relative_excess(limit.table.expected(probabilities), limit.budget)
            terms.append(augmented_lagrangian(excess, multiplier, self._strategy.rho))
        return torch.stack(terms).sum().float() if terms else probabilities[0].new_zeros(())

    @torch.no_grad()
    def update(self, probabilities: Sequence[Tensor]) -> None:
        """Move each multiplier by its budget's relative excess; once after each architecture step.

        Args:
            probabilities: Option probabilities of each node, after the step.
        """
        self.values = [
            multiplier + self._strategy.eta * float(relative_excess(limit.table.expected(probabilities), limit.budget))
            for limit, multiplier in zip(self._limits, self.values, strict=True)
        ]
