"""Parts of a job made once before it writes anything, so that an invalid setting is reported at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import lightning.pytorch as pl
from torch import nn

from lightning_nas.io.numbers import check_number
from lightning_nas.jobs.search_data import SearchData
from lightning_nas.jobs.settings import check_arguments
from lightning_nas.tasks.metric import metric_of
from lightning_nas.training.phases import Averaging

__all__ = ["try_data", "try_tasks", "try_trainer"]

Made = TypeVar("Made")


def try_tasks(
    task: Callable[..., pl.LightningModule],
    network: nn.Module,
    num_classes: int,
    **variants: Mapping[str, object] | None,
) -> None:
    """Make a task's module with each of several groups of options, which are named after the job's settings.

    Args:
        task: Makes the module of a network and `num_classes`.
        network: The network.
        num_classes: Number of classes.
        variants: Groups of options.

    Raises:
        ValueError: The task does not take them.
        TypeError: Its module has no `TaskMetric`.
    """
    metric_of(task(network=network, num_classes=num_classes))
    for name, options in variants.items():
        check_arguments(task, options or {}, name)
        try:
            task(network=network, num_classes=num_classes, **(options or {}))
        except (ValueError, TypeError) as error:
            raise ValueError(f"`{name}` is not valid: {error}") from error


def try_trainer(
    trainer: Callable[..., pl.Trainer], averaging: Averaging | None, splits: Sequence[str] = ("train", "test")
) -> None:
    """Make a Trainer and the callback that averages weights.

    Args:
        trainer: Makes the Trainer.
        averaging: Makes the callback that averages weights, if there is to be one.
        splits: Splits of the data that it has to read at least a batch of.

    Raises:
        ValueError: A setting is not valid, or the Trainer reads no batch of a split that is needed.
    """
    callbacks = [] if averaging is None else [_made("averaging", averaging)]
    # Without a logger, which might write files already.
    made = _made("trainer", trainer, max_epochs=1, callbacks=callbacks, logger=False)
    for split in splits:
        if not getattr(made, f"limit_{split}_batches"):
            raise ValueError(f"`trainer.limit_{split}_batches` must be more than 0: a run needs the {split} data.")


def _made(name: str, make: Callable[..., Made], **arguments: object) -> Made:
    """Make an object of another package, which may take numbers that are not finite, and raise any error."""
    for option, value in getattr(make, "keywords", {}).items():
        if isinstance(value, float):
            check_number(f"{name}.{option}", value)
    try:
        return make(**arguments)
    except Exception as error:
        raise ValueError(f"`{name}` is not valid: {error}") from error


def try_data(data: Sequence[SearchData]) -> None:
    """Set up datamodules and make their loaders of training and validation data.

    Args:
        data: The datamodules.

    Raises:
        ValueError: A setting is not valid.
    """
    for module in data:
        module.prepare_data()
        module.setup("fit")
        for loader in (module.train_dataloader, module.val_dataloader):
            loader()
