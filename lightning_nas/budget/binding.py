"""Budgets that bind nothing: refused where the most expensive architecture of a space is within them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_nas.budget.budget import PEAK_ACTIVATIONS
from lightning_nas.budget.limits import Limits

__all__ = ["check_binding", "check_served"]

log = logging.getLogger(__name__)

_ARGUMENTS = {"latency_ms": "latency"}
# Tables add the same figures in another order.
_ROUNDING = 1 + 1e-9


@dataclass(frozen=True)
class _Bound:
    """A budget, what the source network costs, and the most that an architecture of the space does."""

    name: str
    budget: float
    source: float
    maximum: float

    @property
    def is_idle(self) -> bool:
        return self.budget > self.maximum * _ROUNDING

    @property
    def leaves_source(self) -> bool:
        return self.budget > self.source * _ROUNDING

    def __str__(self) -> str:
        costs = f"the dearest architecture of the space has {self.maximum:.6g}, the source network {self.source:.6g}"
        return f"{self.name}={self.budget:.6g} binds nothing: {costs}"


def check_binding(found: Sequence[Limits]) -> None:
    """Refuse budgets of which none binds anything, and warn of a single one that does not.

    Args:
        found: The same budget in one space, or in several where each may bind; at least one.

    Raises:
        ValueError: Every architecture keeps all of them; the message says what would bind.
    """
    # Of several spaces a budget binds nothing only if it does so in the one with the most expensive members.
    bounds = [max(same, key=lambda bound: bound.maximum) for same in zip(*map(_bounds, found), strict=True)]
    idle = [bound for bound in bounds if bound.is_idle]
    if len(idle) == len(bounds):
        said = "; ".join(map(str, idle))
        asked = " or ".join(f"{_ARGUMENTS.get(bound.name, bound.name)}=0.5x" for bound in idle)
        raise ValueError(
            f"The budget {said}. A search would change the network and save nothing. HINT: ask for less than the source"
            f" network has, such as {asked}."
        )
    for bound in idle:
        log.warning("The budget %s. The others bind.", bound)
    if all(bound.leaves_source for bound in bounds):
        said = ", ".join(f"{bound.name}={bound.budget:.6g} (it has {bound.source:.6g})" for bound in bounds)
        log.warning("The source network keeps the budget itself, %s: the subnet may cost more than it does.", said)


def check_served(latency: float | str, found: Limits) -> None:
    """Refuse a latency to be served that no architecture exceeds, and warn of one that the source network keeps.

    Args:
        latency: What the user gave.
        found: The search's limits, with that latency in place of its own.

    Raises:
        ValueError: Every architecture keeps it.
    """
    bound = _bounds(found)[0]
    if bound.is_idle:
        raise ValueError(f"`serves` holds {latency!r}, and {bound}.")
    if bound.leaves_source:
        log.warning(
            "`serves` holds %r, which the source network keeps itself: paths that cost more are trained for it.",
            latency,
        )


def _bounds(limits: Limits) -> list[_Bound]:
    rows = zip(limits.costs, limits.references, limits.reaches, strict=True)
    bounds = [_Bound(limit.name, limit.budget, source, span.maximum) for limit, source, span in rows]
    if limits.peak is not None:
        bounds.append(_Bound(PEAK_ACTIVATIONS, limits.peak.budget, limits.peak.source, limits.peak.maximum))
    return bounds
