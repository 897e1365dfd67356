"""How wrong an estimator is, on what it has not seen."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from tqdm import tqdm

from lightning_nas.estimator.estimator import Estimator
from lightning_nas.estimator.measure.backend import open_backend
from lightning_nas.estimator.measure.sample import sample_architecture
from lightning_nas.estimator.rates import is_operator
from lightning_nas.estimator.regressor import Regressor
from lightning_nas.estimator.subgraph import Subgraph, subgraphs

__all__ = ["format_error", "held_out_error"]

# Another seed than that of the tables, so that none of these networks was drawn for one.
_SEED = 20_000


def held_out_error(estimator: Estimator, num_networks: int = 100, num_folds: int = 5) -> dict[str, dict[str, float]]:
    """Measure whole random networks, and hold rows of the table out of the fit.

    Args:
        estimator: What is judged.
        num_networks: Networks to measure whole; 0 where the backend is not installed.
        num_folds: Folds of the cross-validation over rows.

    Returns:
        Error statistics by what they are of: ``rows`` (cross-validated over the table), ``networks`` (the estimator as
        it is) and ``networks_predicted`` (nothing looked up, and every row that they contain held out of the fit).
    """
    error = {"rows": _row_error(estimator, num_folds)}
    if num_networks:
        rng = random.Random(_SEED)
        networks = [subgraphs(sample_architecture(rng)) for _ in range(num_networks)]
        backend = open_backend(estimator.device)
        progress = tqdm(networks, desc="Measuring whole networks", unit="network")
        true_ms = np.array([backend.measure_network(parts).latency_ms for parts in progress])
        blind = _without(
            estimator, {piece for parts in networks for part in parts for piece in (part, *part.operators)}
        )
        error["networks"] = _statistics(_totals(estimator, networks), true_ms)
        error["networks"]["measured_share"] = float(np.mean([estimator.measured_share(parts) for parts in networks]))
        error["networks_predicted"] = _statistics(_totals(blind, networks), true_ms)
    return error


def format_error(error: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the statistics as a table of text.

    Example::

        >>> print(format_error({"rows": {"count": 9, "mape": 0.02, "within_5": 0.9, "within_10": 1, "spearman": 1}}))
                               count    MAPE   within 5 %   within 10 %  Spearman
        rows                       9   2.00 %       90.0 %       100.0 %    1.0000
    """
    lines = [f"{'':20} {'count':>7} {'MAPE':>7}   within 5 %   within 10 %  Spearman"]
    for name, row in error.items():
        shares = f"{row['mape']:>7.2%} {row['within_5']:>11.1%} {row['within_10']:>12.1%}".replace("%", " %")
        lines.append(f"{name:20} {row['count']:>7} {shares} {row['spearman']:>9.4f}")
    return "\n".join(lines)


def _row_error(estimator: Estimator, num_folds: int) -> dict[str, float]:
    rows = {part: figures.latency_ms for part, figures in estimator.measurements.items() if not is_operator(part)}
    parts, true_ms = list(rows), np.array(list(rows.values()))
    fold = np.random.default_rng(0).permutation(len(parts)) % num_folds
    predicted_ms = np.empty_like(true_ms)
    for number in tqdm(range(num_folds), desc="Cross-validating", unit="fold"):
        train, test = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        regressor = Regressor.fit([parts[index] for index in train], true_ms[train])
        predicted_ms[test] = regressor.predict_ms([parts[index] for index in test])
    return _statistics(predicted_ms, true_ms)


def _without(estimator: Estimator, hidden: set[Subgraph]) -> Estimator:
    kept = {part: figures for part, figures in estimator.measurements.items() if part not in hidden}
    return Estimator(estimator.device, kept, exact=False)


def _totals(estimator: Estimator, networks: list[list[Subgraph]]) -> np.ndarray:
    return np.array([estimator.predict_ms(parts).sum() for parts in networks])


def _statistics(predicted_ms: np.ndarray, true_ms: np.ndarray) -> dict[str, float]:
    relative = np.abs(predicted_ms / true_ms - 1)
    return {
        "count": len(true_ms),
        "mape": float(relative.mean()),
        "max": float(relative.max()),
        "bias": float(np.mean(predicted_ms / true_ms)),
        "within_5": float(np.mean(relative <= 0.05)),
        "within_10": float(np.mean(relative <= 0.10)),
        "spearman": float(spearmanr(predicted_ms, true_ms).statistic),
    }
