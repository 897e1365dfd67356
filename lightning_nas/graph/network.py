"""A whole network as data: its layers in order of execution, and which of them feed which."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_nas.graph.layer import Layer
from lightning_nas.graph.subgraph import Subgraph

__all__ = ["IMAGE", "Network", "Operation", "chain"]

IMAGE = -1
"""Number of the network's input among the numbers of operations."""


@dataclass(frozen=True)
class Operation:
    """A layer in its place in a network.

    Attributes:
        layer: What runs.
        inputs: Numbers of the operations whose results it takes; `IMAGE` for the network's input.
        path: Path of the module that runs it.
        is_bounded: Whether a folded activation follows.
    """

    layer: Layer
    inputs: tuple[int, ...]
    path: str = ""
    is_bounded: bool = False


@dataclass(frozen=True)
class Network:
    """Operations in order of execution.

    Attributes:
        image_shape: Height, width and channels of the input.
        operations: What runs; each takes results of earlier ones only.
        outputs: Numbers of the operations whose results the network returns.
    """

    image_shape: tuple[int, int, int]
    operations: tuple[Operation, ...]
    outputs: tuple[int, ...]

    def shape(self, number: int) -> tuple[int, int, int]:
        """Return height, width and channels of what an operation results in, or of the input."""
        return self.image_shape if number == IMAGE else self.operations[number].layer.out_shape

    @property
    def is_classifier(self) -> bool:
        """Whether it returns what one linear layer gives."""
        return [self.operations[number].layer.operator for number in self.outputs if number >= 0] == ["linear"]

    def last_uses(self) -> dict[int, int]:
        """Return for every tensor the number of the last operation that needs it; outputs outlive them all."""
        uses = {number: number for number in range(len(self.operations))}
        for number, operation in enumerate(self.operations):
            uses.update(dict.fromkeys(operation.inputs, number))
        return {**uses, **dict.fromkeys(self.outputs, len(self.operations))}


def chain(parts: Sequence[Subgraph]) -> Network:
    """Return the network of subgraphs of which each feeds the next.

    Raises:
        ValueError: There is none, or the output of a subgraph is not the input of the next.

    Example::

        >>> len(chain([Subgraph("ibn", 8, 8, 16, 96, 16, 3, residual=True, path="block")]).operations)
        4
    """
    if not parts:
        raise ValueError("A network needs at least one subgraph; got none.")
    for first, second in itertools.pairwise(parts):
        expected = (second.height, second.width, second.in_channels)
        if first.out_shape != expected:
            raise ValueError(f"{second} cannot follow {first}, whose output is {first.out_shape}.")
    for part in parts:
        if part.residual and part.out_shape != (part.height, part.width, part.in_channels):
            raise ValueError(f"{part} adds what is not its input, and so cannot stand in a chain.")
    operations: list[Operation] = []
    for part in parts:
        entry = len(operations) - 1
        for number, layer in enumerate(part.layers):
            inputs = (len(operations) - 1, *((entry,) if layer.operator == "add" else ()))
            # What is added is not bounded before, so that it is split into the same subgraphs again.
            last = len(part.layers) - 1 - part.residual
            bounded = number < last or (part.kind in ("stem", "conv") and not part.residual)
            operations.append(Operation(layer, inputs, part.path, bounded))
    first = parts[0]
    return Network((first.height, first.width, first.in_channels), tuple(operations), (len(operations) - 1,))
