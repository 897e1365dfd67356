"""The sandwich rule: more paths than one in a step, all on the same batch."""

from __future__ import annotations

from collections.abc import Sequence

import lightning.pytorch as pl

from lightning_nas.search.quiet_loss import attached_loss, quiet_copy
from lightning_nas.space.spec import Encoding
from lightning_nas.supernet.supernet import Supernet

__all__ = ["add_gradients"]


def add_gradients(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    supernet: Supernet,
    batch: object,
    batch_idx: int,
    paths: Sequence[Encoding],
) -> None:
    """Add the gradients of more paths to those that a step has, right after its backward pass.

    Args:
        trainer: Its precision scales the losses as it scaled the step's.
        module: What gives the loss.
        supernet: Its supernet; the last path stays active.
        batch: The step's batch.
        batch_idx: Its number.
        paths: The encoding of each.
    """
    with quiet_copy(module, trainer, kept=supernet.searched) as quiet:
        for encoding in paths:
            supernet.activate(encoding)
            with trainer.precision_plugin.forward_context():
                loss = attached_loss(quiet, batch, batch_idx)
            if loss is not None:
                scaled = trainer.precision_plugin.pre_backward(loss / trainer.accumulate_grad_batches, module)
                scaled.backward()
