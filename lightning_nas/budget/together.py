"""Suggestions taken one after the other, each priced on top of those before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lightning_nas.budget.suggestion import Change, NetworkCost, Suggestion, changed, network_cost
from lightning_nas.estimator.cost_model import CostModel
from lightning_nas.space.spec import SearchSpace

__all__ = ["Step", "together"]

# Of the latency of the source: what saves less ends the list.
_LEAST_SAVED = 0.002
# Harm that images of a few hundred cannot tell from none.
_LEAST_HARM = 1e-3
# The rule of the MobileNets: rounding takes away no more than a tenth of the channels.
_KEPT = 0.9


@dataclass(frozen=True)
class Step:
    """A suggestion on top of others.

    Attributes:
        suggestion: The suggestion.
        cost: What the network costs with it and those before it.
        saved_ms: Milliseconds that it saves on top of those before it.
        harm: Sum of the harm of those taken so far; None where it was not measured.
    """

    suggestion: Suggestion
    cost: NetworkCost
    saved_ms: float
    harm: float | None


def together(
    space: SearchSpace, suggestions: Sequence[Suggestion], estimator: CostModel, most_harm: float
) -> list[Step]:
    """Take the suggestions that a space can apply, one after the other.

    Where harm was measured, the next one is that which saves most time for the harm that it adds, as long as the sum is
    within `most_harm`: errors of options that are put alone into a network add up to that of all of them (Molchanov et
    al. 2022, arXiv 2107.10624). Where it was not, the next one is that which saves most time of those that give up
    hardly any channel: fused and parted blocks, and widths that lose no more than a tenth.

    Args:
        space: The space around the network.
        suggestions: The suggestions, each alone; those that are done by hand are left out.
        estimator: The estimator of the device.
        most_harm: The most harm in sum.
    """
    is_measured = any(one.harm is not None for one in suggestions)
    left = [one for one in suggestions if one.change is not None and (one.harm is not None or _is_mild(space, one))]
    if is_measured:
        left = [one for one in left if one.harm is not None]
    return list(_Steps(space, estimator, most_harm).taken(left))


class _Steps:
    def __init__(self, space: SearchSpace, estimator: CostModel, most_harm: float) -> None:
        self.space, self.estimator, self.most_harm = space, estimator, most_harm
        self.changes: dict[int, tuple[Change, float]] = {}
        self.cost = network_cost(estimator, changed(space, []).network)
        self.least_ms = _LEAST_SAVED * self.cost.latency_ms

    def taken(self, left: list[Suggestion]) -> Iterator[Step]:
        """Yield the suggestions in the order in which they are taken."""
        while left:
            tried = [(one, self._priced(one)) for one in left if self._added(one) + self._harm <= self.most_harm]
            tried = [(one, cost) for one, cost in tried if self.cost.latency_ms - cost.latency_ms >= self.least_ms]
            if not tried:
                return
            best, cost = max(tried, key=lambda pair: self._worth(*pair))
            saved_ms = self.cost.latency_ms - cost.latency_ms
            assert best.change is not None  # of those that a space can apply
            self.changes[best.change.node] = (best.change, best.harm or 0.0)
            self.cost = cost
            left = [one for one in left if one is not best]
            yield Step(best, cost, saved_ms, None if best.harm is None else self._harm)

    @property
    def _harm(self) -> float:
        return sum(harm for _, harm in self.changes.values())

    def _added(self, one: Suggestion) -> float:
        """Return the harm that a suggestion adds: another of the same node is taken back for it."""
        assert one.change is not None
        _, before = self.changes.get(one.change.node, (None, 0.0))
        return (one.harm or 0.0) - before

    def _worth(self, one: Suggestion, cost: NetworkCost) -> float:
        saved_ms = self.cost.latency_ms - cost.latency_ms
        return saved_ms if one.harm is None else saved_ms / max(self._added(one), _LEAST_HARM)

    def _priced(self, one: Suggestion) -> NetworkCost:
        assert one.change is not None
        changes = {**{node: change for node, (change, _) in self.changes.items()}, one.change.node: one.change}
        return network_cost(self.estimator, changed(self.space, list(changes.values())).network)


def _is_mild(space: SearchSpace, one: Suggestion) -> bool:
    """Return whether a suggestion leaves a network about as large, which is all that is known without data."""
    if one.kind not in ("fuse", "unfuse", "align") or one.change is None:
        return False
    before, after = (changed(space, changes) for changes in ([], [one.change]))
    pairs = zip(before.widths, after.widths, strict=True)
    return all(narrow >= _KEPT * full for (_, full), (_, narrow) in pairs)
