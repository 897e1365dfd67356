"""More epochs for a supernet that is not ready when its training ends."""

from __future__ import annotations

import logging

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info

from lightning_nas.search.lightning_internals import extend_fit
from lightning_nas.search.readiness import Readiness

__all__ = ["extend", "is_last_epoch"]

log = logging.getLogger(__name__)

# So much of the epochs so far is added at a time.
_PART = 0.25


def is_last_epoch(trainer: pl.Trainer) -> bool:
    """Return whether the epoch that ends is the last one by the Trainer's `max_epochs`."""
    most = trainer.max_epochs
    return most is not None and most > 0 and trainer.current_epoch + 1 >= most and not trainer.should_stop


def extend(trainer: pl.Trainer, found: Readiness, most: int) -> None:
    """Extend a training whose supernet is not ready by some epochs, up to `most` in all.

    Args:
        trainer: The user's, at the end of its last epoch.
        found: How ready the supernet is.
        most: Epochs that are not passed.
    """
    now = trainer.max_epochs
    if not found.reasons or now is None:
        return
    reasons = "; ".join(found.reasons)
    if any(hasattr(config.scheduler, "total_steps") for config in trainer.lr_scheduler_configs):
        # OneCycleLR refuses a step beyond the last that it was made for.
        log.warning("Supernet not ready (%s): the learning rate schedule has ended, so the training ends.", reasons)
    elif now >= most:
        log.warning("Supernet not ready (%s) after %d epochs, which is all that the training is given.", reasons, now)
    else:
        extend_fit(trainer, min(most, now + max(1, round(_PART * now))))
        rank_zero_info(f"Supernet not ready ({reasons}): extending training to epoch {trainer.max_epochs}.")
