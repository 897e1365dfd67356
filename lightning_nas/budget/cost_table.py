"""The cost of every member of a space as small tensors: exact for one, exact in expectation over all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_nas.graph.elastic_parts import ElasticPart, elastic_parts
from lightning_nas.graph.subgraph import Subgraph
from lightning_nas.space.nodes import combined_widths, nodes_behind
from lightning_nas.space.spec import SearchSpace

__all__ = ["CostTable", "Factor", "Price", "cost_table"]

Price = Callable[[Sequence[Subgraph]], NDArray[np.float64]]
"""Costs of subgraphs, one figure each; `Estimator.predict_ms` is one."""


@dataclass(frozen=True)
class Factor:
    """One part of the cost of a network.

    Attributes:
        nodes: The nodes of the space it depends on; none for a constant part.
        cost: The cost for each combination of their options, of shape (options of each node, ...).
    """

    nodes: tuple[int, ...]
    cost: NDArray[np.float64]

    def at(self, encoding: Sequence[int]) -> float:
        """Return the cost of one architecture, given by its encoding."""
        return float(self.cost[tuple(encoding[node] for node in self.nodes)])

    def at_many(self, columns: NDArray[np.integer]) -> NDArray[np.float64]:
        """Return the cost of many architectures.

        Args:
            columns: One node a row, shape (num_nodes, num_architectures).
        """
        # A flat index takes a third of the time of one index a node.
        place = np.zeros(columns.shape[1], dtype=np.intp)
        for node, size in zip(self.nodes, self.cost.shape, strict=True):
            place = place * size + columns[node]
        return self.cost.ravel().take(place)

    def over(self, nodes: Sequence[int]) -> NDArray[np.float64]:
        """Return the cost along further nodes as well, each of which has one cell for all of its options.

        Args:
            nodes: The nodes, its own among them.
        """
        kept = [node for node in nodes if node in self.nodes]
        cost = self.cost.transpose([self.nodes.index(node) for node in kept])
        return np.expand_dims(cost, tuple(place for place, node in enumerate(nodes) if node not in self.nodes))

    def restricted(self, options: Sequence[Sequence[int]]) -> Factor:
        """Return the part of a space that has only some options of each node, in the order given."""
        return Factor(self.nodes, np.asarray(self.cost[np.ix_(*(options[node] for node in self.nodes))]))


@dataclass(frozen=True)
class CostTable:
    """The cost of every member of a space: a sum of factors, each over the few nodes it depends on.

    A part costs by its width in, its width out and the option of the block that it is in, and so depends on few nodes.
    Since these are chosen independently, the expected cost under their probabilities is exact, and differentiable.

    Attributes:
        factors: What depends on the same nodes is one of them.
        node_sizes: Number of options of each node.
    """

    factors: tuple[Factor, ...]
    node_sizes: tuple[int, ...]

    def exact(self, encoding: Sequence[int]) -> float:
        """Return the cost of one architecture, given by its encoding."""
        return sum(self.parts(encoding))

    def exact_many(self, encodings: NDArray[np.integer]) -> NDArray[np.float64]:
        """Return the cost of many architectures.

        Args:
            encodings: One architecture a row, shape (num_architectures, num_nodes).
        """
        columns = np.ascontiguousarray(np.asarray(encodings).T)
        total = np.zeros(len(encodings))
        for factor in self.factors:
            total += factor.at_many(columns)
        return total

    @property
    def bound(self) -> float:
        """A cost that no member exceeds; one may cost less, as its factors share nodes."""
        return float(sum(factor.cost.max() for factor in self.factors))

    def parts(self, encoding: Sequence[int]) -> list[float]:
        """Return the cost of each factor of one architecture, in order."""
        return [factor.at(encoding) for factor in self.factors]

    def restricted(self, options: Sequence[Sequence[int]]) -> CostTable:
        """Return the table of a space that has only some options of each node, in the order given."""
        return CostTable(tuple(factor.restricted(options) for factor in self.factors), tuple(map(len, options)))

    def expected(self, probabilities: Sequence[Tensor]) -> Tensor:
        """Return the exact expected cost, a scalar in the probabilities' graph, computed in float64.

        Args:
            probabilities: One distribution a node, shape (num_options,) each.

        Example::

            >>> table = CostTable((Factor((0, 1), np.array([[1.0, 3.0], [5.0, 7.0]])),), (2, 2))
            >>> float(table.expected([torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0])]))
            3.0
        """
        wide = [p.double() for p in probabilities]
        total = wide[0].new_zeros(())
        for factor in self.factors:
            # Sums of parts that no node changes are scalars.
            value = torch.from_numpy(np.asarray(factor.cost)).to(total.device)
            # From the last axis on, since `@` sums over that one.
            for node in reversed(factor.nodes):
                value = value @ wide[node]
            total = total + value
        return total

    def sample_costs(self, count: int, seed: int = 0) -> NDArray[np.float64]:
        """Return the costs of `count` uniformly drawn architectures."""
        generator = np.random.default_rng(seed)
        return self.exact_many(np.stack([generator.integers(0, n, count) for n in self.node_sizes], axis=1))


def cost_table(space: SearchSpace, price: Price, parts: Sequence[ElasticPart] | None = None) -> CostTable:
    """Price every part of every member of a space by one call.

    Args:
        space: What can be chosen.
        price: Cost of a list of subgraphs; called once, with all different ones.
        parts: Those of the space's network, if they are at hand.

    Raises:
        ValueError: A part depends on too many choices at once.
    """
    numbers: dict[Subgraph, int] = {}
    parts = elastic_parts(space.structures) if parts is None else parts
    places = [_places(space, part, numbers) for part in parts]
    # What a choice leaves out costs nothing; its place is -1.
    costs = np.append(np.asarray(price(list(numbers)), dtype=np.float64), 0.0)
    return CostTable(_merged([Factor(nodes, costs[place]) for nodes, place in places]), space.node_sizes)


def _places(
    space: SearchSpace, part: ElasticPart, numbers: dict[Subgraph, int]
) -> tuple[tuple[int, ...], NDArray[np.intp]]:
    """Return the nodes that a part depends on, and the number of its subgraph for each combination of options."""
    choices, values = part.dependence.choices, part.dependence.values
    nodes = nodes_behind(space, part.groups, choices)
    chosen = [nodes.index(len(space.multipliers) + choice) for choice in choices]
    structures = [[space.choices[choice].structure_of(o) for o in space.choices[choice].options] for choice in choices]
    found: dict[tuple[int, ...], int] = {}
    place = np.full([space.node_sizes[node] for node in nodes], -1, dtype=np.intp)
    for options, widths in combined_widths(space, nodes):
        structure = tuple(row[options[axis]] for row, axis in zip(structures, chosen, strict=True))
        if values[structure] is None:
            continue
        own = tuple(widths[group] for group in part.groups)
        if own not in found:
            found[own] = numbers.setdefault(part.at(widths), len(numbers))
        place[options] = found[own]
    return nodes, place


def _merged(factors: Sequence[Factor]) -> tuple[Factor, ...]:
    """Return factors with those of fewer nodes added to one that has all of them: fewer for whoever reads the table."""
    sums: dict[tuple[int, ...], NDArray[np.float64]] = {}
    for factor in sorted(factors, key=lambda factor: -len(factor.nodes)):
        # A constant stays one.
        home = next((nodes for nodes in sums if factor.nodes and set(factor.nodes) <= set(nodes)), factor.nodes)
        sums[home] = sums[home] + factor.over(home) if home in sums else factor.cost
    return tuple(Factor(nodes, cost) for nodes, cost in sums.items())
