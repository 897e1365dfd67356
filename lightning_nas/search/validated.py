"""Which of a supernet's networks a validation runs while it trains."""

from __future__ import annotations

from lightning_nas.budget.solve import cheapest
from lightning_nas.search.engine import Search

__all__ = ["VALIDATED", "validated_nodes"]

VALIDATED = ("current", "source", "smallest")
"""What `ArchitectureSearch(validate=...)` can be."""


def validated_nodes(search: Search, which: str) -> tuple[int, ...]:
    """Return the architecture that a validation runs.

    Args:
        search: The search.
        which: ``current``: the most probable one within the budgets, another as the logits learn. ``source``: the
            network as it was. ``smallest``: the one that costs least of the first budget, within all.
    """
    if which == "source":
        return search.supernet.space.reference_nodes
    if which == "smallest" and search.budgets.limits:
        nodes = cheapest(search.budgets.limits[0].table, search.budgets.forbidden, search.budgets.limits)
        if nodes is not None:
            return nodes
    return search.best()
