"""Judge an estimator by rows that its fit has not seen, by whole networks that no table holds, and by pairs of blocks.

Where nothing can measure, the networks of its own table are what it is judged by.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np

from lightning_nas.estimator.device import Device
from lightning_nas.estimator.estimator import Estimator
from lightning_nas.estimator.files import MIN_ROWS
from lightning_nas.estimator.fit.rates import is_operator, operator_kind
from lightning_nas.estimator.judge.correction import LEVEL, corrected, corrected_by, fit_factor
from lightning_nas.estimator.judge.held_out import held_out_networks, held_out_rows
from lightning_nas.estimator.judge.parity import Parity
from lightning_nas.estimator.judge.verdict import MIN_NETWORKS, Intervals, NetworkVerdict, Verdict
from lightning_nas.estimator.judge.whole_networks import WholeNetworks, measured_networks, sum_ms
from lightning_nas.estimator.measure.backend import Backend
from lightning_nas.estimator.measure.campaign import measure
from lightning_nas.estimator.measure.sampling.random_networks import CORRECTING, JUDGING
from lightning_nas.estimator.measure.sampling.sample import sample_subgraphs
from lightning_nas.estimator.measure.whole import scratch_table
from lightning_nas.graph.subgraph import Subgraph, SubgraphKind
from lightning_nas.io.numbers import check_number

__all__ = ["judge"]

_log = logging.getLogger(__name__)

# Subnets to fit the correction to, beside stock networks; and those whose every part is measured too.
_NUM_CORRECTING = 30
_NUM_PAIRS = 300
# Where fused and unfused are as fast as each other, either is right.
_CLEAR = np.log(1.1)
_KINDS: tuple[SubgraphKind, ...] = ("ibn", "fused")


def judge(
    estimator: Estimator,
    num_subnets: int = 200,
    num_folds: int = 5,
    backend: Backend | None = None,
    folder: Path | None = None,
) -> Verdict:
    """Find out how far an estimator is off, and correct its sums by whole networks.

    Args:
        estimator: What is judged.
        num_subnets: Subnets to measure whole, beside stock networks; 0 for none.
        num_folds: Folds of the cross-validation over rows of the table.
        backend: What measures; None for the networks of the table alone.
        folder: Where measured networks are kept, so that none is measured twice; by default in the cache.
    """
    check_number("num_subnets", num_subnets, whole=True, least=0)
    check_number("num_folds", num_folds, whole=True, least=2)
    rows = held_out_rows(estimator, num_folds)
    if rows is not None:
        estimator = estimator.with_device(dataclasses.replace(estimator.device, errors=rows.errors.to_dict()))
    if backend is None or num_subnets == 0:
        return dataclasses.replace(_by_table(estimator, num_folds), rows=rows)
    device = estimator.device
    correcting = measured_networks(device, CORRECTING, min(num_subnets, _NUM_CORRECTING), backend, folder)
    correcting = correcting.priced_by(estimator)
    correction = None
    if len(correcting.names) >= MIN_NETWORKS:
        estimator, correction = corrected(estimator, correcting)
    networks = measured_networks(device, JUDGING, num_subnets, backend, folder).priced_by(estimator)
    pairs = _measured_pairs(device, min(3 * num_subnets // 2, _NUM_PAIRS), backend, folder)
    asked = [part for parts in (*networks.parts, *pairs) for part in parts]
    blind = _without(estimator, {piece for part in asked for piece in (part, *part.operators)})
    verdict = _by_networks(estimator, blind, networks)
    verdict = dataclasses.replace(verdict, sums=_sums(device, networks, backend, folder))
    return Verdict(estimator, rows, verdict, correction, _signs(blind, pairs) if blind is not None and pairs else None)


def _by_table(estimator: Estimator, num_folds: int) -> Verdict:
    """Judge by the networks of the table: as sums of parts, or by a fit to the others where they are all there is."""
    if not estimator.networks:
        return Verdict(estimator)
    if not estimator.measurements:
        return _by_other_networks(estimator, num_folds)
    networks = WholeNetworks.of_table(estimator)
    is_stock = np.full(len(networks.names), False)
    plain = estimator.with_device(dataclasses.replace(estimator.device, correction=1.0))
    uncorrected, sums = networks.estimated(plain), networks.sums(estimator.measurements)
    if len(networks.names) < MIN_NETWORKS:
        return Verdict(estimator, networks=NetworkVerdict(networks.estimated(estimator), is_stock, sums=sums))
    estimator, correction = corrected(estimator, networks)
    estimated = _each_by_others(uncorrected) if estimator.device.correction != 1 else uncorrected
    verdict = NetworkVerdict(estimated, is_stock, uncorrected if estimated is not uncorrected else None, sums=sums)
    return Verdict(estimator, None, verdict, correction)


def _by_other_networks(estimator: Estimator, num_folds: int) -> Verdict:
    """Judge a table of whole networks alone by fits to the others of them, and correct what those are off by."""
    held_out = held_out_networks(estimator, LEVEL, num_folds)
    predicted, half_ms = held_out.parity, held_out.half_ms
    estimator, correction = corrected_by(estimator, predicted, half_ms)
    estimated = _each_by_others(predicted) if estimator.device.correction != 1 else predicted
    half_ms = half_ms * estimated.predicted_ms / predicted.predicted_ms
    bounds_ms = np.stack([estimated.predicted_ms - half_ms, estimated.predicted_ms + half_ms], axis=1)
    verdict = NetworkVerdict(
        estimated,
        np.full(len(estimated.groups), False),
        predicted if estimated is not predicted else None,
        intervals=Intervals(LEVEL, bounds_ms, estimated.true_ms),
    )
    return Verdict(estimator, networks=verdict, correction=correction)


def _each_by_others(parity: Parity) -> Parity:
    """Return the networks, each corrected by a factor that was fitted to the others."""
    numbers = np.arange(len(parity.groups))
    others = [numbers != number for number in numbers]
    factors = np.array([fit_factor(parity.predicted_ms[rows], parity.true_ms[rows])[0] for rows in others])
    return dataclasses.replace(parity, predicted_ms=factors * parity.predicted_ms)


def _by_networks(estimator: Estimator, blind: Estimator | None, networks: WholeNetworks) -> NetworkVerdict:
    estimated = networks.estimated(estimator)
    verdict = NetworkVerdict(
        estimated,
        networks.is_stock,
        intervals=_intervals(estimator, networks),
        measured_share=float(np.mean([estimator.measured_share(parts) for parts in networks.parts])),
    )
    if (correction := estimator.device.correction) != 1:
        uncorrected = Parity(networks.names, estimated.predicted_ms / correction, networks.true_ms)
        verdict = dataclasses.replace(verdict, uncorrected=uncorrected)
    if blind is None:
        return verdict
    unseen = networks.priced_by(blind)
    predicted, intervals = unseen.estimated(blind), _intervals(blind, unseen)
    return dataclasses.replace(verdict, predicted=predicted, predicted_intervals=intervals)


def _intervals(estimator: Estimator, networks: WholeNetworks) -> Intervals:
    return Intervals(LEVEL, networks.bounds_ms(estimator, LEVEL), networks.true_ms)


def _without(estimator: Estimator, hidden: set[Subgraph]) -> Estimator | None:
    """Return an estimator fitted to the rows that are not hidden, and looks none up; None where those are too few.

    Hidden rows of rare operators stay where all of their kind are hidden: nothing else could price them.
    """
    kept = {part: figures for part, figures in estimator.measurements.items() if part not in hidden}
    kinds = {operator_kind(part) for part in kept if is_operator(part)}
    rare = (part for part in estimator.measurements if is_operator(part) and operator_kind(part) not in kinds)
    kept |= {part: estimator.measurements[part] for part in rare}
    num_rows = sum(not is_operator(part) for part in kept)
    if num_rows >= MIN_ROWS:
        return Estimator(estimator.device, kept, exact=False)
    text = "Beside the parts of networks that judge it, the table of %s has %d rows: too few to fit without them."
    _log.warning(text, estimator.name, num_rows)
    return None


def _sums(device: Device, networks: WholeNetworks, backend: Backend, folder: Path | None) -> Parity | None:
    """Measure every part of some of the subnets."""
    is_subnet = ~networks.is_stock
    chosen = networks.only(is_subnet & (np.cumsum(is_subnet) <= _NUM_CORRECTING))
    parts = [part for parts in chosen.parts for part in parts]
    return chosen.sums(measure(device, parts, scratch_table(device, backend, "parts", folder), backend))


def _measured_pairs(
    device: Device, num_pairs: int, backend: Backend, folder: Path | None
) -> dict[tuple[Subgraph, Subgraph], tuple[float, float]]:
    """Measure unfused and fused blocks of equal sizes, as far as both can be measured."""
    blocks = [part for part in sample_subgraphs(JUDGING, 4 * num_pairs) if part.kind in _KINDS][:num_pairs]
    ibn, fused = ([dataclasses.replace(part, kind=kind) for part in blocks] for kind in _KINDS)
    rows = measure(device, [*ibn, *fused], scratch_table(device, backend, "pairs", folder), backend)
    pairs = dict.fromkeys(zip(ibn, fused, strict=True))
    found = {pair: tuple(sum_ms(part, rows) for part in pair) for pair in pairs}
    return {pair: (a, b) for pair, (a, b) in found.items() if a is not None and b is not None}


def _signs(blind: Estimator, pairs: dict[tuple[Subgraph, Subgraph], tuple[float, float]]) -> dict[str, float]:
    predicted_ms = blind.predict_ms([part for pair in pairs for part in pair]).reshape(-1, 2)
    predicted, true = (np.log(values[:, 1] / values[:, 0]) for values in (predicted_ms, np.array(list(pairs.values()))))
    right, clear = np.sign(predicted) == np.sign(true), np.abs(true) > _CLEAR
    return {
        "count": len(true),
        "right": float(right.mean()),
        "right_where_clear": float(right[clear].mean()) if clear.any() else 1.0,
        "fused_wins": float((true < 0).mean()),
    }
