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
        forbidden: Combinations that may not be chosen.
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

    Example::

        >>> import torch
        >>> from torchvision.models import mobilenet_v2
        >>> from lightning_nas import SpaceOptions, space_of
        >>> options = SpaceOptions(ratios=(0.5, 1.0), expansions=(3, 6))
        >>> space = space_of(mobilenet_v2(), torch.zeros(1, 3, 96, 96), options=options)
        >>> possible = [np.ones(size, dtype=bool) for size in space.node_sizes]
        >>> possible[0][1] = possible[-1][0] = False
        >>> describe_removed(space, possible)
        ['stage 0: width 16', 'block 16: ibn e3 k3']
    """
    lines = []
    for multiplier, kept in zip(space.multipliers, possible, strict=False):
        widths = [
            "/".join(map(str, row)) for row, here in zip(multiplier.widths, kept.tolist(), strict=True) if not here
        ]
        if widths:
            lines.append(f"{multiplier}: width {', '.join(widths)}")
    for number, (choice, kept) in enumerate(zip(space.choices, possible[len(space.multipliers) :], strict=True)):
        options = [option for option, here in zip(choice.options, kept.tolist(), strict=True) if not here]
        if options:
            names = ", ".join(f"{option.kind} e{option.expansion:g} k{option.kernel}" for option in options)
            lines.append(f"block {number}: {names}")
    return lines
