"""Hooks by which a search follows a user's fit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from typing_extensions import override

from lightning_nas.budget.ablation import Choices
from lightning_nas.budget.budget import Budget
from lightning_nas.budget.limits import Limits
from lightning_nas.budget.resolve import resolve_search
from lightning_nas.budget.tables import warn_off_grid
from lightning_nas.estimator.cost_model import CostModel
from lightning_nas.search.describe import announcement, progress_line
from lightning_nas.search.effort import num_values
from lightning_nas.search.engine import Search
from lightning_nas.search.extend_training import extend, is_last_epoch
from lightning_nas.search.gradient_estimate import Score
from lightning_nas.search.lightning_internals import extend_fit
from lightning_nas.search.measuring import measure_start
from lightning_nas.search.needed import report_needed
from lightning_nas.search.progress import Progress
from lightning_nas.search.readiness import report_readiness
from lightning_nas.search.sandwich import add_gradients
from lightning_nas.search.settings import Joint, Method, Monitor, Selection, SupernetTraining
from lightning_nas.search.state import SearchState
from lightning_nas.search.trainers import configures_model, refuse_strategy, refuse_unaware, total_steps
from lightning_nas.search.untrained_search import search_untrained
from lightning_nas.search.validated import validated_encoding
from lightning_nas.search.warnings_heard import heard_warnings
from lightning_nas.space.nodes import described
from lightning_nas.space.spec import Encoding, SearchSpace
from lightning_nas.supernet.mixture import check_mixable
from lightning_nas.supernet.sliced_step import SlicedStep
from lightning_nas.supernet.supernet import find_supernet, has_supernet
from lightning_nas.training.checkpoints import CheckpointState
from lightning_nas.training.divergence import Divergence

__all__ = ["SearchHooks"]


class SearchHooks(Callback):
    """The part of `ArchitectureSearch` that Lightning calls: it trains paths and logits, and chooses at the end.

    Args:
        estimator: What architectures cost.
        budget: What the subnet may cost.
        method: How the space is searched.
        selection: How a subnet is chosen at the end.
        serves: Other latencies that the training serves.
        choices: What is searched: ``both``, ``widths`` alone or ``kinds`` alone.
        monitor: What validations run, and what the progress bar shows.

    Attributes:
        state: What the search knows: what runs, what was learnt, and what was found.
        errors: How far each option is from the source, for the prior; None for the weights that an option keeps.
        has_chosen: Whether a subnet was chosen in this fit, rather than in the one whose checkpoint it goes on from.
    """

    def __init__(
        self,
        estimator: CostModel,
        budget: Budget,
        method: Method,
        selection: Selection,
        serves: tuple[float | str, ...],
        choices: Choices,
        monitor: Monitor,
    ) -> None:
        super().__init__()
        self.estimator, self.budget, self.serves, self.choices = estimator, budget, serves, choices
        self.method, self.selection, self.monitor = method, selection, monitor
        self.training = method if isinstance(method, SupernetTraining) else method.scoring
        self.state = SearchState(estimator, selection)
        self.errors: Sequence[Tensor] | None = None
        self.has_chosen = self._is_begun = False
        self._divergence = Divergence("supernet's training")
        self._saved: CheckpointState = {}  # of a checkpoint, until the optimizer is there
        self._optimizer: torch.optim.Adam | None = None
        self._sliced: SlicedStep | None = None
        self._max_epochs: int | None = None
        self._pending: Score | None = None
        self._others: tuple[object, int, list[Encoding]] | None = None  # batch, its number, further paths
        self._validated: Encoding | None = None

    def limits_in(self, space: SearchSpace) -> Limits:
        """Return the limits that the budget sets in a space, in milliseconds and bytes. A space is priced once.

        Raises:
            ValueError: The budget is out of reach, or binds nothing.
        """
        return resolve_search(self.budget, space, self.state.tables(space), self.serves, self.choices)

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        refuse_strategy(trainer)
        self.has_chosen = self._is_begun = False
        # `configure_model` comes after this hook, and may be what converts the network.
        if not configures_model(pl_module) or has_supernet(pl_module):
            self._begin(pl_module)
        else:
            self._optimizer = None  # what is loaded before is for the search that begins then

    def _begin(self, pl_module: pl.LightningModule) -> None:
        """Resolve the budget against the supernet, and make the search."""
        supernet = find_supernet(pl_module)
        self._is_begun = True
        limits = self.limits_in(supernet.space)
        if self.training.strategy.is_mixed:
            check_mixable(supernet.space, supernet.leaves.model)
        warn_off_grid(supernet.space, self.estimator.lanes)
        # A fit that goes on with the same supernet keeps what was learnt and counted.
        state = self.state
        if state.search is not None and state.search.supernet is supernet:
            self._saved = self.state_dict()
        elif state.search is not None:
            state.forget()
            self._divergence = Divergence(self._divergence.name)
        self._optimizer = None
        state.search = Search(supernet, limits, self.training, self.errors)
        rank_zero_info(announcement(state.search))

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._is_begun:
            self._begin(pl_module)
        if not isinstance(self.method, SupernetTraining):
            total_steps(trainer)  # it loads the data
            if self._saved:
                self.state.progress, self._saved = Progress.from_dict(self._saved), {}
            self.has_chosen = not self.state.progress.ranked
            given = self.state, self.estimator, self.method, self.selection.num_candidates
            self.errors = search_untrained(trainer, pl_module, *given)
            # Only now: a search that fails leaves the Trainer as it was.
            self._max_epochs = trainer.max_epochs
            extend_fit(trainer, 0)
            return
        search = self.state.started()
        # Not in `setup`: only now has the strategy wrapped the module.
        refuse_unaware(trainer, self.training)
        # As the user gave it: `extend` raises what the Trainer has.
        self._max_epochs = trainer.max_epochs
        strategy = self.training.strategy
        # Not a group of the user's optimizer: schedules fail on groups that come after them, and Lightning takes no
        # second one.
        self._optimizer = torch.optim.Adam(search.logits, strategy.lr, (strategy.beta1, 0.999))
        self._sliced = SlicedStep(pl_module)
        self._sliced.attach(trainer.optimizers)
        search.supernet.use_batch_statistics(True)
        if trainer.ckpt_path is None:
            # It loads the data, which must come after the state of a loader that goes on where it was.
            total_steps(trainer)
        self._restore()

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        report_needed(trainer, self.state.started())
        self._divergence.on_train_start(trainer, pl_module)

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Batch norm is recalibrated on batches of one epoch alone: a resumed training has seen no others.
        self.state.recent.clear()
        # What was found for earlier weights; while weights train first, all that was observed is of those.
        self.state.progress.restart(keep_observed=isinstance(self.training, Joint))

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        state, step, total = self.state, trainer.global_step, total_steps(trainer)
        state.follow(trainer, pl_module)
        search, fit, progress = state.started(), state.fitted(), state.progress
        if not progress.num_values and fit.loaders.validation is not None:
            num_batches = total * trainer.accumulate_grad_batches
            measure_start(search, fit, self.selection, progress, batch, num_batches)
        # Where gradients are accumulated, several batches belong to one optimizer step, which is scored once.
        if search.is_due(step, total) and step != progress.scored_step:
            progress.scored_step = step
            self._pending = state.evaluator().score(search, batch, batch_idx, step / total)
        others = search.begin_step(step, total)
        self._others = (batch, batch_idx, others) if others else None
        progress.num_values += num_values(batch) * (1 + len(others))
        state.recent.append(batch)

    @override
    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._others is not None:
            add_gradients(trainer, pl_module, self.state.started().supernet, *self._others)
            self._others = None

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if self._sliced is not None and trainer.scaler is None:
            # A scaler steps later, or not at all; without one, the step is under way.
            self._sliced.narrow(optimizer)
        if self._pending is None or self._optimizer is None:
            return
        # In this hook the penalty counts once a step, whatever is accumulated, scaled or clipped, and no loss is
        # touched.
        self.state.started().update(self._optimizer, self._pending.surrogate)
        self.state.progress.observed += self._pending.observed
        self._pending = None
        for name, value in self.state.record(trainer.global_step).items():
            pl_module.log(name, value, prog_bar=name.removeprefix("nas/") in self.monitor.progress_bar)

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        self._divergence.on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        state = self.state
        if state.progress.start:
            # Untrained subnets are at chance or below; a single step's loss depends on the path that it drew.
            losses = [loss for _, loss in state.progress.start if math.isfinite(loss)]
            self._divergence.start = max(losses, default=None)
            self._divergence.ends_worse = bool(losses)
        self._divergence.on_train_epoch_end(trainer, pl_module)
        if state.history:
            rank_zero_info(f"Epoch {trainer.current_epoch}: {progress_line(state.started())}")
        if self.selection.not_ready == "continue" and is_last_epoch(trainer):
            extend(trainer, state.measure_readiness(state.evaluator(held_out=True)), 2 * (self._max_epochs or 0))

    @override
    def on_validation_batch_start(self, trainer: pl.Trainer, *arguments: object) -> None:
        # Not earlier: by now a callback that averages weights has put them in place.
        state, is_first = self.state, arguments[2:] in ((0,), (0, 0))
        if is_first and state.search is not None and state.fit is not None and state.recent:
            self._validated = validated_encoding(state.search, self.monitor.validate)
            state.evaluator().prepare(self._validated)

    @override
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._validated is not None:
            architecture = self.state.started().supernet.space.decode(self._validated)
            pl_module.log("nas/validated_latency_ms", self.estimator.latency_ms(architecture))
            self._validated = None

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # The validated network ran on recalibrated statistics, but paths are trained on those of their batch.
        if self.state.search is not None:
            self.state.search.supernet.use_batch_statistics(True)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        state, search = self.state, self.state.started()
        if self._sliced is not None:
            self._sliced.detach()
        state.follow(trainer, pl_module)
        with heard_warnings() as state.progress.warnings:
            loss = state.evaluator(held_out=True)
            if loss.num_batches:
                found = state.measure_readiness(loss)
                state.progress.readiness = found
                report_readiness(found, self.selection.not_ready)
            state.progress.ranked = state.rank(search, loss)
        self.has_chosen = True
        search.supernet.activate(state.chosen())
        rank_zero_info(f"Selected architecture: {described(search.supernet.space, state.chosen())}")

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not isinstance(self.method, SupernetTraining):
            # As the user gave it, for another fit.
            extend_fit(trainer, -1 if self._max_epochs is None else self._max_epochs)
            return
        # Resumed from the end of its last epoch, a training has no end of its own: nothing was chosen yet.
        if not self.state.progress.ranked:
            self.on_train_end(trainer, pl_module)
        else:
            self.state.follow_finished(trainer, pl_module)

    @override
    def state_dict(self) -> CheckpointState:
        if not isinstance(self.method, SupernetTraining):
            return self.state.progress.to_dict() if self.state.progress.ranked else self._saved
        if self.state.search is None or self._optimizer is None:
            return self._saved
        return {
            "search": self.state.search.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "history": self.state.history,
            "divergence": self._divergence.state_dict(),
            **self.state.progress.to_dict(),
        }

    @override
    def load_state_dict(self, state_dict: CheckpointState) -> None:
        # It arrives before the optimizer exists: kept until on_fit_start, or applied at once when started.
        self._saved = dict(state_dict)
        if self._optimizer is not None:
            self._restore()

    def _restore(self) -> None:
        if not self._saved or self._optimizer is None:
            return
        saved, self._saved = self._saved, {}
        state, search = self.state, self.state.started()
        search.load_state_dict(saved["search"])
        self._optimizer.load_state_dict(saved["optimizer"])
        state.history, state.progress = list(saved["history"]), Progress.from_dict(saved)
        if "divergence" in saved:
            self._divergence.load_state_dict(saved["divergence"])
        is_own = saved["search"]["budgets"] == search.limits.figures
        if not is_own or not all(search.is_within(encoding) for encoding in state.progress.ranked):
            # What was chosen was chosen for other budgets, or from other choices.
            state.progress.restart(keep_observed=True)
