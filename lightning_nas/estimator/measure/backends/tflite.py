"""Author int8 TFLite files of networks with flatbuffers and numpy alone, for compilers that read them.

Weights are Gaussian integers from a fixed seed, because compilers compress them and latency depends on how well that
works: with this deviation they compress to 0.9 of a byte each. Equal layers get equal weights,
wherever they are in a network. The output tensor of operation 7 is named ``@7``, so that what a compiler
says of an operator can be told to a subgraph.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from lightning_nas.estimator.measure.backends.flatfile import Field, File
from lightning_nas.graph.layer import Layer
from lightning_nas.graph.network import Network, Operation, chain
from lightning_nas.graph.subgraph import Subgraph

__all__ = ["WEIGHT_SEED", "WEIGHT_SIGMA", "author"]

WEIGHT_SEED = 0
WEIGHT_SIGMA = 29.0  # in steps of int8

_RELU6 = 3
_SAME, _VALID = 0, 1
# Of all tensors: additions and concatenations then need no rescaling, which those of real quantisers do.
_SCALE = 0.05
# Operators whose results TFLite wants on a scale of their own, and its zero point.
_SCALES = {"sigmoid": (1 / 256, -128), "tanh": (1 / 128, 0)}
_ACTIVATIONS = {
    "sigmoid": "LOGISTIC",
    "tanh": "TANH",
    "hardswish": "HARD_SWISH",
    "leaky_relu": "LEAKY_RELU",
    "relu": "RELU6",
    "clamp": "RELU6",
    "scale": "MUL",
    "offset": "ADD",
}
_NAMES = {
    "conv": "CONV_2D",
    "depthwise": "DEPTHWISE_CONV_2D",
    "transposed_conv": "TRANSPOSE_CONV",
    "linear": "FULLY_CONNECTED",
    "add": "ADD",
    "mul": "MUL",
    "pool": "MEAN",
    "avg_pool": "AVERAGE_POOL_2D",
    "max_pool": "MAX_POOL_2D",
    "concat": "CONCATENATION",
}


def author(network: Network | Sequence[Subgraph]) -> bytes:
    """Return the TFLite file of a network, or of a chain of subgraphs.

    Raises:
        ValueError: The output of a subgraph is not the input of the next, or TFLite has no such operator.
    """
    network = network if isinstance(network, Network) else chain(network)
    return _Author(network).run()


@functools.cache
def _pool() -> np.ndarray:
    draws = np.random.default_rng(WEIGHT_SEED).normal(0, WEIGHT_SIGMA, 1 << 20)
    return np.clip(np.rint(draws), -127, 127).astype(np.int8)


class _Author:
    def __init__(self, network: Network) -> None:
        self.network = network
        self.file = File()
        self.usual = self.file.quantization(np.array([_SCALE], np.float32))
        self.axes = self.file.constant(np.array([1, 2], np.int32))
        image = self._activation(network.image_shape, "image")
        # By the number of the operation, its result and the shape of that.
        self.tensors = {-1: image}
        self.shapes: dict[int, tuple[int, ...]] = {image: network.image_shape}

    def run(self) -> bytes:
        for number, operation in enumerate(self.network.operations):
            self.tensors[number] = self._add(operation, f"@{number}")
        outputs = [self.tensors[number] for number in self.network.outputs]
        return self.file.finish([self.tensors[-1]], outputs)

    def _activation(self, shape: Sequence[int], name: str, variant: str = "") -> int:
        quantization = self.usual
        if variant in _SCALES:
            scale, zero = _SCALES[variant]
            quantization = self.file.quantization(np.array([scale], np.float32), zero=zero)
        return self.file.tensor((1, *shape), np.dtype(np.int8), quantization=quantization, name=name)

    def _add(self, operation: Operation, name: str) -> int:
        layer = operation.layer
        code, variant = _code(operation), layer.form.variant if layer.form else ""
        inputs = [self.tensors[number] for number in operation.inputs]
        shape: tuple[int, ...] = layer.out_shape
        if layer.operator == "linear":
            shape = (layer.out_channels,)
        elif layer.operator == "activation":
            shape = self.shapes[inputs[0]]
        elif layer.operator == "concat":
            inputs = [self._reshaped(tensor, layer, f"{name}.{index}") for index, tensor in enumerate(inputs)]
        inputs = self._operands(layer, code, inputs)
        output = self._activation(shape, name, variant)
        self.file.operator(code, inputs, [output], _options(operation, code, self._axis(layer)))
        self.shapes[output] = shape
        return output

    def _axis(self, layer: Layer) -> int:
        """Return along which axis tensors are joined: channels, or rows where heads join what was reshaped."""
        return 1 if layer.operator == "concat" and layer.width == 1 else 3

    def _reshaped(self, tensor: int, layer: Layer, name: str) -> int:
        """Return a tensor in the shape in which it is joined to others."""
        shape = self.shapes[tensor]
        if self._axis(layer) == 3 or (shape[-1] == layer.out_channels and shape[-2] == 1):
            return tensor
        joined = (int(np.prod(shape)) // layer.out_channels, 1, layer.out_channels)
        output = self._activation(joined, name)
        sizes = self.file.constant(np.array((1, *joined), np.int32))
        self.file.operator("RESHAPE", [tensor, sizes], [output], [])
        self.shapes[output] = joined
        return output

    def _operands(self, layer: Layer, code: str, inputs: list[int]) -> list[int]:
        """Return the inputs of an operator in TFLite's order, constants included."""
        if code == "MEAN":
            return [*inputs, self.axes]
        if layer.operator == "resize":
            return [*inputs, self.file.constant(np.array(layer.out_shape[:2], np.int32))]
        if layer.operator == "activation" and code in ("MUL", "ADD"):
            values = layer.num_weights or 1
            return [*inputs, self.file.constant(np.resize(_pool(), (values,)), self.usual)]
        if not layer.num_weights:
            return inputs
        weights, bias = self._parameters(layer)
        if code == "TRANSPOSE_CONV":
            return [self.file.constant(np.array((1, *layer.out_shape), np.int32)), weights, *inputs, bias]
        return [*inputs, weights, bias]

    def _parameters(self, layer: Layer) -> tuple[int, int]:
        groups = layer.form.groups if layer.form is not None else 1
        shape: tuple[int, ...] = (layer.out_channels, *layer.window, layer.in_channels // groups)
        if layer.operator == "depthwise":
            shape = (1, *layer.window, layer.out_channels)
        if layer.operator == "linear":
            shape = (layer.out_channels, layer.in_channels)
        axis = len(shape) - 1 if layer.operator == "depthwise" else 0
        # Different in every channel, so that the compiler cannot merge them.
        scales = (0.002 * (1 + np.arange(layer.out_channels) / layer.out_channels)).astype(np.float32)
        weights = self.file.constant(np.resize(_pool(), shape), self.file.quantization(scales, axis))
        # Biases have the scale of the input times that of the weights, as the specification wants it.
        bias = np.zeros(layer.out_channels, np.int32)
        return weights, self.file.constant(bias, self.file.quantization(scales * np.float32(_SCALE)))


def _code(operation: Operation) -> str:
    layer = operation.layer
    variant = layer.form.variant if layer.form is not None else ""
    code = _NAMES.get(layer.operator)
    if layer.operator == "activation":
        code = _ACTIVATIONS.get(variant)
    if layer.operator == "resize":
        code = "RESIZE_BILINEAR" if variant == "bilinear" else "RESIZE_NEAREST_NEIGHBOR"
    if code is None:
        raise ValueError(f"Module {operation.path!r} runs {variant or layer.operator!r}, which TFLite has not in int8.")
    return code


def _options(operation: Operation, code: str, axis: int) -> list[Field]:
    layer, activation = operation.layer, _RELU6 if operation.is_bounded else 0
    if code in ("ADD", "MUL"):
        return [(0, "Int8", activation)]
    if code == "CONCATENATION":
        return [(0, "Int32", axis)]
    if code == "MEAN":
        return [(0, "Bool", True)]
    if code == "RESIZE_BILINEAR":
        return [(3, "Bool", True)]
    if code == "LEAKY_RELU":
        return [(0, "Float32", 0.01)]
    if layer.operator not in ("conv", "depthwise", "transposed_conv", "avg_pool", "max_pool"):
        return []
    rows, columns = layer.form.step if layer.form is not None else (layer.stride, layer.stride)
    options: list[Field] = [(0, "Int8", _padding(operation)), (1, "Int32", columns), (2, "Int32", rows)]
    dilation = layer.form.dilation if layer.form is not None else 1
    if code == "DEPTHWISE_CONV_2D":
        multiplier = layer.out_channels // layer.in_channels
        more: list[Field] = [(3, "Int32", multiplier), (4, "Int8", activation)]
        return [*options, *more, (5, "Int32", dilation), (6, "Int32", dilation)]
    if code == "CONV_2D":
        return [*options, (3, "Int8", activation), (4, "Int32", dilation), (5, "Int32", dilation)]
    if code == "TRANSPOSE_CONV":
        return [*options, (3, "Int8", activation)]
    return [*options, (3, "Int32", layer.window[1]), (4, "Int32", layer.window[0]), (5, "Int8", activation)]


def _padding(operation: Operation) -> int:
    layer = operation.layer
    if layer.form is None:
        return _SAME
    sizes, outs = (layer.height, layer.width), layer.out_shape[:2]
    spans = [(size - 1) * layer.form.dilation + 1 for size in layer.window]
    if layer.operator == "transposed_conv":
        same = [size * step for size, step in zip(sizes, layer.form.step, strict=True)]
        valid = [(n - 1) * step + span for n, step, span in zip(sizes, layer.form.step, spans, strict=True)]
    else:
        same = [-(-size // step) for size, step in zip(sizes, layer.form.step, strict=True)]
        valid = [(n - span) // step + 1 for n, step, span in zip(sizes, layer.form.step, spans, strict=True)]
    if list(outs) == same:
        return _SAME
    if list(outs) == valid:
        return _VALID
    raise ValueError(f"Module {operation.path!r} pads in a way that TFLite has not: {layer.in_shape} to {outs}.")
