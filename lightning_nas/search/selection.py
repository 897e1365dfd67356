"""The last step of a search: candidates, a short evolution from them, and random subnets that it must beat."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from lightning_nas.budget.evolution import evolve
from lightning_nas.budget.sampling import draw_near
from lightning_nas.estimator.cost_model import CostModel
from lightning_nas.search.engine import Search
from lightning_nas.search.option_scores import utilities
from lightning_nas.search.settings import Selection
from lightning_nas.search.verify import first_verified, verified_candidates
from lightning_nas.space.spec import Encoding

__all__ = ["MIN_OBSERVED", "Selected", "select"]

log = logging.getLogger(__name__)

# Scores that were fitted to 40 losses ranked others by tau 0.10, to 100 by 0.25, in the study of this method.
MIN_OBSERVED = 64
"""Fewer sampled losses say little of single options."""


@dataclass(frozen=True)
class Selected:
    """Subnets that a search compared, with their losses.

    Attributes:
        losses: Inherited loss of each evaluated subnet within the budgets, less what its size counts, the best first:
            finalists by their loss on all data, then the others. If the device's backend is installed, only those that
            it measured.
        random: Those of them that were drawn at random.
    """

    losses: dict[Encoding, float]
    random: tuple[Encoding, ...] = ()

    @property
    def ranked(self) -> list[Encoding]:
        """The subnets, sorted by inherited loss, the lowest first."""
        return list(self.losses)

    @property
    def beats_random(self) -> bool:
        """Whether the best subnet is not one of those drawn at random."""
        return self.ranked[0] not in self.random


def select(
    search: Search,
    estimator: CostModel,
    loss: Callable[[Encoding], float],
    selection: Selection,
    observed: Sequence[tuple[Encoding, float]] = (),
    show: bool = True,
    first: Callable[[Encoding], float] | None = None,
    num_finalists: int = 0,
) -> Selected:
    """Evaluate candidates within the budgets by their inherited loss and their size, and evolve them further.

    Args:
        search: The search; its logits propose candidates.
        estimator: What they cost; where its backend is installed, networks over the budget by that are left out.
        loss: Evaluates one on all data.
        selection: How many the solver proposes, how many are evaluated in all, and how many random ones beside them.
        observed: Sampled architectures with their advantages: what they say of single options proposes one more.
        show: Whether to show progress.
        first: Evaluates one on part of the data, where all are compared on that; by default `loss` does.
        num_finalists: How many of the best by that are then compared on all data.

    Raises:
        RuntimeError: None has a finite loss.
    """
    seeds = verified_candidates(search, estimator, selection.num_candidates)
    if len(observed) >= MIN_OBSERVED:
        sampled, advantages = [encoding for encoding, _ in observed], [value for _, value in observed]
        scores = utilities(sampled, advantages, search.supernet.space.node_sizes)
        solved = search.solved(scores)
        seeds = list(dict.fromkeys([*seeds, *([] if solved is None else [solved])]))
    per_size, space = selection.size_weight * search.size_scale, search.supernet.space
    drawn, floor = _random_subnets(search, selection.num_random_subnets), search.floor
    with tqdm(
        total=max(selection.num_evaluations, len(seeds)) + len(drawn) + num_finalists,
        desc="Comparing candidates",
        leave=False,
        disable=not show,
    ) as bar:

        def counted(encoding: Encoding, evaluate: Callable[[Encoding], float] = first or loss) -> float:
            value = evaluate(encoding) - per_size * math.log(estimator.memory(space.decode(encoding)).parameter_bytes)
            bar.update()
            return value if math.isfinite(value) else math.inf

        def is_within(encoding: Encoding) -> bool:
            return search.is_within(encoding, floor)

        losses = evolve(seeds, counted, is_within, search.possible, search.generator, selection.num_evaluations)
        losses |= {encoding: counted(encoding) for encoding in drawn if encoding not in losses}
        if all(map(math.isinf, losses.values())):
            raise RuntimeError(
                f"None of {len(losses)} compared subnets has a finite loss: the weights are broken. HINT: a smaller"
                " learning rate of the weights, or clipped gradients; and `training_step` must return a loss."
            )
        ordered = sorted(losses, key=losses.__getitem__)
        # Random ones are looked at like all others: the estimate may be low for them.
        kept = first_verified(search, estimator, ordered, max(selection.num_candidates, num_finalists))
        # Where all are over, what is nearest to the budget by the backend was proposed, and a warning said so.
        kept = kept or seeds[:1]
        finals = {encoding: counted(encoding, loss) for encoding in kept[:num_finalists]}
    decided = {
        **dict(sorted(finals.items(), key=lambda item: item[1])),
        **{n: losses[n] for n in kept if n not in finals},
    }
    found = Selected(decided, tuple(drawn))
    if drawn and not found.beats_random:
        log.warning(
            "A random subnet within the budgets has a lower inherited loss than all that the search found: the supernet"
            " tells them apart badly. HINT: train it longer."
        )
    return found


def _random_subnets(search: Search, count: int) -> list[Encoding]:
    if not search.limits.costs:
        return []
    limit, band = search.limits.costs[0], (search.use, 1.0)
    tries = (draw_near(limit.table, limit.budget, band, search.generator, search.possible) for _ in range(8 * count))
    floor = search.floor
    found = dict.fromkeys(encoding for encoding in tries if search.is_within(encoding, floor))
    return list(found)[:count]
