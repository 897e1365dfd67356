"""The cost of every member of a space as small tensors: exact for one, exact in expectation over all."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_nas.graph.subgraph import Subgraph
from lightning_nas.space.network import block_subgraph, head_subgraph, parts_of, stem_subgraph
from lightning_nas.space.spec import SearchSpace, out_size

__all__ = ["CostTable", "Factor", "Layouts", "Price", "cost_table", "price_layouts", "space_layouts"]

Price = Callable[[Sequence[Subgraph]], NDArray[np.float64]]
"""Costs of subgraphs, one figure each; `Estimator.predict_ms` is one."""

Layouts = list[tuple[tuple[int, ...], list[Subgraph]]]
"""For each factor of a cost its nodes and its subgraphs, one for each combination of their options in C order."""


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

    def restricted(self, options: Sequence[Sequence[int]]) -> Factor:
        """Return the part of a space that has only some options of each node, in the order given."""
        return Factor(self.nodes, np.asarray(self.cost[np.ix_(*(options[node] for node in self.nodes))]))


@dataclass(frozen=True)
class CostTable:
    """The cost of every member of a space: a sum of factors, each over the few nodes it depends on.

    A block costs by its option, its width in and its width out, and so depends on at most three nodes. Since the
    nodes are chosen independently, the expected cost under their probabilities is exact, and differentiable.

    Attributes:
        factors: The parts: stem, blocks in order, head.
        node_sizes: Number of options of each node.
    """

    factors: tuple[Factor, ...]
    node_sizes: tuple[int, ...]

    def exact(self, encoding: Sequence[int]) -> float:
        """Return the cost of one architecture, given by its encoding."""
        return float(self.exact_many(np.asarray([encoding]))[0])

    def exact_many(self, encodings: NDArray[np.integer]) -> NDArray[np.float64]:
        """Return the cost of many architectures.

        Args:
            encodings: One architecture a row, shape (num_architectures, num_nodes).
        """
        columns = (factor.cost[tuple(encodings[:, node] for node in factor.nodes)] for factor in self.factors)
        return sum(columns, start=np.zeros(len(encodings)))

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
            value = torch.from_numpy(factor.cost).to(total.device)
            # From the last axis on, since `@` sums over that one.
            for node in reversed(factor.nodes):
                value = value @ wide[node]
            total = total + value
        return total

    def sample_costs(self, count: int, seed: int = 0) -> NDArray[np.float64]:
        """Return the costs of `count` uniformly drawn architectures."""
        generator = np.random.default_rng(seed)
        return self.exact_many(np.stack([generator.integers(0, n, count) for n in self.node_sizes], axis=1))


def cost_table(space: SearchSpace, price: Price) -> CostTable:
    """Price every (block option, width in, width out) of a space by one call.

    Args:
        space: What can be chosen.
        price: Cost of a list of subgraphs; called once, with all of them.
    """
    return CostTable(price_layouts(space, space_layouts(space), price), space.node_sizes)


def price_layouts(space: SearchSpace, layouts: Layouts, price: Price) -> tuple[Factor, ...]:
    """Return the factors of `layouts`, all of their subgraphs priced by one call."""
    shapes = [tuple(space.node_sizes[node] for node in nodes) for nodes, _ in layouts]
    costs = np.asarray(price([part for _, parts in layouts for part in parts]), dtype=np.float64)
    ends = np.cumsum([len(parts) for _, parts in layouts])
    chunks = np.split(costs, ends[:-1])
    return tuple(
        Factor(nodes, chunk.reshape(shape)) for (nodes, _), shape, chunk in zip(layouts, shapes, chunks, strict=True)
    )


def space_layouts(space: SearchSpace, tail: bool = True) -> Layouts:
    """Return what a space is made of: stem, blocks in order, head, and, unless left out, the tail."""
    _, height, width = space.input_size
    height, width = out_size(height, space.stem.stride), out_size(width, space.stem.stride)
    # The width of the tensor at hand: the node that decides it, if any, and its value for each option.
    source = space.stem_node
    stems = [stem_subgraph(space.input_size, replace(space.stem, width=w)) for w in source[1]]
    layouts: Layouts = [(() if source[0] is None else (source[0],), stems)]
    for stage, node, choice in space.stage_blocks():
        target = space.stage_node(stage)
        nodes, pairs = _combinations(source, target)
        parts = [
            block_subgraph(option, choice.stride, in_width, out_width, height, width)
            for in_width, out_width in pairs
            for option in choice.options
        ]
        layouts.append(((*nodes, node), parts))
        source = target
        height, width = out_size(height, choice.stride), out_size(width, choice.stride)
    layouts += _head_layouts(space, source, height, width)
    return [*layouts, *_tail_layouts(space)] if tail else layouts


def _head_layouts(space: SearchSpace, source: tuple[int | None, tuple[int, ...]], height: int, width: int) -> Layouts:
    """Return the layouts of the parts behind the last block of a classifier."""
    if space.head is None:
        nodes: tuple[int, ...] = () if source[0] is None else (source[0],)
        parts = [head_subgraph(None, space.num_classes, w, height, width) for w in source[1]]
    else:
        nodes, pairs = _combinations(source, space.head_node)
        heads = ((w, replace(space.head, width=head_width)) for w, head_width in pairs)
        parts = [head_subgraph(head, space.num_classes, w, height, width) for w, head in heads]
    present = [part for part in parts if part is not None]
    return [(nodes, present)] if present else []


def _tail_layouts(space: SearchSpace) -> Layouts:
    """Return the layouts of the tail behind the blocks: each part depends on the widths that it reads."""
    if not space.tail:
        return []
    widths_nodes = [space.stage_node(stage)[0] for stage, _, _ in space.stage_blocks()]
    reading = sorted({widths_nodes[block] for block in space.tail.blocks})
    base = list(space.reference_encoding)
    combinations = list(itertools.product(*(range(space.node_sizes[node]) for node in reading)))
    tails = {}
    for combination in combinations:
        for node, option in zip(reading, combination, strict=True):
            base[node] = option
        architecture = space.decode(base)
        tails[combination] = parts_of(architecture)[1 + len(architecture.blocks) :]
    # Any combination tells how many parts there are: a tail has the same operators at all widths.
    return [_tail_layout(reading, {c: parts[n] for c, parts in tails.items()}) for n in range(len(tails[combination]))]


def _tail_layout(
    reading: Sequence[int], parts: dict[tuple[int, ...], Subgraph]
) -> tuple[tuple[int, ...], list[Subgraph]]:
    """Return nodes and subgraphs of one part, without the nodes that it does not depend on."""
    # The greatest key has the last option of each node, and so says how many there are.
    last = max(parts)
    needed = [
        place
        for place in range(len(reading))
        if any(part != parts[(*c[:place], last[place], *c[place + 1 :])] for c, part in parts.items())
    ]
    options = itertools.product(*(range(last[place] + 1) for place in needed))
    kept = []
    for chosen in options:
        full = list(last)
        for place, option in zip(needed, chosen, strict=True):
            full[place] = option
        kept.append(parts[tuple(full)])
    return tuple(reading[place] for place in needed), kept


def _combinations(
    source: tuple[int | None, tuple[int, ...]], target: tuple[int | None, tuple[int, ...]]
) -> tuple[tuple[int, ...], list[tuple[int, int]]]:
    """Return the distinct nodes behind the widths in and out, and the width pairs over their options."""
    # Within a stage one node decides both widths, so that only equal options meet.
    if source[0] is not None and source[0] == target[0]:
        return (source[0],), list(zip(source[1], target[1], strict=True))
    nodes = tuple(node for node in (source[0], target[0]) if node is not None)
    return nodes, list(itertools.product(source[1], target[1]))
