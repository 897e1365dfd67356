"""`ArchitectureSearch`: the search as a callback on an untouched LightningModule and Trainer."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.utils.data import DataLoader
from typing_extensions import override

from .._modes import evaluating
from ..estimator.estimator import Estimator
from ..space.spec import Architecture
from ..supernet.derive import derive, recalibrate
from ..supernet.supernet import find_supernet
from .budget import Budgets, confirm, format_reach
from .decoupled import learn_logits
from .engine import Search, SearchSettings
from .inherited import InheritedLoss, prepared
from .probe import quiet_copy, task_loss
from .selection import select
from .strategies import refuse_strategy, refuse_unaware, total_steps
from .tables import space_budgets, warn_off_grid
from .verify import verified_candidates

__all__ = ["ArchitectureSearch"]

log = logging.getLogger(__name__)

# Some thousand images at usual batch sizes: beyond, the comparison of candidates costs more than it tells.
SELECTION_BATCHES = 32
CALIBRATION_BATCHES = 8


class ArchitectureSearch(Callback):
    """Search a supernet's architecture while its module trains, and derive the subnet inside the budget.

    The module's loss, optimizer and schedule stay the user's: the callback owns the logits and their Adam. Each batch
    trains one sampled path. After a warm-up of weights only, every few steps some architectures drawn by the logits
    are compared on the coming batch (forward passes only), and the gradient of that score, with the exact gradient of
    the penalty on the expected cost, a function of the logits only, goes to them in `on_before_optimizer_step`.

    Gradient clipping, learning rate schedules and weight averaging of the user do not touch the logits; a callback that
    averages weights goes before this one, for candidates to be compared with averages. The reported loss stays the
    task's. A checkpoint of this callback needs it on resume: the logits are not in the user's optimizer.

    Args:
        estimator: What architectures cost: an `Estimator`, or the name of a shipped device.
        latency: Budget in milliseconds (8.0) or relative to the source network ("0.5x").
        parameter_bytes: Budget on int8 parameters: bytes, "256KiB" or "0.5x".
        peak_activation_bytes: Budget on the largest sum of live int8 activations, in the same forms.
        warmup: Part of the steps that train weights only.
        every: Optimizer steps from one architecture step to the next.
        samples: Architectures compared in an architecture step.
        candidates: Architectures within the budget, as the device's own compiler has it where that is installed, that
            are compared by their inherited loss at the end, on the validation data (one DataLoader), or else on recent
            training batches.
        evaluations: Architectures to compare in all, if more: a short evolution goes on from the candidates.
        random_subnets: Random architectures within the budget that are compared too; a search that does not beat them
            says so.
        lr: Learning rate of the logits.
        prior: How strongly the logits prefer, at the start, options near to the source; 1 suits pretrained weights, 0
            random ones.
        errors: What the prior goes by: for each node how far each option is from the source, see `option_errors`. By
            default options that keep more weights are taken to be nearer.
        phases: ``joint``, as above; or ``decoupled``: the whole fit trains weights, and at its end, with the weights at
            rest, the logits learn from held-out batches. The same weights then serve any budget, see `derive`.
        steps: Architecture steps of that second phase.
        seed: Seed of every draw.

    Raises:
        ValueError: A budget or a setting that is not valid, or, at the start of `fit`, a budget out of reach.

    Example::

        search = ArchitectureSearch("ethos_u85_1024", latency="0.5x")
        Trainer(max_epochs=10, callbacks=[search]).fit(model, datamodule)
        subnet = search.derive(model)
    """

    def __init__(
        self,
        estimator: Estimator | str = "ethos_u85_1024",
        latency: float | str | None = None,
        parameter_bytes: float | str | None = None,
        peak_activation_bytes: float | str | None = None,
        *,
        warmup: float = 0.25,
        every: int = 8,
        samples: int = 2,
        candidates: int = 16,
        evaluations: int = 0,
        random_subnets: int = 4,
        lr: float = 0.05,
        prior: float = 0.0,
        errors: Sequence[Tensor] | None = None,
        phases: str = "joint",
        steps: int = 200,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.estimator = Estimator.load(estimator) if isinstance(estimator, str) else estimator
        self.settings = SearchSettings(warmup, every, samples, lr, prior=prior, phases=phases, seed=seed)
        self.requested = {
            "latency_ms": latency,
            "parameter_bytes": parameter_bytes,
            "peak_activation_bytes": peak_activation_bytes,
        }
        self.budgets: Budgets | None = None
        self.search: Search | None = None
        self.errors = errors
        for name, value, least in (
            ("candidates", candidates, 1),
            ("evaluations", evaluations, 0),
            ("random_subnets", random_subnets, 0),
            ("steps", steps, 1),
        ):
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}; got {value}.")
        self.num_candidates, self.num_evaluations = candidates, evaluations
        self.num_random, self.num_steps = random_subnets, steps
        self._promised: dict[tuple[int, ...], Budgets] = {}
        self._observed: list[tuple[tuple[int, ...], float]] = []
        self._ranked: list[tuple[int, ...]] = []
        self.history: list[dict[str, float]] = []
        self._optimizer: torch.optim.Adam | None = None
        self._state: dict[str, Any] = {}
        self._pending: tuple[list[tuple[int, ...]], Tensor] | None = None
        self._scored_step = -1
        # What batch norm is recalibrated on before a subnet is evaluated.
        self._recent: deque[Any] = deque(maxlen=CALIBRATION_BATCHES)
        self._module: pl.LightningModule | None = None
        self._trainer: pl.Trainer | None = None

    @property
    def architecture(self) -> Architecture:
        """The architecture that `derive` gives.

        Raises:
            RuntimeError: Before `fit`.
        """
        return self._started().supernet.space.decode(self._chosen())

    @property
    def candidates(self) -> list[Architecture]:
        """The compared architectures, of the lowest inherited loss first; `derive` takes any of them.

        Raises:
            RuntimeError: Before `fit`.
        """
        search = self._started()
        return [search.supernet.space.decode(nodes) for nodes in self._ranked or [search.best()]]

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        refuse_strategy(trainer)
        supernet = find_supernet(pl_module)
        self.budgets = space_budgets(supernet.space, self.estimator, self.requested)
        warn_off_grid(supernet.space, self.estimator.lanes)
        rank_zero_info(f"Searching {supernet.space.num_architectures:.3g} architectures within:")
        rank_zero_info(format_reach(self.budgets))
        self.search = Search(supernet, self.budgets, self.settings, self.errors)
        if removed := self.search.removed:
            rank_zero_info("No architecture within that has these options; they are left out:")
            rank_zero_info("\n".join(f"  {line}" for line in removed))

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        search = self._started()
        refuse_unaware(trainer)
        self._module, self._trainer = pl_module, trainer
        own = {id(logits) for logits in search.supernet.logits}
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["params"] = [p for p in group["params"] if id(p) not in own]
        betas = (self.settings.beta1, 0.999)
        self._optimizer = torch.optim.Adam(search.supernet.logits, self.settings.lr, betas=betas)
        search.supernet.use_batch_statistics(True)
        if trainer.ckpt_path is None:
            # It loads the data, which must come after the state of a loader that goes on where it was.
            total_steps(trainer)
        self._restore()

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        search, step, total = self._started(), trainer.global_step, total_steps(trainer)
        if search.is_due(step, total) and step != self._scored_step:
            self._scored_step = step
            samples = [search.draw() for _ in range(self.settings.samples)]
            losses = self._evaluator(held_out=False).on_batch(samples, batch, batch_idx)
            self._pending = (samples, losses) if search.is_usable(losses) else None
        search.supernet.activate(search.path(step, total))
        self._recent.append(batch)

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if self._pending is None or self._optimizer is None:
            return
        search = self._started()
        objective = search.objective(*self._pending)
        self._pending = None
        logits = [p for p in search.supernet.logits if p.requires_grad]
        gradients = torch.autograd.grad(objective, logits, allow_unused=True)
        for parameter, gradient in zip(logits, gradients, strict=True):
            parameter.grad = torch.zeros_like(parameter) if gradient is None else gradient
        self._optimizer.step()
        self._optimizer.zero_grad()
        search.supernet.keep_logits()
        search.update_multipliers()
        metrics = search.metrics()
        shown = {k: v for k, v in metrics.items() if not k.endswith("_multiplier") and "entropy/" not in k}
        self.history.append({"step": float(trainer.global_step), **shown})
        for name, value in metrics.items():
            pl_module.log(name, value, prog_bar=name in ("nas/latency_ms", "nas/entropy"))

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.history:
            rank_zero_info(f"Epoch {trainer.current_epoch}: {self._started().progress()}")

    @override
    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        # Not earlier: by now a callback that averages weights has put them, and averaged logits, in place.
        if self.search is not None and self._recent and batch_idx == dataloader_idx == 0:
            self.search.supernet.restore_logits()
            self._evaluator(held_out=False).prepare(self.search.best())

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.search is not None:
            self.search.supernet.use_batch_statistics(True)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        search = self._started()
        self._ranked = self._rank(search)
        search.supernet.activate(self._chosen())
        rank_zero_info(f"Found {self.architecture}")

    @override
    def state_dict(self) -> dict[str, Any]:
        if self.search is None or self._optimizer is None:
            return self._state
        return {
            "search": self.search.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scored_step": self._scored_step,
            "history": self.history,
            "ranked": self._ranked,
            "observed": self._observed,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # It arrives before the optimizer exists: kept until on_fit_start, or applied at once when started.
        self._state = dict(state_dict)
        if self._optimizer is not None:
            self._restore()

    def find(
        self,
        latency: float | str | None = None,
        parameter_bytes: float | str | None = None,
        peak_activation_bytes: float | str | None = None,
    ) -> list[Architecture]:
        """Return architectures within other budgets, of the lowest inherited loss first, without training again.

        `derive` takes any of them. The weights and the data of the last `fit` must still be there.

        Args:
            latency: As in the search.
            parameter_bytes: As in the search.
            peak_activation_bytes: As in the search.

        Raises:
            RuntimeError: Before `fit`.
            ValueError: A budget that is not valid or out of reach.
        """
        first = self._started()
        requested = dict(zip(self.requested, (latency, parameter_bytes, peak_activation_bytes), strict=True))
        budgets = space_budgets(first.supernet.space, self.estimator, requested)
        search = Search(first.supernet, budgets, self.settings, self.errors, keep_logits=True)
        ranked = self._rank(search)
        self._promised |= dict.fromkeys(ranked, budgets)
        return [first.supernet.space.decode(nodes) for nodes in ranked]

    def derive(self, module: nn.Module, num_batches: int = 32, architecture: Architecture | None = None) -> Any:
        """Return the found subnet: a plain model within the budget, weights inherited, batch norm recalibrated.

        Args:
            module: The trained LightningModule, or its network (the supernet). A LightningModule gives a
                LightningModule of the same class, ready to be fine-tuned.
            num_batches: Training batches for batch norm's statistics.
            architecture: Another of the `candidates` than the first, or one that `find` returned.

        Raises:
            RuntimeError: Before `fit`, or if the derived network costs more than a budget.
            ValueError: `module` is neither the trained module nor a part of it.
        """
        search = self._started()
        assert self._module is not None
        assert self._trainer is not None
        module = getattr(module, "_orig_mod", module)  # of torch.compile
        names = [name for name, child in self._module.named_modules() if child is module]
        if not names:
            raise ValueError(f"This {type(module).__name__} is not part of the module that was searched.")
        nodes = self._chosen() if architecture is None else search.supernet.space.encode(architecture)
        derived = derive(self._module, nodes)
        assert self.budgets is not None
        confirm(self._promised.get(nodes, self.budgets), self.estimator, search.supernet.space.decode(nodes))
        quiet = quiet_copy(derived, self._trainer)
        loader = self._trainer.train_dataloader
        assert loader is not None
        batches = islice(iter(loader), num_batches)
        trainer, searched = self._trainer, self._module
        with evaluating(derived), trainer.precision_plugin.forward_context():
            recalibrate(
                derived,
                lambda item: task_loss(quiet, prepared(trainer, searched, item[1]), item[0]),
                enumerate(batches),
            )
        return derived.get_submodule(names[0]) if names[0] else derived

    def _started(self) -> Search:
        if self.search is None:
            raise RuntimeError("The search has not run. HINT: `Trainer(callbacks=[search]).fit(model, data)` first.")
        return self.search

    def _chosen(self) -> tuple[int, ...]:
        return self._ranked[0] if self._ranked else self._started().best()

    def _evaluator(self, held_out: bool = True) -> InheritedLoss:
        """Return what evaluates subnets, on validation data where there is one loader, else on recent batches."""
        trainer, module = self._trainer, self._module
        assert trainer is not None
        assert module is not None
        batches = self._selection_batches(trainer) if held_out else ()
        return InheritedLoss(trainer, module, self._started().supernet, list(self._recent), batches)

    def _selection_batches(self, trainer: pl.Trainer) -> list[Any]:
        """Return what subnets are compared on; only at the end, since reading a loader draws from the user's seeds."""
        loader = trainer.val_dataloaders
        if isinstance(loader, DataLoader):
            return list(islice(iter(loader), SELECTION_BATCHES))
        log.warning(
            "There is no single validation DataLoader: subnets are compared on recent training batches, which the"
            " weights were fitted to. HINT: give the Trainer one."
        )
        return list(self._recent)

    def _rank(self, search: Search) -> list[tuple[int, ...]]:
        """Return subnets within the budgets of a search, of the lowest inherited loss first."""
        assert self._trainer is not None
        search.supernet.restore_logits()
        loss, show = self._evaluator(), self._trainer.is_global_zero
        if not loss.num_batches:
            return verified_candidates(search, self.estimator, self.num_candidates)
        if self.settings.phases == "decoupled" and not self._observed:
            self._observed = learn_logits(search, loss.on_held_out, self.num_steps, show)
            search.supernet.keep_logits()
        found = select(
            search,
            self.estimator,
            loss,
            candidates=self.num_candidates,
            evaluations=self.num_evaluations,
            num_random=self.num_random,
            observed=self._observed,
            show=show,
        )
        return found.ranked

    def _restore(self) -> None:
        self._started().supernet.keep_logits()
        if not self._state or self._optimizer is None:
            return
        self._started().load_state_dict(self._state["search"])
        self._optimizer.load_state_dict(self._state["optimizer"])
        self._scored_step = self._state["scored_step"]
        self.history = list(self._state["history"])
        self._ranked = [tuple(nodes) for nodes in self._state["ranked"]]
        self._observed = [(tuple(nodes), advantage) for nodes, advantage in self._state.get("observed", ())]
        self._state = {}
