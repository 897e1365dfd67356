"""Descriptions of a search in words and figures: what it is within, and where it stands."""

from __future__ import annotations

import torch

from lightning_nas.budget.budget import LATENCY
from lightning_nas.budget.limits import Limits
from lightning_nas.budget.removal import describe_removed
from lightning_nas.io.units import bytes_text
from lightning_nas.search.engine import Search
from lightning_nas.search.penalty import entropy
from lightning_nas.space.choice import Choice
from lightning_nas.space.nodes import described

__all__ = ["announcement", "brief", "format_reach", "metrics", "progress_line"]


def announcement(search: Search) -> str:
    """Return what is searched within which budgets, and which options no architecture within them has."""
    lines = [f"Searching {search.supernet.space.num_architectures:.3g} architectures within:"]
    lines.append(format_reach(search.limits))
    if search.limits.serves:
        served = ", ".join(f"{latency_ms:.5g} ms" for latency_ms in search.limits.serves)
        lines.append(f"The same training serves latencies of {served}.")
    if removed := describe_removed(search.supernet.space, search.trained):
        lines += ["No architecture within that has these options; they are left out:"]
        lines += [f"  {line}" for line in removed]
    return "\n".join(lines)


def format_reach(limits: Limits) -> str:
    """Return the feasibility table as text: for each limit the source, the budget and the space's reach."""
    lines = [f"{'cost':<18}{'source':>12}{'budget':>12}{'minimum':>12}{'median':>12}{'maximum':>12}"]
    for limit, span, reference in zip(limits.costs, limits.reaches, limits.references, strict=True):
        figures = (reference, limit.budget, span.minimum, span.median, span.maximum)
        lines.append(f"{limit.name:<18}" + "".join(f"{_cost_text(limit.name, figure):>12}" for figure in figures))
    return "\n".join(lines)


@torch.no_grad()
def metrics(search: Search) -> dict[str, float]:
    """Return what is logged: expected costs, multipliers, and the normalised entropy of the choices, mean and each."""
    probabilities = search.probabilities()
    values = {"nas/entropy": float(entropy(probabilities)), "nas/skipped": float(search.rewards.num_skipped)}
    space = search.supernet.space
    nodes = zip((*space.multipliers, *space.choices), probabilities, strict=True)
    for node, row in nodes:
        if len(row) > 1:
            kind = "block" if isinstance(node, Choice) else "width"
            values[f"nas/entropy/{kind} {node}"] = float(entropy([row]))
    for limit, multiplier in zip(search.limits.costs, search.multipliers.values, strict=True):
        values[f"nas/{limit.name}"] = float(limit.table.expected(probabilities))
        values[f"nas/{limit.name}_multiplier"] = multiplier
    return values


def brief(search: Search) -> str:
    """Return where a search stands, in few words: expected costs beside budgets, multipliers and entropy."""
    values = metrics(search)
    costs = [
        f"{limit.name} {_cost_text(limit.name, values[f'nas/{limit.name}'], 4)} of"
        f" {_cost_text(limit.name, limit.budget, 4)} (multiplier {multiplier:+.2g})"
        for limit, multiplier in zip(search.limits.costs, search.multipliers.values, strict=True)
    ]
    return f"expected {', '.join(costs) or 'without budget'}; entropy {values['nas/entropy']:.2f}"


def progress_line(search: Search) -> str:
    """Return where a search stands, with the most probable architecture within the budgets, in one line."""
    return f"{brief(search)}; leading: {described(search.supernet.space, search.best())}"


def _cost_text(name: str, figure: float, digits: int = 5) -> str:
    """Return a cost for people: bytes with their unit; of milliseconds, whose name has the unit, the figure.

    Args:
        name: Name of the cost.
        figure: The cost.
        digits: Significant digits of milliseconds.

    Example::

        >>> _cost_text("latency_ms", 1.80742), _cost_text("parameter_bytes", 2.2631e6)
        ('1.8074', '2.16 MiB')
    """
    return f"{figure:.{digits}g}" if name == LATENCY else bytes_text(figure)
