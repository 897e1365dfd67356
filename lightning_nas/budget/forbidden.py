"""Limits on what may be chosen: combinations of options that are not searched, and sums that are over a bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_nas.budget.cost_table import CostTable

__all__ = ["Forbidden"]


@dataclass(frozen=True)
class Forbidden:
    """Combinations of options that an architecture may not contain, one by one or as sums over a bound.

    Attributes:
        cells: For each group of nodes which combinations of their options are forbidden, of shape (options of each
            node, ...). A group without nodes forbids everything where its one cell is set.
        sums: Sums of costs, each with the bound that it may not exceed.

    Example::

        >>> fused_and_wide = Forbidden((((0, 1), np.array([[False, False], [False, True]])),))
        >>> fused_and_wide.contains((1, 1)), fused_and_wide.contains((1, 0))
        (True, False)
    """

    cells: tuple[tuple[tuple[int, ...], NDArray[np.bool_]], ...]
    sums: tuple[tuple[CostTable, float], ...] = ()

    def contains(self, encoding: Sequence[int]) -> bool:
        """Return whether an architecture is forbidden."""
        return any(bool(cells[tuple(encoding[node] for node in nodes)]) for nodes, cells in self.cells) or any(
            table.exact(encoding) > bound for table, bound in self.sums
        )
