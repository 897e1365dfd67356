"""Prices of single operators by their rate: time for a byte moved or for a multiply-accumulate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import numpy as np

from lightning_nas.estimator.measurements import Figures
from lightning_nas.estimator.subgraph import OperatorKind, Subgraph

__all__ = ["Rates", "bytes_moved", "is_operator"]

_OPERATOR_KINDS = frozenset(get_args(OperatorKind))


def is_operator(part: Subgraph) -> bool:
    """Whether a subgraph is of the kinds that are priced by a rate, and not by the regressor."""
    return part.kind in _OPERATOR_KINDS


def bytes_moved(part: Subgraph) -> int:
    """Return the bytes that an int8 subgraph reads and writes at its ends, weights included.

    Example::

        >>> bytes_moved(Subgraph("mul", 8, 8, 16, 16, 16))
        3072
    """
    height, width, channels = part.out_shape
    inputs = 2 if part.kind in ("add", "mul") else 1
    values = inputs * part.height * part.width * part.in_channels + height * width * channels
    return values + sum(layer.num_weights for layer in part.layers)


class Rates:
    """Prices operators by the median rate of the rows of their kind.

    Args:
        measurements: The table.

    Example::

        >>> rows = {Subgraph("mul", n, n, 16, 16, 16): Figures(n * n * 0.5) for n in (4, 8)}
        >>> Rates(rows).predict_ms(Subgraph("mul", 6, 6, 16, 16, 16))
        18.0
    """

    def __init__(self, measurements: Mapping[Subgraph, Figures]) -> None:
        self._table = measurements
        self._rates: dict[tuple[str, str], float] | None = None

    def predict_ms(self, part: Subgraph) -> float | None:
        """Return the latency of an operator, or None where the table has no operator of its kind."""
        if self._rates is None:
            self._rates = self._medians()
        rate = self._rates.get(_key(part))
        return None if rate is None else rate * _work(part)

    def by_bytes_ms(self, part: Subgraph) -> float:
        """Return the latency of anything, by the bytes that it moves and the multiply-accumulates that it does.

        The larger of both times counts. Their rates are the medians over those quarters of the table's rows that do
        the least and the most multiply-accumulates for a byte.
        """
        parts = [row for row in self._table if not is_operator(row)] or list(self._table)
        intensity = np.array([row.macs / bytes_moved(row) for row in parts])
        low, high = np.quantile(intensity, [0.25, 0.75])
        latency_ms = np.array([self._table[row].latency_ms for row in parts])
        moved = np.array([bytes_moved(row) for row in parts])
        macs = np.array([max(row.macs, 1) for row in parts])
        bytes_rate = float(np.median((latency_ms / moved)[intensity <= low]))
        macs_rate = float(np.median((latency_ms / macs)[intensity >= high]))
        return max(bytes_moved(part) * bytes_rate, part.macs * macs_rate)

    def _medians(self) -> dict[tuple[str, str], float]:
        rates: dict[tuple[str, str], list[float]] = {}
        for part, figures in self._table.items():
            if is_operator(part):
                rates.setdefault(_key(part), []).append(figures.latency_ms / _work(part))
        return {key: float(np.median(values)) for key, values in rates.items()}


def _key(part: Subgraph) -> tuple[str, str]:
    return part.kind, part.form.variant if part.form is not None else ""


def _work(part: Subgraph) -> int:
    return part.macs or bytes_moved(part)
