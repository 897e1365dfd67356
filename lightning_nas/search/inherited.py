"""The loss that subnets have with the supernet's weights, the same batches for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor

from .._modes import evaluating
from ..supernet.derive import recalibrate
from ..supernet.elastic import ElasticBatchNorm2d
from ..supernet.supernet import Supernet
from .probe import quiet_copy, sampled_losses, task_loss
from .strategies import share_statistics

__all__ = ["InheritedLoss", "prepared"]


def prepared(trainer: pl.Trainer, module: pl.LightningModule, batch: Any) -> Any:
    """Return a batch of a loader as the Trainer hands it to a step: on the device, in its precision."""
    return trainer.precision_plugin.convert_input(move_data_to_device(batch, module.device))


class InheritedLoss:
    """Evaluates subnets of a module that holds a supernet, and leaves no trace in it.

    Args:
        trainer: The user's; its precision and its processes are used.
        module: What gives the loss, by its `training_step`.
        supernet: Its supernet.
        calibration: Training batches that batch norm is recalibrated on before a subnet is evaluated.
        held_out: Batches to evaluate on, on any device.
    """

    def __init__(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        supernet: Supernet,
        calibration: Sequence[Any],
        held_out: Sequence[Any] = (),
    ) -> None:
        self._trainer, self._module, self._supernet = trainer, module, supernet
        self._calibration = calibration
        self._held_out = [prepared(trainer, module, batch) for batch in held_out]

    @property
    def num_batches(self) -> int:
        """How many batches there are to evaluate on."""
        return len(self._held_out)

    def prepare(self, nodes: tuple[int, ...]) -> None:
        """Let a subnet run with running statistics of its own, from recent training batches.

        Validation data often comes sorted by class: a batch's own statistics would then hide what tells the classes.
        """
        self._supernet.activate(nodes)
        self._supernet.use_batch_statistics(False)
        quiet = quiet_copy(self._module)
        with self._trainer.precision_plugin.forward_context():
            recalibrate(
                self._module,
                lambda item: task_loss(quiet, item[1], item[0]),
                enumerate(self._calibration),
                ElasticBatchNorm2d,
            )

    def __call__(self, nodes: tuple[int, ...]) -> float:
        """Return the mean loss of a subnet on the held-out batches, over all processes."""
        self.prepare(nodes)
        quiet = quiet_copy(self._module)
        with evaluating(self._module), self._trainer.precision_plugin.forward_context():
            quiet.training = False
            losses = [task_loss(quiet, batch, index) for index, batch in enumerate(self._held_out)]
        self._supernet.use_batch_statistics(True)
        return float(self._reduced(torch.stack(losses).mean()))

    def on_batch(self, samples: Sequence[tuple[int, ...]], batch: Any, batch_idx: int) -> Tensor:
        """Return the losses of subnets on one batch, normalised by its own statistics, over all processes."""
        share_statistics(self._trainer)
        quiet = quiet_copy(self._module)
        quiet.training = False
        with self._trainer.precision_plugin.forward_context():
            losses = sampled_losses(self._module, self._supernet, samples, lambda: task_loss(quiet, batch, batch_idx))
        return self._reduced(losses)

    def on_held_out(self, samples: Sequence[tuple[int, ...]], step: int) -> Tensor:
        """Return the losses of subnets on one of the held-out batches, each in its turn."""
        index = step % len(self._held_out)
        return self.on_batch(samples, self._held_out[index], index)

    def _reduced(self, losses: Tensor) -> Tensor:
        reduced: Tensor = self._trainer.strategy.reduce(losses, reduce_op="mean")
        return reduced
