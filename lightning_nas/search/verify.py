"""Candidates within the latency budget by the estimate and, if it is installed, by the device's own compiler."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from lightning_nas.budget.confirm import is_kept_by_backend
from lightning_nas.budget.solver import Limit
from lightning_nas.estimator.cost_model import CostModel
from lightning_nas.search.engine import Search
from lightning_nas.space.spec import Encoding

__all__ = ["first_verified", "is_verified", "verified_candidates"]

log = logging.getLogger(__name__)

ROUNDS = 3


def verified_candidates(search: Search, estimator: CostModel, count: int) -> list[Encoding]:
    """Return up to `count` candidates whose whole networks are within the latency budget by the device's backend.

    An estimate is right on average, and the solver, which uses a budget up, finds where it is low: of networks at the
    edge about half would be over by some tenths of a percent. Where too few are within, the solver is asked again for
    less, by what the estimate was low by. Without the backend, or without a latency budget, these are
    `Search.candidates`.

    Args:
        search: The search, its logits trained.
        estimator: It knows the backend (`Estimator.verify_ms`).
        count: How many at most; up to six times as many are measured.
    """
    limits = search.limits.costs
    latency = next((limit for limit in limits if limit.name == "latency_ms"), None)
    if latency is None or estimator.verify_ms(search.supernet.space.decode(search.best())) is None:
        return search.candidates(count)
    asked = latency.budget
    found: dict[Encoding, float] = {}
    kept: list[Encoding] = []
    for _ in range(ROUNDS):
        for encoding in search.candidates(2 * count, _with_budget(limits, asked)):
            if len(kept) >= count:
                break
            if encoding not in found:
                found[encoding] = estimator.verify_ms(search.supernet.space.decode(encoding)) or 0.0
                kept += [encoding] if found[encoding] <= latency.budget else []
        if len(kept) >= count:
            break
        # Where some are within, what half of all would be; where none is, what the least underestimated would be.
        factors = sorted(ms / latency.table.exact(encoding) for encoding, ms in found.items())
        # Always less than before, or the solver would propose the same networks again.
        lower = min(0.99 * asked, latency.budget / factors[len(factors) // 2 if kept else 0])
        if lower < search.limits.reaches[limits.index(latency)].minimum:
            break
        asked = lower
    if kept:
        return kept[:count]
    nearest, least_ms = min(found.items(), key=lambda item: item[1])
    log.warning(
        "No subnet was found that the backend of %s prices within %.6g ms; the nearest takes %.6g ms. The estimate is "
        "low here. HINT: ask for a little less.",
        estimator.device.name,
        latency.budget,
        least_ms,
    )
    return [nearest]


def first_verified(search: Search, estimator: CostModel, ordered: Sequence[Encoding], count: int) -> list[Encoding]:
    """Return the first networks within the latency budget by the device's backend; all if it is not installed.

    A measurement takes as long as some training steps: no more than are wanted are made.

    Args:
        search: The search.
        estimator: It knows the backend.
        ordered: The networks, the best first.
        count: How many are wanted.
    """
    is_priced = any(limit.name == "latency_ms" for limit in search.limits.costs)
    if not is_priced or not ordered or estimator.verify_ms(search.supernet.space.decode(ordered[0])) is None:
        return list(ordered)
    return list(islice((encoding for encoding in ordered if is_verified(search, estimator, encoding)), count))


def is_verified(search: Search, estimator: CostModel, encoding: Encoding) -> bool:
    """Return whether a network is within the latency budget by the device's backend; True if it is not installed."""
    return is_kept_by_backend(search.limits, estimator.verify_ms, search.supernet.space.decode(encoding))


def _with_budget(limits: Sequence[Limit], latency_ms: float) -> tuple[Limit, ...]:
    return tuple(replace(limit, budget=latency_ms) if limit.name == "latency_ms" else limit for limit in limits)
