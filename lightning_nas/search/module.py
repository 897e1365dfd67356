"""`SearchModule`: the same search with its loss written out, for those who read or own their training step."""

from __future__ import annotations

from collections.abc import Callable

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_nas.budget.budget import Budget
from lightning_nas.budget.resolve import resolve_search
from lightning_nas.budget.tables import cost_tables
from lightning_nas.estimator.cost_model import CostModel
from lightning_nas.search.engine import Search
from lightning_nas.search.quiet_loss import sampled_losses
from lightning_nas.search.settings import Joint, SupernetTraining
from lightning_nas.supernet.sliced_step import SlicedStep
from lightning_nas.supernet.supernet import find_supernet
from lightning_nas.training.checkpoints import CheckpointState

__all__ = ["SearchModule"]


class SearchModule(pl.LightningModule):
    """Train and search a supernet by ``loss = task + policy + penalty``, one optimizer, two parameter groups.

    It does what `ArchitectureSearch` does to a foreign module, bit by bit; `training_step` is the place to read it.

    Args:
        network: A supernet, from `supernet_from`.
        criterion: Loss of (outputs, targets).
        estimator: What architectures cost.
        latency: Budget in milliseconds or relative ("0.5x").
        training: How weights and logits learn; `Joint` by default.
        optimizer: Makes the optimizer of parameter groups, AdamW by default. Logits get their own group.

    Raises:
        ValueError: No supernet, a budget that is not valid or out of reach, or a strategy of more than one path.
    """

    def __init__(
        self,
        network: nn.Module,
        criterion: Callable[[Tensor, Tensor], Tensor],
        estimator: CostModel,
        latency: float | str,
        training: SupernetTraining | None = None,
        optimizer: Callable[[list[dict[str, object]]], torch.optim.Optimizer] = torch.optim.AdamW,
    ) -> None:
        super().__init__()
        self.network = network
        self.criterion = criterion
        self.make_optimizer = optimizer
        supernet = find_supernet(network)
        space = supernet.space
        limits = resolve_search(Budget(latency), space, cost_tables(space, estimator))
        self.search = Search(supernet, limits, training or Joint())
        strategy = self.search.training.strategy
        if strategy.is_mixed or strategy.paths == "sandwich":
            raise ValueError(
                f"SearchModule trains one path a step; got {type(strategy).__name__}. "
                "HINT: `ArchitectureSearch` has the others."
            )
        supernet.use_batch_statistics(True)
        self._sliced = SlicedStep(network)
        self._searched = False

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, targets = batch
        step, total = self.global_step, int(self.trainer.estimated_stepping_batches)
        self._searched = self.search.is_due(step, total)
        objective = self._objective(images, targets) if self._searched else 0.0
        # After the comparison, which leaves the last architecture that it drew active.
        self.search.supernet.activate(self.search.path(step, total))
        return self.criterion(self.network(images), targets) + objective

    @override
    def on_fit_start(self) -> None:
        self._sliced.attach(self.trainer.optimizers)

    @override
    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        # A scaler steps later, or not at all, as in `SearchHooks`.
        if self.trainer.scaler is None:
            self._sliced.narrow(optimizer)

    @override
    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        if self._searched:
            self.search.multipliers.update(self.search.probabilities())

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        logits, strategy = self.search.logits, self.search.training.strategy
        architecture = {"params": logits, "lr": strategy.lr, "betas": (strategy.beta1, 0.999), "weight_decay": 0.0}
        return self.make_optimizer([{"params": list(self.parameters())}, architecture])

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        checkpoint["search"] = self.search.state_dict()

    @override
    def on_load_checkpoint(self, checkpoint: CheckpointState) -> None:
        self.search.load_state_dict(checkpoint["search"])

    def _objective(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return policy loss plus penalty, from some architectures' losses on this batch."""
        samples = [self.search.draw() for _ in range(self.search.training.strategy.num_samples)]
        losses = sampled_losses(
            self, self.search.supernet, samples, lambda: self.criterion(self.network(images), targets)
        )
        if not self.search.rewards.is_usable(losses):
            self._searched = False
            return losses.new_zeros(())
        penalty = self.search.multipliers.penalty(self.search.probabilities())
        return self.search.surrogate(samples, losses) + penalty
