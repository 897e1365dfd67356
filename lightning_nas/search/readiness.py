"""Whether a supernet is trained well enough for its inherited losses to tell subnets apart."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from scipy.stats import kendalltau
from torch import Tensor

from ..estimator.estimator import Estimator
from .engine import Search
from .sampling import draw_any, draw_near

__all__ = [
    "MAX_SIZE_BIAS",
    "MIN_PROGRESS",
    "MIN_STABILITY",
    "MIN_STEPS",
    "Readiness",
    "measure_readiness",
    "report_readiness",
]

log = logging.getLogger(__name__)

Nodes = tuple[int, ...]

# Costs of the anchors, relative to the budget: wide enough for some in small spaces.
_BAND = (0.8, 1.0)

MIN_STEPS = 100
"""Steps in which each option has to have been trained."""
MIN_PROGRESS = 0.8
"""Part of the source network's progress that subnets within the budget have to have made."""
MIN_STABILITY = 0.4
"""Least rank correlation of the subnets' losses between two halves of the held-out batches; noise alone has a standard
deviation of 0.18 with 16 subnets."""
MAX_SIZE_BIAS = 0.5
"""Greatest rank correlation of their losses with their parameters. Trained alone, the larger of equally fast subnets
are rather the better: tau 0.33 in the study of this method, 0.46 in `tests/benchmarks/truth.md`."""


@dataclass(frozen=True)
class Readiness:
    """What was measured on a supernet.

    Attributes:
        steps: In how many steps the option that was trained least was trained.
        progress: How far the mean loss of random subnets within the budget fell, as a part of how far the source
            network's fell, with the same weights; NaN where no loss from the start is known.
        stability: Kendall's tau of those subnets' losses between two halves of the held-out batches; NaN with one.
        size_bias: Kendall's tau of those subnets' losses and their parameters: above 0, the larger seem the worse. A
            supernet that was trained too little ranks small subnets first, which converge first.
        size_scale: Standard deviation of their losses over that of the logarithms of their parameters.
    """

    steps: int
    progress: float
    stability: float
    size_bias: float
    size_scale: float = 0.0

    @property
    def reasons(self) -> list[str]:
        """Why the supernet is not ready; empty where it is."""
        found = []
        if self.steps < MIN_STEPS:
            found.append(f"an option was trained in {self.steps} steps only, of at least {MIN_STEPS}")
        if self.progress < MIN_PROGRESS:
            found.append(
                f"subnets within the budget made {self.progress:.0%} of the source network's progress, of at least"
                f" {MIN_PROGRESS:.0%}"
            )
        if self.stability < MIN_STABILITY:
            found.append(
                f"the ranks of subnets on two halves of the validation data agree by tau {self.stability:.2f}, of at"
                f" least {MIN_STABILITY}"
            )
        if self.size_bias > MAX_SIZE_BIAS:
            found.append(
                f"the larger of the subnets within the budget seem the worse (tau {self.size_bias:.2f}, of at most"
                f" {MAX_SIZE_BIAS}), as where small ones are trained more than the others"
            )
        return found

    def __str__(self) -> str:
        """Return the figures in a line."""
        return (
            f"least trained option {self.steps} steps; progress of subnets {self.progress:.2f} of the source network's;"
            f" rank stability {self.stability:.2f}; rank by size {self.size_bias:+.2f}"
        )


def measure_readiness(
    search: Search,
    estimator: Estimator,
    halves: Callable[[Nodes], Tensor],
    start_loss: float | None,
    anchors: int = 16,
) -> Readiness:
    """Measure a supernet by some random subnets within the budget, its anchors.

    Args:
        search: The search.
        estimator: Counts the parameters of subnets.
        halves: Evaluates a subnet, batch norm recalibrated, on two halves of the held-out batches, shape (2,); the
            second is NaN with one batch.
        start_loss: Loss of the source network before the training; None where it is not known.
        anchors: How many subnets.
    """
    drawn = _anchors(search, anchors)
    losses = torch.stack([halves(nodes) for nodes in drawn]).double().cpu().numpy()
    means = np.where(np.isnan(losses[:, 1]), losses[:, 0], losses.mean(axis=1))
    source = float(halves(search.supernet.space.reference_nodes).nanmean())
    progress = float("nan")
    if start_loss is not None:
        # A source network that has learnt nothing leaves nothing to compare with.
        progress = (start_loss - float(means.mean())) / (start_loss - source) if source < start_loss else 0.0
    stability = _tau(losses[:, 0], losses[:, 1])
    space = search.supernet.space
    sizes = np.array([float(estimator.memory(space.decode(nodes)).parameter_bytes) for nodes in drawn])
    spread = float(np.log(sizes).std())
    scale = float(means.std()) / spread if spread > 0 and np.isfinite(means).all() else 0.0
    return Readiness(search.least_trained, progress, stability, _tau(means, sizes), scale)


def report_readiness(found: Readiness, not_ready: str) -> None:
    """Say how ready a supernet is.

    Raises:
        RuntimeError: It is not, and `not_ready` is ``stop``.
    """
    rank_zero_info(f"Supernet: {found}.")
    if not found.reasons:
        return
    message = f"The supernet is not ready to be searched: {'; '.join(found.reasons)}."
    if not_ready == "stop":
        raise RuntimeError(f"{message} HINT: train it longer, or `not_ready='warn'` to choose all the same.")
    log.warning("%s What it ranks first may be no better than any other subnet. HINT: train it longer.", message)


def _anchors(search: Search, count: int) -> list[Nodes]:
    # A generator of its own, so that measuring changes nothing that is drawn later.
    generator = torch.Generator().manual_seed(search.settings.seed)
    if not search.budgets.limits:
        return [draw_any(search.possible, generator) for _ in range(count)]
    limit, band = search.budgets.limits[0], _BAND
    drawn = (draw_near(limit.table, limit.budget, band, generator, search.possible) for _ in range(4 * count))
    return list(dict.fromkeys(drawn))[:count]


def _tau(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    if len(first) < 2 or np.isnan(first).any() or np.isnan(second).any():
        return float("nan")
    return float(kendalltau(first, second).statistic)
