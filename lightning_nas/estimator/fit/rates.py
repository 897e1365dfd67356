"""Latency of rare operators by rates: time per byte moved or per multiply-accumulate."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np

from lightning_nas.estimator.measurements import Figures
from lightning_nas.graph.subgraph import OPERATORS, Subgraph

__all__ = ["RateModel", "bytes_moved", "is_operator", "operator_kind"]

_OPERATOR_KINDS = frozenset(("general_conv", *OPERATORS))
# Weights by distance, chosen on rows of three devices that were left out one at a time.
_SOFT, _POWER = 0.05, 3


def is_operator(part: Subgraph) -> bool:
    """Return whether a subgraph is an operator that is priced by a rate, and not by the regressor."""
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


class RateModel:
    """Predicts the latency of operators from the rates of measured ones of their kind, weighted by distance.

    Small tensors pay for more than their bytes, and rates of one kind differ by a factor of 20 with size: by their
    median hardswish was 141 % off on Ethos-U85, by its neighbours 1 %.

    Args:
        measurements: The table.

    Example::

        >>> rows = {Subgraph("mul", n, n, 16, 16, 16): Figures(n * n * 0.5) for n in (4, 8)}
        >>> f"{RateModel(rows).predict_ms(Subgraph('mul', 6, 6, 16, 16, 16)):.6f}"
        '18.000000'
    """

    def __init__(self, measurements: Mapping[Subgraph, Figures]) -> None:
        self._table = measurements
        self._rows: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] | None = None

    def predict_ms(self, part: Subgraph) -> float | None:
        """Return the latency of an operator, or None where the table has no operator of its kind."""
        if self._rows is None:
            self._rows = self._by_kind()
        if operator_kind(part) not in self._rows:
            return None
        points, rates = self._rows[operator_kind(part)]
        distance = np.sqrt(((points - _point(part)) ** 2).sum(axis=1))
        weights = (distance + _SOFT) ** -_POWER
        return float(np.exp((weights * rates).sum() / weights.sum())) * _work(part)

    def by_bytes_ms(self, part: Subgraph) -> float:
        """Return the latency of any subgraph by the bytes that it moves and its multiply-accumulates.

        The larger of both times counts. Their rates are the medians over those quarters of the table's rows that do
        the least and the most multiply-accumulates for a byte.
        """
        bytes_rate, macs_rate = self._general_rates
        return max(bytes_moved(part) * bytes_rate, part.macs * macs_rate)

    @cached_property
    def _general_rates(self) -> tuple[float, float]:
        """Milliseconds a byte and a multiply-accumulate; tables have tens of thousands of rows, so found once."""
        parts = [row for row in self._table if not is_operator(row)] or list(self._table)
        moved = np.array([bytes_moved(row) for row in parts])
        macs = np.array([row.macs for row in parts])
        latency_ms = np.array([self._table[row].latency_ms for row in parts])
        intensity = macs / moved
        low, high = np.quantile(intensity, [0.25, 0.75])
        bytes_rate = float(np.median((latency_ms / moved)[intensity <= low]))
        macs_rate = float(np.median((latency_ms / np.maximum(macs, 1))[intensity >= high]))
        return bytes_rate, macs_rate

    def _by_kind(self) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
        rows: dict[tuple[str, str], list[Subgraph]] = {}
        for part in self._table:
            if is_operator(part):
                rows.setdefault(operator_kind(part), []).append(part)
        return {
            kind: (
                np.array([_point(part) for part in parts]),
                np.log([self._table[part].latency_ms / _work(part) for part in parts]),
            )
            for kind, parts in rows.items()
        }


def operator_kind(part: Subgraph) -> tuple[str, str]:
    """Return kind and variant of an operator: rates are shared within these."""
    return part.kind, part.form.variant if part.form is not None else ""


def _point(part: Subgraph) -> list[float]:
    """Return the logarithms of an operator's work and bytes, and of its channels where it convolves."""
    sizes = [_work(part), bytes_moved(part)]
    channels = [part.in_channels, part.out_channels] if part.macs else []
    return np.log([*sizes, *channels]).tolist()


def _work(part: Subgraph) -> int:
    return part.macs or bytes_moved(part)
