"""Options that no architecture within the budgets contains: they are removed before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..estimator.table import CostTable
from ..space.spec import SearchSpace
from .solve import Limit, solve

__all__ = ["describe_removed", "possible_options"]


def possible_options(
    node_sizes: Sequence[int], limits: Sequence[Limit], forbidden: Sequence[CostTable] = ()
) -> list[NDArray[np.bool_]]:
    """Return for each node which of its options some architecture within all budgets contains.

    It is exact: each program asks for the architecture with the most options that were not seen yet, and once the best
    has none of them, they are in no architecture.

    Args:
        node_sizes: Number of options of each node.
        limits: The budgets.
        forbidden: Tables whose combinations with a positive value may not be chosen.
    """
    seen = [np.zeros(size, dtype=bool) for size in node_sizes]
    while not all(row.all() for row in seen):
        nodes = solve([(~row).astype(np.float64) for row in seen], limits, forbidden)
        if nodes is None or all(row[node] for row, node in zip(seen, nodes, strict=True)):
            break
        for row, node in zip(seen, nodes, strict=True):
            row[node] = True
    return seen


def describe_removed(space: SearchSpace, possible: Sequence[NDArray[np.bool_]]) -> list[str]:
    """Return a line for each node that lost options, saying which.

    Example::

        >>> from lightning_nas.space.spec import BlockOption, Choice, ConvSpec, SearchSpace, Stage
        >>> choice = Choice(1, (BlockOption("ibn", 3, 3), BlockOption("fused", 6, 3)))
        >>> space = SearchSpace((3, 32, 32), ConvSpec(16, 3, 2), (Stage(16, (choice,)),), (), None, 10, (0,))
        >>> describe_removed(space, [np.array([True, False])])
        ['block 0: fused e6 k3']
    """
    lines = []
    for multiplier, kept in zip(space.multipliers, possible, strict=False):
        widths = [
            "/".join(map(str, row)) for row, here in zip(multiplier.widths, kept.tolist(), strict=True) if not here
        ]
        if widths:
            stages = ", ".join(map(str, multiplier.stages))
            lines.append(f"stage {stages}: width {', '.join(widths)}")
    for number, (choice, kept) in enumerate(zip(space.choices, possible[len(space.multipliers) :], strict=True)):
        options = [option for option, here in zip(choice.options, kept.tolist(), strict=True) if not here]
        if options:
            names = ", ".join(f"{option.kind} e{option.expansion:g} k{option.kernel}" for option in options)
            lines.append(f"block {number}: {names}")
    return lines
