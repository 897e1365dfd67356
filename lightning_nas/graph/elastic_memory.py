"""`ElasticStep`: what is live at a step of a network, as a function of few widths and choices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from lightning_nas.graph.elastic_network import ChannelCount, ElasticNetwork, Key
from lightning_nas.graph.fold import folded_with_numbers
from lightning_nas.graph.liveness import BRICKS, Layout, live_blocks, memory_blocks
from lightning_nas.graph.lower import lowered_with_numbers
from lightning_nas.graph.network import IMAGE
from lightning_nas.graph.structures import Dependence, Structures, dependences

__all__ = ["ElasticStep", "ElasticTensor", "elastic_steps", "live_values_at"]


@dataclass(frozen=True, order=True)
class ElasticTensor:
    """A tensor in memory, whose channels are an affine function of widths.

    Attributes:
        pixels: Rows times columns.
        brick: Channels are stored in multiples of it.
        channels: Channels that belong to no group.
        gains: Numbers of groups, each with the channels of the tensor for one channel of the group.
    """

    pixels: int
    brick: int
    channels: int
    gains: tuple[tuple[int, int], ...]

    def values(self, widths: Sequence[int]) -> int:
        """Return the values that it takes at the widths of all groups."""
        channels = ChannelCount(self.channels, self.gains).at(widths)
        return self.pixels * -(-channels // self.brick) * self.brick


Block = tuple[ElasticTensor, ...]
"""Tensors that lie in one place of memory in turn: it takes the largest of them."""

Blocks = tuple[Block, ...]
"""The places of memory that are in use at once."""


@dataclass(frozen=True)
class ElasticStep:
    """What is live at a step of a network.

    A limit on the peak is a limit on each step: a sum over the blocks of memory that are in use, each a function of the
    few groups that its tensors depend on.

    Attributes:
        dependence: The choices that it depends on, and the blocks that are in use; None where the step is not run.
    """

    dependence: Dependence[Blocks]


def live_values_at(blocks: Blocks, widths: Sequence[int]) -> int:
    """Return the values that blocks of memory take at the widths of all groups."""
    return sum(max(tensor.values(widths) for tensor in block) for block in blocks)


def elastic_steps(structures: Structures, layout: Layout = BRICKS) -> list[ElasticStep]:
    """Return what is live at each step of a network, at any widths and with any alternatives.

    Steps that hold no more than another one does are left out.

    Args:
        structures: The network and its alternatives; at all widths it is folded alike, see `cut_alike`.
        layout: How the device stores activations.

    Example::

        >>> import torch
        >>> from torch import nn
        >>> from lightning_nas.graph.elastic_network import elastic_network
        >>> net = nn.Sequential(nn.Conv2d(3, 32, 1), nn.ReLU(), nn.Conv2d(32, 4, 1))
        >>> steps = elastic_steps(Structures(elastic_network(net, torch.zeros(1, 3, 8, 8)), ()))
        >>> [max(live_values_at(step.dependence.values[()], widths) for step in steps) for widths in ((32, 4), (16, 4))]
        [2304, 1280]
    """
    found = dependences(structures, partial(_live, layout=layout), lambda key: (key[0][0],))
    return _largest([ElasticStep(found[key]) for key in sorted(found)])


def _live(network: ElasticNetwork, layout: Layout) -> Mapping[tuple[Key, int], Blocks]:
    """Return the blocks in use at each step, by its operation and its place among those that this is lowered to."""
    plain, numbers = folded_with_numbers(network.network)
    low, places = lowered_with_numbers(plain)
    origins = [numbers[place] for place in places]

    def tensor(number: int) -> ElasticTensor:
        height, width, channels = low.shape(number)
        # Input and outputs are handed over as they are.
        brick = 1 if number == IMAGE or number in low.outputs else layout.brick
        if number == IMAGE:
            return ElasticTensor(height * width, brick, channels, ())
        count = network.counts[origins[number]][1]
        if not count.gains:
            # Where channels are not the second dimension, the count is of others.
            return ElasticTensor(height * width, brick, channels, ())
        # What has no model counts the channels of all its results.
        times = max(1, channels // max(1, count.at(network.sizes)))
        gains = tuple((group, times * gain) for group, gain in count.gains)
        return ElasticTensor(height * width, brick, times * count.constant, gains)

    found = memory_blocks(low, layout)
    blocks = {home: tuple(sorted({tensor(number) for number in members})) for home, members in found.items()}
    seen: Counter[Key] = Counter()
    live = {}
    for origin, step in zip(origins, live_blocks(low, layout), strict=True):
        key = network.keys[origin]
        live[key, seen[key]] = tuple(sorted(blocks[home] for home in step))
        seen[key] += 1
    return live


def _largest(steps: Sequence[ElasticStep]) -> list[ElasticStep]:
    """Return the steps that hold more than any other of the same choices: a limit on these is one on all."""
    distinct: dict[tuple[object, ...], ElasticStep] = {}
    for step in steps:
        values = step.dependence.values
        distinct[(step.dependence.choices, tuple(sorted((k, v) for k, v in values.items() if v is not None)))] = step
    kept = list(distinct.values())
    return [step for step in kept if not any(_is_within(step, other) for other in kept if other is not step)]


def _is_within(step: ElasticStep, other: ElasticStep) -> bool:
    """Return whether whatever a step holds, another one holds, too, and more."""
    if other.dependence.choices and other.dependence.choices != step.dependence.choices:
        return False
    pairs = (
        (blocks, other.dependence.values[() if not other.dependence.choices else chosen])
        for chosen, blocks in step.dependence.values.items()
    )
    return all(blocks is None or (held is not None and Counter(blocks) < Counter(held)) for blocks, held in pairs)
