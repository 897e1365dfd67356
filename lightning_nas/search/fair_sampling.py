"""Strictly fair draws: every option of a block is trained as often as the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_nas.budget.solver import Limit
from lightning_nas.space.spec import Encoding

__all__ = ["Decks"]

# Paths that are looked at to find one near a budget.
_ATTEMPTS = 32


class Decks:
    """A deck of options for each node, shuffled anew when it is used up (strict fairness; FairNAS, arXiv 1907.01845).

    Where options are drawn independently, some are trained more often than others for a while, and are then preferred
    for that. Which options meet in a path is free: it is used to find paths near a budget.

    Args:
        possible: For each node which options are dealt.
        generator: Of the draws.
    """

    def __init__(self, possible: Sequence[NDArray[np.bool_]], generator: torch.Generator) -> None:
        self._options = [np.flatnonzero(row).tolist() for row in possible]
        self._generator = generator
        self.left: list[list[int]] = [[] for _ in self._options]

    def deal(self, limit: Limit | None = None, band: tuple[float, float] = (0.0, float("inf"))) -> Encoding:
        """Take one option from each deck, and return the path that they make.

        Args:
            limit: A budget; of some paths that the decks allow, the first within `band` is dealt, or else the nearest.
            band: Least and greatest cost, relative to the budget.
        """
        for left, options in zip(self.left, self._options, strict=True):
            if not left:
                left.extend(options)
        sizes = torch.tensor([len(left) for left in self.left])
        attempts = _ATTEMPTS if limit else 1
        uniform = torch.rand(attempts, len(sizes), generator=self._generator)
        places = (uniform * sizes).long().numpy()
        encodings = np.stack([np.array(left)[column] for left, column in zip(self.left, places.T, strict=True)], axis=1)
        row = 0
        if limit:
            ratios = limit.table.exact_many(encodings) / limit.budget
            inside = np.flatnonzero((ratios >= band[0]) & (ratios <= band[1]))
            row = int(inside[0] if len(inside) else np.abs(np.log(ratios)).argmin())
        for left, place in zip(self.left, places[row], strict=True):
            left.pop(int(place))
        return tuple(int(node) for node in encodings[row])
