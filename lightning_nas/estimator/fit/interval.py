"""Prediction intervals: quantiles of the errors on rows that were held out of the fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np

from lightning_nas.graph.subgraph import Subgraph, SubgraphKind

__all__ = ["LEVELS", "ErrorQuantiles", "level_number", "quantile"]

LEVELS = (0.5, 0.8, 0.9, 0.95, 0.98)
"""Shares of held-out rows that an interval holds."""

_KINDS: tuple[str, ...] = get_args(SubgraphKind)
_ROWS = (*_KINDS, "all")
# Fewer errors of a kind say nothing about their tail; those of all kinds stand for them.
_MIN_ROWS = 50


class ErrorQuantiles:
    """Quantiles of the logarithm of predicted over measured, without its sign, by kind of subgraph.

    Args:
        widths: One row a kind, and one of all kinds at the end; one column for each of `LEVELS`.

    Example::

        >>> parts = [Subgraph("conv", size, size, 8, 8, 8) for size in range(1, 101)]
        >>> errors = ErrorQuantiles.of(parts, np.linspace(0.001, 0.1, 100))
        >>> errors.widths_of(parts[:1], 0.9).round(3)
        array([0.091])
    """

    def __init__(self, widths: np.ndarray) -> None:
        self.widths = widths

    @classmethod
    def of(cls, parts: Sequence[Subgraph], errors: np.ndarray) -> ErrorQuantiles:
        """Return the quantiles of errors on rows that were held out.

        They are those of split conformal prediction: a new row of the same kind lies within with the probability of
        the level, whatever the errors look like.
        """
        kinds = np.array([part.kind for part in parts])
        counts = Counter(kinds.tolist())
        chosen = [kinds == kind if counts[kind] >= _MIN_ROWS else np.full(len(kinds), True) for kind in (*_KINDS, "")]
        return cls(np.array([[quantile(np.abs(errors[rows]), level) for level in LEVELS] for rows in chosen]))

    def widths_of(self, parts: Sequence[Subgraph], level: float) -> np.ndarray:
        """Return the half width of each subgraph's interval, as the logarithm of a factor.

        Raises:
            ValueError: The level is none of `LEVELS`.
        """
        column = level_number(level)
        rows = [_KINDS.index(part.kind) if part.kind in _KINDS else len(_KINDS) for part in parts]
        widths: np.ndarray = self.widths[rows, column]
        return widths

    def to_dict(self) -> dict[str, list[float]]:
        """Return the widths by kind of subgraph, as they are kept in the file of a device."""
        return {kind: [round(x, 5) for x in row] for kind, row in zip(_ROWS, self.widths.tolist(), strict=True)}

    @classmethod
    def from_dict(cls, widths: Mapping[str, Sequence[float]]) -> ErrorQuantiles:
        """Return the quantiles that `to_dict` wrote.

        Raises:
            ValueError: A kind is missing, or a width is.

        Example::

            >>> errors = ErrorQuantiles.of([Subgraph("conv", 8, 8, 8, 8, 8)] * 60, np.full(60, 0.25))
            >>> ErrorQuantiles.from_dict(errors.to_dict()).to_dict() == errors.to_dict()
            True
        """
        missing = set(_ROWS) - set(widths)
        if missing:
            raise ValueError(f"its errors lack {', '.join(sorted(missing))}.")
        return cls.from_arrays({"widths": np.array([widths[kind] for kind in _ROWS], dtype=np.float64)})

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays to store."""
        return {"widths": self.widths}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> ErrorQuantiles:
        """Return the quantiles of stored arrays.

        Raises:
            ValueError: The arrays are not those of errors.
        """
        widths = arrays["widths"]
        if widths.shape != (len(_KINDS) + 1, len(LEVELS)) or not (widths >= 0).all():
            raise ValueError("its errors are malformed.")
        return cls(widths)


def level_number(level: float) -> int:
    """Return the index of a level in `LEVELS`.

    Raises:
        ValueError: It is none of them.
    """
    if level not in LEVELS:
        raise ValueError(f"`level` must be one of {', '.join(map(str, LEVELS))}; got {level!r}.")
    return LEVELS.index(level)


def quantile(errors: np.ndarray, level: float) -> float:
    """Return the conformal quantile of errors: a new one is below it with the probability of the level."""
    # Not level * count: the rank among the errors and the new one, as split conformal prediction has it.
    rank = min(len(errors), int(np.ceil((len(errors) + 1) * level)))
    return float(np.partition(errors, rank - 1)[rank - 1])
