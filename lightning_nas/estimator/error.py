"""How wrong an estimator is, on what it has not seen."""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import compress
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
        Error statistics by what they are of: ``rows`` (cross-validated over the table; also by kind and by size),
        ``networks`` (the estimator as it is) and ``networks_predicted`` (nothing looked up, and every row that they
        contain held out of the fit). Of whole networks in the table: ``table_networks``, cross-validated where they are
        all that there is; else the sums of their parts, and with the one factor that fits the other networks best.
    """
    error = _row_error(estimator, num_folds) if estimator.measurements else {}
    error |= _table_networks_error(estimator, num_folds) if estimator.networks else {}
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
        rows                             9   2.00 %       90.0 %       100.0 %    1.0000
    """
    lines = [f"{'':26} {'count':>7} {'MAPE':>7}   within 5 %   within 10 %  Spearman"]
    for name, row in error.items():
        shares = f"{row['mape']:>7.2%} {row['within_5']:>11.1%} {row['within_10']:>12.1%}".replace("%", " %")
        rank = f"{row['spearman']:>9.4f}" if "spearman" in row else f"{'-':>9}"
        lines.append(f"{name:26} {row['count']:>7} {shares} {rank}")
    return "\n".join(lines)


def _row_error(estimator: Estimator, num_folds: int) -> dict[str, dict[str, float]]:
    rows = {part: figures.latency_ms for part, figures in estimator.measurements.items() if not is_operator(part)}
    parts, true_ms = list(rows), np.array(list(rows.values()))
    fold = np.random.default_rng(0).permutation(len(parts)) % num_folds
    predicted_ms = np.empty_like(true_ms)
    for number in tqdm(range(num_folds), desc="Cross-validating", unit="fold"):
        train, test = fold != number, fold == number
        regressor = Regressor.fit(list(compress(parts, train)), true_ms[train])
        predicted_ms[test] = regressor.predict_ms(list(compress(parts, test)))
    groups = {"rows": np.full(len(parts), True)} | _by_kind(parts) | _by_size(true_ms)
    return {name: _statistics(predicted_ms[chosen], true_ms[chosen]) for name, chosen in groups.items() if chosen.any()}


def _table_networks_error(estimator: Estimator, num_folds: int) -> dict[str, dict[str, float]]:
    networks = [list(network.parts) for network in estimator.networks.values()]
    true_ms = np.array([network.figures.latency_ms for network in estimator.networks.values()])
    if estimator.measurements:
        sums = _totals(estimator, networks)
        ratio = true_ms / sums
        factors = np.array([np.median(np.delete(ratio, index)) for index in range(len(ratio))])
        return {
            "table_networks": _statistics(sums, true_ms),
            "table_networks_corrected": _statistics(factors * sums, true_ms),
        }
    fold = np.random.default_rng(0).permutation(len(networks)) % num_folds
    predicted_ms = np.empty_like(true_ms)
    for number in tqdm(range(num_folds), desc="Cross-validating", unit="fold"):
        train, test = fold != number, fold == number
        regressor = Regressor.fit_networks(list(compress(networks, train)), true_ms[train])
        predicted_ms[test] = [regressor.predict_ms(parts).sum() for parts in compress(networks, test)]
    return {"table_networks": _statistics(predicted_ms, true_ms)}


def _by_kind(parts: list[Subgraph]) -> dict[str, np.ndarray]:
    kinds = np.array([part.kind for part in parts])
    return {f"rows of {kind}": kinds == kind for kind in sorted(set(kinds.tolist()))}


def _by_size(true_ms: np.ndarray) -> dict[str, np.ndarray]:
    low, high = np.quantile(true_ms, (1 / 3, 2 / 3)).tolist()
    return {
        f"rows under {low:.3g} ms": true_ms < low,
        f"rows to {high:.3g} ms": (true_ms >= low) & (true_ms <= high),
        f"rows over {high:.3g} ms": true_ms > high,
    }


def _without(estimator: Estimator, hidden: set[Subgraph]) -> Estimator:
    kept = {part: figures for part, figures in estimator.measurements.items() if part not in hidden}
    return Estimator(estimator.device, kept, exact=False)


def _totals(estimator: Estimator, networks: list[list[Subgraph]]) -> np.ndarray:
    return np.array([estimator.predict_ms(parts).sum() for parts in networks])


def _statistics(predicted_ms: np.ndarray, true_ms: np.ndarray) -> dict[str, float]:
    relative = np.abs(predicted_ms / true_ms - 1)
    statistics = {
        "count": len(true_ms),
        "mape": float(relative.mean()),
        "max": float(relative.max()),
        "bias": float(np.mean(predicted_ms / true_ms)),
        "within_5": float(np.mean(relative <= 0.05)),
        "within_10": float(np.mean(relative <= 0.10)),
    }
    # There is no order where all are equal.
    if np.ptp(predicted_ms) > 0 and np.ptp(true_ms) > 0:
        statistics["spearman"] = float(spearmanr(predicted_ms, true_ms).statistic)
    return statistics
