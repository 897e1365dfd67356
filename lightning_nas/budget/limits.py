"""Limits: a budget in figures, resolved against a search space and what that costs on a device."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from lightning_nas.budget.budget import PEAK_ACTIVATIONS
from lightning_nas.budget.forbidden import Forbidden
from lightning_nas.budget.peak_table import PeakTable
from lightning_nas.budget.solver import Limit, Reach

__all__ = ["Limits", "PeakLimit", "warn_unserved"]

log = logging.getLogger(__name__)

# Paths near a latency are trained with it, see `PathSampling.band`.
_NEAR = 0.1


@dataclass(frozen=True)
class PeakLimit:
    """A budget on the peak memory of activations, which is a maximum and no sum.

    Attributes:
        table: The peak of every member of the space.
        budget: Greatest allowed peak, in bytes.
        source: Peak of the source network.
        maximum: Largest peak in the space.
    """

    table: PeakTable
    budget: float
    source: float
    maximum: float

    @cached_property
    def forbidden(self) -> Forbidden:
        """What cannot fit: a limit on each step of the network, which the solver takes as rows."""
        return self.table.over(self.budget)


@dataclass(frozen=True)
class Limits:
    """What an architecture of a space may cost, in milliseconds and bytes, and what may be chosen at all.

    Attributes:
        costs: Limits on additive costs (latency, parameters).
        reaches: For each of them what the space can reach.
        references: For each of them the source network's cost.
        peak: Limit on peak memory, or None.
        unsearched: Options that are not searched, or None where all are.
        serves: Other latencies, in milliseconds, that the same training has to serve.
    """

    costs: tuple[Limit, ...]
    reaches: tuple[Reach, ...]
    references: tuple[float, ...]
    peak: PeakLimit | None = None
    unsearched: Forbidden | None = None
    serves: tuple[float, ...] = ()

    def allows(self, encoding: Sequence[int], floor: float = 0.0) -> bool:
        """Return whether an architecture is within all limits.

        Args:
            encoding: The encoding of the architecture.
            floor: What it has to cost of the first limit at least.
        """
        costs = [limit.table.exact(encoding) for limit in self.costs]
        if any(cost > limit.budget for cost, limit in zip(costs, self.costs, strict=True)):
            return False
        if costs and costs[0] < floor:
            return False
        return not any(forbidden.contains(encoding) for forbidden in self.forbidden)

    @cached_property
    def figures(self) -> dict[str, float]:
        """What may be spent, by the name of the cost."""
        bounds = {limit.name: limit.budget for limit in self.costs}
        return bounds if self.peak is None else {**bounds, PEAK_ACTIVATIONS: self.peak.budget}

    @property
    def forbidden(self) -> tuple[Forbidden, ...]:
        """What may not be chosen."""
        return (*(() if self.unsearched is None else (self.unsearched,)), *self.unfit)

    @property
    def unfit(self) -> tuple[Forbidden, ...]:
        """What cannot fit, whatever is searched."""
        return () if self.peak is None else (self.peak.forbidden,)

    @property
    def trained(self) -> tuple[Limit, ...]:
        """The first limit, once for each latency that the training serves; paths are drawn near them."""
        # `serves` needs a latency budget, which is always the first of the costs.
        others = [replace(limit, budget=budget) for limit in self.costs[:1] for budget in self.serves]
        return (*self.costs[:1], *others)

    @property
    def loosest(self) -> tuple[Limit, ...]:
        """The limits with the largest latency that the training serves."""
        largest = max(self.trained, key=lambda limit: limit.budget, default=None)
        return self.costs if largest is None else (largest, *self.costs[1:])

    def with_latency(self, latency_ms: float) -> Limits:
        """Return these limits with another latency."""
        costs = (replace(limit, budget=latency_ms) if limit.name == "latency_ms" else limit for limit in self.costs)
        return replace(self, costs=tuple(costs))


def warn_unserved(trained: Limits, asked: Limits) -> None:
    """Warn where a latency is asked for that is outside of those that a training served.

    Args:
        trained: The limits of the training.
        asked: The limits that its weights are to be used for.
    """
    served = sorted(limit.budget for limit in trained.trained if limit.name == "latency_ms")
    for limit in asked.costs if served else ():
        if limit.name == "latency_ms" and not served[0] * (1 - _NEAR) <= limit.budget <= served[-1] * (1 + _NEAR):
            log.warning(
                "Latencies of %.6g to %.6g ms were trained for, and %.6g ms is asked for: the weights there saw few"
                " steps, or none. HINT: name it in `serves` before the training.",
                served[0],
                served[-1],
                limit.budget,
            )
