"""Predictions beside measurements that they have not seen: of rows, and of whole networks."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress, pairwise
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lightning_nas.estimator.estimator import Estimator
from lightning_nas.estimator.measure.backend import Backend
from lightning_nas.estimator.measure.campaign import measure
from lightning_nas.estimator.measure.sample import sample_architecture
from lightning_nas.estimator.measure.whole import measure_networks
from lightning_nas.estimator.measurements import Figures
from lightning_nas.estimator.network import chain
from lightning_nas.estimator.rates import is_operator
from lightning_nas.estimator.regressor import Regressor
from lightning_nas.estimator.scores import scores
from lightning_nas.estimator.subgraph import Subgraph, subgraphs

__all__ = ["NetworkParity", "Parity", "network_parity", "row_parity", "table_network_parity"]

# Another seed than those of the tables, so that none of these networks was drawn for one.
_SEED = 40_000
_NUM_SIZES = 5


@dataclass(frozen=True)
class Parity:
    """Latencies as predicted and as measured.

    Attributes:
        groups: Of each, what it belongs to: its kind, or its name.
        predicted_ms: What was predicted.
        true_ms: What was measured.
    """

    groups: tuple[str, ...]
    predicted_ms: np.ndarray
    true_ms: np.ndarray

    @property
    def figures(self) -> dict[str, float]:
        """How far predictions are off over all."""
        return self._of(np.full(len(self.true_ms), True))

    def by_group(self) -> dict[str, dict[str, float]]:
        """Return how far they are off in each group, the largest group first.

        Example::

            >>> parity = Parity(("a", "b", "b"), np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.3]))
            >>> [(name, figures["count"]) for name, figures in parity.by_group().items()]
            [('b', 2), ('a', 1)]
        """
        names, counts = np.unique(self.groups, return_counts=True)
        ordered = names[np.argsort(-counts, kind="stable")].tolist()
        return {name: self._of(np.array(self.groups) == name) for name in ordered}

    def by_size(self) -> dict[str, dict[str, float]]:
        """Return how far they are off by latency, in groups of equal number."""
        edges = np.quantile(self.true_ms, np.linspace(0, 1, _NUM_SIZES + 1))
        place = np.clip(np.searchsorted(edges, self.true_ms, side="right") - 1, 0, _NUM_SIZES - 1)
        names = [f"{low:.3g} to {high:.3g} ms" for low, high in pairwise(edges.tolist())]
        return {name: self._of(place == number) for number, name in enumerate(names) if (place == number).any()}

    def _of(self, chosen: np.ndarray) -> dict[str, float]:
        predicted_ms, true_ms = self.predicted_ms[chosen], self.true_ms[chosen]
        off = np.abs(predicted_ms / true_ms - 1)
        return {**scores(predicted_ms, true_ms), "nine_of_ten": float(np.quantile(off, 0.9))}


@dataclass(frozen=True)
class NetworkParity:
    """Whole networks as estimated, as the sum of their measured parts, and as measured whole.

    Attributes:
        estimated: The estimator's latency beside that of the whole.
        sums: The sum of parts that were measured one by one, beside that of the whole; none where those are unknown.
    """

    estimated: Parity
    sums: Parity | None


def row_parity(estimator: Estimator, num_folds: int = 5) -> Parity | None:
    """Predict every row of the table by a fit to the others; None for a table of whole networks only.

    Args:
        estimator: What is judged.
        num_folds: Into how many parts the rows are dealt; each is predicted by a fit to all others.
    """
    rows = {part: figures.latency_ms for part, figures in estimator.measurements.items() if not is_operator(part)}
    if not rows:
        return None
    parts, true_ms = list(rows), np.array(list(rows.values()))
    fold = np.random.default_rng(0).permutation(len(parts)) % num_folds
    predicted_ms = np.empty_like(true_ms)
    for number in tqdm(range(num_folds), desc="Cross-validating", unit="fold"):
        train, test = fold != number, fold == number
        regressor = Regressor.fit(list(compress(parts, train)), true_ms[train])
        predicted_ms[test] = regressor.predict_ms(list(compress(parts, test)))
    return Parity(tuple(part.kind for part in parts), predicted_ms, true_ms)


def table_network_parity(estimator: Estimator, num_folds: int = 5) -> NetworkParity | None:
    """Judge the whole networks of a table: cross-validated where they are all that there is, else as sums of parts."""
    if not estimator.networks:
        return None
    named = {name: list(network.parts) for name, network in estimator.networks.items()}
    names, networks = tuple(named), list(named.values())
    true_ms = np.array([network.figures.latency_ms for network in estimator.networks.values()])
    if estimator.measurements:
        estimated = Parity(names, _totals(estimator, networks), true_ms)
        return NetworkParity(estimated, _sums(estimator.measurements, named, true_ms))
    fold = np.random.default_rng(0).permutation(len(networks)) % num_folds
    predicted_ms = np.empty_like(true_ms)
    for number in tqdm(range(num_folds), desc="Cross-validating", unit="fold"):
        train, test = fold != number, fold == number
        regressor = Regressor.fit_networks(list(compress(networks, train)), true_ms[train])
        predicted_ms[test] = [regressor.predict_ms(parts).sum() for parts in compress(networks, test)]
    return NetworkParity(Parity(names, predicted_ms, true_ms), None)


def network_parity(estimator: Estimator, backend: Backend, num_networks: int, table: Path) -> NetworkParity | None:
    """Measure random networks whole, and each of their parts, and estimate them from the rest of the table.

    Nothing that was measured already is measured again. What cannot be measured is left out; None where nothing can.

    Args:
        estimator: What is judged.
        backend: What measures.
        num_networks: How many networks.
        table: Where the parts are kept; the figures of the networks are kept beside it.
    """
    rng = random.Random(_SEED)
    drawn = {f"network {number}": subgraphs(sample_architecture(rng)) for number in range(num_networks)}
    wholes = table.with_name(f"{table.stem}_whole.csv")
    figures = measure_networks(estimator.device, [chain(parts) for parts in drawn.values()], wholes, backend)
    true_ms = {name: one.latency_ms for name, one in zip(drawn, figures, strict=True) if one is not None}
    if not true_ms:
        return None
    networks = {name: drawn[name] for name in true_ms}
    rows = measure(estimator.device, [part for parts in networks.values() for part in parts], table, backend)
    hidden = {piece for parts in networks.values() for part in parts for piece in (part, *part.operators)}
    kept = {part: value for part, value in estimator.measurements.items() if part not in hidden}
    blind = Estimator(estimator.device, kept, exact=False)
    wholes_ms = np.array(list(true_ms.values()))
    estimated = Parity(tuple(networks), _totals(blind, list(networks.values())), wholes_ms)
    return NetworkParity(estimated, _sums(rows, networks, wholes_ms))


def _totals(estimator: Estimator, networks: Sequence[Sequence[Subgraph]]) -> np.ndarray:
    return np.array([estimator.predict_ms(parts).sum() for parts in networks])


def _sums(
    rows: Mapping[Subgraph, Figures], networks: Mapping[str, Sequence[Subgraph]], true_ms: np.ndarray
) -> Parity | None:
    """Return the sums of those networks whose parts are all measured; None where there is no such network."""
    whole = [all(_is_measured(part, rows) for part in parts) for parts in networks.values()]
    if not any(whole):
        return None
    sums_ms = [sum(_measured_ms(part, rows) for part in parts) for parts in compress(networks.values(), whole)]
    return Parity(tuple(compress(networks, whole)), np.array(sums_ms), true_ms[np.array(whole)])


def _is_measured(part: Subgraph, rows: Mapping[Subgraph, Figures]) -> bool:
    return part in rows or all(operator in rows for operator in part.operators)


def _measured_ms(part: Subgraph, rows: Mapping[Subgraph, Figures]) -> float:
    pieces = (part,) if part in rows else part.operators
    return float(sum(rows[piece].latency_ms for piece in pieces))
