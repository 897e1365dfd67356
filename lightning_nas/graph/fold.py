"""Folding: norms, simple activations and padding become part of the operators that run them, as in compilers."""

from __future__ import annotations

import dataclasses
from collections import Counter

from lightning_nas.graph.layer import BOUNDS, Form, Layer
from lightning_nas.graph.network import IMAGE, Network, Operation
from lightning_nas.graph.operators import plain

__all__ = ["folded", "folded_with_numbers"]

_LINEAR = ("conv", "depthwise", "linear", "transposed_conv")
_PADDED = ("conv", "depthwise", "avg_pool", "max_pool")


def folded(network: Network) -> Network:
    """Return the network with norms, simple activations and padding folded into the operators beside them.

    Only what one operation alone reads is folded into where it comes from: another reader needs the value as it was.
    """
    return folded_with_numbers(network)[0]


def folded_with_numbers(network: Network) -> tuple[Network, tuple[int, ...]]:
    """Return the folded network, and for each of its operations the number that it has in the network as it was."""
    return _Folder(network).run()


class _Folder:
    def __init__(self, network: Network) -> None:
        self.network = network
        self.uses = Counter(number for operation in network.operations for number in operation.inputs)
        self.uses.update(network.outputs)
        self.kept: list[Operation] = []
        self.numbers: list[int] = []
        self.places = {IMAGE: IMAGE}

    def run(self) -> tuple[Network, tuple[int, ...]]:
        for number, operation in enumerate(self.network.operations):
            before = len(self.kept)
            self.places[number] = self._place(operation)
            self.numbers += [number] * (len(self.kept) - before)
        outputs = tuple(self.places[number] for number in self.network.outputs)
        return self._without_unread(Network(self.network.image_shape, tuple(self.kept), outputs))

    def _place(self, operation: Operation) -> int:
        """Fold an operation, or keep it, and return the number that its result has from now on."""
        source = operation.inputs[0] if operation.inputs else IMAGE
        place, variant = self.places[source], operation.layer.form.variant if operation.layer.form else ""
        if place != IMAGE and self.uses[source] == 1:
            before = self.kept[place]
            # A norm behind an activation cannot be folded into what comes before that.
            if variant == "batch_norm" and before.layer.operator in _LINEAR and not before.is_bounded:
                return place
            if variant in BOUNDS and not before.is_bounded and before.layer.operator not in ("activation", "other"):
                self.kept[place] = dataclasses.replace(before, is_bounded=True)
                return place
        layer = operation.layer
        if variant == "batch_norm":
            # A scale and an offset of every channel: what a depthwise convolution of one tap is.
            layer = Layer("depthwise", *layer.in_shape, layer.out_channels)
        inputs = tuple(self.places[number] for number in operation.inputs)
        if layer.operator in _PADDED and place != IMAGE and _is_padding(self.kept[place]):
            inputs = self.kept[place].inputs
            height, width, _ = self.kept[place].layer.in_shape
            layer = dataclasses.replace(layer, height=height, width=width)
        self.kept.append(dataclasses.replace(operation, layer=plain(layer), inputs=inputs))
        return len(self.kept) - 1

    def _without_unread(self, network: Network) -> tuple[Network, tuple[int, ...]]:
        """Leave out padding that is folded into all that read it."""
        read = {number for operation in network.operations for number in operation.inputs} | set(network.outputs)
        kept = [n for n, operation in enumerate(network.operations) if n in read or not _is_padding(operation)]
        places = {IMAGE: IMAGE, **{number: place for place, number in enumerate(kept)}}
        operations = tuple(
            dataclasses.replace(network.operations[n], inputs=tuple(places[i] for i in network.operations[n].inputs))
            for n in kept
        )
        outputs = tuple(places[number] for number in network.outputs)
        return Network(network.image_shape, operations, outputs), tuple(self.numbers[n] for n in kept)


def _is_padding(operation: Operation) -> bool:
    form: Form | None = operation.layer.form
    return operation.layer.operator == "other" and form is not None and form.variant == "pad"
