"""How wrong an estimator is, on what it has not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any

import numpy as np
from tqdm import tqdm

from lightning_nas.estimator.estimator import Estimator
from lightning_nas.estimator.interval import Errors
from lightning_nas.estimator.judge import network_error, totals
from lightning_nas.estimator.rates import is_operator
from lightning_nas.estimator.regressor import Regressor
from lightning_nas.estimator.scores import scores
from lightning_nas.estimator.subgraph import Subgraph

__all__ = ["HeldOutRows", "format_error", "held_out_error", "held_out_rows", "row_error"]


def held_out_error(
    estimator: Estimator, num_networks: int = 200, num_folds: int = 5, rows: HeldOutRows | None = None
) -> dict[str, dict[str, float]]:
    """Measure whole networks, and hold rows of the table out of the fit.

    Args:
        estimator: What is judged.
        num_networks: Subnets to measure whole, beside stock networks; 0 where nothing can measure.
        num_folds: Folds of the cross-validation over rows.
        rows: What `held_out_rows` returned, where it was called before.

    Returns:
        Figures by what they are of: ``rows`` (cross-validated over the table; also by kind and by size), and those of
        `network_error`. Of whole networks in the table: ``table_networks``, cross-validated where they are all that
        there is; else the sums of their parts, and with the one factor that fits the other networks best.
    """
    error: dict[str, dict[str, float]] = {}
    if estimator.measurements:
        rows = rows or held_out_rows(estimator, num_folds)
        error = row_error(rows)
        estimator = estimator.with_device(replace(estimator.device, errors=rows.errors.to_dict()))
    error |= _table_networks_error(estimator, num_folds) if estimator.networks else {}
    return error | network_error(estimator, num_networks) if num_networks else error


def format_error(error: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the statistics as a table of text.

    Example::

        >>> print(format_error({"rows": {"count": 9, "mape": 0.02, "within_5": 0.9, "within_10": 1, "spearman": 1}}))
                                           count    MAPE   within 5 %   within 10 %  Spearman
        rows                                   9   2.00 %       90.0 %       100.0 %    1.0000
    """
    lines = [f"{'':32} {'count':>7} {'MAPE':>7}   within 5 %   within 10 %  Spearman"]
    for name, row in error.items():
        if "mape" in row:
            shares = f"{row['mape']:>7.2%} {row['within_5']:>11.1%} {row['within_10']:>12.1%}".replace("%", " %")
            rank = f"{row['spearman']:>9.4f}" if "spearman" in row else f"{'-':>9}"
            lines.append(f"{name:32} {row['count']:>7} {shares} {rank}")
    lines += [_sentence(name, row).replace("%", " %") for name, row in error.items() if "mape" not in row]
    return "\n".join(lines)


def _sentence(name: str, row: Mapping[str, Any]) -> str:
    if name == "pairs":
        clear = f"{row['right_where_clear']:.1%} where they differ by more than 10%"
        return f"faster of ibn and fused: {row['right']:.1%} right of {row['count']} unseen pairs, {clear}"
    return f"{name} of {row['level']:.0%}: holds {row['coverage']:.1%}, half width {row['half_width']:.1%} on average"


@dataclass(frozen=True)
class HeldOutRows:
    """Rows of a table, and what was predicted of each by a fit that had not seen it.

    Attributes:
        parts: What was measured.
        true_ms: What each took.
        predicted_ms: What was predicted.
    """

    parts: tuple[Subgraph, ...]
    true_ms: np.ndarray
    predicted_ms: np.ndarray

    @property
    def errors(self) -> Errors:
        """Quantiles of how far they are off."""
        return Errors.of(self.parts, np.log(self.predicted_ms / self.true_ms))


def held_out_rows(estimator: Estimator, num_folds: int = 5) -> HeldOutRows:
    """Cross-validate the fit over the rows of the table."""
    table = {part: figures.latency_ms for part, figures in estimator.measurements.items() if not is_operator(part)}
    parts, true_ms = list(table), np.array(list(table.values()))
    fold = np.random.default_rng(0).permutation(len(parts)) % num_folds
    predicted_ms = np.empty_like(true_ms)
    for number in tqdm(range(num_folds), desc="Cross-validating", unit="fold"):
        train, test = fold != number, fold == number
        regressor = Regressor.fit(list(compress(parts, train)), true_ms[train])
        predicted_ms[test] = regressor.predict_ms(list(compress(parts, test)))
    return HeldOutRows(tuple(parts), true_ms, predicted_ms)


def row_error(rows: HeldOutRows) -> dict[str, dict[str, float]]:
    """Return how far rows are off: all of them, by kind and by size."""
    groups = {"rows": np.full(len(rows.parts), True)} | _by_kind(rows.parts) | _by_size(rows.true_ms)
    return {
        name: scores(rows.predicted_ms[chosen], rows.true_ms[chosen]) for name, chosen in groups.items() if chosen.any()
    }


def _table_networks_error(estimator: Estimator, num_folds: int) -> dict[str, dict[str, float]]:
    networks = [list(network.parts) for network in estimator.networks.values()]
    true_ms = np.array([network.figures.latency_ms for network in estimator.networks.values()])
    if estimator.measurements:
        sums = totals(estimator, networks)
        ratio = true_ms / sums
        factors = np.array([np.median(np.delete(ratio, index)) for index in range(len(ratio))])
        return {
            "table_networks": scores(sums, true_ms),
            "table_networks_corrected": scores(factors * sums, true_ms),
        }
    fold = np.random.default_rng(0).permutation(len(networks)) % num_folds
    predicted_ms = np.empty_like(true_ms)
    for number in tqdm(range(num_folds), desc="Cross-validating", unit="fold"):
        train, test = fold != number, fold == number
        regressor = Regressor.fit_networks(list(compress(networks, train)), true_ms[train])
        predicted_ms[test] = [regressor.predict_ms(parts).sum() for parts in compress(networks, test)]
    return {"table_networks": scores(predicted_ms, true_ms)}


def _by_kind(parts: Sequence[Subgraph]) -> dict[str, np.ndarray]:
    kinds = np.array([part.kind for part in parts])
    return {f"rows of {kind}": kinds == kind for kind in sorted(set(kinds.tolist()))}


def _by_size(true_ms: np.ndarray) -> dict[str, np.ndarray]:
    low, high = np.quantile(true_ms, (1 / 3, 2 / 3)).tolist()
    return {
        f"rows under {low:.3g} ms": true_ms < low,
        f"rows to {high:.3g} ms": (true_ms >= low) & (true_ms <= high),
        f"rows over {high:.3g} ms": true_ms > high,
    }
