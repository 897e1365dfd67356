"""Cost tables of any network whose widths can be chosen: every member, exactly, from one trace."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_nas.budget.cost_table import CostTable, Factor, Price
from lightning_nas.graph.elastic_memory import ElasticMemory
from lightning_nas.graph.elastic_parts import ElasticPart
from lightning_nas.graph.subgraph import Subgraph

__all__ = ["WidthNode", "part_table", "step_tables", "widths_at"]


@dataclass(frozen=True)
class WidthNode:
    """One choice of the widths of some groups of a network.

    Attributes:
        groups: Numbers of the groups, see `WidthGroups`.
        widths: One row an option: the width of each of the groups.

    Raises:
        ValueError: A row has another number of widths than there are groups.
    """

    groups: tuple[int, ...]
    widths: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if not self.widths or any(len(row) != len(self.groups) for row in self.widths):
            raise ValueError(f"Each option must give one width for each group of {self.groups}; got {self.widths}.")


def widths_at(nodes: Sequence[WidthNode], encoding: Sequence[int]) -> dict[int, int]:
    """Return the widths of groups that an encoding chooses.

    Example::

        >>> widths_at([WidthNode((0, 3), ((8, 16), (16, 32)))], (0,))
        {0: 8, 3: 16}
    """
    rows = ((node.groups, node.widths[option]) for node, option in zip(nodes, encoding, strict=True))
    return {group: width for groups, row in rows for group, width in zip(groups, row, strict=True)}


def part_table(parts: Sequence[ElasticPart], nodes: Sequence[WidthNode], price: Price) -> CostTable:
    """Return the cost of every member as a sum over parts, each a function of the nodes that it depends on.

    Args:
        parts: The parts of the network.
        nodes: What can be chosen.
        price: Cost of a list of subgraphs; called once, with all different ones.

    Example::

        >>> import torch
        >>> from torch import nn
        >>> from lightning_nas.graph.elastic_network import elastic_network
        >>> from lightning_nas.graph.elastic_parts import elastic_parts
        >>> net = nn.Sequential(nn.Conv2d(3, 32, 1), nn.ReLU(), nn.Conv2d(32, 4, 1))
        >>> parts = elastic_parts(elastic_network(net, torch.zeros(1, 3, 8, 8)))
        >>> nodes = [WidthNode((0,), ((16,), (32,)))]
        >>> macs = part_table(parts, nodes, lambda found: np.array([float(part.macs) for part in found]))
        >>> macs.exact((0,)), macs.exact((1,))
        (7168.0, 14336.0)
    """
    owner = _owners(nodes)
    numbers: dict[Subgraph, int] = {}
    layouts: list[tuple[tuple[int, ...], NDArray[np.int64]]] = []
    for part in parts:
        chosen = tuple(sorted({owner[group] for group in part.gains if group in owner}))
        shape = tuple(len(nodes[node].widths) for node in chosen)
        places = [
            numbers.setdefault(part.at(widths), len(numbers)) for widths in _combinations([nodes[n] for n in chosen])
        ]
        layouts.append((chosen, np.array(places, dtype=np.int64).reshape(shape)))
    costs = np.asarray(price(list(numbers)), dtype=np.float64)
    sizes = tuple(len(node.widths) for node in nodes)
    return CostTable(_merged([Factor(chosen, costs[places]) for chosen, places in layouts]), sizes)


def step_tables(memory: ElasticMemory, nodes: Sequence[WidthNode], value_bytes: int = 1) -> list[CostTable]:
    """Return the bytes that are live at each step of a network; the largest of a member is its peak.

    A limit on the peak is a limit on each of these sums, and so linear for the solver.

    Args:
        memory: The live tensors, step by step.
        nodes: What can be chosen.
        value_bytes: Bytes of one value.
    """
    owner = _owners(nodes)
    sizes = tuple(len(node.widths) for node in nodes)
    factors = []
    for number, block in enumerate(memory.blocks):
        chosen = tuple(sorted({owner[group] for group in memory.groups_of(number) if group in owner}))
        shape = tuple(len(nodes[node].widths) for node in chosen)
        values = []
        for widths in _combinations([nodes[n] for n in chosen]):
            missing = {group: memory.sizes[group] - width for group, width in widths.items() if group in memory.sizes}
            values.append(value_bytes * max(tensor.values(missing) for tensor in block))
        factors.append(Factor(chosen, np.array(values, dtype=np.float64).reshape(shape)))
    return [CostTable(_merged([factors[number] for number in step]), sizes) for step in memory.steps]


def _owners(nodes: Sequence[WidthNode]) -> dict[int, int]:
    return {group: number for number, node in enumerate(nodes) for group in node.groups}


def _combinations(nodes: Sequence[WidthNode]) -> list[Mapping[int, int]]:
    """Return the widths of each combination of options, in C order."""
    rows = [[dict(zip(node.groups, row, strict=True)) for row in node.widths] for node in nodes]
    return [{k: v for row in chosen for k, v in row.items()} for chosen in itertools.product(*rows)]


def _merged(factors: Sequence[Factor]) -> tuple[Factor, ...]:
    """Return factors with those of the same nodes added up: fewer for whoever reads the table."""
    sums: dict[tuple[int, ...], NDArray[np.float64]] = {}
    for factor in factors:
        sums[factor.nodes] = sums[factor.nodes] + factor.cost if factor.nodes in sums else factor.cost
    return tuple(Factor(nodes, cost) for nodes, cost in sums.items())
