"""Context managers that run a module in evaluation mode and restore each submodule's own mode."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["evaluating", "in_evaluation", "undisturbed"]


@contextmanager
def in_evaluation(module: nn.Module) -> Iterator[None]:
    """Run the body with `module` in evaluation mode.

    Every submodule gets its own mode back: users freeze batch norms by setting some to evaluation.
    """
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, mode in modes:
            child.training = mode


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Run the body without gradients and with `module` in evaluation mode."""
    with in_evaluation(module), torch.no_grad():
        yield


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Run the body as in `evaluating`, and put back what it changes: buffers, plain attributes, random numbers.

    Modules that count or collect in their forward pass are as before, as far as they do so in numbers, tensors, lists,
    sets and dictionaries.
    """
    kept = [_Kept(owner) for owner in module.modules()]
    devices = sorted({p.device.index for p in module.parameters() if p.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices), evaluating(module):
            yield
    finally:
        for state in kept:
            state.restore()


class _Kept:
    """Buffers and plain attributes of one module, as they are now."""

    _INTERNAL = frozenset(vars(nn.Module()))

    def __init__(self, owner: nn.Module) -> None:
        self._owner = owner
        buffers = owner.named_buffers(recurse=False, remove_duplicate=False)
        self._buffers = {name: (buffer, buffer.clone()) for name, buffer in buffers}
        self._attributes = self._plain()
        self._collections = [
            (value, copy.copy(value)) for value in self._attributes.values() if type(value) in (list, set, dict)
        ]

    def _plain(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self._owner).items() if name not in self._INTERNAL}

    def restore(self) -> None:
        """Put them back: the same objects, with the same content."""
        for name, (buffer, value) in self._buffers.items():
            if getattr(self._owner, name) is not buffer:
                setattr(self._owner, name, buffer)
            if not torch.equal(buffer, value):
                buffer.copy_(value)
        for name in self._plain().keys() - self._attributes.keys():
            vars(self._owner).pop(name)
        vars(self._owner).update(self._attributes)
        for collection, content in self._collections:
            collection.clear()
            (collection.extend if isinstance(collection, list) else collection.update)(content)
