"""Running a user's module without a trace: whatever its steps change is put back."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TypeVar

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from lightning_nas.search.lightning_internals import buffers_of

__all__ = ["untraced"]

Restore = Callable[[], None]
K = TypeVar("K")
V = TypeVar("V")

# What PyTorch keeps in every module: parameters and submodules are not touched, buffers are looked at by themselves.
_INTERNAL = frozenset(vars(nn.Module())) - {"training"}
_SIMPLE = (bool, int, float, complex, str, bytes, type(None))
# Plain data is not nested deeper; a handle of something outside leads to everything.
_DEPTH = 4


@contextmanager
def untraced(module: nn.Module, trainer: pl.Trainer | None = None, kept: Collection[nn.Module] = ()) -> Iterator[None]:
    """Restore what the body changes in a module, but for trained weights; logging and random numbers have no effect.

    What is put back: buffers, frozen weights, states of metrics, modes, generators, plain attributes, and what is in
    them (lists, dictionaries, tensors, arrays, objects that hold only such data). Other objects, such as open files,
    are left alone.

    Args:
        module: What runs.
        trainer: Its Trainer, whose loggers are silent meanwhile.
        kept: Submodules that keep what the body gave them.
    """
    left_alone = {id(child) for child in kept}
    # The objects are held as well, since the id of one that was freed is given to another.
    seen: dict[int, object] = {}
    restore = [
        step
        for child in module.modules()
        if id(child) not in left_alone
        for step in _of_module(child, seen, left_alone)
    ]
    with ExitStack() as stack:
        stack.enter_context(isolate_rng())
        if trainer is not None:
            loggers = trainer.loggers
            trainer.loggers = [DummyLogger() for _ in loggers]
            stack.callback(setattr, trainer, "loggers", loggers)
        stack.callback(_run_all, restore)
        # After the attributes were noted, so that putting these back removes the two.
        if hasattr(module, "log_dict"):
            for name in ("log", "log_dict"):
                setattr(module, name, _drop)
        yield


def _drop(*args: object, **kwargs: object) -> None:
    """Log nothing."""


def _run_all(steps: list[Restore]) -> None:
    for step in steps:
        step()


def _of_module(module: nn.Module, seen: dict[int, object], left_alone: Collection[int]) -> list[Restore]:
    if id(module) in seen or id(module) in left_alone:
        return []
    seen[id(module)] = module
    buffers = buffers_of(module)
    steps = _of_mapping(buffers)
    for buffer in buffers.values():
        steps += _of(buffer, seen)
    # Weights that no optimizer trains are a step's own, as those of a teacher that follows the weights' mean.
    frozen = (p for p in module.parameters(recurse=False) if not p.requires_grad and id(p) not in seen)
    for parameter in frozen:
        seen[id(parameter)] = parameter
        steps.append(_of_tensor(parameter))
    return steps + _of_attributes(module, seen, _INTERNAL)


def _of_attributes(value: object, seen: dict[int, object], left_out: Collection[str] = ()) -> list[Restore]:
    attributes = vars(value)
    before = {name: item for name, item in attributes.items() if name not in left_out}

    def restore() -> None:
        for name in [name for name in attributes if name not in left_out and name not in before]:
            del attributes[name]
        attributes.update(before)

    return [restore, *(step for item in before.values() for step in _of(item, seen))]


def _of_mapping(value: MutableMapping[K, V]) -> list[Restore]:
    before = dict(value)

    def restore() -> None:
        if list(value) != list(before) or any(value[key] is not item for key, item in before.items()):
            value.clear()
            value.update(before)

    return [restore]


def _of_collection(value: list[V] | deque[V] | set[V]) -> list[Restore]:
    before = list(value)

    def restore() -> None:
        value.clear()
        if isinstance(value, set):
            value.update(before)
        else:
            value.extend(before)

    return [restore]


def _of(value: object, seen: dict[int, object]) -> list[Restore]:
    """Return what puts the content of a value back; nothing for what cannot change, or is no plain data."""
    if isinstance(value, _SIMPLE) or id(value) in seen:
        return []
    if isinstance(value, nn.Module):  # kept out of the submodules, as a teacher is
        return [step for child in value.modules() for step in _of_module(child, seen, ())]
    seen[id(value)] = value
    if isinstance(value, Tensor):
        return [] if isinstance(value, nn.Parameter) or value.grad_fn is not None else [_of_tensor(value)]
    if isinstance(value, random.Random | np.random.Generator | torch.Generator):
        return [_of_generator(value)]
    if isinstance(value, np.ndarray):
        content = value.copy()
        return [lambda: np.copyto(value, content)]
    if isinstance(value, dict):
        return _of_mapping(value) + [step for item in list(value.values()) for step in _of(item, seen)]
    if isinstance(value, list | deque | set):
        return _of_collection(value) + [step for item in list(value) for step in _of(item, seen)]
    if isinstance(value, tuple):
        return [step for item in value for step in _of(item, seen)]
    return _of_attributes(value, seen) if _is_plain_object(value) else []


def _of_generator(value: random.Random | np.random.Generator | torch.Generator) -> Restore:
    if isinstance(value, random.Random):
        return partial(value.setstate, value.getstate())
    if isinstance(value, torch.Generator):
        state = value.get_state()
        return lambda: _drop(value.set_state(state))
    return partial(setattr, value.bit_generator, "state", value.bit_generator.state)


def _of_tensor(value: Tensor) -> Restore:
    content = value.detach().clone()

    def restore() -> None:
        # What a validation made is an inference tensor, which changes in that mode only.
        with torch.inference_mode() if value.is_inference() else torch.no_grad():
            if not torch.equal(value, content):
                value.copy_(content)

    return restore


def _is_plain_object(value: object) -> bool:
    """Return whether an object is nothing but plain data, as a running mean is, and no handle of something outside."""
    return _is_plain(value, _DEPTH)


def _are_plain(values: Iterable[object], depth: int) -> bool:
    return depth > 0 and all(_is_plain(value, depth) for value in values)


def _is_plain(value: object, depth: int) -> bool:
    if isinstance(value, (*_SIMPLE, Tensor, np.ndarray, np.generic)):
        return True
    if isinstance(value, dict):
        return _are_plain(value.values(), depth - 1)
    if isinstance(value, list | tuple | deque | set):
        return _are_plain(value, depth - 1)
    return hasattr(value, "__dict__") and not callable(value) and _are_plain(vars(value).values(), depth - 1)
