"""Rewards of sampled architectures: what the logits learn from their losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_nas.budget.solver import Limit
from lightning_nas.search.penalty import log_probability, policy_loss
from lightning_nas.search.strategy import Strategy

__all__ = ["MAX_UNUSABLE", "Rewards"]

MAX_UNUSABLE = 10
"""Architecture steps without finite losses, one after the other, that end a search."""

# TuNAS (arXiv 2008.06120): what a relative deviation from the budget costs, and how slowly the mean reward follows.
_ABSOLUTE_WEIGHT = 0.1
_BASELINE_MEMORY = 0.95


class Rewards:
    """Turns the losses of sampled architectures into a surrogate of the expected loss, and counts what is unusable.

    Args:
        limits: The budgets, for the strategy that has the cost in its reward.
        strategy: How the logits learn.

    Attributes:
        running_mean: Mean reward of earlier batches, for the strategy that compares with it; None before the first.
        num_skipped: Architecture steps whose losses were not finite.
    """

    def __init__(self, limits: Sequence[Limit], strategy: Strategy) -> None:
        self._limits, self._strategy = limits, strategy
        self.running_mean: float | None = None
        self.num_skipped = self._num_in_a_row = 0

    def is_usable(self, losses: Tensor) -> bool:
        """Return whether the logits can learn from losses; those that are not finite are counted.

        Raises:
            RuntimeError: Too many steps one after the other had none.
        """
        if bool(torch.isfinite(losses).all()):
            self._num_in_a_row = 0
            return True
        self.num_skipped += 1
        self._num_in_a_row += 1
        if self._num_in_a_row >= MAX_UNUSABLE:
            raise RuntimeError(
                f"The losses of sampled subnets were not finite in {MAX_UNUSABLE} architecture steps one after another;"
                f" the last were {losses.tolist()}. HINT: a smaller learning rate of the weights, or clipped gradients."
            )
        return False

    def surrogate(self, probabilities: Sequence[Tensor], samples: Sequence[Sequence[int]], losses: Tensor) -> Tensor:
        """Return the scalar whose gradient is the estimate of the expected loss's; a function of the probabilities.

        Args:
            probabilities: Option probabilities of each node.
            samples: Architectures drawn from them.
            losses: Their losses on one batch, shape (num_samples,), without gradient.
        """
        if self._strategy.gradient != "reinforce":
            return policy_loss(probabilities, samples, losses)
        # REINFORCE with the cost in the reward, against a running mean (TuNAS).
        deviations = [
            sum(abs(limit.table.exact(tuple(encoding)) / limit.budget - 1.0) for limit in self._limits)
            for encoding in samples
        ]
        values = losses + _ABSOLUTE_WEIGHT * losses.new_tensor(deviations)
        mean = float(values.mean())
        before = mean if self.running_mean is None else self.running_mean
        # A baseline that holds these losses would bias the gradient: `before` is of earlier batches.
        self.running_mean = _BASELINE_MEMORY * before + (1 - _BASELINE_MEMORY) * mean
        scores = torch.stack([log_probability(probabilities, encoding) for encoding in samples])
        return ((values - before) * scores).mean()
