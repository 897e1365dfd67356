"""Calls of modules: what each module of a network took and gave, by the operations that run in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from lightning_nas.graph.detector import without_detection
from lightning_nas.graph.eval_mode import undisturbed
from lightning_nas.graph.module_paths import module_paths, watching
from lightning_nas.graph.network import Operation
from lightning_nas.graph.operation_log import OperationLog
from lightning_nas.graph.tensors import tensors_in
from lightning_nas.graph.trace import Recorder

__all__ = ["CalledNetwork", "ModuleCall", "module_calls"]


@dataclass(frozen=True)
class ModuleCall:
    """A module as it ran: what it took and gave, by the operations that these come from, and what it ran."""

    path: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    body: range


@dataclass(frozen=True)
class CalledNetwork:
    """A network as it ran.

    Attributes:
        operations: What ran, norms and activations on their own.
        outputs: Numbers of the operations whose results the network returns.
        calls: The calls of its modules, in the order in which they end.
    """

    operations: tuple[Operation, ...]
    outputs: tuple[int, ...]
    calls: tuple[ModuleCall, ...]


def module_calls(model: nn.Module, example_input: Tensor) -> CalledNetwork:
    """Run a network once, in evaluation mode, and return its operations with the modules that ran them.

    Args:
        model: The network.
        example_input: One batch that it can run, shape (N, C, H, W); one image of it runs.

    Example::

        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        >>> module_calls(net, torch.zeros(1, 3, 8, 8)).calls[1]
        ModuleCall(path='1', inputs=(0,), outputs=(1,), body=range(1, 2))
    """
    image = example_input[:1]
    log, calls = OperationLog(image, "bytes"), list[ModuleCall]()
    whole = without_detection(model)
    with undisturbed(model), module_paths(model) as paths, _noting(model, log, calls), Recorder(log, paths):
        outputs = log.outputs(whole(image))
    return CalledNetwork(tuple(log.operations), outputs, tuple(calls))


@contextmanager
def _noting(model: nn.Module, log: OperationLog, calls: list[ModuleCall]) -> Iterator[None]:
    """Note each call of a module while a network runs."""
    names = {module: name for name, module in model.named_modules() if name}
    running: list[tuple[tuple[int, ...], int]] = []

    def enter(module: nn.Module, inputs: tuple[object, ...]) -> None:
        if module in names:
            running.append((tuple(log.number(tensor) for tensor in tensors_in(inputs)), len(log.operations)))

    def leave(module: nn.Module, _: object, output: object) -> None:
        if module in names:
            inputs, start = running.pop()
            given = tuple(log.number(tensor) for tensor in tensors_in(output))
            calls.append(ModuleCall(names[module], inputs, given, range(start, len(log.operations))))

    with watching(enter, leave):
        yield
