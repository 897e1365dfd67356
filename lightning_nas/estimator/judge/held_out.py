"""Cross-validation: rows and networks of a table, each predicted by a fit that has not seen it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import compress

import numpy as np
from tqdm import tqdm

from lightning_nas.estimator.estimator import Estimator
from lightning_nas.estimator.fit.interval import Errors
from lightning_nas.estimator.fit.regressor import Regressor, fitted_rows
from lightning_nas.estimator.judge.parity import Parity
from lightning_nas.graph.subgraph import Subgraph

__all__ = ["HeldOutNetworks", "HeldOutRows", "held_out_networks", "held_out_rows"]


@dataclass(frozen=True)
class HeldOutRows:
    """Rows of a table, and what was predicted of each by a fit that had not seen it.

    Attributes:
        parts: What was measured.
        parity: What was predicted of each and what it took, by its kind.
    """

    parts: tuple[Subgraph, ...]
    parity: Parity

    @property
    def errors(self) -> Errors:
        """Quantiles of how far they are off."""
        return Errors.of(self.parts, np.log(self.parity.predicted_ms / self.parity.true_ms))


@dataclass(frozen=True)
class HeldOutNetworks:
    """Networks of a table, and what was predicted of each by a fit that had not seen it.

    Attributes:
        parity: What was predicted of each and what it took.
        half_ms: Half width of the interval of each.
    """

    parity: Parity
    half_ms: np.ndarray


def held_out_rows(estimator: Estimator, num_folds: int = 5) -> HeldOutRows | None:
    """Predict every row of the table by a fit to the others; None for a table of whole networks only.

    Args:
        estimator: What is judged.
        num_folds: Into how many parts the rows are dealt; each is predicted by a fit to all others.
    """
    rows = fitted_rows(estimator.measurements)
    if not rows:
        return None
    parts, true_ms = tuple(rows), np.array(list(rows.values()))
    predicted_ms = np.empty_like(true_ms)
    for train, test in _folds(len(parts), num_folds):
        regressor = Regressor.fit(list(compress(parts, train)), true_ms[train])
        predicted_ms[test] = regressor.predict_ms(list(compress(parts, test)))
    return HeldOutRows(parts, Parity(tuple(part.kind for part in parts), predicted_ms, true_ms))


def held_out_networks(estimator: Estimator, level: float, num_folds: int = 5) -> HeldOutNetworks:
    """Predict every network of a table by a fit to the other networks.

    Args:
        estimator: What is judged; its table has whole networks.
        level: Of their intervals.
        num_folds: Into how many parts the networks are dealt.
    """
    networks = [list(network.parts) for network in estimator.networks.values()]
    true_ms = np.array([network.figures.latency_ms for network in estimator.networks.values()])
    predicted_ms, half_ms = np.empty_like(true_ms), np.empty_like(true_ms)
    for train, test in _folds(len(networks), num_folds):
        regressor = Regressor.fit_networks(list(compress(networks, train)), true_ms[train])
        asked = list(compress(networks, test))
        predicted_ms[test] = [regressor.predict_ms(parts).sum() for parts in asked]
        half_ms[test] = [regressor.half_width_ms(parts, level) for parts in asked]
    return HeldOutNetworks(Parity(tuple(estimator.networks), predicted_ms, true_ms), half_ms)


def _folds(count: int, num_folds: int) -> tqdm[tuple[np.ndarray, np.ndarray]]:
    fold = np.random.default_rng(0).permutation(count) % num_folds
    return tqdm([(fold != number, fold == number) for number in range(num_folds)], desc="Cross-validating", unit="fold")
