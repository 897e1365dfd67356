"""Error figures of predictions: mean, shares within 5 and 10 %, rank correlation, largest."""

from __future__ import annotations

import numpy as np
from scipy.stats import spearmanr

__all__ = ["scores"]


def scores(predicted_ms: np.ndarray, true_ms: np.ndarray) -> dict[str, float]:
    """Return error figures: mean and largest relative error, bias, shares of small errors, rank correlation.

    Example::

        >>> scores(np.array([1.0, 2.2]), np.array([1.0, 2.0]))["within_5"]
        0.5
    """
    relative = np.abs(predicted_ms / true_ms - 1)
    figures = {
        "count": len(true_ms),
        "mape": float(relative.mean()),
        "max": float(relative.max()),
        "bias": float(np.mean(predicted_ms / true_ms)),
        "within_5": float(np.mean(relative <= 0.05)),
        "within_10": float(np.mean(relative <= 0.10)),
    }
    # There is no order where all are equal.
    if np.ptp(predicted_ms) > 0 and np.ptp(true_ms) > 0:
        figures["spearman"] = float(spearmanr(predicted_ms, true_ms).statistic)
    return figures
