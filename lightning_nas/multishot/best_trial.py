"""Best trials of a study for a budget."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_nas.multishot.evolution import Result
from lightning_nas.multishot.space import JointSpace, Target

__all__ = ["best_trials"]


def best_trials(results: Sequence[Result], joint_space: JointSpace, target: Target, count: int = 1) -> list[Result]:
    """Return the best complete trials within a target's budgets, each at another setting, the best first.

    Those that use the budget come first: brief trials tell networks of unlike sizes apart badly, and flatter the small
    ones, which converge first. So they do small images, hence one trial of each input size and variant. What the
    device's backend prices over the budget is left out, where there is another.

    Args:
        results: What was found.
        joint_space: Where it was found.
        target: The budgets.
        count: How many at most; fewer where there are not as many settings with a complete trial.

    Returns:
        The trials; none where none is within the budgets.
    """
    within = [r for r in results if r.is_complete and joint_space.is_within(r.genes, target, floored=False)]
    # Of equal ones the earlier trial comes first, so that all processes choose the same.
    within.sort(key=lambda r: (joint_space.is_within(r.genes, target), r.score, -r.number), reverse=True)
    best: dict[int, Result] = {}
    for result in within:
        setting = joint_space.index(result.genes)
        if len(best) < count and setting not in best and joint_space.is_verified(result.genes, target):
            best[setting] = result
    return list(best.values()) or within[:1]
