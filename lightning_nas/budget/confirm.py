"""The promise checked on an architecture itself, rather than on the tables that a solver saw."""

from __future__ import annotations

from collections.abc import Callable

from lightning_nas.budget.budget import LATENCY, PARAMETERS, PEAK_ACTIVATIONS
from lightning_nas.budget.limits import Limits
from lightning_nas.estimator.cost_model import CostModel
from lightning_nas.space.spec import Architecture

__all__ = ["confirm", "estimated_excess", "excess", "is_kept_by_backend"]


def is_kept_by_backend(
    limits: Limits, verify_ms: Callable[[Architecture], float | None], architecture: Architecture
) -> bool:
    """Return whether a device's backend prices a whole network within the latency budget.

    Args:
        limits: What it may cost; without a latency nothing is measured.
        verify_ms: Measures a network, in milliseconds; None if the backend is not installed; then the estimate counts.
        architecture: The network.
    """
    if LATENCY not in limits.figures:
        return True
    measured_ms = verify_ms(architecture)
    return measured_ms is None or measured_ms <= limits.figures[LATENCY]


def confirm(limits: Limits, estimator: CostModel, architecture: Architecture) -> None:
    """Check that an architecture is within the budgets, by its own costs and not by the tables that a solver saw.

    Raises:
        RuntimeError: It costs more than a budget, by the estimator or, if it is installed, by the device's backend.
    """
    if over := excess(limits, estimator, architecture):
        raise RuntimeError(f"The derived network has {over}.")


def excess(limits: Limits, estimator: CostModel, architecture: Architecture) -> str:
    """Return in words which cost of an architecture is over its budget; an empty text if none is.

    Args:
        limits: What it has to cost.
        estimator: Predicts its costs, and measures it whole if the device's backend is installed.
        architecture: The architecture, whose costs are not read from the table that a solver saw.
    """
    if over := estimated_excess(limits, estimator, architecture):
        return over
    if is_kept_by_backend(limits, estimator.verify_ms, architecture):
        return ""
    measured_ms, budget = estimator.verify_ms(architecture), limits.figures[LATENCY]
    return (
        f"latency_ms={measured_ms:.6g} by the backend of {estimator.device.name}, over its budget {budget:.6g}, which"
        " it keeps by the estimate. HINT: ask for a little less"
    )


def estimated_excess(limits: Limits, estimator: CostModel, architecture: Architecture) -> str:
    """Return in words which estimated cost of an architecture is over its budget; an empty text if none is.

    Args:
        limits: What it has to cost.
        estimator: Predicts its costs; nothing is measured.
        architecture: The architecture.
    """
    memory = estimator.memory(architecture)
    costs = {LATENCY: estimator.latency_ms(architecture), PARAMETERS: float(memory.parameter_bytes)}
    costs[PEAK_ACTIVATIONS] = float(memory.peak_activation_bytes)
    for name, budget in limits.figures.items():
        # The table adds the same figures in another order.
        if costs[name] > budget * (1 + 1e-9):
            return f"{name}={costs[name]:.6g}, over its budget {budget:.6g}"
    return ""
