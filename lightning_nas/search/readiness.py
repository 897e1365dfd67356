"""Readiness: whether a supernet is trained enough for its inherited losses to tell subnets apart."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from scipy.stats import kendalltau
from torch import Tensor
from tqdm import tqdm

from lightning_nas.budget.sampling import draw_any, draw_near
from lightning_nas.estimator.cost_model import CostModel
from lightning_nas.io.units import counted
from lightning_nas.search.effort import Effort, affordable
from lightning_nas.search.engine import Search
from lightning_nas.search.inherited import InheritedLoss
from lightning_nas.space.spec import Encoding

__all__ = [
    "ANCHORS",
    "MAX_SIZE_BIAS",
    "MIN_PROGRESS",
    "MIN_STABILITY",
    "MIN_STEPS",
    "Readiness",
    "measure_readiness",
    "progress_of",
    "progress_since",
    "readiness_efforts",
    "report_readiness",
    "start_losses",
]

log = logging.getLogger(__name__)

# Costs of the anchors, relative to the budget: wide enough for some in small spaces.
_BAND = (0.8, 1.0)
# A source network that is hardly below where subnets began has learnt nothing that they could be compared with.
_MIN_FALL = 0.01

# Subnets and batches that the progress is taken on.
_COMPARED, _MOST_BATCHES = 3, 8
# With fewer subnets nothing is said of ranks.
_LEAST_ANCHORS = 4

ANCHORS = 16
"""Subnets that readiness is measured by, where the training was long enough for so many."""
MIN_STEPS = 100
"""Steps in which each option has to have been trained."""
MIN_PROGRESS = 0.8
"""Part of their way to the source network's loss that subnets within the budget have to have made."""
MIN_STABILITY = 0.4
"""Least rank correlation of the subnets' losses between two halves of the held-out batches; noise alone has a standard
deviation of 0.18 with 16 subnets."""
MAX_SIZE_BIAS = 0.5
"""Greatest rank correlation of their losses with their parameters. Trained alone, the larger of equally fast subnets
are rather the better: tau 0.33 in the study of this method, 0.46 in `tests/benchmarks/truth.md`."""


@dataclass(frozen=True)
class Readiness:
    """Figures that say whether a supernet is trained enough to be searched.

    Attributes:
        steps: In how many steps the option that was trained least was trained.
        progress: How far the mean held-out loss of some subnets within the budget fell during the training, as a part
            of the way from where it began to the source network's, from 0 to 1, see `progress_of`; NaN where no losses
            from the start are known.
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
            found.append(f"an option was trained in {counted(self.steps, 'step')} only, of at least {MIN_STEPS}")
        if self.progress < MIN_PROGRESS:
            found.append(
                f"subnets within the budget came {self.progress:.0%} of the way from where they began to the source"
                f" network's loss, of at least {MIN_PROGRESS:.0%}"
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

    def to_dict(self) -> dict[str, float | None]:
        """Return the figures for JSON: None where one was not measured."""
        return {name: None if math.isnan(value) else round(value, 4) for name, value in asdict(self).items()}

    def __str__(self) -> str:
        """Return the figures in a line."""
        progress = "not measured (no finite losses from before and after the training)"
        stability = "not measured (it takes two batches held out and two subnets)"
        size_bias = "not measured (it takes two subnets of different losses and sizes)"
        if not math.isnan(self.progress):
            progress = f"{self.progress:.2f} of the way to the source network's loss"
        if not math.isnan(self.stability):
            stability = f"{self.stability:.2f}"
        if not math.isnan(self.size_bias):
            size_bias = f"{self.size_bias:+.2f}"
        return (
            f"least trained option {counted(self.steps, 'step')}; progress of subnets {progress}; rank stability"
            f" {stability}; rank by size {size_bias}"
        )


def measure_readiness(
    search: Search,
    estimator: CostModel,
    halves: Callable[[Encoding], Tensor],
    progress: float = float("nan"),
    anchors: int = ANCHORS,
    show: bool = False,
) -> Readiness:
    """Measure a supernet by some random subnets within the budget, its anchors.

    Args:
        search: The search.
        estimator: Counts the parameters of subnets.
        halves: Evaluates a subnet, batch norm recalibrated, on two halves of the held-out batches, shape (2,); the
            second is NaN with one batch.
        progress: See `progress_since`.
        anchors: How many subnets.
        show: Whether to show progress.
    """
    drawn = _anchors(search, anchors)
    with tqdm(drawn, desc="Measuring readiness", unit="subnet", leave=False, disable=not show) as bar:
        losses = torch.stack([halves(encoding) for encoding in bar]).double().cpu().numpy()
    means = np.where(np.isnan(losses[:, 1]), losses[:, 0], losses.mean(axis=1))
    stability = _tau(losses[:, 0], losses[:, 1])
    space = search.supernet.space
    sizes = np.array([float(estimator.memory(space.decode(encoding)).parameter_bytes) for encoding in drawn])
    spread = float(np.log(sizes).std())
    scale = float(means.std()) / spread if spread > 0 and np.isfinite(means).all() else 0.0
    return Readiness(search.least_trained, progress, stability, _tau(means, sizes), scale)


def readiness_efforts(cost: float | None, loss: InheritedLoss) -> tuple[Effort, Effort]:
    """Return the efforts of two measurements: losses before and after a training, and ranks at its end.

    Args:
        cost: What both may cost together, see `affordable`; half of it goes to ranks.
        loss: Evaluates the subnets.
    """
    most, each = loss.num_batches, None if cost is None else cost / 4
    progress = affordable(each, Effort(_COMPARED + 1, 1, min(most, _MOST_BATCHES)), *loss.sizes, Effort(2, 1, 1))
    least = Effort(_LEAST_ANCHORS, 1, min(2, most))
    wanted = Effort(ANCHORS, loss.num_calibration, most)
    return progress, affordable(None if cost is None else cost / 2, wanted, *loss.sizes, least)


def start_losses(search: Search, loss: Callable[[Encoding], float], count: int) -> dict[Encoding, float]:
    """Return the losses, before the training, of the source network and of random subnets within the budget.

    Args:
        search: The search.
        loss: Evaluates one on held-out batches.
        count: How many networks, at least two.
    """
    compared = dict.fromkeys([search.supernet.space.reference_encoding, *_anchors(search, count)])
    return {encoding: loss(encoding) for encoding in list(compared)[:count]}


def progress_since(search: Search, start: Mapping[Encoding, float], loss: Callable[[Encoding], float]) -> float:
    """Return how far the subnets of `start_losses` have come since then, from 0 to 1; NaN without such losses.

    Args:
        search: The search.
        start: What `start_losses` returned before the training.
        loss: Evaluates one on the same batches.
    """
    source = search.supernet.space.reference_encoding
    if source not in start or len(start) < 2:
        return float("nan")
    ends = {encoding: loss(encoding) for encoding in start}
    before, after = (float(np.mean([found[n] for n in start if n != source])) for found in (start, ends))
    return progress_of(before, after, min(start[source], ends[source]))


def progress_of(before: float, after: float, goal: float) -> float:
    """Return how far subnets came on their way to the source network's loss, from 0 to 1.

    All losses are of the same held-out batches. The source may have been trained before, or have lost by the search:
    what counts is the least loss that it had at the start or at the end.

    Args:
        before: Loss of the subnets at the start of the training.
        after: Loss of the same subnets at its end.
        goal: Least loss of the source network.

    Example::

        >>> progress_of(before=2.3, after=0.7, goal=0.5)
        0.888...
        >>> progress_of(before=2.5, after=0.86, goal=1.9), progress_of(before=2.3, after=2.4, goal=1.0)
        (1.0, 0.0)
    """
    if not np.isfinite([before, after, goal]).all():
        return float("nan")
    if before - goal < _MIN_FALL * abs(before):
        return 0.0
    return min(1.0, max(0.0, (before - after) / (before - goal)))


def report_readiness(found: Readiness, not_ready: str) -> None:
    """Log how ready a supernet is.

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


def _anchors(search: Search, count: int) -> list[Encoding]:
    # A generator of its own, so that measuring changes nothing that is drawn later.
    generator = torch.Generator().manual_seed(search.training.seed)
    if not search.limits.costs:
        return [draw_any(search.possible, generator) for _ in range(count)]
    limit, band = search.limits.costs[0], _BAND
    # More than are wanted, since small spaces give the same ones again.
    drawn = (draw_near(limit.table, limit.budget, band, generator, search.possible) for _ in range(4 * count))
    return list(dict.fromkeys(drawn))[:count]


def _tau(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    if len(first) < 2 or np.isnan(first).any() or np.isnan(second).any():
        return float("nan")
    return float(kendalltau(first, second).statistic)
