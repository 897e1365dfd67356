"""Which tensors of a network are held at once, over its order of execution."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lightning_nas.estimator.network import IMAGE, Network

__all__ = ["BRICKS", "PLAIN", "Layout", "live_values", "peak_values"]


@dataclass(frozen=True)
class Layout:
    """How a device stores activations.

    Attributes:
        brick: Channels are stored in multiples of it, except those of the network's input and outputs.
        in_place: Whether an operator that works value by value overwrites an input that nothing else needs, and
            whether an activation runs with the operator before it.
    """

    brick: int = 1
    in_place: bool = False


PLAIN = Layout()
"""Of interpreters for microcontrollers and processors, such as TensorFlow Lite Micro."""

BRICKS = Layout(16, True)
"""Of Arm's Ethos-U and its like."""

_BY_VALUE = ("add", "mul", "activation")


def peak_values(network: Network, layout: Layout) -> int:
    """Return the largest number of values that are live at once.

    Example::

        >>> from lightning_nas.estimator.network import chain
        >>> from lightning_nas.estimator.subgraph import Subgraph
        >>> block = chain([Subgraph("ibn", 8, 8, 16, 96, 16, 3, residual=True)])
        >>> peak_values(block, BRICKS) == 8 * 8 * (16 + 96 + 96)
        True
    """
    return max(live_values(network, layout), default=0)


def live_values(network: Network, layout: Layout) -> Iterator[int]:
    """Yield for each operation how many values are live while it runs: its inputs, its output, and what waits."""
    uses = network.last_uses()
    owners = _owners(network, uses, layout)
    ends: dict[int, int] = {}
    for number, owner in owners.items():
        ends[owner] = max(ends.get(owner, 0), uses.get(number, 0))
    sizes: dict[int, int] = {}
    for number, owner in owners.items():
        sizes[owner] = max(sizes.get(owner, 0), _size(network, number, layout))
    for step in range(len(network.operations)):
        yield sum(size for owner, size in sizes.items() if owner <= step <= ends[owner])


def _owners(network: Network, uses: dict[int, int], layout: Layout) -> dict[int, int]:
    """Return for each tensor the first of those that share its memory."""
    owners = {IMAGE: IMAGE}
    for number, operation in enumerate(network.operations):
        owners[number] = number
        if layout.in_place and operation.layer.operator in _BY_VALUE:
            shape = network.shape(number)
            free = [i for i in operation.inputs if i != IMAGE and uses[i] == number and network.shape(i) == shape]
            if free:
                owners[number] = owners[free[0]]
    return owners


def _size(network: Network, number: int, layout: Layout) -> int:
    height, width, channels = network.shape(number)
    brick = 1 if number == IMAGE else layout.brick
    return height * width * -(-channels // brick) * brick
