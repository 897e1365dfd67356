"""Tracing: a network runs once, and its operators, their shapes and their inputs are recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Literal

from torch import Tensor, nn
from torch._ops import OpOverload
from torch.nn.modules import module as module_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_nas.graph.detector import without_detection
from lightning_nas.graph.eval_mode import evaluating
from lightning_nas.graph.fold import folded
from lightning_nas.graph.network import IMAGE, Network, Operation
from lightning_nas.graph.operators import ALIASES, layer_of, other_layer

__all__ = ["Fallback", "UnknownOperatorError", "trace"]

Fallback = Literal["bytes"]
"""What to do about operators without a model: price them by the bytes that they move."""


class UnknownOperatorError(ValueError):
    """A network runs an operator that has no model."""


def trace(model: nn.Module, example_input: Tensor, fallback: Fallback | None = None, fold: bool = True) -> Network:
    """Run the network once, on the first image of `example_input` (NCHW), and return what ran.

    Of torchvision's detectors the backbone and the heads run: what picks the boxes is no work of the accelerator.

    Args:
        model: A module that takes images.
        example_input: Images (NCHW).
        fallback: ``bytes`` keeps operators without a model as ``other``; by default they are refused.
        fold: Whether norms, simple activations and padding are folded into the operators that run them.

    Raises:
        UnknownOperatorError: An operator has no model; the message names it and its module.
        ValueError: The network does not run on such images, or it runs no convolution and no linear layer.
    """
    if example_input.ndim != 4:
        raise ValueError(f"`example_input` must have the shape NCHW; got {tuple(example_input.shape)}.")
    image = example_input[:1]
    _, channels, height, width = image.shape
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        paths = stack.enter_context(_module_paths(model))
        # Neither torch.fx nor torch.export: of 54 networks that were tried they took 48 and 53, a dispatch mode all.
        recorder = stack.enter_context(_Recorder(image, paths, fallback))
        result = _forward(without_detection(model), image, paths)
    outputs = tuple(dict.fromkeys(recorder.number(tensor) for tensor in _tensors(result)))
    network = Network((height, width, channels), tuple(recorder.operations), outputs)
    network = folded(network) if fold else network
    if not any(operation.layer.macs for operation in network.operations):
        raise ValueError(f"{type(model).__name__} runs no convolution and no linear layer: there is nothing to price.")
    return network


def _forward(model: nn.Module, image: Tensor, paths: list[str]) -> object:
    try:
        return model(image)
    except UnknownOperatorError:
        raise
    except Exception as error:
        # The hooks of a module that fails do not run, so its path is still the last.
        place = f" in module {paths[-1]!r}" if paths else ""
        raise ValueError(f"The network does not run on images of shape {tuple(image.shape)}{place}: {error}") from error


@contextmanager
def _module_paths(model: nn.Module) -> Iterator[list[str]]:
    """Give a stack whose last entry is the path of the module that runs."""
    names = {module: name for name, module in model.named_modules()}
    running: list[str] = []

    def enter(module: nn.Module, _: object) -> None:
        running.append(names.get(module, running[-1] if running else ""))

    def leave(module: nn.Module, *_: object) -> None:
        running.pop()

    handles = [
        module_hooks.register_module_forward_pre_hook(enter),
        module_hooks.register_module_forward_hook(leave),
    ]
    try:
        yield running
    finally:
        for handle in handles:
            handle.remove()


class _Recorder(TorchDispatchMode):
    """Records what happens to the image; what happens to weights alone is not the network's work."""

    def __init__(self, image: Tensor, paths: Sequence[str], fallback: Fallback | None) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self.paths = paths
        self.fallback = fallback
        # Tensors are held, or a later one could get the identity of one that is gone.
        self.sources: dict[int, tuple[Tensor, int]] = {id(image): (image, IMAGE)}

    def number(self, tensor: Tensor) -> int:
        """Return the number of the operation that a tensor comes from."""
        return self.sources[id(tensor)][1] if id(tensor) in self.sources else IMAGE

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        tracked = [tensor for tensor in _tensors(args) if id(tensor) in self.sources]
        inputs = tuple(self.number(tensor) for tensor in tracked)
        result = func(*args, **(kwargs or {}))
        if tracked:
            self._record(func.overloadpacket.__name__, args, tracked, inputs, result)
        return result

    def _record(
        self, name: str, args: tuple[object, ...], tracked: list[Tensor], inputs: tuple[int, ...], result: object
    ) -> None:
        number = inputs[0]
        if name not in ALIASES:
            path = self.paths[-1] if self.paths else ""
            layer = layer_of(name, args, tracked, result)
            if layer is None and self.fallback is None:
                raise UnknownOperatorError(
                    f"Module {path!r} runs the operator {name!r}, or a form of it, that has no cost model."
                    f" HINT: `fallback='bytes'` prices such operators by the bytes that they move."
                )
            layer = layer or other_layer(name, args, tracked, result)
            self.operations.append(Operation(layer, inputs, path))
            number = len(self.operations) - 1
        for output in _tensors(result):
            self.sources[id(output)] = (output, number)


def _tensors(values: object) -> list[Tensor]:
    """Return the tensors in nested tuples, lists and dictionaries, in order."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, Mapping):
        values = list(values.values())
    return [tensor for value in values for tensor in _tensors(value)] if isinstance(values, (list, tuple)) else []
