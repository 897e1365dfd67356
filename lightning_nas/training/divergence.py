"""Lightning callback that ends a training which diverges, before its state is saved."""

from __future__ import annotations

import logging
import math
import statistics
from collections import deque
from collections.abc import Mapping
from typing import NoReturn

import lightning.pytorch as pl
import torch
from torch import Tensor
from typing_extensions import override

from lightning_nas.graph.finite import learnt, not_finite
from lightning_nas.training.checkpoints import CheckpointState

__all__ = ["DivergedError", "Divergence"]

log = logging.getLogger(__name__)

# The loss at the end is the mean over so many steps.
_STEPS = 16
# So many losses in a row that are no numbers; a scaler of float16 steps over single ones.
_IN_A_ROW = 4
_CHECK_EVERY = 50
# Far above the start is by this factor. Chance, where networks begin, is at 0.7 nats (2 classes) to 10; a trained one
# begins below, and a first batch may be an easy one, so what is less than this is no start to compare with.
_FACTOR, _LEAST = 3.0, 3.0
# The first losses may be far above the very first one, up to this factor, and be no divergence.
_EASY = 10.0


class DivergedError(RuntimeError):
    """A training has diverged: weights or losses are not finite, or the loss is far above its start."""


class Divergence(pl.Callback):
    """Ends a training with a `DivergedError` where weights, running statistics or losses are not finite any more.

    It looks after each epoch, and every 50 batches, before the state is saved. A loss that has become far higher than
    it was at the start is warned of: such a network knows less than one that guesses.

    Args:
        name: What is trained, for messages.
        ends_worse: Whether a loss that is far higher after the last epoch is an error, too.

    Attributes:
        start: The loss before anything was trained, where more is known of it than the first step's.
        found: What was said when the training ended with an error; nothing where it did not.
    """

    def __init__(self, name: str = "training", ends_worse: bool = False) -> None:
        self.name = name
        self.ends_worse = ends_worse
        self.start: float | None = None
        self.found = ""
        self._first: list[float] = []
        self._recent: deque[Tensor] = deque(maxlen=_STEPS)
        self._given: frozenset[str] = frozenset()
        self._is_warned = False

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # A module may hold infinite values on purpose, such as masks.
        self._given = frozenset(not_finite(learnt(pl_module)))
        self._recent.clear()

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor) and loss.numel() == 1:
            # Kept as a tensor: reading its value would wait for the device in each step.
            self._recent.append(loss.detach().float())
            # A detector's batch without objects may have a loss of 0, which is no start to compare with.
            if len(self._first) < _STEPS and math.isfinite(value := float(loss)) and value:
                self._first.append(value)
        if (batch_idx + 1) % _CHECK_EVERY == 0:
            self._check(trainer, pl_module)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._check(trainer, pl_module)
        worse = self._worse()
        if not trainer.strategy.reduce_boolean_decision(bool(worse), all=False):
            return
        worse = worse or "its loss on another process is far above that of the start"
        is_last = trainer.current_epoch + 1 >= (trainer.max_epochs or 0) > 0
        if self.ends_worse and is_last:
            self._end(trainer, worse)
        if not self._is_warned:
            log.warning("%s", self._text(trainer, worse))
            self._is_warned = True

    @override
    def state_dict(self) -> dict[str, object]:
        return {"first": self._first, "is_warned": self._is_warned}

    @override
    def load_state_dict(self, state_dict: CheckpointState) -> None:
        self._first = list(state_dict["first"])
        self._is_warned = state_dict["is_warned"]

    def _check(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        bad = [name for name in not_finite(learnt(module)) if name not in self._given]
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
        recent = [loss for loss in map(float, self._recent) if math.isfinite(loss)]
        if not self._first or not recent:
            return ""
        start = self._first[0] if self.start is None else self.start
        least = max(_LEAST, abs(start))
        usual = max(least, min(statistics.median(self._first), _EASY * least))
        loss = statistics.fmean(recent)
        return f"its loss was {start:.3g} at the start and is {loss:.3g}" if loss > _FACTOR * usual else ""

    def _text(self, trainer: pl.Trainer, what: str) -> str:
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        # Schedules end near 0 and keep beside it what they began with.
        rates = [float(group[key]) for group in groups for key in ("lr", "initial_lr", "max_lr") if key in group]
        rate = f" The learning rate is up to {max(rates):.3g}." if rates else ""
        return (
            f"The {self.name} has diverged in epoch {trainer.current_epoch}: {what}.{rate} HINT: a smaller learning"
            " rate, or `gradient_clip_val` of the Trainer."
        )
