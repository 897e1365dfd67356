"""Author ONNX files of networks with random weights, in float or in int8, for runtimes that read them.

In int8 every tensor goes through a pair of QuantizeLinear and DequantizeLinear, which runtimes fold into operators of
int8: what exporters of quantised networks write. A bounded result needs no other operator then: its scale ends at 6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from lightning_nas.estimator.measure.backends.runnable import joins_rows, paddings
from lightning_nas.graph.layer import Layer
from lightning_nas.graph.network import IMAGE, Network, Operation

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

__all__ = ["author"]

_OPSET = 17
_NODES = {
    "conv": "Conv",
    "depthwise": "Conv",
    "transposed_conv": "ConvTranspose",
    "linear": "Gemm",
    "add": "Add",
    "mul": "Mul",
    "concat": "Concat",
    "pool": "GlobalAveragePool",
    "avg_pool": "AveragePool",
    "max_pool": "MaxPool",
    "resize": "Resize",
}
_ACTIVATIONS = {
    "relu": "Relu",
    "clamp": "Clip",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "hardswish": "HardSwish",
    "hardsigmoid": "HardSigmoid",
    "leaky_relu": "LeakyRelu",
    "elu": "Elu",
    "scale": "Mul",
    "prelu": "PRelu",
}
_Ends: TypeAlias = tuple[float | np.ndarray, int | np.ndarray]
"""Scale and zero point of a tensor: one for all of its values, or one an entry of an axis."""

# Scale and zero point of uint8 activations: bounded ones, all others.
_BOUNDED, _USUAL = (6 / 255, 0), (0.05, 128)
_WEIGHT_SCALE = 0.002


def author(network: Network, precision: str = "fp32", batch: int = 1) -> bytes:
    """Return the ONNX file of a network.

    Args:
        network: What runs.
        precision: ``fp32`` or ``int8``.
        batch: Images that it takes at once.

    Raises:
        ValueError: An operator cannot be written; the message names its module.
    """
    return _Author(network, precision == "int8", batch).run()


class _Author:
    def __init__(self, network: Network, is_int8: bool, batch: int) -> None:
        self.network, self.is_int8, self.batch = network, is_int8, batch
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.random = np.random.default_rng(0)
        # Names and shapes (NCHW) of what operators read; in int8 the names of what is stored besides.
        self.names: dict[int, str] = {}
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.stored: dict[int, str] = {}

    def run(self) -> bytes:
        from onnx import TensorProto, helper

        height, width, channels = self.network.image_shape
        self.shapes[IMAGE] = (self.batch, channels, height, width)
        self.names[IMAGE] = self._dequantized("image", _USUAL) if self.is_int8 else "image"
        for number, operation in enumerate(self.network.operations):
            self._place(number, operation)
        kind = TensorProto.UINT8 if self.is_int8 else TensorProto.FLOAT
        names = self.stored if self.is_int8 else self.names
        outputs = [
            helper.make_tensor_value_info(names[number], kind, self.shapes[number]) for number in self.network.outputs
        ]
        image = helper.make_tensor_value_info("image", kind, self.shapes[IMAGE])
        graph = helper.make_graph(self.nodes, "network", [image], outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=9)
        return bytes(model.SerializeToString())

    def _place(self, number: int, operation: Operation) -> None:
        """Write an operation, with what is needed before and after it."""
        layer, name = operation.layer, f"@{number}"
        code = _code(operation)
        inputs = [self._as_read(source, layer, f"{name}.{place}") for place, source in enumerate(operation.inputs)]
        if code == "Silu":
            inputs.append(self._rounded(self._node("Sigmoid", inputs, f"{name}.gate"), (1 / 256, 0)))
            code = "Mul"
        constants, attributes = self._constants(layer, code, len(inputs)), _attributes(layer, code)
        if code == "Resize":
            # Between input and sizes, Resize has places for a region and for scales, which stay empty.
            inputs.append("")
        result = self._node(code, [*inputs, *constants], name, **attributes)
        height, width, channels = layer.out_shape
        self.shapes[number] = (self.batch, channels, height, width)
        if layer.operator == "linear":
            sizes = self._constant(np.array(self.shapes[number], np.int64))
            result = self._node("Reshape", [result, sizes], f"{name}.columns")
        if operation.is_bounded and not self.is_int8:
            bounds = [self._constant(np.array(value, np.float32)) for value in (0, 6)]
            result = self._node("Clip", [result, *bounds], f"{name}.bounded")
        self.names[number] = result
        if self.is_int8:
            ends = _BOUNDED if operation.is_bounded or code in ("Clip", "Relu", "Sigmoid", "HardSigmoid") else _USUAL
            self.stored[number] = self._quantized(result, ends)
            self.names[number] = self._dequantized(self.stored[number], ends)

    def _as_read(self, source: int, layer: Layer, name: str) -> str:
        """Return a tensor in the shape that an operator reads: traces leave out what only changes that."""
        height, width, channels = layer.in_shape
        wanted: tuple[int, ...] = (self.batch, channels, height, width)
        if layer.operator == "linear":
            wanted = (self.batch, channels)
        elif layer.operator == "concat" and joins_rows(layer) and self.shapes[source][1] != layer.out_channels:
            wanted = (self.batch, layer.out_channels, -1, 1)
        elif layer.operator not in ("conv", "depthwise", "transposed_conv", "avg_pool", "max_pool"):
            return self.names[source]
        if wanted == self.shapes[source]:
            return self.names[source]
        return self._node("Reshape", [self.names[source], self._constant(np.array(wanted, np.int64))], name)

    def _constants(self, layer: Layer, code: str, num_inputs: int) -> list[str]:
        """Return weights and other constants that an operator reads."""
        variant = layer.form.variant if layer.form is not None else ""
        if code in ("Conv", "ConvTranspose", "Gemm"):
            return self._parameters(layer, code)
        if code == "Clip":
            return [self._constant(np.array(value, np.float32)) for value in (0, 6)]
        if code == "Resize":
            sizes = np.array((self.batch, layer.out_channels, *layer.out_shape[:2]), np.int64)
            return ["", self._constant(sizes)]
        if code == "PRelu":
            return [self._constant(np.full((layer.in_channels, 1, 1), 0.1, np.float32))]
        if code in ("Mul", "Add") and num_inputs == 1:
            full = layer.operator != "activation" and variant != "broadcast"
            height, width = (layer.height, layer.width) if full else (1, 1)
            channels = 1 if layer.operator == "activation" and not layer.num_weights else layer.in_channels
            return [self._operand((1, channels, height, width))]
        return []

    def _operand(self, shape: tuple[int, ...]) -> str:
        if not self.is_int8:
            return self._constant(self.random.random(shape).astype(np.float32))
        return self._dequantized(self._constant(self.random.integers(0, 256, shape).astype(np.uint8)), _USUAL)

    def _parameters(self, layer: Layer, code: str) -> list[str]:
        groups = layer.in_channels if layer.operator == "depthwise" else layer.form.groups if layer.form else 1
        shape: tuple[int, ...] = (layer.out_channels, layer.in_channels // groups, *layer.window)
        if code == "ConvTranspose":
            shape = (layer.in_channels, layer.out_channels // groups, *layer.window)
        if code == "Gemm":
            shape = (layer.out_channels, layer.in_channels)
        if not self.is_int8:
            scale = np.float32(max(1, layer.num_weights / layer.out_channels) ** -0.5)
            weights = self.random.standard_normal(shape, np.float32) * scale
            return [self._constant(weights), self._constant(np.zeros(layer.out_channels, np.float32))]
        weights = np.clip(np.rint(self.random.normal(0, 29, shape)), -127, 127).astype(np.int8)
        axis = 1 if code == "ConvTranspose" else 0
        scales = np.full(shape[axis], _WEIGHT_SCALE, np.float32)
        kernel = self._dequantized(self._constant(weights), (scales, np.zeros(len(scales), np.int8)), axis)
        biases = self._constant(np.zeros(layer.out_channels, np.int32))
        # Biases have the scale of the input times that of the weights, as int8 runtimes add them to the sums.
        scales = np.full(layer.out_channels, _WEIGHT_SCALE * _USUAL[0], np.float32)
        return [kernel, self._dequantized(biases, (scales, np.zeros(len(scales), np.int32)), 0)]

    def _rounded(self, name: str, ends: _Ends) -> str:
        return self._dequantized(self._quantized(name, ends), ends) if self.is_int8 else name

    def _quantized(self, name: str, ends: _Ends) -> str:
        return self._node("QuantizeLinear", [name, *self._ends(ends)], f"{name}.q")

    def _dequantized(self, name: str, ends: _Ends, axis: int | None = None) -> str:
        attributes = {} if axis is None else {"axis": axis}
        return self._node("DequantizeLinear", [name, *self._ends(ends)], f"{name}.dq", **attributes)

    def _ends(self, ends: _Ends) -> list[str]:
        scale, zero = ends
        zeros = zero if isinstance(zero, np.ndarray) else np.array(zero, np.uint8)
        return [self._constant(np.asarray(scale, np.float32)), self._constant(zeros)]

    def _constant(self, values: np.ndarray) -> str:
        from onnx import numpy_helper

        name = f"constant{len(self.constants)}"
        # `ascontiguousarray` gives a scalar a dimension.
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values).reshape(values.shape), name))
        return name

    def _node(self, code: str, inputs: list[str], name: str, **attributes: object) -> str:
        from onnx import helper

        node = helper.make_node(code, inputs, [name], name)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in sorted(attributes.items()))
        self.nodes.append(node)
        return name


def _code(operation: Operation) -> str:
    layer = operation.layer
    variant = layer.form.variant if layer.form is not None else ""
    code = _NODES.get(layer.operator)
    if layer.operator == "activation":
        code = "Silu" if variant == "silu" else _ACTIVATIONS.get(variant)
    if code is None:
        raise ValueError(f"Module {operation.path!r} runs {variant or layer.operator!r}, which cannot be measured.")
    return code


def _attributes(layer: Layer, code: str) -> dict[str, object]:
    if code == "Gemm":
        return {"transB": 1}
    if code == "Concat":
        return {"axis": 2 if joins_rows(layer) else 1}
    if code == "Resize":
        return {"mode": "linear" if layer.form and layer.form.variant == "bilinear" else "nearest"}
    if code not in ("Conv", "ConvTranspose", "AveragePool", "MaxPool"):
        return {}
    step = layer.form.step if layer.form is not None else (layer.stride, layer.stride)
    shape: dict[str, object] = {"kernel_shape": list(layer.window), "strides": list(step)}
    if code == "ConvTranspose":
        assert layer.form is not None  # these always have one
        shape |= {"output_shape": list(layer.form.out_size)}
    else:
        (top, bottom), (left, right) = paddings(layer)
        shape |= {"pads": [top, left, bottom, right]}
    if code in ("AveragePool", "MaxPool"):
        return shape
    groups = layer.in_channels if layer.operator == "depthwise" else layer.form.groups if layer.form else 1
    dilation = layer.form.dilation if layer.form is not None else 1
    return shape | {"group": groups, "dilations": [dilation, dilation]}
