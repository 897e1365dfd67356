"""A subgraph between neighbours, as it stands in a network."""

from __future__ import annotations

from dataclasses import replace

from lightning_nas.graph.layer import Form, Layer
from lightning_nas.graph.network import IMAGE, Network, Operation
from lightning_nas.graph.subgraph import Subgraph

__all__ = ["in_context"]


def in_context(subgraph: Subgraph) -> tuple[Network, int]:
    """Return a network with a subgraph between pointwise convolutions, and the number of its first operation there.

    What is joined, added or multiplied comes from such convolutions too.

    Example::

        >>> network, first = in_context(Subgraph("mul", 8, 8, 16, 16, 16))
        >>> [operation.layer.operator for operation in network.operations], first
        (['conv', 'conv', 'mul', 'conv'], 2)
    """
    return _Context(subgraph).run()


class _Context:
    def __init__(self, subgraph: Subgraph) -> None:
        self.subgraph = subgraph
        self.shape = (subgraph.height, subgraph.width, subgraph.in_channels)
        self.operations: list[Operation] = []

    def run(self) -> tuple[Network, int]:
        sources = self._sources()
        part = self.subgraph
        first, operand = len(self.operations), sources[-1]
        if part.residual:
            sources = sources[:1]
        bounded_end = part.kind in ("stem", "conv") and not part.residual
        for number, layer in enumerate(part.layers):
            inputs = sources if not number else (len(self.operations) - 1,)
            inputs = (inputs[0], operand) if layer.operator == "add" else inputs
            self.operations.append(Operation(layer, inputs, part.path, number < len(part.layers) - 1 or bounded_end))
        if part.kind not in ("head", "classifier"):
            self._pointwise(part.out_shape, part.out_shape[2], len(self.operations) - 1)
        return Network(self.shape, tuple(self.operations), (len(self.operations) - 1,)), first

    def _sources(self) -> tuple[int, ...]:
        """Add what comes before, and return what the first operator reads; the last is also what is added."""
        part, channels = self.subgraph, self.shape[2]
        if part.kind == "stem":
            return (IMAGE,)
        if part.kind in ("add", "mul", "concat"):
            if part.kind == "concat" and self.shape[1] == 1 < self.shape[0]:
                return self._joined_rows()
            halves = (channels // 2, channels - channels // 2) if part.kind == "concat" else (channels, channels)
            one = self._pointwise(self.shape, halves[0], IMAGE)
            two = self._pointwise(self.shape, halves[1], IMAGE)
            if part.form is not None and part.form.variant == "broadcast":
                self.operations.append(Operation(Layer("pool", *self.shape, channels), (two,)))
                two += 1
            return one, two
        entry = self._pointwise(self.shape, channels, IMAGE)
        if not part.residual or part.out_shape == self.shape:
            return (entry,)
        # What is added comes from elsewhere.
        layer = Layer("conv", *self.shape, part.out_shape[2], stride=part.stride)
        self.operations.append(Operation(layer, (IMAGE,)))
        return entry, entry + 1

    def _joined_rows(self) -> tuple[int, ...]:
        """Join two of half the rows each, as heads of detectors are joined."""
        rows, _, channels = self.shape
        self.shape = (-(-rows // 2), 1, channels)
        form = Form((2 * self.shape[0], 1))
        self.subgraph = replace(self.subgraph, height=form.out_size[0], form=form)
        return self._pointwise(self.shape, channels, IMAGE), self._pointwise(self.shape, channels, IMAGE)

    def _pointwise(self, shape: tuple[int, int, int], out_channels: int, source: int) -> int:
        # What runs before an activation has none of its own, and can have that folded into it.
        is_bounded = self.subgraph.kind != "activation"
        self.operations.append(Operation(Layer("conv", *shape, out_channels), (source,), is_bounded=is_bounded))
        return len(self.operations) - 1
