"""Evolution over trained networks: who has a child, and which trials are worth more epochs. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lightning_nas.io.numbers import check_number, check_numbers
from lightning_nas.multishot.domination import survivors

__all__ = ["Evolution", "Genes", "Result", "Sampler", "is_promoted", "parents"]

Genes = tuple[int, ...]
"""One member: the index of its input size, of its variant of the network, and its encoding in the space of these."""

Sampler = Literal["evolution", "nsga2"]
"""``evolution``: regularised evolution (Real et al. 2018, arXiv 1802.01548), in which the best of a few is a parent and
the oldest die; ``nsga2``: parents from the best fronts of metric and latency (Deb et al. 2002)."""


@dataclass(frozen=True)
class Evolution:
    """Settings of a study: how many trials, how members are proposed, and which trials go on at a rung.

    Attributes:
        trials: How many are trained, by all processes of the study together.
        sampler: How parents are chosen: ``evolution`` or ``nsga2``.
        population: How many trials live at once; as many random ones come first.
        tournament: Of so many drawn from the population the best has a child.
        crossover: Probability that a child is of two parents; else one or two choices of one parent change.
        floor: Which part of the budget a proposal has to use at least; less where a space has few members near the
            budget.
        rungs: Epochs after which a trial has to be among the best to go on, ascending; none for no such test.
        eta: At each rung the best 1/eta go on, of those that reached it so far (asynchronous successive halving, Li et
            al. 2018, arXiv 1810.05934).
        stale_seconds: So long without a sign of life, and a process on another machine is taken for dead, in seconds.

    Raises:
        ValueError: A setting is out of range.
    """

    trials: int
    sampler: Sampler = "evolution"
    population: int = 16
    tournament: int = 4
    crossover: float = 0.3
    floor: float = 0.8
    rungs: Sequence[int] = ()
    eta: float = 3.0
    stale_seconds: float = 300.0

    def __post_init__(self) -> None:
        if self.sampler not in get_args(Sampler):
            raise ValueError(f"`sampler` must be one of {', '.join(get_args(Sampler))}; got {self.sampler!r}.")
        for name in ("trials", "population", "tournament"):
            check_number(name, getattr(self, name), whole=True, least=1)
        for name in ("crossover", "floor"):
            check_number(name, getattr(self, name), least=0, most=1)
        check_number("eta", self.eta, above=1)
        check_number("stale_seconds", self.stale_seconds, above=0)
        check_numbers("rungs", self.rungs, whole=True, least=1)
        if list(self.rungs) != sorted(set(self.rungs)):
            raise ValueError(f"`rungs` must be ascending epochs of at least 1; got {list(self.rungs)}.")


@dataclass(frozen=True)
class Result:
    """Result of a finished trial.

    Attributes:
        number: Its number in the study.
        genes: What was trained.
        epochs: How long.
        value: Its metric on the validation data then.
        cost: Its cost by the first budget, such as its latency in milliseconds.
        is_complete: Whether it was trained to the end.
        larger_is_better: Whether more is better of the metric.
    """

    number: int
    genes: Genes
    epochs: int
    value: float
    cost: float
    is_complete: bool
    larger_is_better: bool = True

    @property
    def score(self) -> float:
        """The metric with the sign by which more is better."""
        return self.value if self.larger_is_better else -self.value

    @property
    def fitness(self) -> tuple[int, float]:
        """Key by which trials are compared: one that was stopped at a rung is worse than those that went on."""
        return self.epochs, self.score


def parents(results: Sequence[Result], settings: Evolution, rng: np.random.Generator) -> tuple[Genes, Genes]:
    """Return the two parents of the next child.

    Args:
        results: What was found so far, the oldest first; at least one.
        settings: How parents are chosen.
        rng: Of the draws.

    Example::

        >>> results = [Result(n, (0, 0, n), 1, value, 1.0, True) for n, value in enumerate((0.9, 0.2, 0.3))]
        >>> parents(results, Evolution(8, population=2, tournament=9), np.random.default_rng(0))
        ((0, 0, 2), (0, 0, 2))
    """
    if settings.sampler == "nsga2":
        ranked = [results[place] for place in survivors(_objectives(results), settings.population)]
        # The survivors come in the order of their fronts, so that the first of those drawn wins.
        first, second = (int(rng.integers(0, len(ranked), settings.tournament).min()) for _ in range(2))
        return ranked[first].genes, ranked[second].genes
    alive = results[-settings.population :]
    first, second = (_winner(alive, settings.tournament, rng) for _ in range(2))
    return alive[first].genes, alive[second].genes


def is_promoted(value: float, others: Sequence[float], eta: float, larger_is_better: bool = True) -> bool:
    """Return whether a value is among the best 1/eta of all that reached its rung; the best always is.

    Args:
        value: The metric of a trial at the rung.
        others: Those of the other trials that reached it.
        eta: Reduction factor.
        larger_is_better: Whether more is better of the metric.

    Example::

        >>> is_promoted(0.5, [], eta=3), is_promoted(0.5, [0.6], eta=3), is_promoted(0.5, [0.6, 0.1, 0.2], eta=2)
        (True, False, True)
    """
    better = sum(other > value if larger_is_better else other < value for other in others)
    return better < max(1.0, (len(others) + 1) / eta)


def _winner(alive: Sequence[Result], tournament: int, rng: np.random.Generator) -> int:
    return max(map(int, rng.integers(0, len(alive), tournament)), key=lambda place: alive[place].fitness)


def _objectives(results: Sequence[Result]) -> NDArray[np.float64]:
    """Return one row a result, to be minimised: how many are fitter, and the cost."""
    fitter = [sum(other.fitness > result.fitness for other in results) for result in results]
    return np.array([fitter, [result.cost for result in results]], dtype=np.float64).T
