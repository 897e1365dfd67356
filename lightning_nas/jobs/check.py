"""Checks of a user's own task and data: everything that a recipe needs and does not find, in one message."""

from __future__ import annotations

import math
from collections.abc import Iterator

import lightning.pytorch as pl
import torch
from torch import Tensor

from lightning_nas.jobs.search_data import facts_of
from lightning_nas.search.quiet_loss import quiet_copy, task_loss
from lightning_nas.tasks.metric import TaskMetric

__all__ = ["check_data", "check_task"]


def check_task(module: pl.LightningModule, batch: object) -> None:
    """Check that a LightningModule is a task that recipes can search.

    It has to be a `lightning_nas.tasks.search_task.SearchTask`: ``network`` is searched, ``metric`` is a `TaskMetric`,
    and its `training_step` returns a loss that depends on the network. Its weights, counters and logs stay as they are.

    Args:
        module: The task, made of a network.
        batch: A batch of the training data.

    Raises:
        ValueError: Something is missing; the message names all of it.

    Example::

        >>> from torch import nn
        >>> from lightning_nas.tasks.classification import Classification
        >>> task = Classification(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), num_classes=3)
        >>> check_task(task, (torch.zeros(2, 3, 2, 2), torch.tensor([0, 1])))
    """
    _report(f"{type(module).__name__} is not a task", list(_task_problems(module, batch)))


def check_data(data: pl.LightningDataModule) -> None:
    """Check that a LightningDataModule is one that recipes can train on.

    It has to be a `lightning_nas.jobs.search_data.SearchData`: it needs ``num_classes``, ``input_size`` (channels,
    height and width), and loaders for training, validation and test whose batches are pairs of images, shape
    (N, 3, H, W), and targets. Where it has ``class_names``, there must be one for each class; for what else it may say,
    see `lightning_nas.jobs.search_data.DataFacts`.

    Args:
        data: The datamodule; it is prepared and set up.

    Raises:
        ValueError: Something is missing; the message names all of it.

    Example::

        >>> from lightning_nas.data.digits import DigitsDataModule
        >>> check_data(DigitsDataModule(image_size=32, batch_size=8, scenes_per_digit=1))
    """
    _report(f"{type(data).__name__} does not fit", list(_data_problems(data)))


def _report(what: str, problems: list[str]) -> None:
    if problems:
        raise ValueError("\n  ".join([f"{what}:", *problems]))


def _task_problems(module: pl.LightningModule, batch: object) -> Iterator[str]:
    if not isinstance(getattr(module, "metric", None), TaskMetric):
        yield (
            "`metric` must be a TaskMetric, such as `metric = TaskMetric('accuracy', 'acc')` for what is logged as"
            f" `val_acc` and `test_acc`; got {getattr(module, 'metric', None)!r}."
        )
    if not isinstance(getattr(module, "network", None), torch.nn.Module):
        yield f"`network` must be the module that is searched; got {getattr(module, 'network', None)!r}."
        return
    for step in ("training_step", "validation_step", "test_step"):
        # Lightning defines every step, so that `hasattr` would find those that the user has not written.
        if getattr(type(module), step) is getattr(pl.LightningModule, step):
            yield f"`{step}` is missing."
    try:
        with quiet_copy(module) as quiet:
            loss = task_loss(quiet, batch, 0)
    # A step of the user's may raise anything; it is named with the other problems.
    except Exception as error:
        yield f"`training_step` fails on the batch: {type(error).__name__}: {error}"
        return
    if not math.isfinite(float(loss)):
        yield f"`training_step` must return a finite loss; got {float(loss)}."


def _data_problems(data: pl.LightningDataModule) -> Iterator[str]:
    count = getattr(data, "num_classes", None)
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        yield f"`num_classes` must be a whole number of at least 1; got {count!r}."
    size = getattr(data, "input_size", None)
    if not (isinstance(size, tuple | list) and len(size) == 3 and all(isinstance(n, int) and n > 0 for n in size)):
        yield f"`input_size` must be channels, height and width; got {size!r}."
        size = None
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    names = facts_of(data).class_names
    if names and isinstance(count, int) and len(names) != count:
        yield f"`class_names` must have one name for each of {count} classes; got {len(names)}: {', '.join(names)}."
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        if getattr(type(data), name) is getattr(pl.LightningDataModule, name):
            yield f"`{name}` is missing."
            continue
        batch = next(iter(getattr(data, name)()), None)
        if not (isinstance(batch, tuple | list) and len(batch) == 2):
            yield f"A batch of `{name}` must be a pair of images and targets; got {type(batch).__name__}."
        elif not (isinstance(batch[0], Tensor) and batch[0].ndim == 4):
            yield f"Images of `{name}` must be one tensor of shape (N, C, H, W); got {_shape(batch[0])}."
        elif size is not None and tuple(batch[0].shape[1:]) != tuple(size):
            yield f"Images of `{name}` must be of `input_size` {tuple(size)}; got {_shape(batch[0])}."


def _shape(images: object) -> str:
    return str(tuple(images.shape)) if isinstance(images, Tensor) else type(images).__name__
