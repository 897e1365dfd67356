"""Budgets as a user writes them: absolute (8.0 milliseconds, "256KiB") or relative to the source network ("0.5x")."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lightning_nas.budget.ablation import Choices, fixed_choices, restricted, searched_options
from lightning_nas.budget.solve import Limit, Reach, cheapest, reach
from lightning_nas.estimator.estimator import Estimator
from lightning_nas.estimator.table import CostTable
from lightning_nas.space.spec import Architecture, SearchSpace

__all__ = [
    "Budgets",
    "check_requested",
    "confirm",
    "excess",
    "feasibility",
    "format_reach",
    "is_kept_by_backend",
    "resolve_budget",
    "warn_unserved",
]

log = logging.getLogger(__name__)

# Paths near a latency are trained with it, see `SearchSettings.band`.
_NEAR = 0.1
BYTE_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "kib": 2**10, "mib": 2**20}
FORMS = {
    "latency_ms": "milliseconds (8.0) or a part of the source network's latency ('0.5x')",
    "parameter_bytes": "bytes (262144, '256KiB', '1MB') or a part of the source network's ('0.5x')",
    "peak_activation_bytes": "bytes (262144, '256KiB', '1MB') or a part of the source network's ('0.5x')",
}


@dataclass(frozen=True)
class Budgets:
    """The budgets of one search, in absolute figures, and the tables they bound.

    Attributes:
        limits: Budgets on additive costs (latency, parameters).
        reaches: For each limit what the space can reach.
        references: For each limit the source network's cost.
        forbidden: Tables of the combinations that may not be chosen: they cannot fit the peak activation budget, or are
            not searched.
        peak_activation_bytes: That budget, or None.
        peak_reference: The source network's peak, where there is such a budget.
        peak_maximum: The largest peak in the space, likewise.
        serves: Other latencies, in milliseconds, that the same training has to serve.
        fixed: Those tables of `forbidden` that say what is not searched.
    """

    limits: tuple[Limit, ...]
    reaches: tuple[Reach, ...]
    references: tuple[float, ...]
    forbidden: tuple[CostTable, ...] = ()
    peak_activation_bytes: float | None = None
    serves: tuple[float, ...] = ()
    fixed: tuple[CostTable, ...] = ()
    peak_reference: float = math.nan
    peak_maximum: float = math.inf

    @property
    def figures(self) -> dict[str, float]:
        """What may be spent, by the name of the cost."""
        peak = self.peak_activation_bytes
        bounds = {limit.name: limit.budget for limit in self.limits}
        return bounds if peak is None else {**bounds, "peak_activation_bytes": peak}

    @property
    def unfit(self) -> tuple[CostTable, ...]:
        """Tables of the combinations that cannot fit, whatever is searched."""
        return self.forbidden[len(self.fixed) :]

    @property
    def trained(self) -> tuple[Limit, ...]:
        """The first limit, once for each budget on it that the training serves; paths are drawn near them."""
        others = [replace(limit, budget=budget) for limit in self.limits[:1] for budget in self.serves]
        return (*self.limits[:1], *others)

    def with_latency(self, latency_ms: float) -> Budgets:
        """Return the same budgets but for the latency."""
        return replace(
            self, limits=tuple(replace(x, budget=latency_ms) if x.name == "latency_ms" else x for x in self.limits)
        )

    @property
    def loosest(self) -> tuple[Limit, ...]:
        """The limits with the largest budget that the training serves."""
        largest = max(self.trained, key=lambda limit: limit.budget, default=None)
        return self.limits if largest is None else (largest, *self.limits[1:])


def resolve_budget(value: float | str, reference: float, name: str, asked_as: str = "") -> float:
    """Return a budget in absolute figures.

    Args:
        value: What the user gave.
        reference: The source network's cost, for relative budgets.
        name: ``latency_ms``, ``parameter_bytes`` or ``peak_activation_bytes``.
        asked_as: What the user gave it as, where that is not its name.

    Example::

        >>> resolve_budget("0.5x", 4.0, "latency_ms"), resolve_budget("2KiB", 0, "parameter_bytes")
        (2.0, 2048.0)

    Raises:
        ValueError: It is not a positive number of a known form.
    """
    match = re.fullmatch(r"\s*([-+]?[\d.]+(?:e[-+]?\d+)?|[-+]?nan|[-+]?inf)\s*([a-z]*)\s*", str(value).lower())
    units = {"x": reference, "": 1.0, **({"ms": 1.0} if name == "latency_ms" else BYTE_UNITS)}
    try:
        number = float(match[1]) * units[match[2]] if match else math.nan
    except (KeyError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        asked = f"{asked_as or name}={value!r}"
        raise ValueError(f"The budget {asked} is not valid; give a positive number: {FORMS[name]}.")
    return number


def check_requested(requested: Mapping[str, float | str | None], serves: Sequence[float | str] = ()) -> None:
    """Refuse budgets that cannot be right for any network.

    Args:
        requested: What the user gave, by the name of the cost; None where there is no budget on it.
        serves: Other latencies that the same training has to serve.

    Raises:
        ValueError: One is not a positive number of a known form, or there is none.
    """
    given = [(name, value) for name, value in requested.items() if value is not None]
    if not given:
        raise ValueError("Give at least one budget of latency, parameter_bytes and peak_activation_bytes; got none.")
    for name, value in given:
        resolve_budget(value, 1.0, name)
    for value in serves:
        resolve_budget(value, 1.0, "latency_ms", asked_as="serves")


def warn_unserved(trained: Budgets, asked: Budgets) -> None:
    """Warn where a latency is asked for that is outside of those that a training served.

    Args:
        trained: The budgets of the training.
        asked: The budgets that its weights are to be used for.
    """
    served = sorted(limit.budget for limit in trained.trained if limit.name == "latency_ms")
    for limit in asked.limits if served else ():
        if limit.name == "latency_ms" and not served[0] * (1 - _NEAR) <= limit.budget <= served[-1] * (1 + _NEAR):
            log.warning(
                "Latencies of %.6g to %.6g ms were trained for, and %.6g ms is asked for: the weights there saw few"
                " steps, or none. HINT: name it in `serves` before the training.",
                served[0],
                served[-1],
                limit.budget,
            )


def feasibility(
    space: SearchSpace,
    tables: dict[str, CostTable],
    budgets: dict[str, float | str | None],
    choices: Choices = "both",
) -> Budgets:
    """Resolve budgets against a space, and prove that one of its members meets all of them.

    Args:
        space: What can be chosen.
        tables: The costs by name: ``latency_ms``, ``parameter_bytes``, ``peak_activation_bytes``.
        budgets: What the user gave, by the same names; None where there is no budget.
        choices: What is searched.

    Raises:
        ValueError: No budget at all, one that is not valid, or budgets that no member meets; the message says what
            the space can reach.
    """
    check_requested(budgets)
    given = {name: value for name, value in budgets.items() if value is not None}
    peak, peak_reference, peak_maximum = None, math.nan, math.inf
    fixed, options = fixed_choices(space, choices), searched_options(space, choices)
    forbidden = fixed
    limits, reaches, references = [], [], []
    for name, value in given.items():
        table = tables[name]
        if name == "peak_activation_bytes":
            peak_reference = _peak(table, space.reference_nodes)
            peak_maximum = max(float(factor.cost.max()) for factor in restricted(table, options).factors)
            peak = resolve_budget(value, peak_reference, name)
            forbidden = (*fixed, _too_large(table, peak))
            continue
        references.append(table.exact(space.reference_nodes))
        limits.append(Limit(table, resolve_budget(value, references[-1], name), name))
        reaches.append(reach(restricted(table, options)))
    for limit, span in zip(limits, reaches, strict=True):
        if limit.budget < span.minimum:
            alone = f" by its {choices} alone" if fixed else ""
            raise ValueError(
                f"The budget {limit.name}={limit.budget:.6g} is below what the space can reach{alone}: "
                f"{span.minimum:.6g} (minimum) to {span.maximum:.6g} (maximum)."
            )
    found = Budgets(
        tuple(limits),
        tuple(reaches),
        tuple(references),
        forbidden,
        peak,
        fixed=fixed,
        peak_reference=peak_reference,
        peak_maximum=peak_maximum,
    )
    _check_together(found, tables)
    return found


def format_reach(budgets: Budgets) -> str:
    """Return the feasibility table as text: for each budget the source, the budget and the space's reach."""
    lines = [f"{'cost':<18}{'source':>12}{'budget':>12}{'minimum':>12}{'median':>12}{'maximum':>12}"]
    for limit, span, reference in zip(budgets.limits, budgets.reaches, budgets.references, strict=True):
        figures = (reference, limit.budget, span.minimum, span.median, span.maximum)
        lines.append(f"{limit.name:<18}" + "".join(f"{figure:>12.5g}" for figure in figures))
    return "\n".join(lines)


def is_kept_by_backend(
    limits: Sequence[Limit], verify_ms: Callable[[Architecture], float | None], architecture: Architecture
) -> bool:
    """Return whether a device's backend prices a whole network within the latency budget.

    Args:
        limits: The budgets; without one on latency nothing is measured.
        verify_ms: Measures a network, in milliseconds; None where the backend is not here, and the estimate counts.
        architecture: The network.
    """
    limit = next((limit for limit in limits if limit.name == "latency_ms"), None)
    if limit is None:
        return True
    measured_ms = verify_ms(architecture)
    return measured_ms is None or measured_ms <= limit.budget


def confirm(budgets: Budgets, estimator: Estimator, architecture: Architecture) -> None:
    """Check the promise on an architecture itself: no network is derived of one that this has not let pass.

    Raises:
        RuntimeError: It costs more than a budget, by the estimator or by the device's backend, where that is here.
    """
    if over := excess(budgets, estimator, architecture):
        raise RuntimeError(f"The derived network has {over}.")


def excess(budgets: Budgets, estimator: Estimator, architecture: Architecture) -> str:
    """Return what of an architecture is over which budget, in words; nothing where it keeps them all.

    Args:
        budgets: What it has to cost.
        estimator: What it costs, and what measures it whole, where the device's backend is here.
        architecture: The architecture, whose costs are not read from the table that a solver saw.
    """
    memory = estimator.memory(architecture)
    costs = {"latency_ms": estimator.latency_ms(architecture), "parameter_bytes": float(memory.parameter_bytes)}
    costs["peak_activation_bytes"] = float(memory.peak_activation_bytes)
    for name, budget in budgets.figures.items():
        # The table adds the same figures in another order.
        if costs[name] > budget * (1 + 1e-9):
            return f"{name}={costs[name]:.6g}, over its budget {budget:.6g}"
    if is_kept_by_backend(budgets.limits, estimator.verify_ms, architecture):
        return ""
    measured_ms, budget = estimator.verify_ms(architecture), budgets.figures["latency_ms"]
    return (
        f"latency_ms={measured_ms:.6g} by the backend of {estimator.device.name}, over its budget {budget:.6g}, which"
        " it keeps by the estimate. HINT: ask for a little less"
    )


def _check_together(budgets: Budgets, tables: dict[str, CostTable]) -> None:
    from lightning_nas.budget.solve import solve

    table = next(iter(tables.values()))
    if budgets.peak_activation_bytes is not None and cheapest(table, budgets.forbidden) is None:
        raise ValueError(
            f"The budget peak_activation_bytes={budgets.peak_activation_bytes:.6g} is below what the space can reach: "
            f"{_lowest_peak(tables['peak_activation_bytes']):.6g} (minimum)."
        )
    if solve([np.zeros(n) for n in table.node_sizes], budgets.limits, budgets.forbidden) is None:
        given = ", ".join(f"{limit.name}={limit.budget:.6g}" for limit in budgets.limits)
        raise ValueError(f"No architecture of the space meets all budgets at once: {given}. Each alone can be met.")


def _peak(table: CostTable, nodes: tuple[int, ...]) -> float:
    """Return the peak of one architecture: the largest of its parts, not their sum."""
    return max(table.parts(nodes))


def _too_large(table: CostTable, budget: float) -> CostTable:
    from lightning_nas.estimator.table import Factor

    factors = tuple(Factor(f.nodes, (f.cost > budget).astype(np.float64)) for f in table.factors)
    return CostTable(factors, table.node_sizes)


def _lowest_peak(table: CostTable) -> float:
    levels = np.unique(np.concatenate([factor.cost.ravel() for factor in table.factors]))
    fits = [level for level in levels if cheapest(table, [_too_large(table, level)]) is not None]
    constant = max((float(f.cost) for f in table.factors if not f.nodes), default=0.0)
    return max(fits[0], constant)
