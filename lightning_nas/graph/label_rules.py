"""Rules of labels by operator: which channels go on, which merge, which end and which are frozen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lightning_nas.graph.channels import NO_CHANNEL, per_index, spread
from lightning_nas.graph.labelling import MOVES, Call, Labelling
from lightning_nas.graph.tensors import tensors_in

__all__ = ["apply_rule"]


def apply_rule(found: Labelling, call: Call) -> list[Tensor]:
    """Return the labels of an operator's outputs, and merge, begin and freeze channels as it asks.

    Args:
        found: What is known so far; changed in place.
        call: The operator as it ran.
    """
    rule = _RULES.get(call.name)
    try:
        labels = rule(found, call) if rule else None
    except (RuntimeError, ValueError, IndexError, TypeError):  # a form of the operator that the rule does not know
        labels = None
    return _opaque(found, call, f"the operator {call.name!r}") if labels is None else labels


Result = list[Tensor] | None
"""Labels of the outputs, or None where the operator cannot be followed."""


def _opaque(found: Labelling, call: Call, reason: str) -> list[Tensor]:
    """Freeze all channels that an operator reads, and give its outputs one frozen channel each."""
    where = f"{reason} at {call.path!r} cannot be followed"
    for labels in call.labels.values():
        found.channels.freeze(labels, where)
    outputs = []
    for output in call.outputs:
        label = found.channels.fresh(1)
        found.channels.freeze(label, where)
        outputs.append(label.view([1] * output.ndim).expand(output.shape))
    return outputs


def _move(found: Labelling, call: Call) -> Result:
    """Run the operator on the labels."""
    first = call.labels[id(call.tracked[0])]
    if call.name == "stack":
        # What is stacked has one shape.
        for tensor in call.tracked[1:]:
            found.channels.merge(first, call.labels[id(tensor)])
    if call.name in ("_to_copy", "dropout", "native_dropout"):
        return [first] * len(call.outputs)

    def labelled(value: object) -> object:
        if isinstance(value, Tensor):
            if id(value) in call.labels:
                return call.labels[id(value)]
            return torch.full_like(value, NO_CHANNEL, dtype=torch.int64) if value.is_floating_point() else value
        return [labelled(item) for item in value] if isinstance(value, list | tuple) else value

    args = [labelled(arg) for arg in call.args]
    try:
        moved = call.func(*args, **call.kwargs)
    except RuntimeError:  # a view of labels that are repeated without memory of their own
        solid = [arg.contiguous() if isinstance(arg, Tensor) else arg for arg in args]
        moved = call.func(*solid, **call.kwargs)
    parts = tensors_in(moved)
    if call.name in ("split", "unsafe_split", "chunk") and len({part.shape for part in parts}) == 1 < len(parts):
        # Code that splits a tensor into equal parts needs them to stay equal.
        for part in parts[1:]:
            found.channels.merge(parts[0], part)
        parts = [found.channels.find(part) for part in parts]
    return parts


def _restride(found: Labelling, call: Call) -> Result:
    """Keep the labels of a single pixel, whose strides alone a global pool changes."""
    labels = call.labels[id(call.tracked[0])]
    is_same = labels.shape == call.outputs[0].shape and sum(size > 1 for size in labels.shape) <= 1
    return [labels] if is_same else None


def _pad(found: Labelling, call: Call) -> Result:
    labels = call.labels[id(call.tracked[0])]
    if call.name == "constant_pad_nd":
        padded: Tensor = call.func(labels, call.args[1], NO_CHANNEL)
        return [padded]
    return [spread(per_index(found.channels, labels, 1), call.outputs[0].shape, 1)]


def _elementwise(found: Labelling, call: Call) -> Result:
    """Merge what meets; a dimension along which an operand is repeated has no channels of that operand."""
    shape = call.outputs[0].shape
    if any(output.shape != shape for output in call.outputs):
        return None
    operands = [(_aligned_shape(t, shape), call.labels[id(t)].expand(shape)) for t in call.tracked]
    base: Tensor | None = None
    for own, labels in operands:
        repeated = [dim for dim in range(len(shape)) if own[dim] == 1 and shape[dim] > 1]
        others = [other for _, other in operands if other is not labels]
        if any(_varies(other, dim) for dim in repeated for other in others):
            continue  # such as a gate of one channel over maps of many
        if base is None:
            base = labels
        else:
            found.channels.merge(base, labels)
            base = torch.where(base < 0, labels, base) if bool((base < 0).any()) else base
    if base is None:
        return None
    base = found.channels.find(base)
    for constant in call.constants:
        if constant.numel() > 1:
            _meet(found, constant, base, call.path)
    return [found.channels.find(base)] * len(call.outputs)


def _meet(found: Labelling, constant: Tensor, labels: Tensor, path: str) -> None:
    """Note that a constant tensor meets labels element by element: its dimensions are slots, or freeze the labels."""
    own = _aligned_shape(constant, labels.shape)
    varying = [dim for dim in range(labels.ndim) if _varies(labels, dim) and own[dim] > 1]
    if not varying:
        return
    view = found.view_of(constant)
    if view is None or len(varying) > 1 or constant.numel() != own[varying[0]]:
        found.channels.freeze(labels, f"a constant of as many values is used at {path!r}")
        return
    row = per_index(found.channels, labels, varying[0])
    if view.dims is not None and found.add_slot(constant, varying[0] - (labels.ndim - constant.ndim), row):
        return
    places = view.places().reshape(-1)
    dims = [dim for dim, size in enumerate(view.shape) if size == len(row)]
    if len(dims) != 1 or not torch.equal(places, torch.arange(len(row))):
        found.channels.freeze(labels, f"a rearranged parameter is used at {path!r}")
        return
    slot = (view.name, dims[0])
    if slot in found.slots:
        found.channels.merge(found.slots[slot], row)
    found.slots[slot] = found.channels.find(row)


def _prelu(found: Labelling, call: Call) -> Result:
    (image,) = call.tracked
    labels = call.labels[id(image)]
    (weight,) = call.constants
    if weight.numel() > 1 and weight.ndim > 1:  # as it is spread over the channels
        _meet(found, weight, labels, call.path)
    elif weight.numel() > 1 and not found.add_slot(weight, 0, per_index(found.channels, labels, 1)):
        found.channels.freeze(labels, f"an activation of computed weights is used at {call.path!r}")
    return [found.channels.find(labels)]


def _pool(found: Labelling, call: Call) -> Result:
    labels = call.labels[id(call.tracked[0])]
    row = per_index(found.channels, labels, labels.ndim - 3)
    return [spread(row, output.shape, output.ndim - 3) for output in call.outputs]


def _batch_norm(found: Labelling, call: Call) -> Result:
    image = call.tracked[0]
    row = per_index(found.channels, call.labels[id(image)], 1)
    _norm_slots(found, call, row)
    labels = spread(found.channels.find(row), call.outputs[0].shape, 1)
    return [labels, *(_none(output) for output in call.outputs[1:])]


def _layer_norm(found: Labelling, call: Call) -> Result:
    image = call.tracked[0]
    normalised = call.args[1]
    if not isinstance(normalised, list | tuple) or len(normalised) != 1:
        return None
    row = per_index(found.channels, call.labels[id(image)], image.ndim - 1)
    _norm_slots(found, call, row)
    labels = spread(found.channels.find(row), image.shape, image.ndim - 1)
    return [labels, *(_none(output) for output in call.outputs[1:])]


def _group_norm(found: Labelling, call: Call) -> Result:
    labels = call.labels[id(call.tracked[0])]
    row = per_index(found.channels, labels, 1)
    num_groups = call.args[6] if call.name == "native_group_norm" else call.args[1]
    if isinstance(num_groups, int):
        # The channels that are normalised together stay or go as a whole.
        bundles = row.view(num_groups, -1)
        found.channels.merge(bundles[:, :1].expand_as(bundles), bundles)
    _norm_slots(found, call, row)
    return [found.channels.find(labels), *(_none(output) for output in call.outputs[1:])]


def _norm_slots(found: Labelling, call: Call, row: Tensor) -> None:
    for constant in call.constants:
        if constant.numel() == len(row) and found.add_slot(constant, 0, row):
            continue
        if constant.numel() > 1:
            found.channels.freeze(row, f"a norm of computed values is used at {call.path!r}")


def _convolution(found: Labelling, call: Call) -> Result:
    image, weight, bias, _, _, _, transposed, _, groups = call.args
    if not (isinstance(image, Tensor) and isinstance(weight, Tensor) and isinstance(groups, int)):
        return None
    if id(image) not in call.labels or found.view_of(weight) is None or len(call.tracked) > 1:
        return _opaque(found, call, "a convolution by computed weights")
    channels = found.channels
    inner, outer = per_index(channels, call.labels[id(image)], 1), channels.fresh(call.outputs[0].shape[1])
    in_dim, out_dim = (0, 1) if transposed else (1, 0)
    if groups == 1:
        found.add_slot(weight, in_dim, inner)
        found.add_slot(weight, out_dim, outer)
    elif transposed:
        reason = f"a transposed convolution of groups is used at {call.path!r}"
        channels.freeze(inner, reason)
        channels.freeze(outer, reason)
    else:
        # A group of channels stays or goes as a whole, with what it gives.
        read, given = inner.view(groups, -1), outer.view(groups, -1)
        channels.merge(read[:, :1].expand_as(read), read)
        channels.merge(read[:, :1].expand_as(given), given)
        found.add_slot(weight, out_dim, outer)
    if isinstance(bias, Tensor) and not found.add_slot(bias, 0, outer):
        channels.freeze(outer, f"a computed bias is used at {call.path!r}")
    return [spread(channels.find(outer), call.outputs[0].shape, 1)]


def _linear(found: Labelling, call: Call) -> Result:
    bias, image, weight = {
        "addmm": lambda: call.args[:3],
        "mm": lambda: (None, *call.args[:2]),
        "linear": lambda: (call.args[2] if len(call.args) > 2 else None, *call.args[:2]),
    }[call.name]()
    if not (isinstance(image, Tensor) and isinstance(weight, Tensor)) or id(image) not in call.labels:
        return None
    view = found.view_of(weight)
    if view is None or view.dims is None or len(call.tracked) > 1:
        return _opaque(found, call, "a product of two activations")
    labels = call.labels[id(image)]
    inner = per_index(found.channels, labels, labels.ndim - 1)
    outer = found.channels.fresh(call.outputs[0].shape[-1])
    in_dim = 1 if call.name == "linear" else 0
    found.add_slot(weight, in_dim, inner)
    found.add_slot(weight, 1 - in_dim, outer)
    if isinstance(bias, Tensor) and bias.ndim and not found.add_slot(bias, bias.ndim - 1, outer):
        found.channels.freeze(outer, f"a computed bias is used at {call.path!r}")
    return [spread(found.channels.find(outer), call.outputs[0].shape, call.outputs[0].ndim - 1)]


def _batch_product(found: Labelling, call: Call) -> Result:
    """Let the channels of each head of attention stay or go as a whole: its products mix them."""
    if len(call.tracked) != 2 or call.tracked[0].shape[0] == 1:
        return None
    first, second = (per_index(found.channels, call.labels[id(tensor)], 0) for tensor in call.tracked)
    found.channels.merge(first, second)
    return [spread(found.channels.find(first.maximum(second)), call.outputs[0].shape, 0)]


def _reduction(found: Labelling, call: Call) -> Result:
    """Reductions over space keep channels; over channels, any number of them will do."""
    image = call.tracked[0]
    labels, ndim = call.labels[id(image)], image.ndim
    given = call.kwargs.get("dim", call.args[1] if len(call.args) > 1 else None)
    if call.name in ("linalg_vector_norm", "norm"):
        given = call.kwargs.get("dim", call.args[2] if len(call.args) > 2 else None)
    dims: Sequence[int] = [given] if isinstance(given, int) else given if isinstance(given, list | tuple) else ()
    dims = sorted({dim % ndim for dim in dims}) or list(range(ndim))
    for dim in dims:
        first = labels.narrow(dim, 0, 1)
        labels = torch.full_like(first, NO_CHANNEL) if _varies(labels, dim) else first
    results = []
    for output in call.outputs:
        kept = labels if output.ndim == ndim else labels.squeeze(tuple(dims))
        results.append(kept.expand(output.shape) if kept.ndim == output.ndim else _none(output))
    return results


def _softmax(found: Labelling, call: Call) -> Result:
    return [call.labels[id(call.tracked[0])]]


def _none(output: Tensor) -> Tensor:
    return torch.full((), NO_CHANNEL).expand(output.shape)


def _aligned_shape(tensor: Tensor, shape: torch.Size) -> tuple[int, ...]:
    """Return the shape of a tensor with leading ones, as broadcasting aligns it."""
    return (1,) * (len(shape) - tensor.ndim) + tuple(tensor.shape)


def _varies(labels: Tensor, dim: int) -> bool:
    """Return whether labels differ along a dimension."""
    if labels.shape[dim] == 1 or labels.stride(dim) == 0:
        return False
    return not torch.equal(labels.narrow(dim, 0, 1).expand_as(labels), labels)


def _named(rule: Callable[[Labelling, Call], Result], names: str) -> dict[str, Callable[[Labelling, Call], Result]]:
    return dict.fromkeys(names.split(), rule)


_RULES = {
    **_named(_move, " ".join(MOVES)),
    **_named(_restride, "as_strided"),
    **_named(_pad, "constant_pad_nd reflection_pad2d replication_pad2d"),
    **_named(
        _elementwise,
        """abs add addcmul bernoulli celu clamp clamp_max clamp_min copy cos div elu empty_like eq erf exp fill floor ge
        gelu gt hardsigmoid hardswish hardtanh le leaky_relu lerp log log1p logical_and logical_not logical_or lt
        masked_fill maximum minimum mish mul ne neg ones_like pow reciprocal relu relu6 remainder round rsqrt rsub selu
        sigmoid sign silu sin softplus sqrt square sub tanh where zeros_like""",
    ),
    **_named(_prelu, "prelu _prelu_kernel"),
    **_named(
        _pool,
        """_adaptive_avg_pool2d _upsample_bilinear2d_aa _upsample_nearest_exact2d adaptive_avg_pool2d
        adaptive_max_pool2d avg_pool2d max_pool2d max_pool2d_with_indices upsample_bicubic2d upsample_bilinear2d
        upsample_nearest2d""",
    ),
    **_named(
        _batch_norm,
        """_batch_norm_no_update _native_batch_norm_legit _native_batch_norm_legit_no_training batch_norm
        cudnn_batch_norm native_batch_norm""",
    ),
    **_named(_layer_norm, "layer_norm native_layer_norm"),
    **_named(_group_norm, "group_norm native_group_norm"),
    **_named(_convolution, "convolution"),
    **_named(_linear, "addmm linear mm"),
    **_named(_batch_product, "bmm"),
    **_named(_reduction, "amax amin linalg_vector_norm max mean min norm std sum var var_mean"),
    **_named(_softmax, "_log_softmax _softmax log_softmax softmax"),
}
