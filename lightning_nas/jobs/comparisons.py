"""Networks that a search has to beat at the same latency: plain multiplier, random subnets, the expert's rule."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lightning_nas.budget.confirm import confirm, excess, is_kept_by_backend
from lightning_nas.budget.limits import Limits
from lightning_nas.budget.removal import possible_options
from lightning_nas.budget.sampling import draw_near
from lightning_nas.estimator.cost_model import CostModel
from lightning_nas.space.architecture import Architecture
from lightning_nas.space.block_option import BlockOption
from lightning_nas.space.choice import Choice
from lightning_nas.space.lanes import aligned_width
from lightning_nas.space.spec import Encoding, SearchSpace
from lightning_nas.supernet import derive, find_supernet, refit, sort_channels
from lightning_nas.supernet.subnet import supernet_with

__all__ = ["Comparison", "comparison_architectures", "fused_everywhere", "fused_where_faster", "inherit"]

Comparison = Literal["uniform", "random", "rule", "stock", "taught"]
"""``uniform``: the source with all widths scaled by one ratio; ``random``: three subnets within the budgets; ``rule``:
blocks fused where the estimator says that it pays, widths scaled by one ratio and rounded to the lanes; ``stock``: the
best stock network within the budgets, see `lightning_nas.jobs.stock_comparison`; ``taught``: the source itself, beyond
the budgets, taught by itself for as long as the subnet is: what a teacher gains is not the search's."""

log = logging.getLogger(__name__)

NUM_RANDOM = 3
# Ratios are half a percent apart.
_STEPS = 200
# A backend takes about a second for a network, and these are only compared with.
_MAX_MEASURED = 16
# Random subnets use the budget up, too, or they would be compared at less latency.
_BAND = (0.95, 1.0)

Scaled = Callable[[float], Architecture]
"""Returns the network at a ratio."""


def comparison_architectures(
    names: Sequence[Comparison], space: SearchSpace, estimator: CostModel, limits: Limits, seed: int
) -> dict[str, Architecture]:
    """Return by name the architectures that a search is compared with: those of its space that keep its budgets.

    Args:
        names: The kinds of networks; ``random`` gives three, ``stock`` and ``taught`` none: they are no members within
            the budgets.
        space: The space that was searched.
        estimator: The estimator of the device.
        limits: What they have to keep.
        seed: Seed of the random ones.

    Raises:
        ValueError: There is no such comparison.
    """
    found: dict[str, Architecture] = {}
    for name in names:
        if name not in get_args(Comparison):
            raise ValueError(f"`comparisons` can hold {', '.join(get_args(Comparison))}; got {name!r}.")
        if name in ("stock", "taught"):
            continue
        if name == "random":
            drawn = _random(space, estimator, limits, seed)
            found |= {f"random {number}": architecture for number, architecture in enumerate(drawn, start=1)}
            continue
        scaled = _widest(_uniform(space) if name == "uniform" else _rule(space, estimator), estimator, limits)
        if scaled is None:
            log.warning("No network of the kind %r keeps the budgets: there is nothing to compare with.", name)
        else:
            found[name] = scaled
    for architecture in found.values():
        confirm(limits, estimator, architecture)
    return found


def fused_where_faster(space: SearchSpace, estimator: CostModel) -> list[BlockOption]:
    """Return the option of each block of the source, inverted bottlenecks fused where that makes the network faster.

    Args:
        space: The space around the source; blocks are fused that it offers to fuse.
        estimator: The estimator of the device.
    """
    options = [choice.own for choice in space.choices]
    full = space.network.sizes
    least_ms = estimator.latency_ms(space.member(full, options))
    for number, choice in enumerate(space.choices):
        tried = [*options[:number], _fused(choice), *options[number + 1 :]]
        if tried != options and (latency_ms := estimator.latency_ms(space.member(full, tried))) < least_ms:
            options, least_ms = tried, latency_ms
    return options


def fused_everywhere(space: SearchSpace) -> list[BlockOption]:
    """Return the option of each block of the source, with every inverted bottleneck fused that the space can fuse."""
    return [_fused(choice) for choice in space.choices]


def inherit(source: nn.Module, architecture: Architecture, images: Tensor) -> tuple[nn.Module, nn.Module]:
    """Return a subnet of any widths that inherits the source's weights, refitted, and the source as its teacher.

    Args:
        source: Trained network; not changed.
        architecture: What the subnet is to be.
        images: Training images for the refit, shape (N, 3, H, W).
    """
    supernet = supernet_with(deepcopy(source), architecture)
    sort_channels(supernet)
    # Out of the sorted supernet, so that teacher and subnet have their channels in one order.
    teacher = derive(supernet, find_supernet(supernet).space.reference_encoding)
    subnet = derive(supernet, architecture)
    refit(subnet, teacher, images)
    return subnet, teacher


def _fused(choice: Choice) -> BlockOption:
    """Return the own option of a block, fused where that is offered."""
    fused = replace(choice.own, kind="fused") if choice.own.kind == "ibn" else choice.own
    return fused if (fused.kind, fused.kernel) in choice.structures else choice.own


def _widest(scaled: Scaled, estimator: CostModel, limits: Limits) -> Architecture | None:
    """Return the widest network of one ratio that keeps the budgets, if any."""
    last: Architecture | None = None
    for step in range(_STEPS, 0, -1):
        architecture = scaled(step / _STEPS)
        # Steps of equal widths are one network, which is looked at once.
        if last is None or architecture.widths != last.widths:
            if not excess(limits, estimator, architecture):
                return architecture
            last = architecture
    return None


def _uniform(space: SearchSpace) -> Scaled:
    """Return what scales all widths that may be others alike; those within blocks follow by their expansions."""
    options, left = [choice.own for choice in space.choices], {part.path for part in space.left_out}
    # Also those that are not searched since no other multiple of the lanes is near: the plain multiplier has no lanes.
    free = {group for group in space.network.open if space.network.widths[group].name not in left}

    def scaled(ratio: float) -> Architecture:
        sizes = enumerate(space.network.sizes)
        widths = [max(1, round(size * ratio)) if group in free else size for group, size in sizes]
        return space.member(space.with_hidden(widths, options), options)

    return scaled


def _rule(space: SearchSpace, estimator: CostModel) -> Scaled:
    """Return what scales all widths but those within blocks, whose expansions stay, to multiples of the lanes."""
    network, options = space.network, fused_where_faster(space, estimator)

    def scaled(ratio: float) -> Architecture:
        widths = [
            aligned_width(width.size, ratio, network.units[group], estimator.lanes)
            if group in space.nodes_of
            else width.size
            for group, width in enumerate(network.widths)
        ]
        return space.member(space.with_hidden(widths, options), options)

    return scaled


def _random(space: SearchSpace, estimator: CostModel, limits: Limits, seed: int) -> list[Architecture]:
    possible = possible_options(space.node_sizes, limits.costs, limits.forbidden)
    generator = torch.Generator().manual_seed(seed)
    if not limits.costs:
        log.warning("Random subnets use up a budget on latency or parameters; there is none: no random ones.")
        return []
    limit = limits.costs[0]
    found: dict[Encoding, None] = {}
    over: set[Encoding] = set()  # by the device's backend, which takes a second to say so
    # Draws keep the first budget only: they may repeat, or be over one of the others.
    for _ in range(100 * NUM_RANDOM):
        encoding = draw_near(limit.table, limit.budget, _BAND, generator, possible)
        if not limits.allows(encoding) or encoding in found or encoding in over:
            continue
        if is_kept_by_backend(limits, estimator.verify_ms, space.decode(encoding)):
            found[encoding] = None
        else:
            over.add(encoding)
        if len(found) == NUM_RANDOM or len(over) == _MAX_MEASURED:
            break
    return [space.decode(encoding) for encoding in found]
