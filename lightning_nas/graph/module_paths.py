"""The path of the module that runs, while a network runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules import module as module_hooks

__all__ = ["module_paths", "watching"]


@contextmanager
def module_paths(model: nn.Module) -> Iterator[list[str]]:
    """Yield a stack whose last entry is the path of the module that runs; it is empty outside of the network."""
    names = {module: name for name, module in model.named_modules()}
    running: list[str] = []

    def enter(module: nn.Module, _: object) -> None:
        running.append(names.get(module, running[-1] if running else ""))

    def leave(module: nn.Module, *_: object) -> None:
        running.pop()

    with watching(enter, leave):
        yield running


@contextmanager
def watching(
    enter: Callable[[nn.Module, tuple[object, ...]], None], leave: Callable[[nn.Module, object, object], None]
) -> Iterator[None]:
    """Call functions before and after the forward pass of every module that runs within the context.

    Args:
        enter: Gets the module and its arguments.
        leave: Gets the module, its arguments and its result.
    """
    handles = [
        module_hooks.register_module_forward_pre_hook(enter),
        module_hooks.register_module_forward_hook(leave),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
