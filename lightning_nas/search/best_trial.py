"""Which trial of a study serves a budget best."""

from __future__ import annotations

from collections.abc import Sequence

from .aging import Result
from .ground import Ground, Target

__all__ = ["best_trial"]


def best_trial(results: Sequence[Result], ground: Ground, target: Target) -> Result | None:
    """Return the best complete trial within a target's budgets; None where there is none.

    Those that use the budget come first: brief trials tell networks of unlike sizes apart badly, and flatter the small
    ones, which converge first. What the device's backend prices over the budget comes last.

    Args:
        results: What was found.
        ground: Where it was found.
        target: The budgets.
    """
    within = [r for r in results if r.is_complete and ground.is_within(r.genes, target, floored=False)]
    within.sort(key=lambda r: (ground.is_within(r.genes, target), r.value, -r.number), reverse=True)
    return next((r for r in within if ground.is_verified(r.genes, target)), within[0] if within else None)
