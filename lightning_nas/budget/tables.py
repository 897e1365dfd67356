"""Cost tables: latency, parameters and peak memory of every member of a space on a device."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_nas.budget.budget import LATENCY, PARAMETERS, PEAK_ACTIVATIONS
from lightning_nas.budget.cost_table import CostTable, cost_table
from lightning_nas.budget.peak_table import PeakTable, peak_table
from lightning_nas.estimator.cost_model import CostModel
from lightning_nas.graph.elastic_parts import elastic_parts
from lightning_nas.graph.subgraph import Subgraph
from lightning_nas.space.spec import SearchSpace

__all__ = ["CostTables", "cost_tables", "warn_off_grid"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CostTables:
    """What every member of a space costs.

    Attributes:
        latency_ms: Latency, in milliseconds.
        parameter_bytes: int8 parameters, in bytes.
        peak_activation_bytes: Largest sum of live int8 activations, in bytes.
    """

    latency_ms: CostTable
    parameter_bytes: CostTable
    peak_activation_bytes: PeakTable

    @property
    def additive(self) -> dict[str, CostTable]:
        """The costs that are sums over the parts of a network, by name."""
        return {LATENCY: self.latency_ms, PARAMETERS: self.parameter_bytes}

    def costs(self, encoding: Sequence[int]) -> dict[str, float]:
        """Return what an architecture costs, by the name of the cost."""
        sums = {name: table.exact(encoding) for name, table in self.additive.items()}
        return {**sums, PEAK_ACTIVATIONS: self.peak_activation_bytes.exact(encoding)}


def cost_tables(space: SearchSpace, estimator: CostModel) -> CostTables:
    """Price a space: every part of every member, by few calls of the estimator.

    Args:
        space: What can be chosen.
        estimator: Prices parts of networks.
    """
    parts = elastic_parts(space.structures)
    latency_ms, parameter_bytes = (
        cost_table(space, price, parts) for price in (estimator.predict_ms, _parameter_bytes)
    )
    return CostTables(latency_ms, parameter_bytes, peak_table(space))


def warn_off_grid(space: SearchSpace, lanes: int) -> None:
    """Warn, once, of widths, but the source's own, that do not fill the lanes of the device."""
    units, found = space.network.units, []
    for multiplier in space.multipliers:
        full = multiplier.widths[-1]
        rows = (zip(multiplier.groups, row, full, strict=True) for row in multiplier.widths)
        off = {w for row in rows for group, w, own in row if w * units[group] % lanes and w != own}
        if off:
            found.append(f"{sorted(off)} of {multiplier}")
    named = "; ".join(found)
    if named:
        log.warning(
            "Widths do not fill the %d lanes of the device: %s. HINT: `space = space_of(model, example_input,"
            " lanes=estimator.lanes)`, then `supernet_from(model, example_input, space)`.",
            lanes,
            named,
        )


def _parameter_bytes(parts: Sequence[Subgraph]) -> NDArray[np.float64]:
    return np.array([part.parameter_bytes for part in parts], dtype=np.float64)
