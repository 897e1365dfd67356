"""Liveness: the tensors of a network that are held at once, over its order of execution."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lightning_nas.graph.network import IMAGE, Network
from lightning_nas.graph.sizes import NPU_BRICK, stored_values

__all__ = [
    "BRICKS",
    "PLAIN",
    "Layout",
    "live_blocks",
    "live_values",
    "memory_blocks",
    "peak_values",
    "stored_size",
]


@dataclass(frozen=True)
class Layout:
    """The storage of activations on a device.

    Attributes:
        brick: Channels are stored in multiples of it, except those of the network's input and outputs.
        in_place: Whether an operator that works value by value overwrites an input that nothing else needs, and
            whether an activation runs with the operator before it.
    """

    brick: int = 1
    in_place: bool = False


PLAIN = Layout()
"""Of interpreters for microcontrollers and processors, such as TensorFlow Lite Micro."""

BRICKS = Layout(NPU_BRICK, True)
"""Of Arm's Ethos-U and its like."""

_BY_VALUE = ("add", "mul", "activation")


def peak_values(network: Network, layout: Layout) -> int:
    """Return the largest number of values that are live at once.

    Example::

        >>> from lightning_nas.graph.network import chain
        >>> from lightning_nas.graph.subgraph import Subgraph
        >>> block = chain([Subgraph("ibn", 8, 8, 16, 96, 16, 3, residual=True)])
        >>> peak_values(block, BRICKS) == 8 * 8 * (16 + 96 + 96)
        True
    """
    return max(live_values(network, layout), default=0)


def live_values(network: Network, layout: Layout) -> Iterator[int]:
    """Yield for each operation how many values are live while it runs: its inputs, its output, and what waits."""
    sizes = {
        home: max(stored_size(network, number, layout) for number in members)
        for home, members in memory_blocks(network, layout).items()
    }
    for step in live_blocks(network, layout):
        yield sum(sizes[home] for home in step)


def memory_blocks(network: Network, layout: Layout) -> dict[int, list[int]]:
    """Return the blocks of memory of a network, by one of their tensors, each with all tensors that lie there."""
    blocks: dict[int, list[int]] = {}
    for number, home in _homes(network, network.last_uses(), layout).items():
        blocks.setdefault(home, []).append(number)
    return blocks


def live_blocks(network: Network, layout: Layout) -> Iterator[list[int]]:
    """Yield for each operation the blocks of memory that are in use while it runs, see `memory_blocks`."""
    uses = network.last_uses()
    spans = {
        home: (min(members), max(max(number, uses.get(number, number)) for number in members))
        for home, members in memory_blocks(network, layout).items()
    }
    for step in range(len(network.operations)):
        yield [home for home, (start, end) in spans.items() if start <= step <= end]


def _homes(network: Network, uses: dict[int, int], layout: Layout) -> dict[int, int]:
    """Return for each tensor one that stands for the memory that it shares with others."""
    homes = {number: number for number in range(IMAGE, len(network.operations))}
    if not layout.in_place:
        return homes
    for number, operation in enumerate(network.operations):
        # Memory is shared only with an input whose last reader this is, and never with the image.
        kept = [i for i in operation.inputs if i != IMAGE and uses[i] == number]
        if operation.layer.operator in _BY_VALUE:
            same = [i for i in kept if network.shape(i) == network.shape(number)]
            homes[number] = homes[same[0]] if same else number
        if operation.layer.operator == "concat":
            # What is joined is written where it belongs from the start.
            joined = {homes[i] for i in kept}
            homes.update({i: number for i, home in homes.items() if home in joined})
    return homes


def stored_size(network: Network, number: int, layout: Layout) -> int:
    """Return the values that a tensor takes in memory: that of an operation, or of the input."""
    brick = 1 if number == IMAGE or number in network.outputs else layout.brick
    return stored_values(network.shape(number), brick)
