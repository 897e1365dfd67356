"""Joint search space of a study: input sizes, variants and architectures, and the budgets that bound them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lightning_nas.budget.binding import check_binding
from lightning_nas.budget.budget import LATENCY, Budget
from lightning_nas.budget.confirm import is_kept_by_backend
from lightning_nas.budget.limits import Limits
from lightning_nas.budget.resolve import resolve
from lightning_nas.budget.sampling import kept_weights, nearness
from lightning_nas.budget.solver import usable_part
from lightning_nas.budget.tables import CostTables
from lightning_nas.multishot.evolution import Genes
from lightning_nas.space.spec import Architecture, SearchSpace

__all__ = ["JointSpace", "Setting", "Target", "targets_of"]


@dataclass(frozen=True)
class Setting:
    """One input size and one variant of the network.

    Attributes:
        size: Name of the input size, such as ``192x256``.
        variant: Keywords of the network.
        space: What can be chosen here.
        tables: What it costs here.
        errors: How far each option is from the trained source, see `lightning_nas.supernet.option_errors`; none where
            that is not known.
    """

    size: str
    variant: Mapping[str, object]
    space: SearchSpace
    tables: CostTables
    errors: Sequence[Tensor] = ()

    @cached_property
    def scores(self) -> list[NDArray[np.float64]]:
        """Scores of each option before any training: nearness to the source, or else the weights that it keeps."""
        scores = nearness(self.space, self.errors) if self.errors else kept_weights(self.space)
        return [score.double().numpy() for score in scores]

    def __str__(self) -> str:
        return ", ".join([f"input size {self.size}", *(f"{key} {value}" for key, value in self.variant.items())])


@dataclass(frozen=True)
class Target:
    """One set of budgets that the study serves, in absolute figures.

    Attributes:
        label: The latency as it was asked for, such as ``0.5x``.
        budget: What was asked for.
        limits: For each setting what that is there; None where no member keeps it.
        floors: For each setting the least cost of a proposal, in the unit of the first budget.
    """

    label: str
    budget: Budget
    limits: tuple[Limits | None, ...]
    floors: tuple[float, ...]


@dataclass(frozen=True)
class JointSpace:
    """All members that a study can propose, over input sizes, variants of the network and architectures.

    The settings are in the order of their genes: for each size all variants.

    Attributes:
        settings: The sizes and variants.
        num_variants: Number of variants.
        targets: The budgets.
        verify_ms: Measures a whole network with the device's backend, in milliseconds, or gives None where that is not
            here; none where estimates are enough.

    Raises:
        ValueError: The spaces of two settings offer different options.
    """

    settings: tuple[Setting, ...]
    num_variants: int
    targets: tuple[Target, ...]
    verify_ms: Callable[[Architecture], float | None] | None = None

    def __post_init__(self) -> None:
        first = self.settings[0]
        for setting in self.settings[1:]:
            if _offered(setting.space) != _offered(first.space):
                raise ValueError(
                    f"The blocks must offer the same options everywhere; they differ at {setting} and at {first}."
                )

    @property
    def gene_sizes(self) -> tuple[int, ...]:
        """Number of options of each gene."""
        return len(self.settings) // self.num_variants, self.num_variants, *self.settings[0].space.node_sizes

    def index(self, genes: Genes) -> int:
        """Return the index of a member's setting."""
        return genes[0] * self.num_variants + genes[1]

    def setting(self, genes: Genes) -> Setting:
        """Return a member's setting."""
        return self.settings[self.index(genes)]

    def genes_at(self, index: int, encoding: Sequence[int]) -> Genes:
        """Return the member that an encoding makes at a setting."""
        return (*divmod(index, self.num_variants), *(int(node) for node in encoding))

    def decode(self, genes: Genes) -> Architecture:
        """Return the architecture of a member."""
        return self.setting(genes).space.decode(genes[2:])

    def cost(self, genes: Genes) -> float:
        """Return the cost of a member by the first budget, in its unit."""
        setting, target = self.setting(genes), self.targets[0]
        limits = next(limits for limits in target.limits if limits is not None)
        name = limits.costs[0].name if limits.costs else LATENCY
        return setting.tables.additive[name].exact(genes[2:])

    def is_within(self, genes: Genes, target: Target, floored: bool = True) -> bool:
        """Return whether a member is within the budgets, and uses what it should of the first."""
        index, encoding = self.index(genes), genes[2:]
        limits = target.limits[index]
        return limits is not None and limits.allows(encoding, target.floors[index] if floored else 0.0)

    def is_verified(self, genes: Genes, target: Target) -> bool:
        """Return whether a member is within the latency budget by the device's backend; True if it is not installed."""
        limits = target.limits[self.index(genes)]
        if limits is None or self.verify_ms is None:
            return True
        return is_kept_by_backend(limits, self.verify_ms, self.decode(genes))

    def meets(self, genes: Genes, target: Target) -> bool:
        """Return whether a member is within the budgets, by the estimate and, if it is installed, by the backend."""
        return self.is_within(genes, target, floored=False) and self.is_verified(genes, target)

    def with_errors(self, errors: Sequence[Sequence[Tensor]]) -> JointSpace:
        """Return this joint space with the errors of all options, given for each variant."""
        settings = [replace(setting, errors=errors[n % self.num_variants]) for n, setting in enumerate(self.settings)]
        return replace(self, settings=tuple(settings))

    def parameters(self) -> dict[str, list[str]]:
        """Return the name of each gene with the names of its options, as a study records them."""
        space, step = self.settings[0].space, self.num_variants
        named = {
            "input_size": [setting.size for setting in self.settings[::step]],
            "variant": [json.dumps(setting.variant, sort_keys=True) for setting in self.settings[:step]],
        }
        for multiplier in space.multipliers:
            named[f"width of {multiplier}"] = [_numbers(row) for row in multiplier.widths]
        for choice in space.choices:
            named[f"block {choice}"] = [str(option) for option in choice.options]
        return named


def targets_of(settings: Sequence[Setting], budgets: Mapping[str, Budget], floor: float) -> tuple[Target, ...]:
    """Resolve budgets at every setting. Relative ones refer to the source network at the first.

    Args:
        settings: The sizes and variants.
        budgets: What was asked for, by label.
        floor: Which part of the first cost is to be used.

    Raises:
        ValueError: A budget that no member keeps at any setting, or that binds nothing at any.
    """
    return tuple(_target(settings, label, budget, floor) for label, budget in budgets.items())


def _target(settings: Sequence[Setting], label: str, budget: Budget, floor: float) -> Target:
    source = settings[0].tables.costs(settings[0].space.reference_encoding)
    found: list[Limits | None] = []
    reasons: dict[str, str] = {}
    for setting in settings:
        try:
            found.append(resolve(budget, setting.space, setting.tables, source=source))
        except ValueError as error:
            reasons[str(setting)] = str(error)
            found.append(None)
    if len(reasons) == len(settings):
        if len(set(reasons.values())) == 1:
            raise ValueError(next(iter(reasons.values())))
        lines = [f"At {setting}: {reason}" for setting, reason in reasons.items()]
        raise ValueError("\n".join(["The budgets are out of reach everywhere.", *lines]))
    check_binding([limits for limits in found if limits is not None])
    return Target(label, budget, tuple(found), tuple(_floor(limits, floor) for limits in found))


def _floor(limits: Limits | None, part: float) -> float:
    if limits is None or not limits.costs or not part:
        return 0.0
    return usable_part(limits.costs, part, limits.forbidden) * limits.costs[0].budget


def _offered(space: SearchSpace) -> list[object]:
    """Return what its nodes can be: a multiplier's name may tell of a resolution, which depends on the input size."""
    widths = ((multiplier.groups, multiplier.widths) for multiplier in space.multipliers)
    return [*widths, *(choice.options for choice in space.choices)]


def _numbers(values: Sequence[int]) -> str:
    return "/".join(map(str, values))
