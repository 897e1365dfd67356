"""The best architecture at every budget, from one table of scores."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lightning_nas.budget.forbidden import Forbidden
from lightning_nas.budget.solver import Limit, reach, solve
from lightning_nas.io.numbers import check_number
from lightning_nas.search.engine import Search
from lightning_nas.search.option_scores import utilities
from lightning_nas.search.selection import MIN_OBSERVED
from lightning_nas.space.spec import Architecture, Encoding

__all__ = ["FrontierPoint", "FrontierSubnet", "frontier", "frontier_subnets"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FrontierPoint:
    """An architecture with the highest score among those of its cost or less.

    Attributes:
        encoding: The architecture.
        cost: Its cost.
        score: Sum of the scores of its options.
    """

    encoding: Encoding
    cost: float
    score: float


@dataclass(frozen=True)
class FrontierSubnet:
    """A subnet that has a lower inherited loss than all faster ones.

    Attributes:
        architecture: The subnet.
        latency_ms: Its estimated latency, in milliseconds.
        inherited_loss: Its loss on held-out data with the supernet's weights.
        verified_latency_ms: Its latency by the device's backend, in milliseconds; None if that is not installed.
    """

    architecture: Architecture
    latency_ms: float
    inherited_loss: float
    verified_latency_ms: float | None = None


def frontier_subnets(
    search: Search,
    observed: Sequence[tuple[Encoding, float]],
    loss: Callable[[Encoding], float],
    count: int,
    verify_ms: Callable[[Architecture], float | None],
) -> list[FrontierSubnet]:
    """Return the subnets of lowest inherited loss over latencies, the fastest first.

    Args:
        search: The search; its other budgets hold for all.
        observed: Architectures with their advantages: what options are worth is fitted to these. Where they are few,
            the logits say it.
        loss: Evaluates a subnet.
        count: Latencies to solve for.
        verify_ms: Measures a network, in milliseconds; None if the device's backend is not installed.

    Raises:
        ValueError: There is no latency budget, or `count` is below 2.
    """
    check_number("count", count, whole=True, least=2)
    limits = {limit.name: limit for limit in search.limits.costs}
    if "latency_ms" not in limits:
        raise ValueError("A frontier is over latencies, and the search has no latency budget.")
    latency = limits.pop("latency_ms")
    greatest = replace(latency, budget=reach(latency.table, samples=1).maximum)
    if len(observed) >= MIN_OBSERVED:
        sampled, advantages = [encoding for encoding, _ in observed], [value for _, value in observed]
        scores = utilities(sampled, advantages, search.supernet.space.node_sizes)
    else:
        scores = [row.detach().cpu().double().numpy() for row in search.logits]
    points = frontier(scores, greatest, list(limits.values()), search.limits.forbidden, count)
    found: list[FrontierSubnet] = []
    for point in sorted(points, key=lambda point: point.cost):
        value = loss(point.encoding)
        if not found or value < found[-1].inherited_loss:
            architecture = search.supernet.space.decode(point.encoding)
            found.append(FrontierSubnet(architecture, point.cost, value, verify_ms(architecture)))
    if len(found) < count:
        # As documented, and so no warning.
        log.debug(
            "The frontier has %d subnets where %d were asked for. Latencies that have the subnet of another: %d; that"
            " have no lower loss than a faster one: %d.",
            len(found),
            count,
            count - len(points),
            len(points) - len(found),
        )
    return found


def frontier(
    scores: Sequence[NDArray[np.float64]],
    limit: Limit,
    others: Sequence[Limit] = (),
    forbidden: Sequence[Forbidden] = (),
    count: int = 16,
) -> list[FrontierPoint]:
    """Return the architectures of the highest score under budgets between the least and the greatest cost.

    Args:
        scores: For each node the score of each option.
        limit: The cost whose budget varies, up to its own.
        others: Budgets that hold for all.
        forbidden: Combinations that may not be chosen.
        count: How many budgets, at equal ratios; equal architectures are given once.
    """
    least = reach(limit.table, samples=1).minimum
    found: dict[Encoding, FrontierPoint] = {}
    # A hair above the least cost, which rounding could miss.
    for budget in np.geomspace(least * (1 + 1e-6), max(limit.budget, least * (1 + 1e-6)), count):
        encoding = solve(scores, [replace(limit, budget=float(budget), floor=0.0), *others], forbidden)
        if encoding is not None and encoding not in found:
            score = sum(float(row[node]) for row, node in zip(scores, encoding, strict=True))
            found[encoding] = FrontierPoint(encoding, limit.table.exact(encoding), score)
    return list(found.values())
