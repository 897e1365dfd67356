"""The loss that subnets have with the supernet's weights, the same batches for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import lightning.pytorch as pl
import torch
from torch import Tensor

from lightning_nas.graph.eval_mode import evaluating, in_evaluation
from lightning_nas.search.effort import Effort, num_values, spread
from lightning_nas.search.engine import Search
from lightning_nas.search.gradient_estimate import Score, gates_score, sampled_score
from lightning_nas.search.loaders import prepared
from lightning_nas.search.quiet_loss import LossFunction, attached_loss, quiet_copy, sampled_losses, task_loss
from lightning_nas.search.trainers import share_statistics
from lightning_nas.space.spec import Encoding
from lightning_nas.supernet.derive import recalibrate
from lightning_nas.supernet.supernet import Supernet

__all__ = ["InheritedLoss"]


class InheritedLoss:
    """Evaluates subnets of a module that holds a supernet, and leaves no trace in it.

    Args:
        trainer: The user's; its precision and its processes are used.
        module: What gives the loss, by its `training_step`.
        supernet: Its supernet.
        calibration: Training batches that batch norm is recalibrated on before a subnet is evaluated.
        held_out: Batches to evaluate on, on any device.
        loss: Gives the loss in place of `training_step`, see `Selection`.
    """

    def __init__(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        supernet: Supernet,
        calibration: Sequence[object],
        held_out: Sequence[object] = (),
        loss: LossFunction | None = None,
    ) -> None:
        self._trainer, self._module, self._supernet = trainer, module, supernet
        self._calibration, self._loss = calibration, loss
        self._held_out = [prepared(trainer, module, batch) for batch in held_out]

    @property
    def held_out(self) -> list[object]:
        """The batches to evaluate on, prepared for a step."""
        return self._held_out

    @property
    def num_batches(self) -> int:
        """Number of held-out batches to evaluate on."""
        return len(self._held_out)

    @property
    def num_calibration(self) -> int:
        """Number of training batches to recalibrate batch norm on."""
        return len(self._calibration)

    @property
    def sizes(self) -> tuple[float, float]:
        """Numbers in a calibration batch and in a held-out batch, on average."""
        return _mean_size(self._calibration), _mean_size(self._held_out)

    def prepare(self, encoding: Encoding, num_batches: int | None = None) -> None:
        """Activate a subnet and recalibrate its batch norm on recent training batches.

        Validation data often comes sorted by class: a batch's own statistics would then hide what tells the classes.

        Args:
            encoding: The subnet.
            num_batches: How many of the training batches; by default all.
        """
        self._supernet.activate(encoding)
        self._supernet.use_batch_statistics(False)
        with self._quiet() as quiet, self._trainer.precision_plugin.forward_context():
            recalibrate(
                self._module,
                lambda item: task_loss(quiet, item[1], item[0]),
                enumerate(spread(self._calibration, num_batches or len(self._calibration))),
                self._supernet.leaves.model,
            )

    def __call__(self, encoding: Encoding, effort: Effort | None = None) -> float:
        """Return the mean loss of a subnet over the held-out batches and all processes, without batches that give none.

        Args:
            encoding: The subnet.
            effort: On how much it is evaluated; by default on all.
        """
        return float(self._reduced(self._by_batch(encoding, effort).mean()))

    def halves(self, encoding: Encoding, effort: Effort | None = None) -> Tensor:
        """Return the mean losses on even and on odd held-out batches, shape (2,); NaN for a half without batches."""
        losses = self._by_batch(encoding, effort)
        return self._reduced(torch.stack([losses[0::2].mean(), losses[1::2].mean()]))

    def _by_batch(self, encoding: Encoding, effort: Effort | None) -> Tensor:
        self.prepare(encoding, effort.num_calibration if effort else None)
        held_out = spread(self._held_out, effort.num_held_out if effort else len(self._held_out))
        context = self._trainer.precision_plugin.forward_context
        with evaluating(self._module), self._quiet() as quiet, context():
            given = [attached_loss(quiet, batch, index) for index, batch in enumerate(held_out)]
        self._supernet.use_batch_statistics(True)
        losses = [loss.float() for loss in given if loss is not None]
        return torch.stack(losses or [torch.tensor(torch.nan, device=self._module.device)])

    def on_batch(self, samples: Sequence[Encoding], batch: object, batch_idx: int) -> Tensor:
        """Return the losses of subnets on one batch, normalised by its own statistics, over all processes."""
        share_statistics(self._trainer)
        context = self._trainer.precision_plugin.forward_context
        with in_evaluation(self._module), self._quiet() as quiet, context():
            losses = sampled_losses(self._module, self._supernet, samples, lambda: task_loss(quiet, batch, batch_idx))
        return self._reduced(losses)

    def score(self, search: Search, batch: object, batch_idx: int, progress: float) -> Score | None:
        """Return what the logits of a search learn from a batch, or None where its losses are not finite.

        Args:
            search: The search; its strategy says how they learn.
            batch: The batch.
            batch_idx: Its number.
            progress: Part of the architecture steps that is done.
        """
        if search.training.strategy.is_mixed:
            return gates_score(search, *self._through_gates(search, batch, batch_idx, progress))
        return sampled_score(search, lambda samples: self.on_batch(samples, batch, batch_idx))

    def on_held_out(self, search: Search, step: int, steps: int) -> Score | None:
        """Return what the logits learn from held-out batch number `step`, counted around."""
        index = step % len(self._held_out)
        return self.score(search, self._held_out[index], index, step / steps)

    def _through_gates(
        self, search: Search, batch: object, batch_idx: int, progress: float
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the loss of a mixture and its gradients with respect to the logits; weights get none."""
        logits, context = list(search.logits), self._trainer.precision_plugin.forward_context
        with in_evaluation(self._module), self._quiet() as quiet, torch.enable_grad(), context():
            search.mix(search.gates(progress))
            loss = attached_loss(quiet, batch, batch_idx)
            if loss is None:  # the step leaves this batch out
                return torch.tensor(torch.nan, device=quiet.device), [torch.zeros_like(row) for row in logits]
            gradients = torch.autograd.grad(loss, logits, allow_unused=True)
        found = [torch.zeros_like(row) if g is None else g for row, g in zip(logits, gradients, strict=True)]
        # Processes exchange what is on their device; the logits are on the CPU.
        means = [self._reduced(gradient.to(quiet.device)).cpu() for gradient in found]
        return self._reduced(loss.detach().float()), means

    def _quiet(self) -> AbstractContextManager[pl.LightningModule]:
        return quiet_copy(self._module, self._trainer, self._loss, self._supernet.searched)

    def _reduced(self, losses: Tensor) -> Tensor:
        # All processes have to decide by the same figures.
        reduced: Tensor = self._trainer.strategy.reduce(losses, reduce_op="mean")
        return reduced


def _mean_size(batches: Sequence[object]) -> float:
    return sum(map(num_values, batches)) / max(1, len(batches))
