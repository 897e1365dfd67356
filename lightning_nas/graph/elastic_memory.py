"""`ElasticMemory`: what is live at each step of a network, as a function of the widths of its groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lightning_nas.graph.elastic_network import ElasticNetwork
from lightning_nas.graph.fold import folded
from lightning_nas.graph.liveness import BRICKS, Layout, live_blocks, memory_blocks
from lightning_nas.graph.lower import lowered
from lightning_nas.graph.network import IMAGE, Network

__all__ = ["ElasticMemory", "ElasticTensor", "elastic_memory"]


@dataclass(frozen=True, eq=False)
class ElasticTensor:
    """A tensor in memory, whose channels are an affine function of widths.

    Attributes:
        pixels: Rows times columns.
        brick: Channels are stored in multiples of it.
        channels: Its channels at full width.
        gains: For each group that it depends on, its channels for one channel of the group.
    """

    pixels: int
    brick: int
    channels: int
    gains: Mapping[int, int]

    def values(self, missing: Mapping[int, int]) -> int:
        """Return the values that it takes where so many channels of groups are left out."""
        left_out = sum(gain * missing.get(group, 0) for group, gain in self.gains.items())
        return self.pixels * -(-(self.channels - left_out) // self.brick) * self.brick


@dataclass(frozen=True, eq=False)
class ElasticMemory:
    """The live tensors of a network, step by step.

    A limit on the peak is a limit on each step: a sum over the blocks of memory that are in use, each a function of the
    few groups that its tensors depend on.

    Attributes:
        blocks: Blocks of memory, each with the tensors that lie there in turn: it takes the largest of them.
        steps: For each step of the network, but those that another one implies, numbers of the blocks in use.
        sizes: Full width of each group.
    """

    blocks: tuple[tuple[ElasticTensor, ...], ...]
    steps: tuple[tuple[int, ...], ...]
    sizes: Mapping[int, int]

    def groups_of(self, block: int) -> tuple[int, ...]:
        """Return the groups that the size of a block depends on, ascending."""
        return tuple(sorted({group for tensor in self.blocks[block] for group in tensor.gains}))

    def peak_values(self, widths: Mapping[int, int]) -> int:
        """Return the largest number of values that are live at once, at some widths; others are full.

        Args:
            widths: Channels that are kept of groups, by number.
        """
        missing = {group: self.sizes[group] - width for group, width in widths.items()}
        held = [max(tensor.values(missing) for tensor in block) for block in self.blocks]
        return max(sum(held[number] for number in step) for step in self.steps)


def elastic_memory(network: ElasticNetwork, layout: Layout = BRICKS) -> ElasticMemory:
    """Return what is live at each step of a network, at any widths.

    Args:
        network: The network, with its groups; at all widths it is folded into the same operations, see `cut_alike`.
        layout: How the device stores activations.

    Example::

        >>> import torch
        >>> from torch import nn
        >>> from lightning_nas.graph.elastic_network import elastic_network
        >>> net = nn.Sequential(nn.Conv2d(3, 32, 1), nn.ReLU(), nn.Conv2d(32, 4, 1))
        >>> memory = elastic_memory(elastic_network(net, torch.zeros(1, 3, 8, 8)))
        >>> memory.peak_values({}), memory.peak_values({0: 16})
        (2304, 1280)
    """
    whole = _run(network, {})
    sizes = {number: network.groups.groups[number].size for number in network.groups.open}
    numbers = range(IMAGE, len(whole.operations))
    gains: dict[int, dict[int, int]] = {number: {} for number in numbers}
    for group, size in sizes.items():
        step = size - size // 2
        narrower = _run(network, {group: size // 2})
        for number in numbers:
            if gain := (whole.shape(number)[2] - narrower.shape(number)[2]) // step:
                gains[number][group] = gain
    tensors = {number: _tensor(whole, number, layout, gains[number]) for number in numbers}
    found = memory_blocks(whole, layout)
    places = {home: place for place, home in enumerate(found)}
    blocks = tuple(_distinct([tensors[number] for number in members]) for members in found.values())
    steps = {tuple(sorted(places[home] for home in step)) for step in live_blocks(whole, layout)}
    return ElasticMemory(blocks, tuple(sorted(_largest(steps))), sizes)


def _run(network: ElasticNetwork, widths: Mapping[int, int]) -> Network:
    return lowered(folded(network.at(widths)))


def _tensor(network: Network, number: int, layout: Layout, gains: Mapping[int, int]) -> ElasticTensor:
    height, width, channels = network.shape(number)
    # Input and outputs are handed over as they are.
    brick = 1 if number == IMAGE or number in network.outputs else layout.brick
    return ElasticTensor(height * width, brick, channels, gains)


def _distinct(tensors: list[ElasticTensor]) -> tuple[ElasticTensor, ...]:
    """Return the tensors of a block without those that are alike, as what works in place makes them."""
    kinds = {(t.pixels, t.brick, t.channels, tuple(sorted(t.gains.items()))): t for t in tensors}
    return tuple(kinds.values())


def _largest(steps: set[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Return the steps that hold more than any other holds: a limit on these is one on all."""
    sets = {step: frozenset(step) for step in steps}
    return [step for step, held in sets.items() if not any(held < other for other in sets.values())]
