"""Where a study of whole trainings searches: spaces at several input sizes, and the budgets that bound them all."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lightning_nas.budget.binding import check_binding
from lightning_nas.budget.budget import Budgets, feasibility, is_kept_by_backend, resolve_budget
from lightning_nas.budget.sampling import kept_weights, nearness
from lightning_nas.budget.solve import usable_part
from lightning_nas.estimator.table import CostTable
from lightning_nas.multishot.evolution import Genes
from lightning_nas.space.spec import Architecture, DepthMultiplier, SearchSpace

__all__ = ["Ground", "Place", "Target", "targets_of"]


@dataclass(frozen=True)
class Place:
    """One input size and one variant of the network.

    Attributes:
        size: Name of the input size, such as ``192x256``.
        variant: Keywords of the network.
        space: What can be chosen here.
        tables: What it costs here: latency_ms, parameter_bytes and peak_activation_bytes.
        errors: How far each option is from the trained source, see `lightning_nas.supernet.option_errors`; none where
            that is not known.
    """

    size: str
    variant: Mapping[str, Any]
    space: SearchSpace
    tables: Mapping[str, CostTable]
    errors: Sequence[Tensor] = ()

    @cached_property
    def scores(self) -> list[NDArray[np.float64]]:
        """Return what speaks for each option before anything is trained: nearness to the source, or kept weights."""
        scores = nearness(self.space, self.errors) if self.errors else kept_weights(self.space)
        return [score.double().numpy() for score in scores]

    def __str__(self) -> str:
        return ", ".join([f"input size {self.size}", *(f"{key} {value}" for key, value in self.variant.items())])


@dataclass(frozen=True)
class Target:
    """One set of budgets that the study serves, in absolute figures.

    Attributes:
        label: The latency as it was asked for, such as ``0.5x``.
        requested: All budgets as they were asked for.
        budgets: For each place the budgets there; None where no member meets them.
        floors: For each place the least cost of a proposal, in the unit of the first budget.
    """

    label: str
    requested: Mapping[str, float | str | None]
    budgets: tuple[Budgets | None, ...]
    floors: tuple[float, ...]


@dataclass(frozen=True)
class Ground:
    """All that can be proposed. The places are in the order of their genes: for each size all variants.

    Attributes:
        places: The sizes and variants.
        num_variants: Number of variants.
        targets: The budgets.
        verify_ms: Measures a whole network with the device's backend, in milliseconds, or gives None where that is not
            here; none where estimates are enough.

    Raises:
        ValueError: The spaces of two places offer different options.
    """

    places: tuple[Place, ...]
    num_variants: int
    targets: tuple[Target, ...]
    verify_ms: Callable[[Architecture], float | None] | None = None

    def __post_init__(self) -> None:
        first = self.places[0]
        for place in self.places[1:]:
            if _offered(place.space) != _offered(first.space):
                raise ValueError(f"The blocks must offer the same options everywhere; they differ at {place}, {first}.")

    @property
    def gene_sizes(self) -> tuple[int, ...]:
        """Number of options of each gene."""
        return len(self.places) // self.num_variants, self.num_variants, *self.places[0].space.node_sizes

    def index(self, genes: Genes) -> int:
        """Return which place is meant."""
        return genes[0] * self.num_variants + genes[1]

    def place(self, genes: Genes) -> Place:
        """Return the size and variant of a member."""
        return self.places[self.index(genes)]

    def genes_at(self, index: int, nodes: Sequence[int]) -> Genes:
        """Return the member of the given nodes at a place."""
        return (*divmod(index, self.num_variants), *(int(node) for node in nodes))

    def decode(self, genes: Genes) -> Architecture:
        """Return the architecture of a member."""
        return self.place(genes).space.decode(genes[2:])

    def cost(self, genes: Genes) -> float:
        """Return the cost of a member by the first budget, in its unit."""
        place, target = self.place(genes), self.targets[0]
        budgets = next(budgets for budgets in target.budgets if budgets is not None)
        name = budgets.limits[0].name if budgets.limits else "latency_ms"
        return place.tables[name].exact(genes[2:])

    def is_within(self, genes: Genes, target: Target, floored: bool = True) -> bool:
        """Return whether a member is within the budgets, and uses what it should of the first."""
        index, nodes = self.index(genes), genes[2:]
        budgets = target.budgets[index]
        if budgets is None:
            return False
        costs = [limit.table.exact(nodes) for limit in budgets.limits]
        if any(cost > limit.budget for cost, limit in zip(costs, budgets.limits, strict=True)):
            return False
        if floored and costs and costs[0] < target.floors[index]:
            return False
        return not any(max(table.parts(nodes)) > 0 for table in budgets.forbidden)

    def is_verified(self, genes: Genes, target: Target) -> bool:
        """Return whether the device's backend, where it is here, prices a member within the latency budget."""
        budgets = target.budgets[self.index(genes)]
        if budgets is None or self.verify_ms is None:
            return True
        return is_kept_by_backend(budgets.limits, self.verify_ms, self.decode(genes))

    def meets(self, genes: Genes, target: Target) -> bool:
        """Return whether a member is within the budgets, by the estimate and by the backend, where it is here."""
        return self.is_within(genes, target, floored=False) and self.is_verified(genes, target)

    def with_errors(self, errors: Sequence[Sequence[Tensor]]) -> Ground:
        """Return the same ground with the errors of all options, given for each variant."""
        places = [replace(place, errors=errors[n % self.num_variants]) for n, place in enumerate(self.places)]
        return replace(self, places=tuple(places))

    def parameters(self) -> dict[str, list[str]]:
        """Return the name of each gene with the names of its options, as a study records them."""
        space, step = self.places[0].space, self.num_variants
        named = {
            "input_size": [place.size for place in self.places[::step]],
            "variant": [json.dumps(place.variant, sort_keys=True) for place in self.places[:step]],
        }
        for multiplier in space.multipliers:
            named[f"width of {multiplier}"] = [_numbers(row) for row in multiplier.widths]
        for number, choice in enumerate(space.choices):
            named[f"block {number}"] = [str(option) for option in choice.options]
        return named


def targets_of(
    places: Sequence[Place], requests: Mapping[str, Mapping[str, float | str | None]], floor: float
) -> tuple[Target, ...]:
    """Resolve budgets at every place. Relative ones refer to the source network at the first.

    Args:
        places: The sizes and variants.
        requests: For each label the budgets by name: ``latency_ms``, ``parameter_bytes``, ``peak_activation_bytes``.
        floor: Which part of the first budget is to be used.

    Raises:
        ValueError: A budget that is not valid, none at all, one that no member meets at any place, or none that binds
            anything at any.
    """
    return tuple(_target(places, label, requested, floor) for label, requested in requests.items())


def _target(places: Sequence[Place], label: str, requested: Mapping[str, float | str | None], floor: float) -> Target:
    source = {name: _source_cost(places[0], name) for name in requested}
    absolute: dict[str, float | str | None] = {
        name: None if value is None else resolve_budget(value, source[name], name) for name, value in requested.items()
    }
    found: list[Budgets | None] = []
    reasons: dict[str, str] = {}
    for place in places:
        try:
            budgets = feasibility(place.space, dict(place.tables), absolute)
        except ValueError as error:
            reasons[str(place)] = str(error)
            found.append(None)
        else:
            references = tuple(source[limit.name] for limit in budgets.limits)
            found.append(replace(budgets, references=references))
    if len(reasons) == len(places):
        if len(set(reasons.values())) == 1:
            raise ValueError(next(iter(reasons.values())))
        lines = [f"At {place}: {reason}" for place, reason in reasons.items()]
        raise ValueError("\n".join(["The budgets are out of reach everywhere.", *lines]))
    check_binding([budgets for budgets in found if budgets is not None])
    return Target(label, requested, tuple(found), tuple(_floor(budgets, floor) for budgets in found))


def _floor(budgets: Budgets | None, part: float) -> float:
    if budgets is None or not budgets.limits or not part:
        return 0.0
    return usable_part(budgets.limits, part, budgets.forbidden) * budgets.limits[0].budget


def _source_cost(place: Place, name: str) -> float:
    table, nodes = place.tables[name], place.space.reference_nodes
    # A peak is the largest of its parts, not their sum.
    return max(table.parts(nodes)) if name == "peak_activation_bytes" else table.exact(nodes)


def _offered(space: SearchSpace) -> tuple[tuple[DepthMultiplier, ...], list[Any]]:
    return space.multipliers, [choice.options for choice in space.choices]


def _numbers(values: Sequence[int]) -> str:
    return "/".join(map(str, values))
