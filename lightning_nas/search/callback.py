"""`ArchitectureSearch`: the search as a callback on an untouched LightningModule and Trainer."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from typing_extensions import override

from lightning_nas.budget.ablation import Choices
from lightning_nas.budget.budget import LATENCY, Budget, resolve_budget
from lightning_nas.budget.confirm import confirm
from lightning_nas.budget.limits import Limits, warn_unserved
from lightning_nas.budget.resolve import resolve_search
from lightning_nas.budget.tables import CostTables, cost_tables, warn_off_grid
from lightning_nas.estimator.estimator import Estimator
from lightning_nas.io.numbers import check_number
from lightning_nas.search.derive_module import derive_subnet
from lightning_nas.search.effort import num_values
from lightning_nas.search.engine import Search
from lightning_nas.search.extend_training import extend, is_last_epoch
from lightning_nas.search.frontier import FrontierSubnet, frontier_subnets
from lightning_nas.search.gradient_estimate import Score
from lightning_nas.search.inherited import InheritedLoss
from lightning_nas.search.loaders import CALIBRATION_BATCHES, Loaders, UserFit
from lightning_nas.search.measuring import affordable_cost, measure_end, measure_start
from lightning_nas.search.needed import report_needed
from lightning_nas.search.progress import Progress
from lightning_nas.search.rank import rank
from lightning_nas.search.readiness import Readiness, report_readiness
from lightning_nas.search.sandwich import add_gradients
from lightning_nas.search.saving import save_subnet
from lightning_nas.search.settings import Joint, Monitor, Selection, SupernetTraining, check_kind, check_list
from lightning_nas.search.trainers import refuse_strategy, refuse_unaware, total_steps
from lightning_nas.search.validated import validated_nodes
from lightning_nas.search.warnings_heard import heard_warnings
from lightning_nas.space.spec import Architecture, SearchSpace
from lightning_nas.supernet.sliced_step import SlicedStep
from lightning_nas.supernet.supernet import find_supernet
from lightning_nas.training.divergence import DivergedError, Divergence

__all__ = ["ArchitectureSearch"]


class ArchitectureSearch(Callback):
    """Search a supernet's architecture while its module trains, and derive the subnet inside the budget.

    The module's loss, optimizer and schedule stay the user's: the callback owns the logits and their Adam. Each batch
    trains one sampled path. After a warm-up of weights only, every few steps some architectures drawn by the logits
    are compared on the coming batch (forward passes only), and the gradient of that score, with the exact gradient of
    the penalty on the expected cost, a function of the logits only, goes to them in `on_before_optimizer_step`.

    Freezing, gradient clipping, learning rate schedules and weight averaging of the user do not touch the logits,
    which are no parameters of the module; a callback that averages weights goes before this one. Comparisons leave no
    trace in the module: what its step counts, collects or logs is put back. Resume with the callback: it keeps the
    logits. A checkpoint holds the largest weights of each kind of block, those of the fused kind being most of it, and
    what the optimizer keeps of them; the derived subnet's has its own alone.

    Each validation runs one network, see `validate`, and its latency is logged as ``nas/validated_latency_ms``. By
    default that is the most probable one within the budget, another as the search goes on: `ModelCheckpoint` and
    `EarlyStopping` then compare different networks.

    Args:
        estimator: What architectures cost: an `Estimator`, or the name of a shipped device.
        budget: What the subnet may cost.
        latency: Short for `Budget(latency=...)`: milliseconds (8.0), or relative to the source network ("0.5x").
        training: How the supernet is trained: `Joint`, as above; or `Decoupled`: the whole fit trains weights, and at
            its end, with these at rest, the logits learn from held-out batches.
        selection: How a subnet is chosen at the end.
        serves: Other latencies that `derive` will be asked for after the same training: paths near all are trained.
        choices: What is searched: ``both``, ``widths`` alone or ``kinds`` alone.
        monitor: What validations run, and what the progress bar shows.

    Attributes:
        errors: What the prior of the training goes by: how far each option is from the source, see `option_errors`;
            None for the weights that an option keeps. To be set before `fit`.

    Raises:
        ValueError: A budget or a setting that is not valid, or none; or, at the start of `fit`, a budget out of reach.

    Example::

        search = ArchitectureSearch("ethos_u85_1024", latency="0.5x")
        Trainer(max_epochs=10, callbacks=[search]).fit(model, datamodule)
        subnet = search.derive(model)
    """

    def __init__(
        self,
        estimator: Estimator | str = "ethos_u85_1024",
        budget: Budget | None = None,
        *,
        latency: float | str | None = None,
        training: SupernetTraining | None = None,
        selection: Selection | None = None,
        serves: Sequence[float | str] = (),
        choices: Choices = "both",
        monitor: Monitor | None = None,
    ) -> None:
        super().__init__()
        self.estimator = Estimator.load(estimator) if isinstance(estimator, str) else estimator
        self.budget = _one_budget(budget, latency)
        self.training, self.selection = training or Joint(), selection or Selection()
        self.monitor = monitor or Monitor()
        check_kind("training", self.training, SupernetTraining, "Decoupled(steps=200)")
        check_kind("selection", self.selection, Selection, "Selection(num_candidates=8)")
        check_kind("monitor", self.monitor, Monitor, "Monitor(validate='source')")
        check_list("serves", serves)
        for value in serves:
            resolve_budget(value, 1.0, LATENCY, asked_as="serves")
        self.serves, self.choices = tuple(serves), choices
        self.errors: Sequence[Tensor] | None = None
        self.limits: Limits | None = None
        self._priced: tuple[SearchSpace, CostTables] | None = None
        self.search: Search | None = None
        self.history: list[dict[str, float]] = []
        self._promised: dict[tuple[int, ...], Limits] = {}  # what was found for other budgets than the search's
        self._progress = Progress()
        self._max_epochs: int | None = None
        self._optimizer: torch.optim.Adam | None = None
        self._sliced: SlicedStep | None = None
        self._state: dict[str, Any] = {}
        self._pending: Score | None = None
        self._others: tuple[Any, int, list[tuple[int, ...]]] | None = None  # batch, its number, further paths
        self._recent: deque[Any] = deque(maxlen=CALIBRATION_BATCHES)  # for batch norm before a subnet is evaluated
        self._divergence = Divergence("supernet's training")
        self._fit: UserFit | None = None
        self._validated: tuple[int, ...] | None = None
        self.has_chosen = False  # in this fit, rather than in the one whose checkpoint it goes on from

    @property
    def architecture(self) -> Architecture:
        """The architecture that `derive` gives.

        Raises:
            RuntimeError: Before `fit`.
        """
        return self._started().supernet.space.decode(self._chosen())

    @property
    def readiness(self) -> Readiness | None:
        """How ready the supernet was when its training ended; None before, and where nothing was held out."""
        found = self._progress.readiness
        return None if found is None else Readiness(**found)

    @property
    def warnings(self) -> list[str]:
        """What was warned of when the training ended."""
        return list(self._progress.warnings)

    @property
    def found_at_end(self) -> dict[str, Any]:
        """How ready the supernet was and what was warned of at the end of its training, for a record in JSON."""
        readiness = self.readiness
        return {
            "readiness": None if readiness is None else {**readiness.to_dict(), "text": str(readiness)},
            "warnings": self.warnings,
        }

    @property
    def candidates(self) -> list[Architecture]:
        """The compared architectures, of the lowest inherited loss first; `derive` takes any of them.

        Raises:
            RuntimeError: Before `fit`.
        """
        search = self._started()
        return [search.supernet.space.decode(nodes) for nodes in self._progress.ranked or [search.best()]]

    def limits_in(self, space: SearchSpace) -> Limits:
        """Return what the budget is in a space, in milliseconds and bytes; the space is priced once.

        Raises:
            ValueError: The budget is out of reach, or binds nothing.
        """
        return resolve_search(self.budget, space, self._tables(space), self.serves, self.choices)

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        refuse_strategy(trainer)
        supernet = find_supernet(pl_module)
        self.limits = self.limits_in(supernet.space)
        warn_off_grid(supernet.space, self.estimator.lanes)
        # A fit that goes on with the same supernet keeps what was learnt and counted.
        if self.search is not None and self.search.supernet is supernet:
            self._state = self.state_dict()
        elif self.search is not None:
            self._progress, self.history, self._promised, self._fit = Progress(), [], {}, None
            self._divergence = Divergence(self._divergence.name)
            self._recent.clear()
        self._optimizer, self.has_chosen = None, False
        self.search = Search(supernet, self.limits, self.training, self.errors)
        rank_zero_info(self.search.announcement())

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        search = self._started()
        refuse_unaware(trainer, self.training)
        self._max_epochs = trainer.max_epochs
        strategy = self.training.strategy
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
        report_needed(trainer, self._started())
        self._divergence.on_train_start(trainer, pl_module)

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Batch norm is recalibrated on batches of one epoch alone: a resumed training has seen no others.
        self._recent.clear()
        # What was found for earlier weights; while weights train first, all that was observed is of those.
        self._progress.restart(keep_observed=isinstance(self.training, Joint))

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        search, step, total = self._started(), trainer.global_step, total_steps(trainer)
        self._remember_loaders(trainer, pl_module)
        fit = self._fitted()
        if not self._progress.num_values and fit.loaders.validation is not None:
            num_batches = total * trainer.accumulate_grad_batches
            measure_start(search, fit, self.selection, self._progress, batch, num_batches)
        if search.is_due(step, total) and step != self._progress.scored_step:
            self._progress.scored_step = step
            self._pending = self._evaluator().score(search, batch, batch_idx, step / total)
        others = search.begin_step(step, total)
        self._others = (batch, batch_idx, others) if others else None
        self._progress.num_values += num_values(batch) * (1 + len(others))
        self._recent.append(batch)

    @override
    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._others is not None:
            add_gradients(trainer, pl_module, self._started().supernet, *self._others)
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
        search = self._started()
        search.update(self._optimizer, self._pending.surrogate)
        self._progress.observed += self._pending.observed
        self._pending = None
        for name, value in self._recorded(trainer.global_step).items():
            pl_module.log(name, value, prog_bar=name.removeprefix("nas/") in self.monitor.progress_bar)

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._divergence.on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._progress.start:
            # Untrained subnets are at chance or below; a single step's loss depends on the path that it drew.
            losses = [loss for _, loss in self._progress.start if math.isfinite(loss)]
            self._divergence.start = max(losses, default=None)
            self._divergence.ends_worse = bool(losses)
        self._divergence.on_train_epoch_end(trainer, pl_module)
        if self.history:
            rank_zero_info(f"Epoch {trainer.current_epoch}: {self._started().progress()}")
        if self.selection.not_ready == "continue" and is_last_epoch(trainer):
            extend(trainer, self._measured(self._evaluator(held_out=True)), 2 * (self._max_epochs or 0))

    @override
    def on_validation_batch_start(self, trainer: pl.Trainer, *arguments: Any) -> None:
        # Not earlier: by now a callback that averages weights has put them in place.
        if self.search is not None and self._fit is not None and self._recent and arguments[2:] in ((0,), (0, 0)):
            self._validated = validated_nodes(self.search, self.monitor.validate)
            self._evaluator().prepare(self._validated)

    @override
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._validated is not None:
            architecture = self._started().supernet.space.decode(self._validated)
            pl_module.log("nas/validated_latency_ms", self.estimator.latency_ms(architecture))
            self._validated = None

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.search is not None:
            self.search.supernet.use_batch_statistics(True)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        search = self._started()
        if self._sliced is not None:
            self._sliced.detach()
        self._remember_loaders(trainer, pl_module)
        with heard_warnings() as self._progress.warnings:
            loss = self._evaluator(held_out=True)
            if loss.num_batches:
                found = self._measured(loss)
                self._progress.readiness = asdict(found)
                report_readiness(found, self.selection.not_ready)
            self._progress.ranked = self._rank(search, loss)
        self.has_chosen = True
        search.supernet.activate(self._chosen())
        rank_zero_info(f"Selected architecture {self.architecture}")

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Resumed from the end of its last epoch, a training has no end of its own: nothing was chosen yet.
        if not self._progress.ranked:
            self.on_train_end(trainer, pl_module)
        elif self._fit is None or self._fit.trainer is not trainer:
            self._fit = UserFit(trainer, pl_module, Loaders.of(trainer), self.selection.loss)

    @override
    def state_dict(self) -> dict[str, Any]:
        if self.search is None or self._optimizer is None:
            return self._state
        return {
            "search": self.search.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "history": self.history,
            "divergence": self._divergence.state_dict(),
            **self._progress.to_dict(),
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # It arrives before the optimizer exists: kept until on_fit_start, or applied at once when started.
        self._state = dict(state_dict)
        if self._optimizer is not None:
            self._restore()

    def find(
        self,
        budget: Budget | None = None,
        *,
        latency: float | str | None = None,
    ) -> list[Architecture]:
        """Return architectures within another budget, of the lowest inherited loss first, without training again.

        `derive` takes any of them. The weights and the data of the last `fit` must still be there.

        Args:
            budget: What they may cost; of a cost that it leaves open, the search's own bound stays.
            latency: Short for `Budget(latency=...)`.

        Raises:
            RuntimeError: Before `fit`.
            ValueError: A budget that is out of reach, or none.
        """
        supernet = self._started().supernet
        asked = _one_budget(budget, latency).completed(self.budget)
        limits = resolve_search(asked, supernet.space, self._tables(supernet.space), choices=self.choices)
        warn_unserved(self._started().limits, limits)
        search = Search(supernet, limits, self.training, self.errors, self._started().logits)
        ranked = self._rank(search, self._evaluator(held_out=True))
        self._promised |= dict.fromkeys(ranked, limits)
        return [supernet.space.decode(nodes) for nodes in ranked]

    def frontier(self, count: int = 8) -> list[FrontierSubnet]:
        """Return the best subnets over latencies, from one search: each with a lower inherited loss than the faster.

        Utilities of single options, fitted to what the search has evaluated, are solved for latencies from the least
        to the most that the space and the other budgets allow. Inherited losses flatter small subnets, which converge
        first: before two sizes are said to be equally good, fine-tune both.

        Args:
            count: Latencies to solve for; some have the same subnet, or one that a faster subnet beats.

        Raises:
            RuntimeError: Before `fit`.
            ValueError: There is no latency budget, or `count` is below 2.
        """
        search = self._started()
        evaluator, encode = self._evaluator(held_out=True), search.supernet.space.encode
        points = frontier_subnets(search, self._progress.observed, evaluator, count, self.estimator.verify_ms)
        # Nobody asked for a latency: each is to keep the one that it is listed with.
        listed = {encode(p.architecture): max(p.latency_ms, p.verified_latency_ms or 0.0) for p in points}
        self._promised |= {nodes: search.limits.with_latency(ms) for nodes, ms in listed.items()}
        return points

    def derive(
        self,
        module: nn.Module,
        num_batches: int = 32,
        architecture: Architecture | None = None,
        budget: Budget | None = None,
        latency: float | str | None = None,
    ) -> Any:
        """Return the found subnet: a plain model within the budget, weights inherited, batch norm recalibrated.

        Args:
            module: The trained LightningModule, or its network (the supernet). A LightningModule gives a
                LightningModule of the same class, ready to be fine-tuned.
            num_batches: Training batches for batch norm's statistics.
            architecture: Another of the `candidates` than the first, or one that `find` or `frontier` returned.
            budget: Another budget than the search's, as `find` takes it: the best subnet that it finds. For the
                search's own it is the found one.
            latency: Short for `Budget(latency=...)`.

        Raises:
            RuntimeError: Before `fit`, if the training has diverged, or if the network costs more than a budget.
            ValueError: `module` is neither the trained module nor a part of it; or an architecture is given, and
                a budget too.
        """
        check_number("num_batches", num_batches, whole=True, least=1)
        asked = None if budget is None and latency is None else _one_budget(budget, latency).completed(self.budget)
        if asked is not None and architecture is not None:
            raise ValueError("Give either `architecture` or a budget; got both.")
        if self._divergence.found:
            raise DivergedError(self._divergence.found)
        search, space, fit = self._started(), self._started().supernet.space, self._fitted()
        chosen = architecture if asked in (None, self.budget) else self.find(asked)[0]
        nodes = self._chosen() if chosen is None else space.encode(chosen)
        confirm(self._promised.get(nodes, search.limits), self.estimator, space.decode(nodes))
        return derive_subnet(fit, module, nodes, num_batches)

    def save(self, folder: str | Path, subnet: nn.Module | None = None) -> None:
        """Write a subnet so that `load_subnet(folder, model=MyModule(...))` builds it again, in any process.

        Args:
            folder: Gets ``architecture.json`` and ``subnet.safetensors``.
            subnet: What `derive` gave, fine-tuned or not; by default the found subnet is derived anew.

        Raises:
            RuntimeError: Before `fit`.
            ValueError: `subnet` is no subnet of this search.
        """
        supernet, module = self._started().supernet, self._fitted().module
        plain = self.derive(module) if subnet is None else subnet
        save_subnet(folder, plain, module, supernet, self.estimator)

    def _started(self) -> Search:
        if self.search is None:
            raise RuntimeError("The search has not run. HINT: `Trainer(callbacks=[search]).fit(model, data)` first.")
        return self.search

    def _fitted(self) -> UserFit:
        if self._fit is None:
            raise RuntimeError(
                "The search has no step yet. HINT: `Trainer(callbacks=[search]).fit(model, data)` first."
            )
        return self._fit

    def _tables(self, space: SearchSpace) -> CostTables:
        if self._priced is None or self._priced[0] != space:
            self._priced = space, cost_tables(space, self.estimator)
        return self._priced[1]

    def _chosen(self) -> tuple[int, ...]:
        return self._progress.ranked[0] if self._progress.ranked else self._started().best()

    def _evaluator(self, held_out: bool = False) -> InheritedLoss:
        """Return what evaluates subnets; with the batches they are compared on, which takes reading a loader."""
        fit, supernet = self._fitted(), self._started().supernet
        batches = fit.loaders.held_out_batches(self._recent) if held_out else ()
        recent = fit.calibration_batches(self._recent) if held_out else list(self._recent)
        return InheritedLoss(fit.trainer, fit.module, supernet, recent, batches, fit.loss)

    def _remember_loaders(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep what is read after the fit, of the fit that runs now."""
        if self._fit is None or self._fit.trainer is not trainer or self._fit.lacks_validation(trainer):
            self._fit = UserFit(trainer, pl_module, Loaders.of(trainer), self.selection.loss).with_comparable_batches()

    def _recorded(self, step: int) -> dict[str, float]:
        """Add the search's figures to the history and return them."""
        metrics = self._started().metrics()
        shown = {k: v for k, v in metrics.items() if not k.endswith("_multiplier") and "entropy/" not in k}
        self.history.append({"step": float(step), **shown})
        return metrics

    def _rank(self, search: Search, loss: InheritedLoss) -> list[tuple[int, ...]]:
        search.size_scale = self.readiness.size_scale if self.readiness else 0.0
        given = search, self.estimator, loss, self.selection, self._progress.observed, self._fitted(), self._recorded
        ranked, self._progress.observed = rank(*given, affordable_cost(self.selection, self._progress.num_values))
        return ranked

    def _measured(self, loss: InheritedLoss) -> Readiness:
        show = self._fitted().shows_progress
        return measure_end(self._started(), self.estimator, loss, self.selection, self._progress, show)

    def _restore(self) -> None:
        if not self._state or self._optimizer is None:
            return
        state, self._state = self._state, {}
        self._started().load_state_dict(state["search"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.history, self._progress = list(state["history"]), Progress.from_dict(state)
        if "divergence" in state:
            self._divergence.load_state_dict(state["divergence"])
        search = self._started()
        is_own = state["search"]["budgets"] == search.limits.figures
        if not is_own or not all(search.is_within(nodes) for nodes in self._progress.ranked):
            # What was chosen was chosen for other budgets, or from other choices.
            self._progress.restart(keep_observed=True)


def _one_budget(budget: Budget | None, latency: float | str | None) -> Budget:
    """Return the budget that was given in either of two forms."""
    if budget is not None and not isinstance(budget, Budget):
        raise TypeError(f"`budget` must be a Budget, such as Budget(latency='0.5x'); got {budget!r}.")
    if budget is not None and latency is not None:
        raise ValueError(f"Give either `budget` or `latency`; got {budget} and {latency!r}.")
    return Budget(latency) if budget is None else budget
