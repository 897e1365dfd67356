"""Network of a supernet that a validation runs while the supernet trains."""

from __future__ import annotations

from lightning_nas.budget.solver import cheapest
from lightning_nas.search.engine import Search
from lightning_nas.space.spec import Encoding

__all__ = ["validated_encoding"]


def validated_encoding(search: Search, which: str) -> Encoding:
    """Return the architecture that a validation evaluates.

    Args:
        search: The search.
        which: ``current``: the most probable one within the budgets, another as the logits learn. ``source``: the
            network as it was. ``smallest``: the one that costs least of the first budget, within all.
    """
    if which == "source":
        return search.supernet.space.reference_encoding
    if which == "smallest" and search.limits.costs:
        encoding = cheapest(search.limits.costs[0].table, search.limits.forbidden, search.limits.costs)
        if encoding is not None:
            return encoding
    return search.best()
