"""Proposal of the next network to train: first those near the source, then children of trained ones."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lightning_nas.budget.evolution import offspring
from lightning_nas.budget.solver import solve
from lightning_nas.multishot.evolution import Evolution, Genes, Result, parents
from lightning_nas.multishot.space import JointSpace, Target

__all__ = ["Proposal", "propose"]

# Proposals outside the budgets cost nothing but a look at the tables.
_ATTEMPTS = 200
_UNIFORM_ATTEMPTS = 64
_NEAR_ATTEMPTS = 16
# Of the draws, in the unit of `nearness`: refitted ones are as good as the nearest, on average, and differ.
_TEMPERATURE = 0.1
# Measuring a whole network takes a second, and training it minutes.
_MAX_MEASURED = 16
_PARTS = (1.0, 0.99, 0.98, 0.97)


@dataclass(frozen=True)
class Proposal:
    """A member to train.

    Attributes:
        genes: The member.
        rejected: How many were rejected by the tables or the backend before it was found.
        is_verified: Whether it is within the latency budget by the backend; True if that is not installed.
    """

    genes: Genes
    rejected: int
    is_verified: bool = True


def propose(
    joint_space: JointSpace,
    target: Target,
    results: Sequence[Result],
    seen: Collection[Genes],
    num_started: int,
    evolution: Evolution,
    rng: np.random.Generator,
) -> Proposal | None:
    """Return the next member to train, which is new and within the budgets; None if none was found.

    The first is the one that is nearest to the source by the scores of `Setting`, the rest of the first population is
    drawn near it (uniformly, where nothing was tried on images), the others are children of what was trained. What the
    device's backend prices over the latency budget is passed over; where it does so with all that were looked at, the
    estimate counts, and the proposal says so.

    Args:
        joint_space: What can be proposed.
        target: The budgets.
        results: What was found, the oldest first; only what is within the target counts.
        seen: What was proposed before.
        num_started: How many trials were started for the target.
        evolution: How to propose.
        rng: Of the draws.
    """
    rejected, over = 0, list[Genes]()
    for genes in _drawn(joint_space, target, results, num_started, evolution, rng):
        if genes is None:
            rejected += 1
        elif genes in seen:
            continue
        elif joint_space.is_verified(genes, target):
            return Proposal(genes, rejected)
        else:
            rejected += 1
            over.append(genes)
            if len(over) == _MAX_MEASURED:
                break
    return Proposal(over[0], rejected, is_verified=False) if over else None


def _drawn(
    joint_space: JointSpace,
    target: Target,
    results: Sequence[Result],
    num_started: int,
    evolution: Evolution,
    rng: np.random.Generator,
) -> Iterator[Genes | None]:
    """Draw members within the budgets, one after the other; None stands for one that the tables reject."""
    if num_started == 0:
        yield from _likeliest(joint_space, target)
    within = [result for result in results if joint_space.is_within(result.genes, target, floored=False)]
    pool = list(results) if evolution.sampler == "nsga2" else within
    # The targets share the first population.
    if pool and num_started >= math.ceil(evolution.population / len(joint_space.targets)):
        options = [np.arange(size) for size in joint_space.gene_sizes]
        for _ in range(_ATTEMPTS):
            child = offspring(*parents(pool, evolution, rng), options, rng, evolution.crossover)
            yield child if joint_space.is_within(child, target) else None
    yield from _random(joint_space, target, rng)


def _random(joint_space: JointSpace, target: Target, rng: np.random.Generator) -> Iterator[Genes | None]:
    """Draw near the source, or uniformly where it is not known what that is.

    Where the budgets leave little, the best by random scores is taken, which is always within.
    """
    reachable = [index for index, limits in enumerate(target.limits) if limits is not None]
    for _ in range(_NEAR_ATTEMPTS):
        index = int(rng.choice(reachable))
        if joint_space.settings[index].errors:
            # The best by disturbed scores is a draw from their softmax (Papandreou and Yuille 2011).
            noise = (_TEMPERATURE * rng.gumbel(size=size) for size in joint_space.gene_sizes[2:])
            scores = [score + extra for score, extra in zip(joint_space.settings[index].scores, noise, strict=True)]
            yield from _solved(joint_space, target, index, scores)
    for _ in range(_UNIFORM_ATTEMPTS):
        genes = joint_space.genes_at(
            int(rng.choice(reachable)), [int(rng.integers(size)) for size in joint_space.gene_sizes[2:]]
        )
        yield genes if joint_space.is_within(genes, target) else None
    for index in rng.permutation(np.repeat(reachable, 4)):
        scores = [rng.standard_normal(size) for size in joint_space.gene_sizes[2:]]
        yield from _solved(joint_space, target, int(index), scores)


def _likeliest(joint_space: JointSpace, target: Target) -> Iterator[Genes]:
    """Find the member that is nearest to the source, at the first setting that can meet the budgets."""
    index = next(index for index, limits in enumerate(target.limits) if limits is not None)
    yield from _solved(joint_space, target, index, joint_space.settings[index].scores)


def _solved(
    joint_space: JointSpace, target: Target, index: int, scores: Sequence[NDArray[np.float64]]
) -> Iterator[Genes]:
    """Find the member of the highest score, then those that use a little less of the first budget.

    The solver uses a budget up, where an estimate that is low by some tenths of a percent is over.
    """
    limits = target.limits[index]
    assert limits is not None, "only settings that can meet the budgets are asked"
    for part in _PARTS if limits.costs else _PARTS[:1]:
        first = [replace(limit, budget=part * limit.budget, floor=target.floors[index]) for limit in limits.costs[:1]]
        encoding = solve(scores, [*first, *limits.costs[1:]], limits.forbidden)
        if encoding is not None:
            yield joint_space.genes_at(index, encoding)
