"""Loss of a user's module on a batch, computed without a trace in the module."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn

from lightning_nas.graph.eval_mode import evaluating
from lightning_nas.search.lightning_internals import is_compiled
from lightning_nas.search.untraced import untraced
from lightning_nas.space.spec import Encoding
from lightning_nas.supernet.supernet import Supernet

__all__ = ["LossFunction", "NoLossError", "attached_loss", "quiet_copy", "sampled_losses", "task_loss"]

LossFunction = Callable[..., Tensor]
"""Returns the loss of (module, batch), where `training_step` is not to be run for it."""

_COMPILED = ("forward", "training_step", "validation_step", "test_step", "predict_step")


class NoLossError(TypeError):
    """`training_step` returns no loss, so architectures cannot be compared."""


@contextmanager
def quiet_copy(
    module: pl.LightningModule,
    trainer: pl.Trainer | None = None,
    loss: LossFunction | None = None,
    kept: Collection[nn.Module] = (),
) -> Iterator[pl.LightningModule]:
    """Give a shallow copy of a LightningModule that shares its weights, to run `training_step` for its loss alone.

    What the step logs is dropped, what else it changes is put back at the end (see `untraced`), and a step that
    optimizes by itself meets optimizers at rest.

    Args:
        module: The module to copy; it need not be attached to a Trainer.
        trainer: The Trainer that the copy is attached to; by default the module's own, if any.
        loss: Returns the loss in place of `training_step`.
        kept: Submodules that keep what the body changes in them.
    """
    with untraced(module, trainer, kept):
        yield _quiet_copy(module, trainer, loss)


def _quiet_copy(
    module: pl.LightningModule, trainer: pl.Trainer | None, loss: LossFunction | None
) -> pl.LightningModule:
    quiet = copy.copy(module)
    if trainer is not None:
        quiet.trainer = trainer
    if is_compiled(module):
        # Steps that torch.compile made are bound to the original; the class's own run here.
        for name in _COMPILED:
            if name in vars(quiet):
                delattr(quiet, name)
    own: dict[str, Callable[..., object]] = {}
    if loss is not None:
        own["training_step"] = lambda batch, batch_idx: loss(quiet, batch)
    elif not module.automatic_optimization:
        # Its step optimizes by itself: here that must do nothing.
        resting = [_Resting(optimizer) for optimizer in quiet.trainer.optimizers]
        own["optimizers"] = lambda *_, **__: resting[0] if len(resting) == 1 else resting
        schedules = [_Resting(config.scheduler) for config in quiet.trainer.lr_scheduler_configs]
        # As Lightning's own methods, which return one object as it is and several in a list.
        own["lr_schedulers"] = lambda: next(iter(schedules), None) if len(schedules) < 2 else schedules
        own |= dict.fromkeys(["manual_backward", "clip_gradients", "toggle_optimizer", "untoggle_optimizer"], _drop)
    for name, method in own.items():
        setattr(quiet, name, method)
    return quiet


class _Resting:
    """Stands in for an optimizer or a schedule: it has the attributes of the original, and its steps do nothing."""

    def __init__(self, original: object) -> None:
        self._original = original
        # The optimizer that Lightning's wrapper holds has this name, and its steps must rest as well.
        self.optimizer = self

    def __getattr__(self, name: str) -> object:
        return getattr(self._original, name)

    def zero_grad(self, *args: object, **kwargs: object) -> None:
        """Do nothing."""

    def step(self, *args: object, **kwargs: object) -> None:
        """Do nothing."""

    @contextmanager
    def toggle_model(self, *args: object, **kwargs: object) -> Iterator[None]:
        """Do nothing."""
        yield


def task_loss(quiet: pl.LightningModule, batch: object, batch_idx: int) -> Tensor:
    """Return the loss of a quiet copy's `training_step` as a detached scalar; NaN where the step leaves a batch out.

    Raises:
        NoLossError: The step gives none.
    """
    loss = attached_loss(quiet, batch, batch_idx)
    return torch.tensor(torch.nan, device=quiet.device) if loss is None else loss.detach().float()


def attached_loss(quiet: pl.LightningModule, batch: object, batch_idx: int) -> Tensor | None:
    """Return the loss of a quiet copy's `training_step` with its graph; None where the step leaves a batch out.

    A step leaves a batch out by returning None, as Lightning allows.

    Raises:
        NoLossError: The step gives none. Steps that optimize by themselves need not, and then nothing can be compared.
    """
    step = quiet.training_step
    # Lightning, too, passes the number only to a step that takes it.
    takes_number = is_param_in_hook_signature(step, "batch_idx", min_args=2)
    output = step(batch, batch_idx) if takes_number else step(batch)
    loss = output.get("loss") if isinstance(output, dict) else output
    if loss is None and quiet.automatic_optimization:
        return None
    if not isinstance(loss, Tensor):
        raise NoLossError(
            f"`training_step` of {type(quiet).__name__} must return a loss, as a tensor or under the key 'loss', to "
            f"compare architectures; got {type(output).__name__}. HINT: `Selection(loss=...)` takes a function"
            " of module and batch instead."
        )
    return loss


def _drop(*args: object, **kwargs: object) -> None:
    """Do nothing."""


def sampled_losses(
    module: nn.Module, supernet: Supernet, samples: Sequence[Encoding], loss: Callable[[], Tensor]
) -> Tensor:
    """Return what `loss` gives under each architecture, shape (num_samples,): evaluation mode, no gradient.

    Args:
        module: What runs: the supernet or a module around it.
        supernet: Its supernet; the last sample stays active.
        samples: The architectures.
        loss: Runs one batch through `module` and returns a scalar.
    """
    losses = []
    with evaluating(module):
        for encoding in samples:
            supernet.activate(encoding)
            losses.append(loss().float())
    return torch.stack(losses)
