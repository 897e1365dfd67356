"""Networks that were measured whole: subnets and stock networks by a backend, or those of a table."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import numpy as np

from lightning_nas.estimator.device import Device
from lightning_nas.estimator.estimator import Estimator
from lightning_nas.estimator.judge.parity import PredictionPairs
from lightning_nas.estimator.measure.backend import Backend
from lightning_nas.estimator.measure.sampling.random_networks import stock_networks, subnets
from lightning_nas.estimator.measure.whole import measure_networks, scratch_table
from lightning_nas.estimator.measurements import Figures
from lightning_nas.graph.decompose import split
from lightning_nas.graph.subgraph import Subgraph

__all__ = ["WholeNetworks", "measured_networks", "sum_ms"]

_log = logging.getLogger(__name__)


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

    @classmethod
    def of_table(cls, estimator: Estimator) -> WholeNetworks:
        """Return the networks of the table of an estimator."""
        networks = estimator.networks
        true_ms = np.array([network.figures.latency_ms for network in networks.values()])
        return cls(tuple(networks), tuple(network.parts for network in networks.values()), true_ms)

    @property
    def is_stock(self) -> np.ndarray:
        """Mask of the stock networks; the others are subnets."""
        return np.array([not name.startswith("subnet") for name in self.names])

    def only(self, chosen: Iterable[bool]) -> WholeNetworks:
        """Return the networks for which a mask is true."""
        kept = list(chosen)
        return WholeNetworks(tuple(compress(self.names, kept)), tuple(compress(self.parts, kept)), self.true_ms[kept])

    def priced_by(self, estimator: Estimator) -> WholeNetworks:
        """Return the networks that an estimator can price in full; what is left out is logged."""
        kept = [_has_price(estimator, parts) for parts in self.parts]
        left_out = sorted({name for name, here in zip(self.names, kept, strict=True) if not here})
        if left_out:
            text = "The table of %s lacks operators of: %s. They are left out."
            _log.warning(text, estimator.name, ", ".join(left_out))
        return self.only(kept)

    def estimated(self, estimator: Estimator) -> PredictionPairs:
        """Return the predictions of an estimator beside the measured latencies."""
        predicted_ms = np.array([estimator.predict_ms(parts).sum() for parts in self.parts])
        return PredictionPairs(self.names, predicted_ms, self.true_ms)

    def bounds_ms(self, estimator: Estimator, level: float) -> np.ndarray:
        """Return the prediction interval of each network, shape (num_networks, 2)."""
        return np.array([estimator.total_interval_ms(parts, level) for parts in self.parts]).reshape(-1, 2)

    def sums(self, rows: Mapping[Subgraph, Figures]) -> PredictionPairs | None:
        """Return sums of measured parts, of the networks whose parts are all measured; None if there is none."""
        sums_ms = [[sum_ms(part, rows) for part in parts] for parts in self.parts]
        whole = [None not in latencies for latencies in sums_ms]
        if not any(whole):
            return None
        chosen = self.only(whole)
        totals_ms = [sum(one or 0 for one in latencies) for latencies in compress(sums_ms, whole)]
        return PredictionPairs(chosen.names, np.array(totals_ms), chosen.true_ms)


def sum_ms(part: Subgraph, rows: Mapping[Subgraph, Figures]) -> float | None:
    """Return the measured latency of a part, whole or as the sum of its operators; None if neither is measured."""
    pieces = (part,) if part in rows else part.operators
    return sum(rows[piece].latency_ms for piece in pieces) if all(piece in rows for piece in pieces) else None


def measured_networks(
    device: Device, seed: int, num_subnets: int, backend: Backend, folder: Path | None = None
) -> WholeNetworks:
    """Measure subnets and stock networks whole; what was measured before is not measured again.

    Args:
        device: What to measure on.
        seed: Which networks, `JUDGING` or `CORRECTING` of `lightning_nas.estimator.measure.sampling.random_networks`.
        num_subnets: How many subnets beside the stock networks.
        backend: What measures.
        folder: Where the figures are kept; by default in the cache.
    """
    named = [*subnets(device.lanes, seed, num_subnets), *stock_networks(seed)]
    table = scratch_table(device, backend, "networks", folder)
    figures = measure_networks(device, [network for _, network in named], table, backend)
    run = [(name, network, one) for (name, network), one in zip(named, figures, strict=True) if one is not None]
    if len(run) < len(named):
        left_out = sorted({name for name, _ in named} - {name for name, _, _ in run})
        _log.warning("%s does not run all of: %s. They are left out.", device.name, ", ".join(left_out))
    true_ms = np.array([one.latency_ms for _, _, one in run])
    return WholeNetworks(tuple(name for name, _, _ in run), tuple(split(network) for _, network, _ in run), true_ms)


def _has_price(estimator: Estimator, parts: Sequence[Subgraph]) -> bool:
    try:
        estimator.predict_ms(parts)
    except ValueError:
        return False
    return True
