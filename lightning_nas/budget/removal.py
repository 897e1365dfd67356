"""Options that no architecture within the budgets contains: they are removed before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lightning_nas.budget.forbidden import Forbidden
from lightning_nas.budget.solver import Limit, solve
from lightning_nas.space.spec import SearchSpace

__all__ = ["describe_removed", "possible_options"]


def possible_options(
    node_sizes: Sequence[int], limits: Sequence[Limit], forbidden: Sequence[Forbidden] = ()
) -> list[NDArray[np.bool_]]:
    """Return for each node which of its options some architecture within all budgets contains.

    It is exact: each program asks for the architecture with the most options that were not seen yet, and once the best
    has none of them, they are in no architecture.

    Args:
        node_sizes: Number of options of each node.
        limits: The budgets.
        forbidden: What may not be chosen.
    """
    seen = [np.zeros(size, dtype=bool) for size in node_sizes]
    while not all(row.all() for row in seen):
        # A score of 1 for each option that was not seen yet.
        encoding = solve([(~row).astype(np.float64) for row in seen], limits, forbidden)
        if encoding is None or all(row[node] for row, node in zip(seen, encoding, strict=True)):
            break
        for row, node in zip(seen, encoding, strict=True):
            row[node] = True
    return seen


def describe_removed(space: SearchSpace, possible: Sequence[NDArray[np.bool_]]) -> list[str]:
    """Return a line for each node that lost options, saying which.

    Args:
        space: What can be chosen.
        possible: For each node which of its options some architecture has, see `possible_options`.

    Example::

        >>> import torch
        >>> from torch import nn
        >>> from lightning_nas.graph.elastic_network import elastic_network
        >>> from lightning_nas.space import build_space
        >>> net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 4, 1))
        >>> space = build_space(elastic_network(net, torch.zeros(1, 3, 8, 8)), (), ())
        >>> describe_removed(space, [np.array([False, False, True])])
        ['0: width 16, 24']
    """
    lines = []
    for multiplier, kept in zip(space.multipliers, possible, strict=False):
        widths = [
            "/".join(map(str, row)) for row, here in zip(multiplier.widths, kept.tolist(), strict=True) if not here
        ]
        if widths:
            lines.append(f"{multiplier}: width {', '.join(widths)}")
    for choice, kept in zip(space.choices, possible[len(space.multipliers) :], strict=True):
        options = [str(option) for option, here in zip(choice.options, kept.tolist(), strict=True) if not here]
        if options:
            lines.append(f"{choice}: {', '.join(options)}")
    return lines
