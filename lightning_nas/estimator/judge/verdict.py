"""Verdict on an estimator: its errors, its correction, and whether it may be used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lightning_nas.estimator.estimator import Estimator
from lightning_nas.estimator.judge.held_out import HeldOutRows
from lightning_nas.estimator.judge.parity import PredictionPairs

__all__ = ["MIN_NETWORKS", "MOST_BIAS", "Intervals", "NetworkVerdict", "Verdict"]

MOST_BIAS = 0.05
"""An estimator with a larger mean signed error on whole networks is refused."""

MIN_NETWORKS = 5
"""Fewer networks say nothing about a device."""

# Of its standard error, for a bias that is no chance.
_NUM_DEVIATIONS = 2.5


@dataclass(frozen=True)
class Intervals:
    """Prediction intervals of networks, and their measured latencies.

    Attributes:
        level: Share of networks that are to lie within.
        bounds_ms: Smallest and largest latency of each, shape (num_networks, 2).
        true_ms: What was measured.
    """

    level: float
    bounds_ms: np.ndarray
    true_ms: np.ndarray

    @property
    def figures(self) -> dict[str, float]:
        """Share of networks within their interval, and the mean half width relative to the latency."""
        low, high = self.bounds_ms.T
        inside = (low <= self.true_ms) & (self.true_ms <= high)
        return {
            "count": len(inside),
            "level": self.level,
            "coverage": float(inside.mean()),
            "half_width": float(((high - low) / 2 / self.true_ms).mean()),
        }


@dataclass(frozen=True)
class NetworkVerdict:
    """Errors of an estimator on networks that were measured whole.

    Attributes:
        estimated: The estimator as it is: what was measured is looked up, sums are corrected.
        is_stock: Which of them are stock networks.
        uncorrected: The same sums without the correction; None where there is none.
        predicted: Nothing is looked up, and every row that they contain was held out of the fit; None where the rest
            of the table is too small for a fit.
        sums: Sums of parts that were each measured, of those networks whose parts were.
        intervals: Of `estimated`; None where they are not known.
        predicted_intervals: Of `predicted`.
        measured_share: Share of the estimated latency that is measured rather than predicted.
    """

    estimated: PredictionPairs
    is_stock: np.ndarray
    uncorrected: PredictionPairs | None = None
    predicted: PredictionPairs | None = None
    sums: PredictionPairs | None = None
    intervals: Intervals | None = None
    predicted_intervals: Intervals | None = None
    measured_share: float | None = None


@dataclass(frozen=True)
class Verdict:
    """Errors of an estimator, and its correction.

    Attributes:
        estimator: The estimator, with the correction, the spread and the errors that were found.
        rows: Rows of its table, each predicted without itself; None for a table of whole networks.
        networks: Whole networks; None where none were measured.
        correction: What the correction of sums brings, by networks that judge nothing.
        pairs: How often the faster block of an IBN/fused pair is predicted correctly.
    """

    estimator: Estimator
    rows: HeldOutRows | None = None
    networks: NetworkVerdict | None = None
    correction: Mapping[str, float] | None = None
    pairs: Mapping[str, float] | None = None

    @property
    def refusal(self) -> str | None:
        """Reason not to use the estimator, which is biased on whole networks in spite of the correction; or None."""
        if self.networks is None or len(self.networks.estimated.groups) < MIN_NETWORKS:
            return None
        bias, deviation = self.networks.estimated.bias
        if abs(bias) <= max(MOST_BIAS, _NUM_DEVIATIONS * deviation):
            return None
        side = "above" if bias > 0 else "below"
        count, share = len(self.networks.estimated.groups), f"{abs(100 * bias):.0f} %"
        return (
            f"The estimator of {self.estimator.name!r} is refused: its estimates of {count} whole networks are {share}"
            f" {side} what those took, on average, and no factor mends it, so that a budget would not hold. HINT: what"
            " those networks took is no sum over such parts; measure parts as they run in a network, or networks that"
            " are more alike."
        )

    @property
    def error(self) -> dict[str, dict[str, float]]:
        """Error figures per group, as written to the device's JSON file.

        ``rows``, those of each kind and of each size; ``networks`` (the estimator as it is), of these ``subnets`` and
        ``stock`` and each stock network by its name, ``networks_uncorrected``, ``networks_predicted``, ``sums``;
        ``interval`` and ``interval_predicted``; ``pairs``. What was not judged is not there.
        """
        error = _of_rows(self.rows.parity) if self.rows is not None else {}
        error |= _of_networks(self.networks) if self.networks is not None else {}
        return error | ({"pairs": dict(self.pairs)} if self.pairs is not None else {})


def _of_rows(rows: PredictionPairs) -> dict[str, dict[str, float]]:
    groups = {**rows.by_group(), **rows.by_size()}
    return {"rows": rows.figures, **{f"rows of {name}": figures for name, figures in groups.items()}}


def _of_networks(networks: NetworkVerdict) -> dict[str, dict[str, float]]:
    error = {"networks": networks.estimated.figures}
    if networks.measured_share is not None:
        error["networks"]["measured_share"] = networks.measured_share
    others = {
        "networks_uncorrected": networks.uncorrected,
        "networks_predicted": networks.predicted,
        "sums": networks.sums,
        "interval": networks.intervals,
        "interval_predicted": networks.predicted_intervals,
    }
    error |= {name: one.figures for name, one in others.items() if one is not None}
    if networks.is_stock.any() and not networks.is_stock.all():
        error["subnets"] = networks.estimated.only(~networks.is_stock).figures
    if networks.is_stock.any():
        stock = networks.estimated.only(networks.is_stock)
        error["stock"] = stock.figures
        rows = zip(stock.groups, stock.predicted_ms.tolist(), stock.true_ms.tolist(), strict=True)
        error |= {
            name: {"count": 1, "true_ms": true_ms, "predicted_ms": predicted_ms, "off": predicted_ms / true_ms - 1}
            for name, predicted_ms, true_ms in rows
        }
    return error
