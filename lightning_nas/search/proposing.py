"""The next network to train: the widest, random ones, then children of what was trained, all within the budgets."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .aging import Evolution, Genes, Result, parents
from .evolution import offspring
from .ground import Ground, Target
from .sampling import kept_weights
from .solve import solve

__all__ = ["Proposal", "propose"]

# Proposals outside the budgets cost nothing but a look at the tables.
_ATTEMPTS = 200
_UNIFORM_ATTEMPTS = 64


@dataclass(frozen=True)
class Proposal:
    """A member to train, and how many were rejected by the tables before it was found."""

    genes: Genes
    rejected: int


def propose(
    ground: Ground,
    target: Target,
    results: Sequence[Result],
    seen: Collection[Genes],
    num_started: int,
    settings: Evolution,
    rng: np.random.Generator,
) -> Proposal | None:
    """Return the next member to train, new and within the budgets; None where none was found.

    The first is the one that keeps most weights of the source, the rest of the first population is random, the others
    are children of what was trained.

    Args:
        ground: What can be proposed.
        target: The budgets.
        results: What was found, the oldest first; only what is within the target counts.
        seen: What was proposed before.
        num_started: How many trials were started for the target.
        settings: How to propose.
        rng: Of the draws.
    """
    if num_started == 0 and (first := _widest(ground, target)) is not None and first not in seen:
        return Proposal(first, 0)
    within = [result for result in results if ground.is_within(result.genes, target, floored=False)]
    pool = list(results) if settings.sampler == "nsga2" else within
    rejected = 0
    if pool and num_started >= math.ceil(settings.population / len(ground.targets)):
        options = [np.arange(size) for size in ground.gene_sizes]
        for _ in range(_ATTEMPTS):
            child = offspring(*parents(pool, settings, rng), options, rng, settings.crossover)
            if not ground.is_within(child, target):
                rejected += 1
            elif child not in seen:
                return Proposal(child, rejected)
    found = _random(ground, target, seen, rng)
    return None if found is None else replace(found, rejected=rejected + found.rejected)


def _random(ground: Ground, target: Target, seen: Collection[Genes], rng: np.random.Generator) -> Proposal | None:
    """Draw uniformly; where the budgets leave little, take the best by random scores, which is always within."""
    reachable = [index for index, budgets in enumerate(target.budgets) if budgets is not None]
    rejected = 0
    for _ in range(_UNIFORM_ATTEMPTS):
        genes = ground.genes_at(int(rng.choice(reachable)), [int(rng.integers(size)) for size in ground.gene_sizes[2:]])
        if not ground.is_within(genes, target):
            rejected += 1
        elif genes not in seen:
            return Proposal(genes, rejected)
    for index in rng.permutation(np.repeat(reachable, 4)):
        scores = [rng.standard_normal(size) for size in ground.gene_sizes[2:]]
        nodes = _solved(target, int(index), scores)
        if nodes is not None and (genes := ground.genes_at(int(index), nodes)) not in seen:
            return Proposal(genes, rejected)
    return None


def _widest(ground: Ground, target: Target) -> Genes | None:
    """Return the member that keeps most weights of the source, at the first place that can meet the budgets."""
    index = next(index for index, budgets in enumerate(target.budgets) if budgets is not None)
    scores = [score.double().numpy() for score in kept_weights(ground.places[index].space)]
    nodes = _solved(target, index, scores)
    return None if nodes is None else ground.genes_at(index, nodes)


def _solved(target: Target, index: int, scores: Sequence[NDArray[np.float64]]) -> Sequence[int] | None:
    budgets = target.budgets[index]
    assert budgets is not None, "only places that can meet the budgets are asked"
    first, *others = budgets.limits or (None,)
    limits = [] if first is None else [replace(first, floor=target.floors[index]), *others]
    return solve(scores, [limit for limit in limits if limit is not None], budgets.forbidden)
