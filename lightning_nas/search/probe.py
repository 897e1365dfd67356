"""The loss of a module on a batch, without a trace in the module: no gradient, no log, no metric, no mode left."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from .._modes import evaluating
from ..supernet.supernet import Supernet

__all__ = ["quiet_copy", "sampled_losses", "task_loss"]


def quiet_copy(module: Any) -> Any:
    """Return a shallow copy of a LightningModule that shares its weights but neither its logs nor its metrics.

    It can run `training_step` for its loss alone: what the step logs is dropped, and the metrics it updates are copies.
    """
    quiet = copy.copy(module)
    quiet.trainer = module._trainer
    quiet.__dict__["_modules"] = {
        name: copy.deepcopy(child) if isinstance(child, Metric | MetricCollection) else child
        for name, child in module._modules.items()
    }
    quiet.__dict__["log"] = quiet.__dict__["log_dict"] = _drop
    return quiet


def task_loss(quiet: Any, batch: Any, batch_idx: int) -> Tensor:
    """Return what `training_step` of a quiet copy gives as the loss; a detached scalar.

    Raises:
        TypeError: The step gives none.
    """
    output = quiet.training_step(batch, batch_idx)
    loss = output.get("loss") if isinstance(output, dict) else output
    if not isinstance(loss, Tensor):
        raise TypeError(
            f"`training_step` of {type(quiet).__name__} must return a loss, as a tensor or under the key 'loss', to "
            f"compare architectures; got {type(output).__name__}."
        )
    return loss.detach().float()


def _drop(*args: Any, **kwargs: Any) -> None:
    """Log nothing."""


def sampled_losses(
    module: nn.Module, supernet: Supernet, samples: Sequence[tuple[int, ...]], loss: Callable[[], Tensor]
) -> Tensor:
    """Return what `loss` gives under each architecture, shape (num_samples,): evaluation mode, no gradient.

    Args:
        module: What runs: the supernet or a module around it.
        supernet: Its supernet; the last sample stays active.
        samples: Nodes of the architectures.
        loss: Runs one batch through `module` and returns a scalar.
    """
    losses = []
    with evaluating(module):
        for nodes in samples:
            supernet.activate(nodes)
            losses.append(loss().float())
    return torch.stack(losses)
