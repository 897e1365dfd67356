"""Trainers that a search does not run on, refused before any training."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from lightning_nas.search.lightning_internals import syncs_batch_norm
from lightning_nas.search.settings import SupernetTraining

__all__ = ["configures_model", "refuse_strategy", "refuse_unaware", "share_statistics", "total_steps"]

_HINT = "HINT: use `strategy='ddp_find_unused_parameters_true'`, or one device."


def refuse_strategy(trainer: pl.Trainer) -> None:
    """Refuse a strategy that shards weights, accumulates gradients by itself, or replaces batch norms.

    Raises:
        MisconfigurationException: The Trainer's strategy is DeepSpeed, FSDP or another that shards, or it synchronises
            batch norm.
    """
    strategy = trainer.strategy
    # DeepSpeed's class needs its package to be looked at; it alone accumulates by itself.
    shards = isinstance(strategy, FSDPStrategy | ModelParallelStrategy)
    if shards or getattr(strategy, "handles_gradient_accumulation", False):
        raise MisconfigurationException(f"ArchitectureSearch does not support {type(strategy).__name__}. {_HINT}")
    # Lightning would replace the elastic batch norms before training, and the first narrow path would fail in PyTorch.
    if syncs_batch_norm(strategy):
        raise MisconfigurationException(
            "ArchitectureSearch does not support `sync_batchnorm=True`: a path is normalised on the channels that it"
            " has, by each process's own batch. HINT: leave it out, and give each process a larger batch."
        )


def refuse_unaware(trainer: pl.Trainer, training: SupernetTraining) -> None:
    """Refuse data-parallel training that expects a gradient of every parameter: a path leaves most without one.

    Raises:
        MisconfigurationException: The Trainer runs on several processes and was not told so, or more paths than one
            train in a step.
    """
    model = trainer.strategy.model
    if isinstance(model, DistributedDataParallel) and training.paths == "sandwich":
        raise MisconfigurationException(
            "The sandwich rule has several backward passes in a step, which DistributedDataParallel does not take."
            " HINT: one device, or the strategy Rloo, which trains one path a step."
        )
    if isinstance(model, DistributedDataParallel) and not model.find_unused_parameters:
        raise MisconfigurationException(
            f"A step of ArchitectureSearch trains one path, which leaves parameters without a gradient. {_HINT}"
        )


def share_statistics(trainer: pl.Trainer) -> None:
    """Copy the first process's running statistics to all processes, as the next forward pass of training would.

    Each process has statistics of its own batches otherwise, of which a checkpoint holds the first one's only:
    what is scored with them would differ once the training is resumed.
    """
    model = trainer.strategy.model
    if isinstance(model, DistributedDataParallel) and model.will_sync_module_buffers():
        group = model.process_group
        first = distributed.get_global_rank(group, 0)
        for name, buffer in model.module.named_buffers():
            if name not in model.parameters_to_ignore:
                distributed.broadcast(buffer, first, group)


def total_steps(trainer: pl.Trainer) -> int:
    """Return the optimizer steps of a training.

    Raises:
        MisconfigurationException: It has no end, or no steps.
    """
    total = trainer.estimated_stepping_batches
    if total == float("inf"):
        raise MisconfigurationException(
            "ArchitectureSearch needs to know the number of steps. HINT: give the Trainer max_epochs or max_steps."
        )
    if total == 0:
        raise MisconfigurationException(
            "The training has no steps, so there is nothing to search with. HINT: the Trainer needs max_epochs or"
            " max_steps above 0, and the data at least one batch: fewer images than a batch are dropped with"
            " `drop_last=True`."
        )
    return int(total)


def configures_model(module: pl.LightningModule) -> bool:
    """Return whether a module has a `configure_model` of its own, and not Lightning's, of whichever of its packages."""
    owner = next(base for base in type(module).__mro__ if "configure_model" in vars(base))
    return owner.__module__.partition(".")[0] not in ("lightning", "pytorch_lightning")
