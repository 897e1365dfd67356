"""Author int8 TFLite files of subgraphs with flatbuffers and numpy alone, for compilers that read them.

Weights are Gaussian integers from a fixed seed, because compilers compress them and latency depends on how well that
works: with this deviation they compress to 0.9 of a byte each. Equal layers get equal weights,
wherever they are in a network. The output tensor of layer 2 of part 5 is named ``5.2``, so that what a compiler
says of an operator can be told to a subgraph.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_nas.estimator.subgraph import Layer, Subgraph

if TYPE_CHECKING:
    from flatbuffers import Builder

__all__ = ["WEIGHT_SEED", "WEIGHT_SIGMA", "author"]

WEIGHT_SEED = 0
WEIGHT_SIGMA = 29.0  # in steps of int8

_INT32, _INT8 = 2, 9
_RELU6 = 3
# Builtin operator code, type of its options and number of its option fields, as in TFLite's schema version 3.
_OPERATORS = {
    "conv": (3, 1, 7),
    "depthwise": (4, 2, 7),
    "add": (0, 11, 2),
    "pool": (40, 27, 1),
    "linear": (9, 8, 5),
}
_CODES = tuple(_OPERATORS)


def author(parts: Sequence[Subgraph]) -> bytes:
    """Return the TFLite file of a chain of subgraphs: one subgraph, or a whole network.

    Raises:
        ValueError: The output of a subgraph is not the input of the next.
    """
    if not parts:
        raise ValueError("A file needs at least one subgraph; got none.")
    for first, second in itertools.pairwise(parts):
        expected = (second.height, second.width, second.in_channels)
        if first.out_shape != expected:
            raise ValueError(f"{second} cannot follow {first}, whose output is {first.out_shape}.")
    file = _File()
    source = tensor = file.activation((parts[0].height, parts[0].width, parts[0].in_channels), "image")
    for index, part in enumerate(parts):
        entry = tensor
        for number, layer in enumerate(part.layers):
            inputs = [tensor, *{"add": [entry], "pool": [file.axes]}.get(layer.operator, [])]
            bounded = number < len(part.layers) - 1 or _is_bounded(part)
            tensor = file.operator(layer, inputs, bounded, f"{index}.{number}")
    return file.finish(source, tensor)


def _is_bounded(part: Subgraph) -> bool:
    """Whether a subgraph ends in an activation: blocks end in a linear bottleneck, plain convolutions do not."""
    return part.kind in ("stem", "conv")


@functools.cache
def _pool() -> np.ndarray:
    draws = np.random.default_rng(WEIGHT_SEED).normal(0, WEIGHT_SIGMA, 1 << 20)
    return np.clip(np.rint(draws), -127, 127).astype(np.int8)


class _File:
    """Tensors, buffers and operators of the one subgraph of a TFLite file."""

    def __init__(self) -> None:
        from flatbuffers import Builder

        self.builder: Builder = Builder(1 << 20)
        self.buffers = [_table(self.builder, 3, [])]
        self.tensors: list[int] = []
        self.operators: list[int] = []
        self.quantization = self._quantization(np.array([0.05], np.float32), 0)
        self.axes = self._constant(np.array([1, 2], np.int32), _INT32, 0)

    def activation(self, shape: tuple[int, ...], name: str) -> int:
        """Add an int8 tensor of batch 1 (NHWC) and return its index."""
        return self._tensor((1, *shape), _INT8, 0, self.quantization, name)

    def operator(self, layer: Layer, inputs: list[int], bounded: bool, name: str) -> int:
        """Add one operator with its constants and return the index of its output."""
        inputs = [*inputs, *self._parameters(layer)]
        shape = (layer.out_channels,) if layer.operator == "linear" else layer.out_shape
        output = self.activation(shape, name)
        builder = self.builder
        sources, targets = _ints(builder, inputs), _ints(builder, [output])
        _, options_type, num_fields = _OPERATORS[layer.operator]
        options = _table(builder, num_fields, _options(layer, bounded))
        fields = [
            (0, "Uint32", _CODES.index(layer.operator)),
            (1, "Offset", sources),
            (2, "Offset", targets),
            (3, "Uint8", options_type),
            (4, "Offset", options),
        ]
        self.operators.append(_table(builder, 14, fields))
        return output

    def finish(self, source: int, target: int) -> bytes:
        """Return the file with the given input and output tensors."""
        builder = self.builder
        codes = [
            _table(builder, 4, [(0, "Int8", code), (2, "Int32", 2 if name != "pool" else 1), (3, "Int32", code)])
            for name, (code, _, _) in _OPERATORS.items()
        ]
        tensors, operators = _offsets(builder, self.tensors), _offsets(builder, self.operators)
        ends = _ints(builder, [source]), _ints(builder, [target])
        fields = [(0, "Offset", tensors), (1, "Offset", ends[0]), (2, "Offset", ends[1]), (3, "Offset", operators)]
        graph = _offsets(builder, [_table(builder, 6, fields)])
        parts = (_offsets(builder, codes), graph, _offsets(builder, self.buffers))
        model = [(0, "Uint32", 3), (1, "Offset", parts[0]), (2, "Offset", parts[1]), (4, "Offset", parts[2])]
        builder.Finish(_table(builder, 8, model), b"TFL3")
        return bytes(builder.Output())

    def _parameters(self, layer: Layer) -> list[int]:
        if not layer.num_weights:
            return []
        shape: tuple[int, ...] = (layer.out_channels, layer.kernel, layer.kernel, layer.in_channels)
        if layer.operator == "depthwise":
            shape = (1, layer.kernel, layer.kernel, layer.out_channels)
        if layer.operator == "linear":
            shape = (layer.out_channels, layer.in_channels)
        axis = len(shape) - 1 if layer.operator == "depthwise" else 0
        # Different in every channel, so that the compiler cannot merge them.
        scales = (0.002 * (1 + np.arange(layer.out_channels) / layer.out_channels)).astype(np.float32)
        weights = self._constant(np.resize(_pool(), shape), _INT8, self._quantization(scales, axis))
        bias = np.zeros(layer.out_channels, np.int32)
        return [weights, self._constant(bias, _INT32, self._quantization(scales * np.float32(0.05), 0))]

    def _constant(self, values: np.ndarray, dtype: int, quantization: int) -> int:
        data = self.builder.CreateNumpyVector(values.reshape(-1).view(np.uint8))
        self.buffers.append(_table(self.builder, 3, [(0, "Offset", data)]))
        return self._tensor(values.shape, dtype, len(self.buffers) - 1, quantization)

    def _tensor(self, shape: tuple[int, ...], dtype: int, buffer: int, quantization: int, name: str = "") -> int:
        text, sizes = self.builder.CreateString(name or f"constant{len(self.tensors)}"), _ints(self.builder, shape)
        fields = [
            (0, "Offset", sizes),
            (1, "Int8", dtype),
            (2, "Uint32", buffer),
            (3, "Offset", text),
            (4, "Offset", quantization),
        ]
        self.tensors.append(_table(self.builder, 10, [field for field in fields if field[1] != "Offset" or field[2]]))
        return len(self.tensors) - 1

    def _quantization(self, scales: np.ndarray, axis: int) -> int:
        scale = self.builder.CreateNumpyVector(scales)
        zero = self.builder.CreateNumpyVector(np.zeros(len(scales), np.int64))
        return _table(self.builder, 7, [(2, "Offset", scale), (3, "Offset", zero), (6, "Int32", axis)])


def _options(layer: Layer, bounded: bool) -> list[tuple[int, str, Any]]:
    activation = _RELU6 if bounded else 0
    if layer.operator == "conv":
        return [(1, "Int32", layer.stride), (2, "Int32", layer.stride), (3, "Int8", activation)]
    if layer.operator == "depthwise":
        return [(1, "Int32", layer.stride), (2, "Int32", layer.stride), (3, "Int32", 1), (4, "Int8", activation)]
    return [(0, "Bool", True)] if layer.operator == "pool" else []


def _table(builder: Builder, num_fields: int, fields: Sequence[tuple[int, str, Any]]) -> int:
    builder.StartObject(num_fields)
    for slot, kind, value in fields:
        # Defaults are written out: a field equal to the schema's default may be left out, but need not.
        if kind == "Offset":
            builder.PrependUOffsetTRelativeSlot(slot, value, 0)
        else:
            getattr(builder, f"Prepend{kind}Slot")(slot, value, None)
    offset: int = builder.EndObject()
    return offset


def _ints(builder: Builder, values: Sequence[int]) -> int:
    offset: int = builder.CreateNumpyVector(np.asarray(values, np.int32))
    return offset


def _offsets(builder: Builder, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    vector: int = builder.EndVector()
    return vector
