"""The tables and budgets of a space on a device."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lightning_nas.budget.ablation import Choices
from lightning_nas.budget.binding import check_binding, check_served
from lightning_nas.budget.budget import Budgets, feasibility
from lightning_nas.estimator.estimator import Estimator
from lightning_nas.estimator.peak_table import peak_table
from lightning_nas.estimator.table import CostTable, cost_table
from lightning_nas.graph.subgraph import Subgraph
from lightning_nas.space.spec import SearchSpace

__all__ = ["cost_tables", "space_budgets", "warn_off_grid"]

log = logging.getLogger(__name__)


def cost_tables(space: SearchSpace, estimator: Estimator) -> dict[str, CostTable]:
    """Return the cost tables of `space`: latency_ms, parameter_bytes and peak_activation_bytes."""
    return {
        "latency_ms": cost_table(space, estimator.predict_ms),
        "parameter_bytes": cost_table(space, _parameter_bytes),
        "peak_activation_bytes": peak_table(space),
    }


def space_budgets(
    space: SearchSpace,
    estimator: Estimator,
    requested: dict[str, float | str | None],
    serves: Sequence[float | str] = (),
    choices: Choices = "both",
) -> Budgets:
    """Resolve what was requested against what the space can reach on the device.

    Args:
        space: What can be chosen.
        estimator: What it costs.
        requested: The budgets, as in `feasibility`.
        serves: Other latencies that the same training has to serve.
        choices: What is searched.

    Raises:
        ValueError: A budget that is not valid or cannot be met, or none that binds anything.
    """
    tables = cost_tables(space, estimator)
    budgets = feasibility(space, tables, requested, choices)
    check_binding([budgets])
    if serves and requested.get("latency_ms") is None:
        raise ValueError(f"`serves` names other latencies than the budget's; there is no latency budget. Got {serves}.")
    # Each is looked at as a budget of its own, so that what is out of reach is said before the training.
    others = [feasibility(space, tables, {**requested, "latency_ms": value}, choices) for value in serves]
    for value, found in zip(serves, others, strict=True):
        check_served(value, found)
    return replace(budgets, serves=tuple(found.limits[0].budget for found in others))


def warn_off_grid(space: SearchSpace, lanes: int) -> None:
    """Warn, once, of widths, but the source's own, that do not fill the lanes of the device."""
    off = {
        multiplier: {w for row in multiplier.widths[:-1] for w in row if w % lanes} for multiplier in space.multipliers
    }
    named = "; ".join(f"{sorted(widths)} of {multiplier}" for multiplier, widths in off.items() if widths)
    if named:
        log.warning(
            "Widths do not fill the %d lanes of the device: %s. HINT: `space = space_of(model, example_input,"
            " lanes=estimator.lanes)`, then `supernet_from(model, example_input, space)`.",
            lanes,
            named,
        )


def _parameter_bytes(parts: Sequence[Subgraph]) -> NDArray[np.float64]:
    return np.array([part.parameter_bytes for part in parts], dtype=np.float64)
