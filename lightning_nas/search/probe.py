"""The loss of a module on a batch, without a trace in the module: no gradient, no log, no metric, no mode left."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from .._modes import evaluating
from ..supernet.supernet import Supernet

__all__ = ["attached_loss", "quiet_copy", "sampled_losses", "task_loss"]

_COMPILED = ("forward", "training_step", "validation_step", "test_step", "predict_step")


def quiet_copy(module: Any, trainer: Any = None) -> Any:
    """Return a shallow copy of a LightningModule that shares its weights but neither its logs nor its metrics.

    It can run `training_step` for its loss alone: what the step logs is dropped, the metrics it updates are copies, and
    a step that optimizes by itself meets optimizers at rest.

    Args:
        module: What is copied.
        trainer: Its Trainer, where it is attached to none.
    """
    quiet = copy.copy(module)
    quiet.trainer = trainer = trainer or module._trainer
    quiet.__dict__["_modules"] = {
        name: copy.deepcopy(child) if isinstance(child, Metric | MetricCollection) else child
        for name, child in module._modules.items()
    }
    if getattr(module, "_compiler_ctx", None) is not None:
        # Steps that torch.compile made are bound to the original; the class's own run here.
        for name in _COMPILED:
            quiet.__dict__.pop(name, None)
    silent = ["log", "log_dict"]
    if not module.automatic_optimization:
        # Its step optimizes by itself: here that must do nothing.
        silent += ["manual_backward", "clip_gradients", "toggle_optimizer", "untoggle_optimizer"]
        resting = [_Resting(optimizer) for optimizer in trainer.optimizers]
        quiet.__dict__["optimizers"] = lambda *_, **__: resting[0] if len(resting) == 1 else resting
        quiet.__dict__["lr_schedulers"] = lambda: None
    quiet.__dict__.update(dict.fromkeys(silent, _drop))
    return quiet


class _Resting:
    """Looks like an optimizer and does nothing."""

    def __init__(self, optimizer: Any) -> None:
        self.param_groups = optimizer.param_groups
        self.optimizer = self

    def zero_grad(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""

    def step(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""

    @contextmanager
    def toggle_model(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Do nothing."""
        yield


def task_loss(quiet: Any, batch: Any, batch_idx: int) -> Tensor:
    """Return what `training_step` of a quiet copy gives as the loss: a detached scalar, NaN where a batch is left out.

    Raises:
        TypeError: The step gives none.
    """
    loss = attached_loss(quiet, batch, batch_idx)
    return torch.tensor(torch.nan, device=quiet.device) if loss is None else loss.detach().float()


def attached_loss(quiet: Any, batch: Any, batch_idx: int) -> Tensor | None:
    """Return that loss with its graph; None where the step leaves a batch out, by returning None as Lightning allows.

    Raises:
        TypeError: The step gives none. Steps that optimize by themselves need not, and then nothing can be compared.
    """
    output = quiet.training_step(batch, batch_idx)
    loss = output.get("loss") if isinstance(output, dict) else output
    if loss is None and quiet.automatic_optimization:
        return None
    if not isinstance(loss, Tensor):
        raise TypeError(
            f"`training_step` of {type(quiet).__name__} must return a loss, as a tensor or under the key 'loss', to "
            f"compare architectures; got {type(output).__name__}."
        )
    return loss


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
