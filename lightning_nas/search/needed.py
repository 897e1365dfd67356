"""Number of steps that a space needs before its subnets can be told apart."""

from __future__ import annotations

import logging
import math

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info

from lightning_nas.search.engine import Search
from lightning_nas.search.readiness import MIN_STEPS
from lightning_nas.search.trainers import total_steps

__all__ = ["needed_steps", "report_needed"]

log = logging.getLogger(__name__)


def needed_steps(search: Search) -> int:
    """Return the number of steps after which each option within the budgets was trained `MIN_STEPS` times."""
    pairs = zip(search.shares(), search.trained, strict=True)
    return math.ceil(MIN_STEPS / min(float(row[here].min()) for row, here in pairs))


def report_needed(trainer: pl.Trainer, search: Search) -> None:
    """Log how many steps and epochs a supernet needs, and warn if its training is shorter.

    Args:
        trainer: The user's, at the start of its training.
        search: The search.
    """
    needed, total = needed_steps(search), total_steps(trainer)
    epoch = trainer.num_training_batches / trainer.accumulate_grad_batches
    epochs = f", {math.ceil(needed / epoch)} epochs of this loader" if 0 < epoch < math.inf else ""
    message = (
        f"To train each option in {MIN_STEPS} steps or more, this space needs {needed:,} steps{epochs}."
        f" This training has {total:,}"
    )
    if total >= needed:
        rank_zero_info(f"{message}.")
    elif trainer.is_global_zero:
        log.warning("%s: too few to be sure of what it finds.", message)
