"""Lightning callback: reports the validation metric to the study after each epoch, and stops pruned trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized

import lightning.pytorch as pl
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from typing_extensions import override

__all__ = ["Rungs"]


class Rungs(pl.Callback):
    """Reports the validation metric to a study after each epoch, and stops the training where the study prunes it.

    Args:
        key: What the metric is logged as.
        report: Takes the number of epochs and the metric, and returns whether to continue; None to continue always.

    Raises:
        MisconfigurationException: At the end of an epoch, if the module has not logged the metric.
    """

    def __init__(self, key: str, report: Callable[[int, float], bool] | None = None) -> None:
        self.key = key
        self.report = report
        self.value = float("nan")
        self.epochs = 0
        self.num_images = 0
        self.is_stopped = False

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # A training that was stopped, then killed before its end was written, ends again.
        trainer.should_stop = trainer.should_stop or self.is_stopped

    @override
    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: Sequence[Sized],
        batch_idx: int,
    ) -> None:
        self.num_images += len(batch[0])

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.key not in trainer.callback_metrics:
            logged = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            raise MisconfigurationException(
                f"Trials are compared by {self.key!r}, which {type(pl_module).__name__} does not log; it logs {logged}."
                f" HINT: `self.log({self.key!r}, ...)` in `validation_step`, and validation data after each epoch."
            )
        # Lightning validates before this hook, so that the metric is that of the epoch that ends.
        self.value = float(trainer.callback_metrics[self.key])
        self.epochs = trainer.current_epoch + 1
        is_continued = self.report is None or self.report(self.epochs, self.value)
        # After the last epoch there is nothing to stop, and the trial is complete.
        if not is_continued and self.epochs < (trainer.max_epochs or 0):
            self.is_stopped = trainer.should_stop = True

    @override
    def state_dict(self) -> dict[str, object]:
        return {
            "value": self.value,
            "epochs": self.epochs,
            "num_images": self.num_images,
            "is_stopped": self.is_stopped,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        vars(self).update(state_dict)
