"""A training that diverges is said when it happens, before anything is made of its weights."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Mapping
from typing import Any, NoReturn

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from typing_extensions import override

__all__ = ["DivergedError", "Divergence", "not_finite", "refuse_not_finite"]

log = logging.getLogger(__name__)

# The loss at the end is the mean over so many steps; that at the start is of the first one, before anything changed.
_STEPS = 16
# So many losses in a row that are no numbers; a scaler of float16 steps over single ones.
_IN_A_ROW = 4
_CHECK_EVERY = 50
# A network that knows nothing begins at chance, a trained one below it.
_FACTOR, _OFFSET = 3.0, 1.0


class DivergedError(RuntimeError):
    """A training has led to what is no network any more."""


def not_finite(tensors: Mapping[str, Any]) -> list[str]:
    """Return the names of the tensors that hold a value that is infinite or no number.

    Example::

        >>> not_finite({"weight": torch.ones(2), "running_var": torch.tensor([1.0, float("inf")])})
        ['running_var']
    """
    floats = {name: t for name, t in tensors.items() if isinstance(t, Tensor) and t.is_floating_point() and t.numel()}
    if not floats:
        return []
    # One answer for all, since each has to be waited for on an accelerator.
    fine = torch.stack([value.detach().isfinite().all().cpu() for value in floats.values()])
    return [name for name, is_fine in zip(floats, fine.tolist(), strict=True) if not is_fine]


def refuse_not_finite(subnet: nn.Module) -> None:
    """Raise a ValueError where a subnet holds weights or running statistics that are not finite."""
    if bad := not_finite(subnet.state_dict()):
        raise ValueError(
            f"The subnet computes nothing: {bad[0]!r}{' and others' if len(bad) > 1 else ''} of its weights and running"
            " statistics are not finite, since the training has diverged. HINT: a smaller learning rate."
        )


class Divergence(pl.Callback):
    """Ends a training with a `DivergedError` where weights, running statistics or losses are not finite any more.

    It looks after each epoch, and every 50 batches, before the state is saved. A loss that has become far higher than
    it was at the start is warned of.

    Args:
        name: What is trained, for messages.
        ends_worse: Whether a loss that is far higher after the last epoch is an error, too.

    Attributes:
        start: The loss before the first step; what is far above it is worse than chance, since a training begins there
            or below.
        found: What was said when the training ended with an error; nothing where it did not.
    """

    def __init__(self, name: str = "training", ends_worse: bool = False) -> None:
        self.name = name
        self.ends_worse = ends_worse
        self.start: float | None = None
        self.found = ""
        self._recent: deque[Tensor] = deque(maxlen=_STEPS)
        self._given: frozenset[str] = frozenset()
        self._is_warned = False

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # A module may hold infinite values on purpose, such as masks.
        self._given = frozenset(not_finite(pl_module.state_dict()))
        self._recent.clear()

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor) and loss.numel() == 1:
            self._recent.append(loss.detach().float())
            if self.start is None:
                self.start = float(loss)
        if (batch_idx + 1) % _CHECK_EVERY == 0:
            self._check(trainer, pl_module)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._check(trainer, pl_module)
        worse = self._worse()
        if not worse:
            return
        is_last = trainer.current_epoch + 1 >= (trainer.max_epochs or 0) > 0
        if self.ends_worse and is_last:
            self._end(trainer, worse)
        if not self._is_warned:
            log.warning("%s", self._text(trainer, worse))
            self._is_warned = True

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"start": self.start, "is_warned": self._is_warned}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.start = state_dict["start"]
        self._is_warned = state_dict["is_warned"]

    def _check(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        bad = [name for name in not_finite(module.state_dict()) if name not in self._given]
        losses = [float(loss) for loss in list(self._recent)[-_IN_A_ROW:]]
        is_lost = len(losses) == _IN_A_ROW and not torch.tensor(losses).isfinite().any()
        # All processes end together, or none does: one that is left alone would wait for the others.
        if not trainer.strategy.reduce_boolean_decision(bool(bad) or is_lost, all=False):
            return
        what = f"its last losses are {', '.join(f'{loss:g}' for loss in losses)}"
        if bad:
            more = f" and {len(bad) - 1} more tensors" if len(bad) > 1 else ""
            what = f"{bad[0]!r}{more} hold{'' if more else 's'} values that are not finite"
        self._end(trainer, what)

    def _end(self, trainer: pl.Trainer, what: str) -> NoReturn:
        self.found = self._text(trainer, what)
        raise DivergedError(self.found)

    def _worse(self) -> str:
        """Return in words that the loss is far above where it began; nothing where it is not."""
        if self.start is None or not math.isfinite(self.start) or not self._recent:
            return ""
        loss = float(torch.stack([*self._recent]).mean())
        if loss - self.start <= (_FACTOR - 1) * abs(self.start) + _OFFSET:
            return ""
        return f"its loss was {self.start:.3g} at the start and is {loss:.3g}"

    def _text(self, trainer: pl.Trainer, what: str) -> str:
        rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
        rate = f" The learning rate is {max(map(float, rates)):.3g}." if rates else ""
        return (
            f"The {self.name} has diverged in epoch {trainer.current_epoch}: {what}.{rate} HINT: a smaller learning"
            " rate, or `gradient_clip_val` of the Trainer."
        )
