"""Paths of the supernet that a step trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_nas.budget.sampling import draw_any, ends_of
from lightning_nas.budget.solver import Limit
from lightning_nas.search.fair_sampling import Decks
from lightning_nas.search.settings import Joint, SupernetTraining
from lightning_nas.space.spec import Encoding, SearchSpace

__all__ = ["TrainingPaths"]


class TrainingPaths:
    """Draws the paths that a step trains.

    Args:
        space: What can be chosen.
        training: The strategy, the warm-up and the part that ignores the logits.
        limits: For each budget that the training serves, the limit near which random paths are drawn; may be empty.
        possible: For each node which options are trained.
        pool: Architectures that the warm-up trains in place of random ones; may be empty.
        generator: Of the draws.
    """

    def __init__(
        self,
        space: SearchSpace,
        training: SupernetTraining,
        limits: Sequence[Limit],
        possible: Sequence[NDArray[np.bool_]],
        pool: Sequence[Encoding],
        generator: torch.Generator,
    ) -> None:
        self._space, self._training, self._limits = space, training, limits
        self._possible, self._pool, self._generator = possible, pool, generator
        self._decks = {
            "random": Decks(possible, generator),
            "widest": Decks(ends_of(space, True, possible), generator),
            "narrowest": Decks(ends_of(space, False, possible), generator),
        }

    def at(self, step: int, total_steps: int, draw: Callable[[], Encoding]) -> list[Encoding]:
        """Return the paths that a step trains: one, or several by the sandwich rule.

        Args:
            step: Optimizer step.
            total_steps: How many there are.
            draw: Draws an architecture by the logits.
        """
        training, paths = self._training, self._training.paths
        learnt = isinstance(training, Joint) and step >= training.warmup * total_steps
        if paths == "uniform":
            return [draw_any(self._possible, self._generator)]
        if paths in ("policy", "mixture"):
            return [draw()]
        if paths == "sandwich":
            ends = [self._decks[end].deal() for end in ("widest", "narrowest")]
            return [*ends, *(self._random(learnt, draw) for _ in range(2))]
        if self._pool:
            # The weights are those of a trained network, which stays trained beside what is to be found.
            return [self._space.reference_encoding if step % 4 == 0 else self._random(learnt, draw)]
        return [self._random(learnt, draw) if paths == "fair" else self._rotation(step % 4, learnt, draw)]

    def _rotation(self, turn: int, learnt: bool, draw: Callable[[], Encoding]) -> Encoding:
        """Return widest, random, narrowest, random, in turns.

        This keeps the widest and the narrowest slices trained (the sandwich rule of BigNAS, arXiv 2003.11142, one path
        at a time). Their kinds are drawn: with both inverted bottlenecks throughout, inherited losses ranked subnets
        worse than chance in `tests/benchmarks/truth.md`, since the narrow ones were trained so much more than all else.
        Drawn fairly, the ends help no more than they harm.
        """
        if turn == 0:
            return self._decks["widest"].deal()
        # Once the logits learn, the widest alone stays in the rotation: weights must not drift to narrow networks.
        if turn == 2 and not learnt:
            return self._decks["narrowest"].deal()
        return self._random(learnt, draw)

    def _random(self, learnt: bool, draw: Callable[[], Encoding]) -> Encoding:
        """Return a path dealt fairly, see `Decks`, near a budget; once the logits learn, mostly one that they draw."""
        if learnt and self._follows():
            return draw()
        if self._pool and self._follows():
            return self._pool[self._place(len(self._pool))]
        if not self._limits:
            return self._decks["random"].deal()
        limit = self._limits[self._place(len(self._limits)) if len(self._limits) > 1 else 0]
        return self._decks["random"].deal(limit, self._training.sampling.band)

    def shares(self, probabilities: Sequence[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
        """Return for each node the least part of the steps in which each option is trained, whatever the logits prefer.

        Args:
            probabilities: What the logits say at the start; it counts where all paths are drawn by them.
        """
        training, paths = self._training, self._training.paths
        dealt = _uniform(self._possible)
        if paths in ("uniform", "policy", "mixture"):
            return dealt if paths == "uniform" else list(probabilities)
        uniform = self._training.sampling.uniform
        if self._pool:
            counts = [
                np.bincount(column, minlength=len(row))
                for column, row in zip(zip(*self._pool, strict=True), dealt, strict=True)
            ]
            pooled = [column / len(self._pool) for column in counts]
            dealt = [(1 - uniform) * pool + uniform * row for pool, row in zip(pooled, dealt, strict=True)]
        early = training.warmup if isinstance(training, Joint) else 1.0
        late = (1 - early) * uniform
        random = [(early + late) * row for row in dealt]
        widest, narrowest = (_uniform(ends_of(self._space, end, self._possible)) for end in (True, False))
        if paths == "sandwich":
            return [a + b + 2 * row for a, b, row in zip(widest, narrowest, random, strict=True)]
        if self._pool:
            first = [np.eye(len(row))[node] for node, row in zip(self._space.reference_encoding, random, strict=True)]
            return [0.25 * row + 0.75 * other for row, other in zip(first, random, strict=True)]
        if paths == "fair":
            return random
        rows = zip(widest, narrowest, random, dealt, strict=True)
        return [0.25 * (a + early * b + 2 * row + late * deal) for a, b, row, deal in rows]

    def state_dict(self) -> dict[str, list[list[int]]]:
        """Return what is left in the decks."""
        return {name: [list(left) for left in decks.left] for name, decks in self._decks.items()}

    def load_state_dict(self, state: dict[str, list[list[int]]]) -> None:
        """Continue from `state_dict`'s result."""
        for name, left in state.items():
            self._decks[name].left = [list(row) for row in left]

    def _follows(self) -> bool:
        return float(torch.rand((), generator=self._generator)) >= self._training.sampling.uniform

    def _place(self, count: int) -> int:
        return int(torch.randint(count, (), generator=self._generator))


def _uniform(possible: Sequence[NDArray[np.bool_]]) -> list[NDArray[np.float64]]:
    return [row / row.sum() for row in possible]
