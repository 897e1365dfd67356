"""Judge an estimator by whole networks that no table holds, and by pairs of blocks that its fit has not seen."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightning_nas.estimator.decompose import split
from lightning_nas.estimator.device import Device
from lightning_nas.estimator.estimator import Estimator
from lightning_nas.estimator.measure.backend import Backend, open_backend
from lightning_nas.estimator.measure.campaign import measure
from lightning_nas.estimator.measure.networks import JUDGING, stock_networks, subnets
from lightning_nas.estimator.measure.sample import sample_subgraphs
from lightning_nas.estimator.measure.whole import measure_networks, scratch_table
from lightning_nas.estimator.scores import scores
from lightning_nas.estimator.subgraph import Subgraph

__all__ = ["WholeNetworks", "measured_networks", "network_error"]

LEVEL = 0.9
"""Of the intervals whose coverage is counted."""

_log = logging.getLogger(__name__)

_NUM_PAIRS = 300
# Where fused and unfused are as fast as each other, either is right.
_CLEAR = np.log(1.1)
_KINDS = ("ibn", "fused")


@dataclass(frozen=True)
class WholeNetworks:
    """Networks that were measured whole.

    Attributes:
        names: What they are.
        parts: The subgraphs of each.
        true_ms: What each took.
    """

    names: tuple[str, ...]
    parts: tuple[Sequence[Subgraph], ...]
    true_ms: np.ndarray

    @property
    def is_stock(self) -> np.ndarray:
        """Which of them are stock networks, and no subnets."""
        return np.array([not name.startswith("subnet") for name in self.names])


def measured_networks(device: Device, seed: int, num_subnets: int, backend: Backend | None = None) -> WholeNetworks:
    """Measure subnets and stock networks whole; what was measured before is not measured again.

    Args:
        device: What to measure on.
        seed: Which networks, `JUDGING` or `CORRECTING`.
        num_subnets: How many subnets beside the stock networks.
        backend: What measures; by default that of the device.
    """
    backend = backend or open_backend(device)
    named = [*subnets(device.lanes, seed, num_subnets), *stock_networks(seed)]
    table = scratch_table(device, backend, "networks")
    figures = measure_networks(device, [network for _, network in named], table, backend)
    run = [(name, network, one) for (name, network), one in zip(named, figures, strict=True) if one is not None]
    if len(run) < len(named):
        left_out = sorted({name for name, _ in named} - {name for name, _, _ in run})
        _log.warning("%s does not run all of: %s. They are left out.", device.name, ", ".join(left_out))
    true_ms = np.array([one.latency_ms for _, _, one in run])
    return WholeNetworks(tuple(name for name, _, _ in run), tuple(split(network) for _, network, _ in run), true_ms)


def network_error(estimator: Estimator, num_subnets: int = 200) -> dict[str, dict[str, float]]:
    """Return what is off on whole networks and on the choice between fused and unfused blocks.

    Returns:
        By what it is of: ``networks`` (the estimator as it is), of these ``subnets`` and ``stock``, and each stock
        network by its name; ``networks_uncorrected``, where sums are corrected; ``networks_predicted``: nothing is
        looked up and every row that they contain is held out of the fit. ``interval``: the share of networks in the
        interval of `LEVEL`. ``pairs``: how often the faster of an unfused and a fused block is told, where neither was
        in the fit.
    """
    backend = open_backend(estimator.device)
    networks = measured_networks(estimator.device, JUDGING, num_subnets, backend)
    pairs = [part for pair in _pairs() for part in pair]
    pair_ms = _measured_ms(estimator.device, pairs, backend)
    hidden = {piece for parts in (*networks.parts, pairs) for part in parts for piece in (part, *part.operators)}
    kept = {part: figures for part, figures in estimator.measurements.items() if part not in hidden}
    blind = Estimator(estimator.device, kept, exact=False)
    error = _by_group(estimator, networks)
    error["networks_predicted"] = scores(totals(blind, networks.parts), networks.true_ms)
    for name, judge in (("interval", estimator), ("interval_predicted", blind)):
        error[name] = _coverage(judge, networks)
    error["pairs"] = _signs(blind.predict_ms(pairs), pair_ms)
    return error


def totals(estimator: Estimator, networks: Sequence[Sequence[Subgraph]]) -> np.ndarray:
    """Return the latency of networks that are given by their subgraphs."""
    return np.array([estimator.predict_ms(parts).sum() for parts in networks])


def _by_group(estimator: Estimator, networks: WholeNetworks) -> dict[str, dict[str, float]]:
    predicted_ms, true_ms = totals(estimator, networks.parts), networks.true_ms
    error = {"networks": scores(predicted_ms, true_ms)}
    error["networks"]["measured_share"] = float(np.mean([estimator.measured_share(parts) for parts in networks.parts]))
    if (correction := estimator.device.correction) != 1:
        error["networks_uncorrected"] = scores(predicted_ms / correction, true_ms)
    for name, chosen in (("subnets", ~networks.is_stock), ("stock", networks.is_stock)):
        error[name] = scores(predicted_ms[chosen], true_ms[chosen])
    for index in np.flatnonzero(networks.is_stock):
        one = slice(index, index + 1)
        milliseconds = {"true_ms": float(true_ms[index]), "predicted_ms": float(predicted_ms[index])}
        error[networks.names[index]] = scores(predicted_ms[one], true_ms[one]) | milliseconds
    return error


def _coverage(estimator: Estimator, networks: WholeNetworks) -> dict[str, float]:
    bounds = np.array([estimator.total_interval_ms(parts, LEVEL) for parts in networks.parts])
    inside = (bounds[:, 0] <= networks.true_ms) & (networks.true_ms <= bounds[:, 1])
    width = (bounds[:, 1] - bounds[:, 0]) / 2 / networks.true_ms
    return {
        "count": len(inside),
        "level": LEVEL,
        "coverage": float(inside.mean()),
        "half_width": float(width.mean()),
    }


def _pairs() -> list[tuple[Subgraph, Subgraph]]:
    blocks = [part for part in sample_subgraphs(JUDGING, 4 * _NUM_PAIRS) if part.kind in _KINDS][:_NUM_PAIRS]
    ibn, fused = ([dataclasses.replace(part, kind=kind) for part in blocks] for kind in _KINDS)  # type: ignore[arg-type]
    return list(dict.fromkeys(zip(ibn, fused, strict=True)))


def _measured_ms(device: Device, parts: Sequence[Subgraph], backend: Backend) -> np.ndarray:
    table = measure(device, parts, scratch_table(device, backend, "pairs"), backend)
    pieces = [(part,) if part in table else part.operators for part in parts]
    return np.array([sum(table[piece].latency_ms for piece in group) for group in pieces])


def _signs(predicted_ms: np.ndarray, true_ms: np.ndarray) -> dict[str, float]:
    predicted, true = (np.log(values[1::2] / values[::2]) for values in (predicted_ms, true_ms))
    right, clear = np.sign(predicted) == np.sign(true), np.abs(true) > _CLEAR
    return {
        "count": len(true),
        "right": float(right.mean()),
        "right_where_clear": float(right[clear].mean()),
        "fused_wins": float((true < 0).mean()),
    }
