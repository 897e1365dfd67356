"""From a searched module to the plain one, in the user's own precision and on the user's own data."""

from __future__ import annotations

from itertools import islice
from typing import Any

import lightning.pytorch as pl
from torch import nn

from .._modes import evaluating
from ..supernet.derive import derive, recalibrate
from .inherited import prepared
from .probe import quiet_copy, task_loss

__all__ = ["derive_subnet"]


def derive_subnet(
    trainer: pl.Trainer, searched: pl.LightningModule, wanted: nn.Module, nodes: tuple[int, ...], num_batches: int
) -> Any:
    """Return the plain network of an architecture, batch norm recalibrated on training data.

    Args:
        trainer: The Trainer of the search.
        searched: The LightningModule that it trained.
        wanted: That module or a part of it: the same part of the derived module is returned.
        nodes: The architecture.
        num_batches: Training batches for batch norm's statistics.

    Raises:
        ValueError: `wanted` is neither the trained module nor a part of it.
    """
    wanted = getattr(wanted, "_orig_mod", wanted)  # of torch.compile
    names = [name for name, child in searched.named_modules() if child is wanted]
    if not names:
        raise ValueError(f"This {type(wanted).__name__} is not part of the module that was searched.")
    derived = derive(searched, nodes)
    quiet, loader = quiet_copy(derived, trainer), trainer.train_dataloader
    assert loader is not None
    with evaluating(derived), trainer.precision_plugin.forward_context():
        recalibrate(
            derived,
            lambda item: task_loss(quiet, prepared(trainer, searched, item[1]), item[0]),
            enumerate(islice(iter(loader), num_batches)),
        )
    return derived.get_submodule(names[0]) if names[0] else derived
