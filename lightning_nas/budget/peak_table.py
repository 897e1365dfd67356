"""The peak of live activations of every member of a space: the largest of parts that depend on few nodes each."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_nas.budget.cost_table import Factor, cost_table, price_layouts, space_layouts
from lightning_nas.budget.forbidden import Forbidden
from lightning_nas.graph.liveness import BRICKS, live_values
from lightning_nas.graph.sizes import stored_values
from lightning_nas.space.network import network_of, subgraphs
from lightning_nas.space.spec import SearchSpace

__all__ = ["PeakTable", "peak_table"]


@dataclass(frozen=True)
class PeakTable:
    """The peak memory of every member of a space: the largest of its factors, where a cost is their sum.

    Attributes:
        factors: Bytes that are live while a part of the network runs, for each combination of a few nodes.
        node_sizes: Number of options of each node.
    """

    factors: tuple[Factor, ...]
    node_sizes: tuple[int, ...]

    def exact(self, encoding: Sequence[int]) -> float:
        """Return the peak of one architecture, given by its encoding, in bytes."""
        return max(self.parts(encoding))

    def parts(self, encoding: Sequence[int]) -> list[float]:
        """Return the bytes of each factor of one architecture, in order."""
        return [factor.at(encoding) for factor in self.factors]

    def over(self, budget: float) -> Forbidden:
        """Return the combinations that are over a budget, in bytes; what contains none of them is within it."""
        return Forbidden(tuple((factor.nodes, factor.cost > budget) for factor in self.factors))

    def maximum(self, options: Sequence[Sequence[int]]) -> float:
        """Return the largest peak of a space that has only some options of each node."""
        return max(float(factor.restricted(options).cost.max()) for factor in self.factors)


def peak_table(space: SearchSpace) -> PeakTable:
    """Return for each part of a network the bytes that are live while it runs; the largest is the network's peak.

    What the tail reads stays live from its block on, and so the peaks of later blocks depend on its width, too.

    Args:
        space: What can be chosen.
    """
    if not space.tail:
        table = cost_table(space, lambda parts: np.array([part.peak_activation_bytes for part in parts], dtype=float))
        return PeakTable(table.factors, table.node_sizes)
    layouts, waiting = space_layouts(space, tail=False), space.tail.blocks
    factors = []
    for number, factor in enumerate(price_layouts(space, layouts, lambda parts: np.zeros(len(parts)))):
        block = number - 1  # the first part is the stem
        parts = layouts[number][1]
        # An input that the tail reads, too, stays live to the end of the block.
        peaks = [part.peak_bytes(keeps_input=block - 1 in waiting) for part in parts]
        factor = Factor(factor.nodes, np.array(peaks, dtype=np.float64).reshape(factor.cost.shape))
        for other in sorted(waiting):
            # The output right before this block is its input, which is counted already.
            if other < block - 1:
                factor = _added(factor, *_waiting_bytes(space, other))
        factors.append(factor)
    return PeakTable((*factors, _tail_factor(space, waiting)), space.node_sizes)


def _waiting_bytes(space: SearchSpace, block: int) -> tuple[int, NDArray[np.float64]]:
    """Return the node that sets the width of a block's output, and the bytes of that for each of its options."""
    stages = [stage for stage, _, _ in space.stage_blocks()]
    node, widths = space.stage_node(stages[block])
    part = subgraphs(space.decode(space.reference_encoding))[1 + block]
    height, width, _ = part.out_shape
    return node, np.array([stored_values((height, width, channels)) for channels in widths], dtype=np.float64)


def _added(factor: Factor, node: int, values: NDArray[np.float64]) -> Factor:
    """Return a factor plus what depends on one node, which it may depend on already."""
    if node not in factor.nodes:
        return Factor((node, *factor.nodes), values.reshape(-1, *[1] * factor.cost.ndim) + factor.cost)
    shape = [1] * factor.cost.ndim
    shape[factor.nodes.index(node)] = -1
    return Factor(factor.nodes, factor.cost + values.reshape(shape))


def _tail_factor(space: SearchSpace, waiting: frozenset[int]) -> Factor:
    nodes = tuple(sorted({_waiting_bytes(space, block)[0] for block in waiting}))
    sizes = tuple(space.node_sizes[node] for node in nodes)
    chosen, peaks = list(space.reference_encoding), np.zeros(sizes)
    for options in itertools.product(*map(range, sizes)):
        for node, option in zip(nodes, options, strict=True):
            chosen[node] = option
        architecture = space.decode(chosen)
        network = network_of(architecture)
        live = list(live_values(network, BRICKS))
        # Steps of the blocks have factors of their own.
        peaks[options] = max(live[len(live) - len(architecture.tail.operations) :])
    return Factor(nodes, peaks)
