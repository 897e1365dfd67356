"""A short evolution inside the budgets, on the loss that subnets have with the supernet's weights."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_nas.space.spec import Encoding

__all__ = ["evolve", "offspring"]

# Regularised evolution: of so many drawn from the population the best has a child, and the oldest dies.
_TOURNAMENT = 6
_CROSSOVER = 0.3
# Proposals outside the budgets cost nothing but a look at the tables; where all are, the space is searched out.
_ATTEMPTS = 200


def evolve(
    seeds: Sequence[Encoding],
    loss: Callable[[Encoding], float],
    is_within: Callable[[Encoding], bool],
    possible: Sequence[NDArray[np.bool_]],
    generator: torch.Generator,
    evaluations: int = 50,
    population: int = 24,
) -> dict[Encoding, float]:
    """Return the loss of every architecture that was evaluated, the best first.

    Regularised evolution (Real et al. 2019, arXiv 1802.01548): a child differs from its parent in one or two nodes, or
    takes half of them from a second parent.

    Args:
        seeds: What it begins with, all within the budgets; they count as evaluations, and are all evaluated.
        loss: Evaluates an architecture; called once for each.
        is_within: Whether an architecture is within the budgets.
        possible: For each node which options may be chosen.
        generator: Of the draws.
        evaluations: How many architectures to evaluate.
        population: How many live at once.

    Example::

        >>> options = [np.ones(4, dtype=bool)] * 3
        >>> found = evolve([(0, 0, 0)], lambda n: -sum(n), lambda n: sum(n) < 8, options, torch.Generator())
        >>> next(iter(found.values()))
        -7.0
    """
    # Seeded by the generator of the search, so that a resumed search evolves alike.
    rng = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))
    options = [np.flatnonzero(row) for row in possible]
    losses: dict[Encoding, float] = {}
    alive: deque[Encoding] = deque(maxlen=population)
    for encoding in dict.fromkeys(seeds):
        losses[encoding] = float(loss(encoding))
        alive.append(encoding)
    while len(losses) < evaluations:
        child = next((c for c in _children(alive, losses, options, rng) if c not in losses and is_within(c)), None)
        if child is None:
            break
        losses[child] = float(loss(child))
        alive.append(child)
    return dict(sorted(losses.items(), key=lambda item: item[1]))


def _children(
    alive: Sequence[Encoding],
    losses: dict[Encoding, float],
    options: Sequence[NDArray[np.intp]],
    rng: np.random.Generator,
) -> list[Encoding]:
    return [_child(alive, losses, options, rng) for _ in range(_ATTEMPTS)]


def _child(
    alive: Sequence[Encoding],
    losses: dict[Encoding, float],
    options: Sequence[NDArray[np.intp]],
    rng: np.random.Generator,
) -> Encoding:
    parent, other = (min(_drawn(alive, rng), key=losses.__getitem__) for _ in range(2))
    return offspring(parent, other, options, rng, _CROSSOVER)


def offspring(
    parent: Encoding, other: Encoding, options: Sequence[NDArray[np.intp]], rng: np.random.Generator, crossover: float
) -> Encoding:
    """Return a child: of half of two parents, or of one that is changed in one or two nodes.

    Args:
        parent: The first parent.
        other: The second one.
        options: For each node what it can be.
        rng: Of the draws.
        crossover: Probability that the child is of both.

    Example::

        >>> options = [np.arange(4)] * 3
        >>> child = offspring((0, 0, 0), (0, 0, 0), options, np.random.default_rng(0), crossover=0.3)
        >>> sum(node != 0 for node in child) <= 2
        True
    """
    if rng.random() < crossover and parent != other:
        return tuple(a if rng.random() < 0.5 else b for a, b in zip(parent, other, strict=True))
    child = list(parent)
    choices = [node for node, row in enumerate(options) if len(row) > 1]
    for node in rng.choice(choices, size=min(int(rng.integers(1, 3)), len(choices)), replace=False) if choices else ():
        child[node] = int(rng.choice(options[node]))
    return tuple(child)


def _drawn(alive: Sequence[Encoding], rng: np.random.Generator) -> list[Encoding]:
    return [alive[int(place)] for place in rng.integers(0, len(alive), _TOURNAMENT)]
