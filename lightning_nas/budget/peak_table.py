"""The peak of live activations of every member of a space: the largest of sums, one a step of the network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_nas.budget.cost_table import CostTable, Factor
from lightning_nas.budget.forbidden import Forbidden
from lightning_nas.budget.solver import dearest
from lightning_nas.graph.elastic_memory import Block, ElasticStep, elastic_steps
from lightning_nas.space.nodes import combined_widths, nodes_behind
from lightning_nas.space.spec import SearchSpace

__all__ = ["PeakTable", "peak_table"]


@dataclass(frozen=True)
class PeakTable:
    """The peak memory of every member of a space: the largest of its rows, each a sum as a cost is.

    Attributes:
        rows: For each step of the network the bytes that are live while it runs, 0 where it is not run.
        node_sizes: Number of options of each node.
    """

    rows: tuple[CostTable, ...]
    node_sizes: tuple[int, ...]

    def exact(self, encoding: Sequence[int]) -> float:
        """Return the peak of one architecture, given by its encoding, in bytes."""
        return max(self.parts(encoding))

    def exact_many(self, encodings: NDArray[np.integer]) -> NDArray[np.float64]:
        """Return the peak of many architectures, in bytes.

        Args:
            encodings: One architecture a row, shape (num_architectures, num_nodes).
        """
        columns = np.ascontiguousarray(np.asarray(encodings).T)
        # What waits is in the rows of many steps.
        bytes_of: dict[int, NDArray[np.float64]] = {}
        peak = np.zeros(len(encodings))
        for row in self.rows:
            total = np.zeros(len(encodings))
            for factor in row.factors:
                if id(factor) not in bytes_of:
                    bytes_of[id(factor)] = factor.at_many(columns)
                total += bytes_of[id(factor)]
            np.maximum(peak, total, out=peak)
        return peak

    def parts(self, encoding: Sequence[int]) -> list[float]:
        """Return the bytes of each row of one architecture, in order of execution."""
        return [row.exact(encoding) for row in self.rows]

    def over(self, budget: float) -> Forbidden:
        """Return what is over a budget, in bytes; what is not that is within it."""
        return Forbidden((), tuple((row, budget) for row in self.rows if row.bound > budget))

    def maximum(self, options: Sequence[Sequence[int]]) -> float:
        """Return the largest peak of a space that has only some options of each node."""
        found = 0.0
        for row in sorted((row.restricted(options) for row in self.rows), key=lambda row: -row.bound):
            if row.bound <= found:
                break
            found = max(found, row.exact(dearest(row)))
        return found


def peak_table(space: SearchSpace) -> PeakTable:
    """Return for each step of a network the bytes that are live while it runs; the largest is the network's peak.

    Args:
        space: What can be chosen.

    Raises:
        ValueError: A tensor depends on too many choices at once.
    """
    known: dict[tuple[object, ...], Factor] = {}
    rows = (_row(space, step, known) for step in elastic_steps(space.structures))
    return PeakTable(tuple(rows), space.node_sizes)


def _row(space: SearchSpace, step: ElasticStep, known: dict[tuple[object, ...], Factor]) -> CostTable:
    choices, values = step.dependence.choices, step.dependence.values
    shape = [len(space.choices[choice].structures) for choice in choices]
    held = {chosen: Counter(blocks or ()) for chosen, blocks in values.items()}
    factors = []
    for block in sorted(set().union(*held.values())):
        counts = np.zeros(shape, dtype=np.int64)
        for chosen, here in held.items():
            counts[chosen] = here[block]
        # A block that all alternatives have does not depend on the choice.
        axes = tuple(axis for axis in range(len(choices)) if (np.ptp(counts, axis=axis) > 0).any())
        counts = counts[tuple(slice(None) if axis in axes else 0 for axis in range(len(choices)))]
        needed = tuple(choices[axis] for axis in axes)
        key = (block, needed, counts.tobytes())
        if key not in known:
            known[key] = _factor(space, block, needed, counts)
        factors.append(known[key])
    return CostTable(tuple(factors), space.node_sizes)


def _factor(space: SearchSpace, block: Block, choices: Sequence[int], counts: NDArray[np.int64]) -> Factor:
    """Return the bytes of a block of memory, times how many of it the alternatives of some choices hold."""
    nodes = nodes_behind(space, {group for tensor in block for group, _ in tensor.gains}, choices)
    places = [nodes.index(len(space.multipliers) + choice) for choice in choices]
    structures = [[space.choices[choice].structure_of(o) for o in space.choices[choice].options] for choice in choices]
    cost = np.zeros([space.node_sizes[node] for node in nodes])
    for options, widths in combined_widths(space, nodes):
        count = counts[tuple(row[options[axis]] for row, axis in zip(structures, places, strict=True))]
        if count:
            cost[options] = count * max(tensor.values(widths) for tensor in block)
    return Factor(nodes, cost)
