"""Checks of a user's own task and data: everything that a recipe needs and does not find, in one message."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import chain, islice

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor

from lightning_nas.graph.eval_mode import evaluating
from lightning_nas.jobs.search_data import facts_of
from lightning_nas.search.quiet_loss import quiet_copy, task_loss
from lightning_nas.tasks.metric import TaskMetric

__all__ = ["check_data", "check_task"]

# Labels are looked at in so many batches of each loader: one may miss the class that is out of range.
_NUM_BATCHES = 20


def check_task(module: pl.LightningModule, batch: object) -> None:
    """Check that a LightningModule is a task that recipes can search.

    It has to be a `lightning_nas.tasks.search_task.SearchTask`: ``network`` is searched, ``metric`` is a `TaskMetric`,
    its `training_step` returns a loss that depends on the network, its `validation_step` and `test_step`, or the hooks
    at the end of their epochs, log the metric, and it has `configure_optimizers`. All steps are run on the batch. Its
    weights, counters and logs stay as they are.

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
    (N, 3, H, W), and targets. Labels, which are whole numbers in a tensor of one dimension, must be from 0 to
    ``num_classes`` - 1; they are looked at in the first 20 batches of each loader. Where it has ``class_names``, there
    must be one for each class; for what else it may say, see `lightning_nas.jobs.search_data.DataFacts`.

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
    metric = getattr(module, "metric", None)
    if not isinstance(metric, TaskMetric):
        yield (
            "`metric` must be a TaskMetric, such as `metric = TaskMetric('accuracy', 'acc')` for what is logged as"
            f" `val_acc` and `test_acc`; got {metric!r}."
        )
    if not isinstance(getattr(module, "network", None), torch.nn.Module):
        yield f"`network` must be the module that is searched; got {getattr(module, 'network', None)!r}."
        return
    for method in ("training_step", "validation_step", "test_step", "configure_optimizers"):
        if not _is_written(module, method):
            yield f"`{method}` is missing."
    yield from _training_problems(module, batch)
    if isinstance(metric, TaskMetric):
        yield from _evaluation_problems(module, batch, "validation", metric.val_key)
        yield from _evaluation_problems(module, batch, "test", metric.test_key)


def _training_problems(module: pl.LightningModule, batch: object) -> Iterator[str]:
    try:
        with quiet_copy(module) as quiet:
            loss = task_loss(quiet, batch, 0)
    # A step of the user's may raise anything; it is named with the other problems.
    except Exception as error:
        yield f"`training_step` fails on the batch: {type(error).__name__}: {error}"
        return
    if not math.isfinite(float(loss)):
        yield f"`training_step` must return a finite loss; got {float(loss)}."


def _evaluation_problems(module: pl.LightningModule, batch: object, name: str, key: str) -> Iterator[str]:
    if not _is_written(module, f"{name}_step"):
        return
    try:
        logged = _logged(module, batch, name)
    except Exception as error:
        yield f"`{name}_step` fails on the batch: {type(error).__name__}: {error}"
        return
    if key not in logged:
        found = ", ".join(f"`{other}`" for other in logged) or "nothing"
        yield f"`{name}_step` must log `{key}`, which is what `metric` names; it logs {found}."


def _logged(module: pl.LightningModule, batch: object, name: str) -> list[str]:
    """Return the names that a step logs, or the hook at the end of its epoch, where some metrics are computed."""
    logged: dict[str, None] = {}

    def log(name: str, *_: object, **__: object) -> None:
        logged[name] = None

    def log_dict(dictionary: Mapping[str, object], *_: object, **__: object) -> None:
        logged.update(dict.fromkeys(dictionary.keys()))

    with evaluating(module), torch.no_grad(), quiet_copy(module) as quiet:
        for method, replacement in (("log", log), ("log_dict", log_dict)):
            setattr(quiet, method, replacement)
        step = getattr(quiet, f"{name}_step")
        getattr(quiet, f"on_{name}_epoch_start")()
        # Lightning, too, passes the number only to a step that takes it.
        step(batch, 0) if is_param_in_hook_signature(step, "batch_idx", min_args=2) else step(batch)
        getattr(quiet, f"on_{name}_epoch_end")()
    return list(logged)


def _is_written(module: pl.LightningModule, method: str) -> bool:
    """Return whether a class overrides a method that Lightning defines for every module."""
    return getattr(type(module), method) is not getattr(pl.LightningModule, method)


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
        batches = islice(getattr(data, name)(), _NUM_BATCHES)
        batch = next(batches, None)
        if not (isinstance(batch, tuple | list) and len(batch) == 2):
            yield f"A batch of `{name}` must be a pair of images and targets; got {type(batch).__name__}."
            continue
        if not (isinstance(batch[0], Tensor) and batch[0].ndim == 4):
            yield f"Images of `{name}` must be one tensor of shape (N, C, H, W); got {_shape(batch[0])}."
        elif size is not None and tuple(batch[0].shape[1:]) != tuple(size):
            yield f"Images of `{name}` must be of `input_size` {tuple(size)}; got {_shape(batch[0])}."
        if isinstance(count, int):
            yield from _label_problems(name, (targets for _, targets in chain([batch], batches)), count)


def _label_problems(name: str, targets: Iterator[object], num_classes: int) -> Iterator[str]:
    labels = [labels for labels in targets if isinstance(labels, Tensor) and labels.ndim == 1 and _is_whole(labels)]
    wrong = sorted({int(label) for batch in labels for label in batch if not 0 <= label < num_classes})
    if wrong:
        found = ", ".join(map(str, wrong[:5])) + (", ..." if len(wrong) > 5 else "")
        yield f"Labels of `{name}` must be from 0 to {num_classes - 1}, as `num_classes` is {num_classes}; got {found}."


def _is_whole(labels: Tensor) -> bool:
    return not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)


def _shape(images: object) -> str:
    return str(tuple(images.shape)) if isinstance(images, Tensor) else type(images).__name__
