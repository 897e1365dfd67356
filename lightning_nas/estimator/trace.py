"""Trace a network into the operators that cost time: convolutions, additions, pooling and linear layers.

Norms and activations are folded into the operator before them, as compilers fold them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from .._modes import evaluating

__all__ = ["Operation", "trace"]

IMAGE = -1
_ALIASES = {
    "view",
    "_unsafe_view",
    "as_strided_",
    "reshape",
    "clone",
    "detach",
    "alias",
    "contiguous",
    "_to_copy",
    "squeeze",
    "dropout",
}
_BOUNDS = {"relu", "relu_", "hardtanh", "hardtanh_", "clamp", "clamp_", "clamp_min", "clamp_min_"}


@dataclass
class Operation:
    """An operator that ran, with the norm and activation that followed it.

    Attributes:
        name: ``conv``, ``depthwise``, ``add``, ``pool`` or ``linear``.
        path: Path of the module that ran it.
        inputs: Numbers of the operations whose results it took; `IMAGE` for the network's input.
        in_shape: Shape of its first input.
        out_shape: Shape of its output.
        kernel: Spatial size of the filter.
        stride: Spatial stride.
        is_bounded: Whether an activation followed.
    """

    name: Literal["conv", "depthwise", "add", "pool", "linear"]
    path: str
    inputs: tuple[int, ...]
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    kernel: int = 1
    stride: int = 1
    is_bounded: bool = False


def trace(model: nn.Module, example_input: Tensor) -> list[Operation]:
    """Run the network once, on the first image of `example_input` (NCHW), and return its operations in order.

    Raises:
        ValueError: An operator has no cost model; the message names it and its module.
    """
    if example_input.ndim != 4:
        raise ValueError(f"`example_input` must have the shape NCHW; got {tuple(example_input.shape)}.")
    image = example_input[:1]
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        paths = stack.enter_context(_module_paths(model))
        recorder = stack.enter_context(_Recorder(image, paths))
        model(image)
    return recorder.operations


@contextmanager
def _module_paths(model: nn.Module) -> Iterator[list[str]]:
    """Give a stack whose last entry is the path of the module that runs."""
    names = {module: name for name, module in model.named_modules()}
    running: list[str] = []

    def enter(module: nn.Module, _: Any) -> None:
        running.append(names.get(module, running[-1] if running else ""))

    def leave(module: nn.Module, *_: Any) -> None:
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

    def __init__(self, image: Tensor, paths: Sequence[str]) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self.paths = paths
        # Tensors are held, or a later one could get the identity of one that is gone.
        self.sources: dict[int, tuple[Tensor, int]] = {id(image): (image, IMAGE)}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        # The shape is taken before an in-place operator can change it.
        tracked = [tensor for tensor in args if isinstance(tensor, Tensor) and id(tensor) in self.sources]
        nested = [t for arg in args if isinstance(arg, (list, tuple)) for t in arg if isinstance(t, Tensor)]
        result = func(*args, **(kwargs or {}))
        if tracked:
            self._record(func.overloadpacket.__name__, args, tracked, result)
        elif any(id(tensor) in self.sources for tensor in nested):
            raise self._unknown(func.overloadpacket.__name__)
        return result

    def _record(self, name: str, args: tuple[Any, ...], tracked: list[Tensor], result: Any) -> None:
        inputs = tuple(self.sources[id(tensor)][1] for tensor in tracked)
        output = result[0] if isinstance(result, tuple) else result
        if name in _ALIASES or "batch_norm" in name:
            number = inputs[0]
        elif name in _BOUNDS:
            number = inputs[0]
            if number != IMAGE:
                self.operations[number].is_bounded = True
        else:
            maker = _MAKERS.get(name)
            operation = maker(self.paths[-1] if self.paths else "", args, inputs, output) if maker else None
            if operation is None:
                raise self._unknown(name)
            self.operations.append(operation)
            number = len(self.operations) - 1
        self.sources[id(output)] = (output, number)

    def _unknown(self, name: str) -> ValueError:
        path = self.paths[-1] if self.paths else ""
        return ValueError(f"Module {path!r} runs the operator {name!r}, or a form of it, that has no cost model.")


def _convolution(path: str, args: tuple[Any, ...], inputs: tuple[int, ...], output: Tensor) -> Operation | None:
    image, weight, _, stride, _, dilation, transposed, _, groups = args
    is_depthwise = groups == image.shape[1] == weight.shape[0] and groups > 1
    squares = len(set(weight.shape[2:])) == len(set(stride)) == len({size % 2 for size in weight.shape[2:]}) == 1
    same = all(
        out == -(-size // step) for out, size, step in zip(output.shape[2:], image.shape[2:], stride, strict=True)
    )
    if image.ndim != 4 or transposed or set(dilation) != {1} or not squares or not same:
        return None
    if groups != 1 and not is_depthwise:
        return None
    name: Literal["depthwise", "conv"] = "depthwise" if is_depthwise else "conv"
    return Operation(name, path, inputs, _shape(image), _shape(output), weight.shape[-1], stride[0])


def _addition(path: str, args: tuple[Any, ...], inputs: tuple[int, ...], output: Tensor) -> Operation | None:
    if len(inputs) != 2 or args[0].shape != args[1].shape:
        return None
    return Operation("add", path, inputs, _shape(output), _shape(output))


def _mean(path: str, args: tuple[Any, ...], inputs: tuple[int, ...], output: Tensor) -> Operation | None:
    image, dims = args[0], args[1]
    if image.ndim != 4 or {dim % 4 for dim in dims} != {2, 3}:
        return None
    return Operation("pool", path, inputs, _shape(image), _shape(output))


def _pool(path: str, args: tuple[Any, ...], inputs: tuple[int, ...], output: Tensor) -> Operation | None:
    return Operation("pool", path, inputs, _shape(args[0]), _shape(output)) if set(output.shape[2:]) == {1} else None


def _linear(path: str, args: tuple[Any, ...], inputs: tuple[int, ...], output: Tensor) -> Operation | None:
    if output.ndim != 2 or len(inputs) != 1:
        return None
    features = next(arg for arg in args if isinstance(arg, Tensor) and arg.ndim == 2)
    return Operation("linear", path, inputs, _shape(features), _shape(output))


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


_Maker = Callable[[str, tuple[Any, ...], tuple[int, ...], Tensor], "Operation | None"]
_MAKERS: dict[str, _Maker] = {
    "convolution": _convolution,
    "add": _addition,
    "add_": _addition,
    "mean": _mean,
    "_adaptive_avg_pool2d": _pool,
    "adaptive_avg_pool2d": _pool,
    "addmm": _linear,
    "mm": _linear,
    "linear": _linear,
}
