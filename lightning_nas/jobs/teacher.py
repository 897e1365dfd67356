"""Teacher of subnets in fine-tuning: the source, or the baseline, which is the source trained on."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable
from typing import Literal, get_args

import lightning.pytorch as pl

from lightning_nas.tasks.metric import metric_of
from lightning_nas.training.phases import Phases

__all__ = ["TaughtBy", "Teacher", "better_teacher", "check_taught_by", "is_teachable"]

log = logging.getLogger(__name__)

Teacher = Literal["source", "baseline"]
TaughtBy = Literal["source", "baseline", "best"]
"""What a subnet begins from and imitates, see `FinetunePlan`."""


def check_taught_by(taught_by: str) -> None:
    """Raise a ValueError where a setting is none of `TaughtBy`."""
    if taught_by not in get_args(TaughtBy):
        raise ValueError(f"`taught_by` must be one of {', '.join(get_args(TaughtBy))}; got {taught_by!r}.")


def is_teachable(task: Callable[..., pl.LightningModule]) -> bool:
    """Return whether a task takes a teacher: its argument `teacher`, and with it `feature_modules`.

    Args:
        task: What makes the task's module, such as its class.

    Raises:
        ValueError: It takes a teacher, and not the names of the modules whose maps are to be imitated.
    """
    try:
        parameters = inspect.signature(task).parameters
    except (TypeError, ValueError):  # of a class in C, which says nothing
        return False
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    missing = [name for name in ("teacher", "feature_modules") if name not in parameters and not takes_any]
    if missing == ["feature_modules"]:
        raise ValueError("A task that takes `teacher` must take `feature_modules`, the names of modules, too.")
    return not missing


def better_teacher(
    taught_by: TaughtBy, phases: Phases, trainer: pl.Trainer, source: pl.LightningModule, baseline: pl.LightningModule
) -> Teacher:
    """Return which of the two teaches: the one that was asked for, or the better one on the validation images.

    Args:
        taught_by: What was asked for.
        phases: Where the baseline was trained.
        trainer: What trained it.
        source: LightningModule of the source.
        baseline: LightningModule of the baseline.
    """
    if taught_by != "best":
        return taught_by
    before, after = (phases.validate(trainer, module) for module in (source, baseline))
    metric = metric_of(baseline)
    better: Teacher = "baseline" if metric.is_better(after, than=before) else "source"
    if math.isnan(after):
        log.warning(
            "The Trainer reads no validation images, so nothing tells whether source or baseline is better:"
            " the source teaches. HINT: set `taught_by`, or `trainer.limit_val_batches` to more than 0."
        )
    else:
        log.info(
            "The %s teaches the subnet; on validation images the source has %s %.4g, the baseline %.4g",
            better,
            metric.name,
            before,
            after,
        )
    return better
