"""Descriptions of a search in words and figures: what it is within, and where it stands."""

from __future__ import annotations

import torch

from lightning_nas.budget.limits import format_reach
from lightning_nas.budget.removal import describe_removed
from lightning_nas.search.engine import Search
from lightning_nas.search.penalty import entropy

__all__ = ["announcement", "brief", "metrics", "progress_line"]


def announcement(search: Search) -> str:
    """Return what is searched within which budgets, and which options no architecture within them has."""
    lines = [f"Searching {search.supernet.space.num_architectures:.3g} architectures within:"]
    lines.append(format_reach(search.limits))
    if search.limits.serves:
        lines.append(f"The same training serves latencies of {', '.join(f'{t:.5g}' for t in search.limits.serves)}.")
    if removed := describe_removed(search.supernet.space, search.trained):
        lines += ["No architecture within that has these options; they are left out:"]
        lines += [f"  {line}" for line in removed]
    return "\n".join(lines)


@torch.no_grad()
def metrics(search: Search) -> dict[str, float]:
    """Return what is logged: expected costs, multipliers, and the normalised entropy of the choices, mean and each."""
    probabilities = search.probabilities()
    values = {"nas/entropy": float(entropy(probabilities)), "nas/skipped": float(search.rewards.num_skipped)}
    num_widths = len(search.supernet.space.multipliers)
    for node, row in enumerate(probabilities):
        if len(row) > 1:
            name = f"width_{node}" if node < num_widths else f"block_{node - num_widths}"
            values[f"nas/entropy/{name}"] = float(entropy([row]))
    for limit, multiplier in zip(search.limits.costs, search.multipliers.values, strict=True):
        values[f"nas/{limit.name}"] = float(limit.table.expected(probabilities))
        values[f"nas/{limit.name}_multiplier"] = multiplier
    return values


def brief(search: Search) -> str:
    """Return where a search stands, in few words: expected costs beside budgets, multipliers and entropy."""
    values = metrics(search)
    costs = [
        f"{limit.name} {values[f'nas/{limit.name}']:.4g} of {limit.budget:.4g} (multiplier {multiplier:+.2g})"
        for limit, multiplier in zip(search.limits.costs, search.multipliers.values, strict=True)
    ]
    return f"expected {', '.join(costs) or 'without budget'}; entropy {values['nas/entropy']:.2f}"


def progress_line(search: Search) -> str:
    """Return where a search stands, with the most probable architecture within the budgets, in one line."""
    return f"{brief(search)}; leading: {search.supernet.space.decode(search.best())}"
