"""Proposals: the architectures of the highest scores that are exactly within all budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_nas.budget.forbidden import Forbidden
from lightning_nas.budget.solver import Limit, solve
from lightning_nas.space.spec import Encoding

__all__ = ["propose", "solve_in_band"]

Scores = Sequence[NDArray[np.float64]]


def solve_in_band(
    scores: Scores, limits: Sequence[Limit], forbidden: Sequence[Forbidden], use: float
) -> Encoding | None:
    """Return the architecture of the highest score within all limits, or None.

    Args:
        scores: For each node the score of each option.
        limits: The budgets; of the first at least `use` is used, where the space allows that.
        forbidden: What may not be chosen.
        use: Least part of the first budget.
    """
    banded = [replace(limit, floor=use * limit.budget) for limit in limits[:1]]
    encoding = solve(scores, [*banded, *limits[1:]], forbidden)
    if encoding is None:  # a budget above what the space can spend, or one that another budget caps
        encoding = solve(scores, limits, forbidden)
    return encoding


def propose(
    count: int,
    scores: Scores,
    prior: Scores,
    limits: Sequence[Limit],
    forbidden: Sequence[Forbidden],
    use: float,
    generator: torch.Generator,
) -> list[Encoding]:
    """Return up to `count` distinct architectures within all limits, the one of the highest score first.

    With a prior, those that it alone prefers, at the budget and a percent below, come next: a search has to beat them.
    The others have the highest scores with Gumbel noise, which draws near the distribution that the scores give over
    the architectures within the limits (perturb-and-MAP, Papandreou and Yuille 2011).

    Args:
        count: How many at most.
        scores: For each node the score of each option.
        prior: Scores by what is known without a search; may be empty.
        limits: As in `solve_in_band`.
        forbidden: As in `solve_in_band`.
        use: As in `solve_in_band`.
        generator: Of the noise.

    Raises:
        ValueError: No architecture meets the limits.
    """
    found: dict[Encoding, None] = {}
    for known in (scores, prior):
        if known and (encoding := solve_in_band(known, limits, forbidden, use)):
            found[encoding] = None
    if not found:
        raise ValueError("No architecture of the space meets the budgets.")
    # Should the compiler find the prior's best to be over, one near it stands by.
    if prior and (near := solve_in_band(prior, _less(limits), forbidden, use)):
        found[near] = None
    # Noise finds some of them twice.
    for _ in range(2 * count):
        if len(found) >= count:
            break
        noisy = [row + _gumbel(len(row), generator) for row in scores]
        if encoding := solve_in_band(noisy, limits, forbidden, use):
            found[encoding] = None
    return list(found)[:count]


def _less(limits: Sequence[Limit]) -> list[Limit]:
    """Return the limits with one percent less to spend of the first."""
    return [replace(limit, budget=0.99 * limit.budget) if index == 0 else limit for index, limit in enumerate(limits)]


def _gumbel(count: int, generator: torch.Generator) -> NDArray[np.float64]:
    # The logarithm of 0 is no number to add to a score.
    uniform = torch.rand(count, generator=generator, dtype=torch.float64).clamp(min=1e-12)
    return (-(-uniform.log()).log()).numpy()
