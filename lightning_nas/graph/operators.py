"""Layers of PyTorch operators, from their arguments and the shapes that they ran on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from lightning_nas.graph.layer import Form, Layer, Operator

__all__ = ["ALIASES", "layer_of", "other_layer", "plain"]

ALIASES = frozenset(
    (
        "_reshape_alias",
        "_to_copy",
        "_unsafe_view",
        "alias",
        "as_strided_",
        "clone",
        "contiguous",
        "detach",
        "dropout",
        "expand",
        "flatten",
        "lift_fresh",
        "permute",
        "reshape",
        "squeeze",
        "t",
        "transpose",
        "unsqueeze",
        "view",
    )
)
"""Operators after which the values are the same; accelerators fold layouts into what reads them."""

Size = tuple[int, int]
Arguments = Sequence[Any]


def layer_of(name: str, args: Arguments, inputs: Sequence[Tensor], output: object) -> Layer | None:
    """Return the layer of an operator, or None if it has no cost model.

    Args:
        name: Name of the operator, without its overload.
        args: Its arguments.
        inputs: Those of its arguments that depend on the image.
        output: Its result.
    """
    result = output[0] if isinstance(output, tuple) else output
    # Names of operators that run in place end with an underscore.
    maker = _MAKERS.get(name.removesuffix("_"))
    return maker(args, inputs, result) if maker and isinstance(result, Tensor) else None


def other_layer(name: str, args: Arguments, inputs: Sequence[Tensor], output: object) -> Layer:
    """Return the layer of an operator without a cost model, described by the values that go in and out."""
    items = output if isinstance(output, tuple | list) else (output,)
    results = [item for item in items if isinstance(item, Tensor)]
    constants = [arg for arg in args if isinstance(arg, Tensor) and not any(arg is tensor for tensor in inputs)]
    height, width, channels = _hwc(results[0])
    num_values = sum(tensor.numel() for tensor in constants)
    form = Form((height, width), variant=name, num_values=num_values)
    return Layer("other", *_hwc(inputs[0]), channels * len(results), form=form)


def plain(layer: Layer) -> Layer:
    """Return a convolution without its form if kernel and stride describe it completely, as for most."""
    form = layer.form
    if layer.operator not in ("conv", "depthwise") or form is None:
        return layer
    kernel, stride = form.window[0], form.step[0]
    groups = layer.in_channels if layer.operator == "depthwise" else 1
    short = dataclasses.replace(layer, kernel=kernel, stride=stride, form=None)
    square = form.window == (kernel, kernel) and form.step == (stride, stride) and kernel % 2 == 1
    multiplied = layer.operator == "depthwise" and layer.in_channels != layer.out_channels
    return short if square and short.out_shape == layer.out_shape and _is_dense(form, groups, multiplied) else layer


def _is_dense(form: Form, groups: int, multiplied: bool) -> bool:
    return form.dilation == 1 and form.groups == groups and not multiplied


def _convolution(args: Arguments, inputs: Sequence[Tensor], output: Tensor) -> Layer | None:
    image, weight, _, stride, _, dilation, transposed, _, groups = args
    # A convolution whose filter depends on the image has no weights of its own.
    if image.ndim != 4 or len(set(dilation)) != 1 or inputs[0] is not image:
        return None
    step = tuple(stride)
    form = Form(_size(output), _size(weight), (step[0], step[-1]), dilation[0], groups)
    operator: Operator = "depthwise" if 1 < groups == image.shape[1] else "conv"
    operator = "transposed_conv" if transposed else operator
    return Layer(operator, *_hwc(image), output.shape[1], form=form)


def _elementwise(operator: Operator) -> Callable[[Arguments, Sequence[Tensor], Tensor], Layer]:
    def make(args: Arguments, inputs: Sequence[Tensor], output: Tensor) -> Layer:
        shape = _hwc(output)
        if len(inputs) == 1 and not (isinstance(args[1], Tensor) and args[1] is args[0]):
            constant = next((arg for arg in args if isinstance(arg, Tensor) and arg is not inputs[0]), None)
            num_values = 0 if constant is None else constant.numel()
            return Layer("activation", *shape, shape[2], form=Form(shape[:2], variant="scale", num_values=num_values))
        same = len({tuple(tensor.shape) for tensor in inputs}) == 1
        if operator == "add" and same:
            return Layer("add", *shape, shape[2])
        return Layer(operator, *shape, shape[2], form=Form(shape[:2], variant="" if same else "broadcast"))

    return make


def _activation(variant: str) -> Callable[[Arguments, Sequence[Tensor], Tensor], Layer]:
    def make(args: Arguments, inputs: Sequence[Tensor], output: Tensor) -> Layer:
        shape = _hwc(output)
        return Layer("activation", *shape, shape[2], form=Form(shape[:2], variant=variant))

    return make


def _prelu(args: Arguments, inputs: Sequence[Tensor], output: Tensor) -> Layer:
    shape = _hwc(output)
    return Layer("activation", *shape, shape[2], form=Form(shape[:2], variant="prelu", num_values=args[1].numel()))


def _norm(variant: str) -> Callable[[Arguments, Sequence[Tensor], Tensor], Layer]:
    def make(args: Arguments, inputs: Sequence[Tensor], output: Tensor) -> Layer:
        shape = _hwc(output)
        return Layer("norm", *shape, shape[2], form=Form(shape[:2], variant=variant))

    return make


def _layer_norm(args: Arguments, inputs: Sequence[Tensor], output: Tensor) -> Layer | None:
    # Over channels alone, as of maps whose channels are last.
    over_channels = len(args[1]) == 1 and args[1][0] == _hwc(output)[2]
    return _norm("layer_norm")(args, inputs, output) if over_channels else None


def _mean(args: Arguments, inputs: Sequence[Tensor], output: Tensor) -> Layer | None:
    image, dims = args[0], args[1] if len(args) > 1 else ()
    if image.ndim != 4 or {dim % 4 for dim in dims or ()} != {2, 3}:
        return None
    return Layer("pool", *_hwc(image), image.shape[1])


def _adaptive_pool(args: Arguments, inputs: Sequence[Tensor], output: Tensor) -> Layer | None:
    image, size = args[0], _size(output)
    if size == (1, 1):
        return Layer("pool", *_hwc(image), image.shape[1])
    window = image.shape[2] // size[0], image.shape[3] // size[1]
    # Windows of unlike sizes are no single pool.
    if _size(image) != (window[0] * size[0], window[1] * size[1]):
        return None
    return Layer("avg_pool", *_hwc(image), image.shape[1], form=Form(size, window, window))


def _pool(operator: Operator) -> Callable[[Arguments, Sequence[Tensor], Tensor], Layer | None]:
    def make(args: Arguments, inputs: Sequence[Tensor], output: Tensor) -> Layer | None:
        image = args[0]
        # A dilated pool has no model.
        if operator == "max_pool" and len(args) > 4 and set(args[4]) != {1}:
            return None
        window = _pair(args[1])
        step = _pair(args[2]) if len(args) > 2 and args[2] else window
        return Layer(operator, *_hwc(image), image.shape[1], form=Form(_size(output), window, step))

    return make


def _resize(variant: str) -> Callable[[Arguments, Sequence[Tensor], Tensor], Layer]:
    def make(args: Arguments, inputs: Sequence[Tensor], output: Tensor) -> Layer:
        return Layer("resize", *_hwc(args[0]), output.shape[1], form=Form(_size(output), variant=variant))

    return make


def _concatenation(args: Arguments, inputs: Sequence[Tensor], output: Tensor) -> Layer:
    shape = _hwc(output)
    return Layer("concat", *shape, shape[2], form=Form(shape[:2]))


def _linear(args: Arguments, inputs: Sequence[Tensor], output: Tensor) -> Layer | None:
    features = inputs[0]
    if len(inputs) != 1 or output.ndim != features.ndim or features.ndim not in (2, 4):
        return None
    if features.ndim == 4:  # on every pixel of a map whose channels were last
        return Layer("conv", *_hwc(features), output.shape[1], form=Form(_size(output)))
    return Layer("linear", 1, 1, features.shape[1], output.shape[1])


def _padding(args: Arguments, inputs: Sequence[Tensor], output: Tensor) -> Layer | None:
    image, amounts = args[0], args[1]
    # Only what convolutions and pools could do: of rows and columns, by zeros or by what is never the largest.
    if image.ndim != 4 or any(amounts[4:]) or (len(args) > 2 and args[2] not in (0, float("-inf"))):
        return None
    return Layer("other", *_hwc(image), image.shape[1], form=Form(_size(output), variant="pad"))


def _hwc(tensor: Tensor) -> tuple[int, int, int]:
    """Return height, width and channels as an accelerator sees them: batches of one, channels last."""
    shape = tensor.shape
    if len(shape) == 4:
        return shape[2], shape[3], shape[1]
    if len(shape) == 3:
        return shape[1], 1, shape[0] * shape[2]  # heads of attention, or a batch of one
    return 1, 1, math.prod(shape)


def _size(tensor: Tensor) -> Size:
    return tensor.shape[2], tensor.shape[3]


def _pair(values: Sequence[int]) -> Size:
    return values[0], values[-1]


_Maker = Callable[[Arguments, Sequence[Tensor], Tensor], "Layer | None"]
_MAKERS: dict[str, _Maker] = {
    "convolution": _convolution,
    "add": _elementwise("add"),
    "sub": _elementwise("add"),
    "mul": _elementwise("mul"),
    "div": _elementwise("mul"),
    "mean": _mean,
    "_adaptive_avg_pool2d": _adaptive_pool,
    "adaptive_avg_pool2d": _adaptive_pool,
    "avg_pool2d": _pool("avg_pool"),
    "max_pool2d": _pool("max_pool"),
    "max_pool2d_with_indices": _pool("max_pool"),
    "upsample_bilinear2d": _resize("bilinear"),
    "upsample_nearest2d": _resize("nearest"),
    "cat": _concatenation,
    "addmm": _linear,
    "mm": _linear,
    "linear": _linear,
    "constant_pad_nd": _padding,
    "native_batch_norm": _norm("batch_norm"),
    "_native_batch_norm_legit_no_training": _norm("batch_norm"),
    "cudnn_batch_norm": _norm("batch_norm"),
    "native_group_norm": _norm("group_norm"),
    "native_layer_norm": _layer_norm,
    "prelu": _prelu,
    "_prelu_kernel": _prelu,
    "clamp": _activation("clamp"),
    "clamp_min": _activation("clamp"),
    "hardtanh": _activation("clamp"),
    **{
        name: _activation(name)
        for name in ("relu", "silu", "hardswish", "hardsigmoid", "sigmoid", "tanh", "gelu", "leaky_relu", "elu", "mish")
    },
}
