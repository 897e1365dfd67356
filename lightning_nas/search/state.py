"""State of a search over its fits: what runs, what was learnt, and what was found."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import lightning.pytorch as pl

from lightning_nas.budget.limits import Limits
from lightning_nas.budget.tables import CostTables, cost_tables
from lightning_nas.estimator.cost_model import CostModel
from lightning_nas.search.describe import metrics
from lightning_nas.search.engine import Search
from lightning_nas.search.inherited import InheritedLoss
from lightning_nas.search.loaders import CALIBRATION_BATCHES, Loaders, UserFit
from lightning_nas.search.measuring import affordable_cost, measure_end
from lightning_nas.search.progress import Progress
from lightning_nas.search.rank import rank
from lightning_nas.search.readiness import Readiness
from lightning_nas.search.settings import Selection
from lightning_nas.space.spec import Encoding, SearchSpace

__all__ = ["SearchState"]


class SearchState:
    """State of a search, which the hooks of a fit change, and from which questions after the fit are answered.

    Args:
        estimator: What architectures cost.
        selection: How a subnet is chosen.

    Attributes:
        search: The logits and what is drawn by them; None before the first fit.
        fit: The user's fit; None before its first step.
        progress: What was counted and found, as a checkpoint keeps it.
        history: The figures of each architecture step, with the optimizer step.
        promised: Budgets of architectures that were found for others than the search's own.
        recent: The last training batches, for batch norm before a subnet is evaluated.
    """

    def __init__(self, estimator: CostModel, selection: Selection) -> None:
        self._estimator, self._selection = estimator, selection
        self._priced: tuple[SearchSpace, CostTables] | None = None
        self.search: Search | None = None
        self.fit: UserFit | None = None
        self.progress = Progress()
        self.history: list[dict[str, float]] = []
        self.promised: dict[Encoding, Limits] = {}
        self.recent: deque[object] = deque(maxlen=CALIBRATION_BATCHES)

    def forget(self) -> None:
        """Forget what was learnt and found: another supernet is searched."""
        self.fit, self.progress, self.history, self.promised = None, Progress(), [], {}
        self.recent.clear()

    def tables(self, space: SearchSpace) -> CostTables:
        """Return the costs of a space, which is priced once."""
        if self._priced is None or self._priced[0] != space:
            self._priced = space, cost_tables(space, self._estimator)
        return self._priced[1]

    def started(self) -> Search:
        """Return the search.

        Raises:
            RuntimeError: Before `fit`.
        """
        if self.search is None:
            raise RuntimeError("The search has not run. HINT: `Trainer(callbacks=[search]).fit(model, data)` first.")
        return self.search

    def fitted(self) -> UserFit:
        """Return the user's fit.

        Raises:
            RuntimeError: Before its first step.
        """
        if self.fit is None:
            raise RuntimeError(
                "The search has no step yet. HINT: `Trainer(callbacks=[search]).fit(model, data)` first."
            )
        return self.fit

    def chosen(self) -> Encoding:
        """Return the best of the compared architectures; the most probable one before any were compared."""
        return self.progress.ranked[0] if self.progress.ranked else self.started().best()

    def asked(self, encoding: Encoding) -> Limits:
        """Return what an architecture may cost: what it was found for, else the most that the search serves.

        Args:
            encoding: The architecture.

        Raises:
            RuntimeError: Before `fit`.
        """
        limits = self.started().limits
        return self.promised.get(encoding, replace(limits, costs=limits.loosest))

    def follow(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Keep the fit that runs now, and the loaders that are read after it."""
        # Lightning may load validation data only when it first validates.
        if self.fit is None or self.fit.trainer is not trainer or self.fit.lacks_validation(trainer):
            fit = UserFit(trainer, module, Loaders.of(trainer), self._selection.loss)
            self.fit = fit.with_comparable_batches()

    def follow_finished(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Keep a fit that was resumed from its end: it has no step in which its batches could be tried."""
        if self.fit is None or self.fit.trainer is not trainer:
            self.fit = UserFit(trainer, module, Loaders.of(trainer), self._selection.loss)

    def evaluator(self, held_out: bool = False) -> InheritedLoss:
        """Return an evaluator of the supernet's subnets.

        Args:
            held_out: Whether it gets the batches that subnets are compared on, which takes reading a loader.
        """
        fit, supernet = self.fitted(), self.started().supernet
        batches = fit.loaders.held_out_batches(self.recent) if held_out else ()
        recent = fit.calibration_batches(self.recent) if held_out else list(self.recent)
        return InheritedLoss(fit.trainer, fit.module, supernet, recent, batches, fit.loss)

    def record(self, step: int) -> dict[str, float]:
        """Add the figures of an architecture step to the history, and return all of them.

        Args:
            step: Optimizer step.
        """
        found = metrics(self.started())
        shown = {k: v for k, v in found.items() if not k.endswith("_multiplier") and "entropy/" not in k}
        self.history.append({"step": float(step), **shown})
        return found

    def measure_readiness(self, loss: InheritedLoss) -> Readiness:
        """Return how ready the supernet is.

        Args:
            loss: Evaluates subnets on held-out batches.
        """
        show = self.fitted().shows_progress
        return measure_end(self.started(), self._estimator, loss, self._selection, self.progress, show)

    def rank(self, search: Search, loss: InheritedLoss) -> list[Encoding]:
        """Return subnets within the budgets of a search, the best first; the logits learn first where they have not.

        Args:
            search: The search of the fit, or one for other budgets on the same supernet.
            loss: Evaluates subnets on held-out batches.
        """
        readiness = self.progress.readiness
        search.size_scale = 0.0 if readiness is None else readiness.size_scale
        given = search, self._estimator, loss, self._selection, self.progress.observed, self.fitted(), self.record
        ranked, self.progress.observed = rank(*given, affordable_cost(self._selection, self.progress.num_values))
        return ranked
