"""Warning of a network that is hardly trained: its loss on its own images, and on those of others."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from itertools import islice

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from lightning_nas.graph.eval_mode import evaluating
from lightning_nas.search.quiet_loss import LossFunction, NoLossError, quiet_copy, task_loss

__all__ = ["warn_untrained"]

log = logging.getLogger(__name__)

_BATCHES = 8
# At chance it is 1; a network that has learnt little has 0.9.
_MOST = 0.95


def warn_untrained(
    module: pl.LightningModule,
    network: nn.Module,
    batches: Iterable[object],
    trainer: pl.Trainer | None = None,
    loss: LossFunction | None = None,
) -> None:
    """Warn of a network that does hardly better with its own images than with those of others in the batch.

    Targets stay where they are, and images move on by one. No metric and no number of classes has to be known.

    Args:
        module: What gives the loss; without a teacher, which would see the same images.
        network: Its network, which takes images first.
        batches: Prepared for a step, each of several classes: of one sorted by class, others' images are as good. The
            first 8 are read.
        trainer: The Trainer that the module is attached to.
        loss: Gives the loss in place of `training_step`.
    """
    own: list[float] = []
    others: list[float] = []
    with evaluating(module), quiet_copy(module, trainer, loss) as quiet:
        for index, batch in enumerate(islice(batches, _BATCHES)):
            try:
                own.append(float(task_loss(quiet, batch, index)))
                handle = network.register_forward_pre_hook(_moved_on)
                try:
                    others.append(float(task_loss(quiet, batch, index)))
                finally:
                    handle.remove()
            except NoLossError:
                return
    if not own:
        return
    here, there = (float(torch.tensor(losses).nanmean()) for losses in (own, others))
    if not here < _MOST * there:
        log.warning(
            "The network is hardly trained: its loss is %.4g on its own images, and %.4g on those of others. How far"
            " options are from it says little then. HINT: train it first, or load its weights.",
            here,
            there,
        )


def _moved_on(_: nn.Module, inputs: tuple[object, ...]) -> tuple[object, ...] | None:
    if not inputs or not isinstance(inputs[0], Tensor):
        return None
    return inputs[0].roll(1, 0), *inputs[1:]
