"""Correction of sums over parts, fitted to networks that were measured whole and are not judged by."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from lightning_nas.estimator.estimator import Estimator
from lightning_nas.estimator.judge.parity import PredictionPairs
from lightning_nas.estimator.judge.whole_networks import WholeNetworks

__all__ = ["LEVEL", "corrected", "corrected_by", "fit_factor", "fit_spread", "format_correction"]

LEVEL = 0.9
"""Level of the intervals that the spread is fitted to."""

_log = logging.getLogger(__name__)

# Beyond what a device may be given, its parts say nothing of its networks.
_LEAST, _MOST_SPREAD = 0.5, 0.99
# A factor that helps by less than this is as likely to be chance.
_MIN_GAIN = 0.02


def corrected(estimator: Estimator, networks: WholeNetworks) -> tuple[Estimator, dict[str, float]]:
    """Return the estimator with the correction and the spread that fit whole networks best, and how much that helps.

    Args:
        estimator: What is corrected.
        networks: At least `MIN_NETWORKS`.
    """
    plain = estimator.with_device(replace(estimator.device, correction=1.0, spread=0.0))
    total = networks.estimated(plain)
    return corrected_by(estimator, total, networks.bounds_ms(plain, LEVEL)[:, 1] - total.predicted_ms)


def corrected_by(
    estimator: Estimator, uncorrected: PredictionPairs, half_ms: np.ndarray
) -> tuple[Estimator, dict[str, float]]:
    """Return the corrected estimator, given predictions of the networks that exist already.

    Args:
        estimator: What is corrected.
        uncorrected: What is predicted of each network without a correction, and what it took.
        half_ms: Half width of the interval that the predicted parts of each make.
    """
    factor, record = fit_factor(uncorrected.predicted_ms, uncorrected.true_ms)
    if not _LEAST <= factor <= 1 / _LEAST:
        text = "Networks on %s take %.3g times the sum of their parts, which is not corrected: %s."
        _log.warning(text, estimator.name, factor, "parts must be measured as they run in a network")
        factor, record = 1.0, {**record, "factor": 1.0}
    spread = fit_spread(factor * uncorrected.predicted_ms, factor * half_ms, uncorrected.true_ms)
    device = replace(estimator.device, correction=factor, spread=min(spread, _MOST_SPREAD))
    return estimator.with_device(device), record


def fit_factor(sums_ms: np.ndarray, true_ms: np.ndarray) -> tuple[float, dict[str, float]]:
    """Return the factor that corrects sums, 1 where none helps, and the error with and without it.

    The error with a factor is that of networks which the factor was not fitted to.

    Example::

        >>> factor, record = fit_factor(np.array([1.0, 2.0, 3.0]), np.array([1.1, 2.2, 3.3]))
        >>> round(factor, 6), round(record["without"], 3), round(record["with"], 3)
        (1.1, 0.091, 0.0)
        >>> fit_factor(np.array([1.0, 2.0, 3.0]), np.array([1.01, 1.98, 3.0]))[0]
        1.0
    """
    ratio = true_ms / sums_ms
    others = np.array([np.median(np.delete(ratio, index)) for index in range(len(ratio))])
    without, with_factor = (float(np.abs(f / ratio - 1).mean()) for f in (1.0, others))
    helps = with_factor < (1 - _MIN_GAIN) * without
    factor = float(np.median(ratio)) if helps else 1.0
    return factor, {"networks": len(ratio), "without": without, "with": with_factor, "factor": factor}


def fit_spread(total_ms: np.ndarray, half_ms: np.ndarray, true_ms: np.ndarray) -> float:
    """Return the smallest spread at which the share `LEVEL` of networks lies in their intervals.

    Args:
        total_ms: What was predicted of each network.
        half_ms: Half width of the interval that its predicted parts alone make.
        true_ms: What each took.
    """
    # Intervals add the squares of spread and half width, see `Estimator.total_interval_ms`; solved for the spread.
    needed = np.sort(np.sqrt(np.maximum((true_ms - total_ms) ** 2 - half_ms**2, 0)) / total_ms)
    rank = min(len(needed), int(np.ceil((len(needed) + 1) * LEVEL)))
    return float(needed[rank - 1])


def format_correction(record: Mapping[str, float]) -> str:
    """Return the correction in words.

    Example::

        >>> print(format_correction({"networks": 9, "without": 0.02, "with": 0.01, "factor": 1.02}))
        sums of parts, on 9 networks that judge nothing: 2.00 % off, 1.00 % with a factor fitted to others; used: 1.02
    """
    text = f"{record['without']:.2%} off, {record['with']:.2%} with a factor fitted to others".replace("%", " %")
    return f"sums of parts, on {record['networks']} networks that judge nothing: {text}; used: {record['factor']:.4g}"
