"""Nodes of a space behind what depends on widths and blocks, and the widths of all combinations of their options."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

from lightning_nas.space.spec import SearchSpace

__all__ = ["combined_widths", "described", "node_names", "nodes_behind"]

# A table of more would take minutes to price, and a program with it to solve.
_MAX_COMBINATIONS = 100_000


def node_names(space: SearchSpace) -> tuple[str, ...]:
    """Return what each node of a space chooses, by the path of its module."""
    return (*map(str, space.multipliers), *map(str, space.choices))


def described(space: SearchSpace, encoding: Sequence[int]) -> str:
    """Return in words which options of an architecture are others than the source's.

    Args:
        space: What can be chosen.
        encoding: The architecture.

    Example::

        >>> import torch
        >>> from torch import nn
        >>> from lightning_nas.space.read import space_of
        >>> net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 4, 1))
        >>> space = space_of(net, torch.zeros(1, 3, 8, 8))
        >>> described(space, (0,)), described(space, (2,))
        ('0 16 of 32', 'the source network')
    """
    words, units = [], space.network.units
    for multiplier, number in zip(space.multipliers, encoding, strict=False):
        rows = multiplier.widths[number], multiplier.widths[-1]
        if rows[0] != rows[1]:
            chosen, full = (
                "/".join(str(width * units[group]) for width, group in zip(row, multiplier.groups, strict=True))
                for row in rows
            )
            words.append(f"{multiplier} {chosen} of {full}")
    pairs = zip(space.choices, space.options(encoding), strict=True)
    words += [f"{choice} {option}" for choice, option in pairs if option != choice.own]
    return ", ".join(words) or "the source network"


def nodes_behind(space: SearchSpace, groups: Iterable[int], choices: Iterable[int] = ()) -> tuple[int, ...]:
    """Return the nodes that what depends on some width groups and blocks follows from, ascending.

    Args:
        space: What can be chosen.
        groups: Numbers of width groups; those that are not searched follow from none.
        choices: Numbers of blocks, among `SearchSpace.choices`.
    """
    widths = itertools.chain(*(space.nodes_of.get(group, ()) for group in groups))
    return tuple(sorted({*widths, *(len(space.multipliers) + choice for choice in choices)}))


def combined_widths(space: SearchSpace, nodes: Sequence[int]) -> Iterator[tuple[tuple[int, ...], Sequence[int]]]:
    """Yield each combination of the options of some nodes, in C order, with the width of each group that they set.

    Groups that follow from other nodes, too, have no meaningful width there: ask for all nodes behind a group.

    Args:
        space: What can be chosen.
        nodes: The nodes, ascending, see `nodes_behind`.

    Raises:
        ValueError: There are too many combinations for a table.
    """
    count = math.prod(space.node_sizes[node] for node in nodes)
    if count > _MAX_COMBINATIONS:
        known = node_names(space)
        names = ", ".join(known[node] for node in nodes)
        raise ValueError(
            f"A part of the network depends on {len(nodes)} choices at once, of {count} combinations: {names}."
            " HINT: offer fewer ratios, expansions or kernels, or one depth multiplier a stage (scope='stage')."
        )
    scaled = len(space.multipliers)
    for options in itertools.product(*(range(space.node_sizes[node]) for node in nodes)):
        widths = list(space.network.sizes)
        for node, number in zip(nodes, options, strict=True):
            if node < scaled:
                multiplier = space.multipliers[node]
                for group, width in zip(multiplier.groups, multiplier.widths[number], strict=True):
                    widths[group] = width
            elif (choice := space.choices[node - scaled]).block is not None and choice.size:
                # Nodes ascend, so that the widths that a block reads are there.
                widths[choice.block.group] = choice.hidden(choice.options[number], widths, space.network.sizes)
        yield options, widths
