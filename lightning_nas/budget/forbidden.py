"""Combinations of options that may not be chosen: they are too large for a budget, or are not searched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Forbidden"]


@dataclass(frozen=True)
class Forbidden:
    """Combinations of the options of a few nodes, none of which an architecture may contain.

    Attributes:
        cells: For each group of nodes which combinations of their options are forbidden, of shape (options of each
            node, ...). A group without nodes forbids everything where its one cell is set.

    Example::

        >>> fused_and_wide = Forbidden((((0, 1), np.array([[False, False], [False, True]])),))
        >>> fused_and_wide.contains((1, 1)), fused_and_wide.contains((1, 0))
        (True, False)
    """

    cells: tuple[tuple[tuple[int, ...], NDArray[np.bool_]], ...]

    def contains(self, encoding: Sequence[int]) -> bool:
        """Return whether an architecture has one of the combinations."""
        return any(bool(cells[tuple(encoding[node] for node in nodes)]) for nodes, cells in self.cells)
