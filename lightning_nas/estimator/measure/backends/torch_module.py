"""A network as a module of PyTorch with random weights: what is timed where PyTorch is what runs."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.estimator.measure.backends.runnable import joins_rows, paddings
from lightning_nas.graph.layer import Layer
from lightning_nas.graph.network import IMAGE, Network, Operation

__all__ = ["NetworkModule"]

Joined = Callable[[list[Tensor]], Tensor]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "clamp": F.relu6,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "mish": F.mish,
}


class NetworkModule(nn.Module):
    """Runs the operations of a network in order, and forgets what nothing needs any more.

    Args:
        network: What runs.

    Raises:
        ValueError: An operator cannot be run; the message names its module.

    Example::

        >>> from lightning_nas.graph.network import chain
        >>> from lightning_nas.graph.subgraph import Subgraph
        >>> network = chain([Subgraph("ibn", 8, 8, 16, 96, 24, kernel=3, stride=2)])
        >>> [tuple(tensor.shape) for tensor in NetworkModule(network)(torch.zeros(1, 16, 8, 8))]
        [(1, 24, 4, 4)]
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.steps = nn.ModuleList(_Step(operation) for operation in network.operations)
        uses = network.last_uses()
        self.unneeded = [
            [number for number, last in uses.items() if last == step] for step in range(len(network.operations))
        ]

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the outputs of the network."""
        results = {IMAGE: image}
        for number, step in enumerate(self.steps):
            results[number] = step([results[source] for source in self.network.operations[number].inputs])
            for unneeded in self.unneeded[number]:
                if unneeded != number:
                    results.pop(unneeded, None)
        return [results[number] for number in self.network.outputs]


class _Step(nn.Module):
    """One operation, with its padding before and its activation after."""

    constant: Tensor

    def __init__(self, operation: Operation) -> None:
        super().__init__()
        layer = operation.layer
        self.layer, self.is_bounded = layer, operation.is_bounded
        self.operator: nn.Module = nn.Identity()
        self.pad: nn.Module = nn.Identity()
        if layer.operator in _MODULES:
            self.pad, self.operator = _MODULES[layer.operator](layer)
        variant = layer.form.variant if layer.form is not None else ""
        known = layer.operator in (*_MODULES, "add", "mul", "concat", "resize", "pool")
        if not known and not (layer.operator == "activation" and variant in (*_ACTIVATIONS, "scale", "prelu")):
            raise ValueError(f"Module {operation.path!r} runs {variant or layer.operator!r}, which cannot be measured.")
        height, width = (1, 1) if variant == "broadcast" else (layer.height, layer.width)
        shape = (1, layer.in_channels, height, width)
        if variant in ("scale", "prelu"):
            shape = (1, layer.in_channels if layer.num_weights == layer.in_channels else 1, 1, 1)
        if layer.operator in ("add", "mul", "activation"):
            self.register_buffer("constant", torch.rand(shape))

    def forward(self, inputs: list[Tensor]) -> Tensor:
        layer = self.layer
        first = inputs[0]
        if layer.operator in ("concat", "resize"):
            result = self._joined(inputs) if layer.operator == "concat" else self._resized(first)
        elif layer.operator in ("add", "mul"):
            other = inputs[1] if len(inputs) > 1 else self.constant
            result = first + other if layer.operator == "add" else first * other
        elif layer.operator == "activation":
            result = self._activated(first)
        elif layer.operator == "pool":
            result = first.mean((2, 3), keepdim=True)
        else:
            result = self.operator(self.pad(_as(first, layer.in_shape)))
        return F.relu6(result) if self.is_bounded else result

    def _joined(self, inputs: list[Tensor]) -> Tensor:
        if not joins_rows(self.layer) or inputs[0].shape[1] + inputs[1].shape[1] == self.layer.out_channels:
            return torch.cat(inputs, 1)
        channels = self.layer.out_channels
        return torch.cat([tensor.reshape(len(tensor), channels, -1, 1) for tensor in inputs], 2)

    def _resized(self, tensor: Tensor) -> Tensor:
        size, variant = self.layer.out_shape[:2], self.layer.form.variant if self.layer.form else ""
        return F.interpolate(tensor, size, mode="bilinear" if variant == "bilinear" else "nearest")

    def _activated(self, tensor: Tensor) -> Tensor:
        variant = self.layer.form.variant if self.layer.form is not None else ""
        if variant == "scale":
            return tensor * self.constant
        return (
            torch.where(tensor > 0, tensor, tensor * self.constant)
            if variant == "prelu"
            else _ACTIVATIONS[variant](tensor)
        )


def _as(tensor: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Return a tensor in the shape that an operator reads: traces leave out what only changes that."""
    height, width, channels = shape
    wanted = (len(tensor), channels, height, width)
    return tensor if tuple(tensor.shape) == wanted else tensor.reshape(wanted)


def _convolution(layer: Layer) -> tuple[nn.Module, nn.Module]:
    (top, bottom), (left, right) = paddings(layer)
    # `nn.Conv2d` pads both sides alike; anything else takes a step of its own.
    even = top == bottom and left == right
    groups = layer.form.groups if layer.form is not None else 1
    step = layer.form.step if layer.form is not None else (layer.stride, layer.stride)
    convolution = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.window,
        step,
        (top, left) if even else 0,
        layer.form.dilation if layer.form is not None else 1,
        layer.in_channels if layer.operator == "depthwise" else groups,
    )
    return nn.Identity() if even else nn.ZeroPad2d((left, right, top, bottom)), convolution


def _transposed(layer: Layer) -> tuple[nn.Module, nn.Module]:
    assert layer.form is not None  # these always have one
    form, sizes = layer.form, (layer.height, layer.width)
    cut = [
        (size - 1) * step + (window - 1) * form.dilation + 1 - out
        for size, step, window, out in zip(sizes, form.step, form.window, form.out_size, strict=True)
    ]
    # Padding cuts both sides alike; what that takes too much is added again on one side.
    rows, columns = (-(-max(0, value) // 2) for value in cut)
    return nn.Identity(), nn.ConvTranspose2d(
        layer.in_channels,
        layer.out_channels,
        form.window,
        form.step,
        (rows, columns),
        (2 * rows - cut[0], 2 * columns - cut[1]),
        form.groups,
        dilation=form.dilation,
    )


def _linear(layer: Layer) -> tuple[nn.Module, nn.Module]:
    columns = nn.Sequential(
        nn.Flatten(), nn.Linear(layer.in_channels, layer.out_channels), nn.Unflatten(1, (layer.out_channels, 1, 1))
    )
    return nn.Identity(), columns


def _pool(layer: Layer) -> tuple[nn.Module, nn.Module]:
    (top, bottom), (left, right) = paddings(layer)
    assert layer.form is not None  # these always have one
    pool = nn.AvgPool2d if layer.operator == "avg_pool" else nn.MaxPool2d
    return nn.ZeroPad2d((left, right, top, bottom)), pool(layer.form.window, layer.form.step)


def _norm(layer: Layer) -> tuple[nn.Module, nn.Module]:
    return nn.Identity(), nn.GroupNorm(1, layer.in_channels)


_MODULES: dict[str, Callable[[Layer], tuple[nn.Module, nn.Module]]] = {
    "conv": _convolution,
    "depthwise": _convolution,
    "transposed_conv": _transposed,
    "linear": _linear,
    "avg_pool": _pool,
    "max_pool": _pool,
    "norm": _norm,
}
