"""Lowering to the operators of int8 runtimes, where some activations take more than one."""

from __future__ import annotations

import dataclasses

from lightning_nas.graph.layer import Form, Layer
from lightning_nas.graph.network import IMAGE, Network, Operation

__all__ = ["lowered", "lowered_with_numbers"]


def lowered(network: Network) -> Network:
    """Return the network with SiLU as a sigmoid and a product, and a hard sigmoid as a bounded sum and a product.

    Example::

        >>> silu = Layer("activation", 8, 8, 16, 16, form=Form((8, 8), variant="silu"))
        >>> network = Network((8, 8, 16), (Operation(silu, (IMAGE,)),), (0,))
        >>> [(operation.layer.operator, operation.inputs) for operation in lowered(network).operations]
        [('activation', (-1,)), ('mul', (-1, 0))]
    """
    return lowered_with_numbers(network)[0]


def lowered_with_numbers(network: Network) -> tuple[Network, tuple[int, ...]]:
    """Return the lowered network, and for each of its operations the number of the one that it is a part of."""
    operations: list[Operation] = []
    numbers: list[int] = []
    places = {IMAGE: IMAGE}
    for number, operation in enumerate(network.operations):
        operation = dataclasses.replace(operation, inputs=tuple(places[source] for source in operation.inputs))
        parts = _lowered(operation, len(operations))
        operations.extend(parts)
        numbers += [number] * len(parts)
        places[number] = len(operations) - 1
    outputs = tuple(places[number] for number in network.outputs)
    return Network(network.image_shape, tuple(operations), outputs), tuple(numbers)


def _lowered(operation: Operation, number: int) -> tuple[Operation, ...]:
    """Return what an operation runs as, the first of it with the given number."""
    layer, form = operation.layer, operation.layer.form
    if layer.operator != "activation" or form is None or form.variant not in ("silu", "hardsigmoid"):
        return (operation,)
    if form.variant == "silu":
        product = dataclasses.replace(layer, operator="mul", form=Form(form.out_size))
        gate = dataclasses.replace(operation, layer=_variant(layer, "sigmoid"))
        return gate, dataclasses.replace(operation, layer=product, inputs=(*operation.inputs, number))
    offset = dataclasses.replace(operation, layer=_variant(layer, "offset"), is_bounded=True)
    return offset, dataclasses.replace(operation, layer=_variant(layer, "scale"), inputs=(number,))


def _variant(layer: Layer, variant: str) -> Layer:
    assert layer.form is not None  # activations always have one
    return dataclasses.replace(layer, form=dataclasses.replace(layer.form, variant=variant))
