"""Networks as builtins, for files of architectures and spaces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from lightning_nas.graph.layer import Form, Layer, Operator
from lightning_nas.graph.network import IMAGE, Network, Operation
from lightning_nas.io.reading import JsonObject, listed, only, shown, text, truth, whole

__all__ = ["network_from_dict", "network_to_dict"]

_SIZES = ("height", "width", "in_channels", "out_channels", "kernel", "stride")
_FIELDS = ("operator", "sizes", "form", "inputs", "path", "is_bounded")
_MAX_OPERATIONS = 2**14
# Heads of detectors are joined to one row a place.
_MAX_SIZE = 2**24
_MAX_PATH = 400


def network_to_dict(network: Network) -> dict[str, object]:
    """Return builtins that `network_from_dict` reads back."""
    return {
        "image_shape": list(network.image_shape),
        "operations": [_row(operation) for operation in network.operations],
        "outputs": list(network.outputs),
    }


def network_from_dict(data: object) -> Network:
    """Return the network that `network_to_dict` wrote.

    Raises:
        ValueError: A field is missing or of the wrong form.
    """
    found = only(data, ("image_shape", "operations", "outputs"), "A network")
    height, width, channels = _sizes(found["image_shape"], "image_shape", 3)
    rows = listed(found["operations"], "operations", _MAX_OPERATIONS)
    operations = tuple(_operation(row, place) for place, row in enumerate(rows))
    outputs = listed(found["outputs"], "outputs", _MAX_OPERATIONS)
    numbers = tuple(whole(number, "outputs", len(operations) - 1, least=IMAGE) for number in outputs)
    return Network((height, width, channels), operations, numbers)


def _row(operation: Operation) -> dict[str, object]:
    layer = operation.layer
    return {
        "operator": layer.operator,
        "sizes": [getattr(layer, name) for name in _SIZES],
        "form": "" if layer.form is None else str(layer.form),
        "inputs": list(operation.inputs),
        "path": operation.path,
        "is_bounded": operation.is_bounded,
    }


def _operation(data: object, place: int) -> Operation:
    found: JsonObject = only(data, _FIELDS, "An operation")
    if found["operator"] not in get_args(Operator):
        valid = ", ".join(get_args(Operator))
        raise ValueError(f"`operator` must be one of {valid}; got {shown(found['operator'])}.")
    sizes = dict(zip(_SIZES, _sizes(found["sizes"], "sizes", len(_SIZES)), strict=True))
    written = text(found["form"], "form")
    layer = Layer(found["operator"], **sizes, form=Form.parse(written) if written else None)
    sources = listed(found["inputs"], "inputs", _MAX_OPERATIONS)
    inputs = tuple(whole(number, "inputs", place - 1, least=IMAGE) for number in sources)
    path = text(found["path"], "path", _MAX_PATH)
    return Operation(layer, inputs, path, truth(found["is_bounded"], "is_bounded"))


def _sizes(values: object, name: str, count: int) -> Sequence[int]:
    sizes = listed(values, name, count)
    if len(sizes) != count:
        raise ValueError(f"`{name}` must hold {count} numbers; got {shown(values)}.")
    return [whole(size, name, _MAX_SIZE) for size in sizes]
