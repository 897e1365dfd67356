"""Zero-shot search: members within the budgets are drawn, and ranked by scores that need no training."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn
from tqdm import tqdm

from lightning_nas.estimator.cost_model import CostModel
from lightning_nas.search.engine import Search
from lightning_nas.search.settings import ZeroShot
from lightning_nas.search.tell import tell
from lightning_nas.search.verify import first_verified, verified_candidates
from lightning_nas.space.spec import Encoding
from lightning_nas.supernet.derive import derive
from lightning_nas.supernet.supernet import owner_of
from lightning_nas.supernet.zero_cost import AGREEMENT, zero_cost

__all__ = ["ScoredMember", "rank_products", "score_table", "search_zero_shot"]

log = logging.getLogger(__name__)

_SHOWN = 10


@dataclass(frozen=True)
class ScoredMember:
    """A member of a space with its scores.

    Attributes:
        encoding: Which it is.
        latency_ms: Its latency; None where latency has no budget.
        values: Each score; of one that is several numbers, their rank product among the members.
    """

    encoding: Encoding
    latency_ms: float | None
    values: tuple[float, ...]


def search_zero_shot(
    network: nn.Module, images: Tensor, search: Search, estimator: CostModel, settings: ZeroShot, num_candidates: int
) -> list[Encoding]:
    """Draw members within the budgets, score them, and return the best, those first whose ranks have the best product.

    Members are drawn by `propose` with equal scores for all options: each is exactly within all budgets. The log has
    the table of the best.

    Args:
        network: A supernet with the weights of a trained network, its channels sorted (`sort_channels`), or a module of
            one.
        images: Training images, shape (N, 3, H, W), normalised.
        search: The search by `ZeroShot.scoring`, for the budgets.
        estimator: What members cost; its backend is asked where it is installed.
        settings: The scores, and how many members are drawn.
        num_candidates: How many are returned at most.

    Raises:
        ValueError: No member is within the budgets, or a score cannot run an operator of the network.
    """
    _warn_weak(settings.scores)
    space, network = search.supernet.space, owner_of(search.supernet, network)[1]
    drawn = search.candidates(settings.num_members)
    names = [score.removeprefix("-") for score in settings.scores]
    columns: list[list[tuple[float, ...]]] = [[] for _ in names]
    for encoding in tqdm(drawn, desc="Scoring members", leave=False):
        member = derive(network, encoding)
        for name, column in zip(names, columns, strict=True):
            column.append(zero_cost(name, member, images, space.feature_modules, settings.seed))
    values = [_single(column) for column in columns]
    signs = [-1 if score.startswith("-") else 1 for score in settings.scores]
    products = rank_products([[sign * value for value in column] for sign, column in zip(signs, values, strict=True)])
    order = sorted(range(len(drawn)), key=lambda place: -products[place])
    latency = next((limit.table for limit in search.limits.costs if limit.name == "latency_ms"), None)
    members = [
        ScoredMember(
            drawn[place],
            None if latency is None else latency.exact(drawn[place]),
            tuple(column[place] for column in values),
        )
        for place in order
    ]
    tell(log, f"The best of {len(members)} members within the budgets:\n{score_table(members, settings.scores)}")
    ordered = [member.encoding for member in members]
    # Where the estimate is low, the backend may find all of them to be over; then others cost less.
    kept = first_verified(search, estimator, ordered, num_candidates)
    return kept[:num_candidates] or verified_candidates(search, estimator, num_candidates)


def rank_products(columns: Sequence[Sequence[float]]) -> list[float]:
    """Return for each member the logarithm of the product of its ranks, each as a part of the best rank.

    Equal values share the mean of their ranks; what is no number has the worst.

    Args:
        columns: The values of each score, of all members; more is better.

    Example::

        >>> [round(value, 2) for value in rank_products([(1.0, 2.0), (5.0, 3.0)])]
        [-0.69, -0.69]
    """
    return [sum(math.log(rank) for rank in ranks) for ranks in zip(*map(_ranks, columns), strict=True)]


def score_table(members: Sequence[ScoredMember], scores: Sequence[str], count: int = _SHOWN) -> str:
    """Return a table of the first members: rank, latency where that has a budget, and scores.

    Args:
        members: The best first.
        scores: Names of their scores, as `ZeroShot.scores` has them; ``(less)`` says that less is better.
        count: How many rows at most.
    """
    has_latency = any(member.latency_ms is not None for member in members)
    headings = [f"{score[1:]} (less)" if score.startswith("-") else score for score in scores]
    rows = [["rank", *(["latency, ms"] if has_latency else []), *headings]]
    for rank, member in enumerate(members[:count], start=1):
        latency = [] if member.latency_ms is None else [f"{member.latency_ms:.4g}"]
        rows.append([str(rank), *latency, *(f"{value:.6g}" for value in member.values)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _warn_weak(scores: Sequence[str]) -> None:
    """Warn of scores that told less of fine-tuned members than the number of parameters does."""
    least = AGREEMENT["params"]
    for score in scores:
        sign = -1 if score.startswith("-") else 1
        if (found := sign * AGREEMENT[score.removeprefix("-")]) < least:
            log.warning(
                "`%s` tells less than the number of parameters: among fine-tuned networks of one latency Kendall's tau"
                " with how near they come to their source is %.2f, of more parameters %.2f. HINT: scores=[naswot].",
                *(score, found, least),
            )


def _single(column: Sequence[tuple[float, ...]]) -> list[float]:
    """Return one number a member: of a score that is several numbers, their rank product."""
    parts = list(zip(*column, strict=True))
    return list(parts[0]) if len(parts) == 1 else rank_products(parts)


def _ranks(values: Sequence[float]) -> list[float]:
    known = np.array([-math.inf if math.isnan(value) else value for value in values])
    lower = (known[None, :] < known[:, None]).sum(1)
    equal = (known[None, :] == known[:, None]).sum(1)
    return ((lower + (equal + 1) / 2) / len(known)).tolist()
