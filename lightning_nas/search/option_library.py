"""Search by a library of options: each is tried alone in the trained network, and an exact program chooses."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from torch import Tensor, nn

from lightning_nas.budget.limits import Limits
from lightning_nas.estimator.cost_model import CostModel
from lightning_nas.search.engine import Search
from lightning_nas.search.settings import Library
from lightning_nas.search.tell import tell
from lightning_nas.search.verify import verified_candidates
from lightning_nas.space.spec import Encoding
from lightning_nas.supernet.option_errors import replace_one
from lightning_nas.supernet.source_judge import SourceJudge
from lightning_nas.supernet.supernet import find_supernet

__all__ = ["LibrarySearch", "search_by_library"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LibrarySearch:
    """What a search by a library found.

    Attributes:
        search: The search by the scores of the last round; it answers for other budgets, too.
        errors: For each node the error of each option, of the last round.
        ranked: Members within the budgets, the nearest to the source first, and how far each is once refitted.
    """

    search: Search
    errors: list[Tensor]
    ranked: dict[Encoding, float]


def search_by_library(
    network: nn.Module, images: Tensor, limits: Limits, estimator: CostModel, settings: Library, num_candidates: int
) -> LibrarySearch:
    """Try all options in a trained network, solve the budgets by their errors, and compare the best whole members.

    The first round puts options into the source. A later one puts them into the best member that is known, where the
    errors of the others have been added to theirs, and ends the search where the program gives that member again.

    Args:
        network: A supernet with the weights of a trained network, its channels sorted: `sort_channels`.
        images: Training images, shape (N, 3, H, W), normalised.
        limits: The budgets.
        estimator: What members cost; its backend is asked where it is installed.
        settings: The rounds, and how the budgets are used.
        num_candidates: How many members of each round are refitted whole and compared.

    Raises:
        ValueError: There are fewer than 2 images, or no member is within the budgets.
    """
    judge, supernet = SourceJudge(network, images, settings.refine_steps), find_supernet(network)
    ranked: dict[Encoding, float] = {}
    start = judge.space.reference_encoding
    for number in range(settings.rounds):
        errors = replace_one(judge, start, settings.num_workers).distances
        search = Search(supernet, limits, settings.scoring, errors)
        found = verified_candidates(search, estimator, num_candidates)
        new = [encoding for encoding in found if encoding not in ranked]
        ranked |= {encoding: judge.judge(judge.refitted(encoding)).error for encoding in new}
        ranked = dict(sorted(ranked.items(), key=lambda item: item[1]))
        best = next(iter(ranked))
        tell(log, f"Round {number + 1}: the best of {len(ranked)} members is {ranked[best]:.4f} from the source.")
        if best == start:
            break
        start = best
    return LibrarySearch(search, errors, ranked)
