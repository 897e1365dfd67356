"""Budgets resolved: what a user asked for, against a search space and what that costs on a device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from lightning_nas.budget.ablation import Choices, searched_options, unsearched
from lightning_nas.budget.binding import check_binding, check_served
from lightning_nas.budget.budget import LATENCY, PEAK_ACTIVATIONS, Budget
from lightning_nas.budget.limits import Limits, PeakLimit
from lightning_nas.budget.solver import Limit, cheapest, lowest_maximum, reach, solve
from lightning_nas.budget.tables import CostTables
from lightning_nas.space.spec import SearchSpace

__all__ = ["resolve", "resolve_search"]


def resolve_search(
    budget: Budget,
    space: SearchSpace,
    tables: CostTables,
    serves: Sequence[float | str] = (),
    choices: Choices = "both",
) -> Limits:
    """Resolve the budget of a search, and refuse one that binds nothing.

    Args:
        budget: What the user gave.
        space: What can be chosen.
        tables: What that costs.
        serves: Other latencies that the same training has to serve.
        choices: What is searched.

    Raises:
        ValueError: A budget that cannot be met, or none that binds anything.
    """
    limits = resolve(budget, space, tables, choices)
    check_binding([limits])
    if serves and budget.latency is None:
        raise ValueError(f"`serves` names other latencies than the budget's; there is no latency budget. Got {serves}.")
    # Each is looked at as a budget of its own, so that what is out of reach is said before the training.
    others = [resolve(replace(budget, latency=value), space, tables, choices) for value in serves]
    for value, found in zip(serves, others, strict=True):
        check_served(value, found)
    return replace(limits, serves=tuple(found.figures[LATENCY] for found in others))


def resolve(
    budget: Budget,
    space: SearchSpace,
    tables: CostTables,
    choices: Choices = "both",
    source: Mapping[str, float] | None = None,
) -> Limits:
    """Resolve a budget against a space, and prove that one of its members meets all of it.

    Args:
        budget: What the user gave.
        space: What can be chosen.
        tables: What that costs.
        choices: What is searched.
        source: What a relative budget refers to, by the name of the cost; by default the space's own source network.

    Raises:
        ValueError: No member meets the budget; the message says what the space can reach.
    """
    source = tables.costs(space.reference_encoding) if source is None else source
    options, fixed = searched_options(space, choices), unsearched(space, choices)
    figures = budget.figures(source)
    bytes_at_most = figures.pop(PEAK_ACTIVATIONS, None)
    peak = None
    if bytes_at_most is not None:
        table = tables.peak_activation_bytes
        peak = PeakLimit(table, bytes_at_most, source[PEAK_ACTIVATIONS], table.maximum(options))
    costs = tuple(Limit(tables.additive[name], figure, name) for name, figure in figures.items())
    reaches = tuple(reach(limit.table.restricted(options)) for limit in costs)
    for limit, span in zip(costs, reaches, strict=True):
        if limit.budget < span.minimum:
            alone = f" by its {choices} alone" if fixed else ""
            raise ValueError(
                f"The budget {limit.name}={limit.budget:.6g} is below what the space can reach{alone}: "
                f"{span.minimum:.6g} (minimum) to {span.maximum:.6g} (maximum)."
                f"{_what_to_ask_for(budget.given[limit.name], limit.name, span.minimum, source[limit.name])}"
            )
    limits = Limits(costs, reaches, tuple(source[limit.name] for limit in costs), peak, fixed)
    _check_together(limits, tables, budget.given)
    return limits


def _check_together(limits: Limits, tables: CostTables, given: Mapping[str, float | str]) -> None:
    table, peak = tables.latency_ms, limits.peak
    if peak is not None and cheapest(table, limits.forbidden) is None:
        alone = [] if limits.unsearched is None else [limits.unsearched]
        encoding = lowest_maximum(peak.table.rows, alone)
        assert encoding is not None, "the source network always may be chosen"
        lowest = peak.table.exact(encoding)
        raise ValueError(
            f"The budget {PEAK_ACTIVATIONS}={peak.budget:.6g} is below what the space can reach: "
            f"{lowest:.6g} (minimum)."
            f"{_what_to_ask_for(given[PEAK_ACTIVATIONS], PEAK_ACTIVATIONS, lowest, peak.source)}"
        )
    if solve([np.zeros(n) for n in table.node_sizes], limits.costs, limits.forbidden) is None:
        asked = ", ".join(f"{limit.name}={limit.budget:.6g}" for limit in limits.costs)
        raise ValueError(f"No architecture of the space meets all budgets at once: {asked}. Each alone can be met.")


def _what_to_ask_for(given: float | str, name: str, minimum: float, source: float) -> str:
    """Return a sentence on a bound out of reach: how it was asked for, and what could be, in the same form."""
    if str(given).strip().lower().endswith("x"):
        # Rounded up, so that what is named can be met.
        least = f"{math.ceil(100 * minimum / source) / 100:g}x"
        asked = f" It was asked for as {str(given).strip()} of the source."
    else:
        asked = ""
        unit = "ms" if name == LATENCY else "bytes"
        digits = 3 - math.floor(math.log10(minimum)) if name == LATENCY else 0
        least = f"{math.ceil(minimum * 10**digits) / 10**digits:.12g} {unit}"
    return f"{asked} HINT: ask for {least} or more, or widen the space."
