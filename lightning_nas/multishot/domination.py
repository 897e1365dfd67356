"""Non-dominated sorting and crowding of NSGA-II, as pure functions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["crowding_distance", "non_dominated_rank", "survivors"]


def non_dominated_rank(objectives: NDArray[np.floating]) -> NDArray[np.intp]:
    """Return the front of each point: 0 where no other point is at least as good in all and better in one.

    The fast sorting's result (Deb et al. 2002, NSGA-II, doi 10.1109/4235.996017), found front by front.

    Args:
        objectives: One point a row, each column to be minimised.

    Example::

        >>> non_dominated_rank(np.array([[1.0, 2.0], [2.0, 1.0], [2.0, 2.0], [3.0, 3.0]])).tolist()
        [0, 0, 1, 2]
    """
    no_worse = np.all(objectives[:, None] <= objectives[None], axis=-1)
    dominates: NDArray[np.bool_] = no_worse & np.any(objectives[:, None] < objectives[None], axis=-1)
    ranks = np.full(len(objectives), -1, dtype=np.intp)
    front = 0
    while (ranks < 0).any():
        left = ranks < 0
        ranks[left & ~dominates[left].any(axis=0)] = front
        front += 1
    return ranks


def crowding_distance(objectives: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return how far the neighbours of each point of one front are apart; infinite at the ends.

    Args:
        objectives: One point a row.

    Example::

        >>> crowding_distance(np.array([[0.0, 4.0], [1.0, 1.0], [4.0, 0.0]])).tolist()
        [inf, 2.0, inf]
    """
    distances = np.zeros(len(objectives))
    for column in objectives.T:
        order = np.argsort(column, kind="stable")
        span = column[order[-1]] - column[order[0]]
        distances[order[[0, -1]]] = np.inf
        if span > 0:
            distances[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
    return distances


def survivors(objectives: NDArray[np.floating], count: int) -> list[int]:
    """Return the places of the `count` best points: by front, and within a front the least crowded first.

    Args:
        objectives: One point a row, each column to be minimised.
        count: How many stay.

    Example::

        >>> survivors(np.array([[3.0, 3.0], [0.0, 4.0], [1.0, 1.0], [4.0, 0.0]]), 3)
        [1, 3, 2]
    """
    ranks = non_dominated_rank(objectives)
    crowding = np.zeros(len(objectives))
    for front in range(int(ranks.max(initial=-1)) + 1):
        crowding[ranks == front] = crowding_distance(objectives[ranks == front])
    return [int(place) for place in np.lexsort((-crowding, ranks))[:count]]
