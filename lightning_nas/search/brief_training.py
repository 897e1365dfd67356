"""Brief trainings of the best candidates, for what the losses that they inherit cannot tell."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from tqdm import tqdm

from lightning_nas.graph.eval_mode import evaluating
from lightning_nas.search.derive_module import derive_subnet
from lightning_nas.search.loaders import CALIBRATION_BATCHES, UserFit
from lightning_nas.search.quiet_loss import attached_loss, quiet_copy
from lightning_nas.search.settings import Selection
from lightning_nas.space.spec import Encoding

__all__ = ["train_briefly"]

log = logging.getLogger(__name__)


def train_briefly(
    fit: UserFit, ranked: Sequence[Encoding], selection: Selection, held_out: Sequence[object]
) -> list[Encoding]:
    """Train each of the best candidates for some epochs, and return all candidates, sorted by their losses after it.

    A supernet's weights are shared, so what a subnet inherits says less of it than what it becomes. Each is trained as
    the user's module says, from what it inherits, on the same batches in the same order.

    Args:
        fit: What was searched; a short Trainer has its precision, clipping and accumulation, and no callbacks of its
            own.
        ranked: Architectures, the best first.
        selection: How many are tried, and for how many epochs.
        held_out: Prepared batches that the trained ones are compared on.
    """
    if fit.trainer.world_size > 1:
        num_processes = fit.trainer.world_size
        log.warning("Candidates are not trained briefly: that takes one process, and there are %d.", num_processes)
        return list(ranked)
    losses: dict[Encoding, float] = {}
    for encoding in tqdm(ranked[: selection.num_brief_trainings], desc="Training candidates briefly", leave=False):
        with isolate_rng():
            torch.manual_seed(0)
            subnet = derive_subnet(fit, fit.module, encoding, CALIBRATION_BATCHES)
            _fit(fit, subnet, selection.brief_epochs)
        # A Trainer leaves its module on the CPU.
        losses[encoding] = _loss(fit, subnet.to(fit.module.device), held_out)
    tried = sorted(losses, key=lambda encoding: losses[encoding])
    return [*tried, *ranked[len(tried) :]]


def _fit(fit: UserFit, subnet: pl.LightningModule, epochs: int) -> None:
    trainer = fit.trainer
    device = trainer.strategy.root_device
    lightning_log = logging.getLogger("lightning.pytorch")
    level = lightning_log.level
    # Every short Trainer would list the devices again.
    lightning_log.setLevel(logging.WARNING)
    try:
        short = pl.Trainer(
            max_epochs=epochs,
            accelerator="gpu" if device.type == "cuda" else device.type,
            devices=[device.index or 0] if device.type == "cuda" else 1,
            precision=trainer.precision,
            gradient_clip_val=trainer.gradient_clip_val,
            gradient_clip_algorithm=trainer.gradient_clip_algorithm,
            accumulate_grad_batches=trainer.accumulate_grad_batches,
            limit_train_batches=trainer.limit_train_batches,
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        short.fit(subnet, fit.loaders.for_fit)
    finally:
        lightning_log.setLevel(level)


def _loss(fit: UserFit, subnet: pl.LightningModule, held_out: Sequence[object]) -> float:
    context = fit.trainer.precision_plugin.forward_context
    with evaluating(subnet), quiet_copy(subnet, fit.trainer, fit.loss) as quiet, context():
        given = [attached_loss(quiet, batch, index) for index, batch in enumerate(held_out)]
    losses = [loss.float() for loss in given if loss is not None]
    # One that diverged, or whose step left out every batch, comes last.
    return float(torch.nan_to_num(torch.stack(losses).mean(), nan=torch.inf)) if losses else torch.inf
