"""Networks that a search has to beat at the same latency: plain multiplier, random subnets, the expert's rule."""

from __future__ import annotations

import logging
from collections.abc import Sequence
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
from lightning_nas.space.lanes import round_to_lanes
from lightning_nas.space.spec import Architecture, Encoding, FixedBlock, SearchSpace, StageArchitecture
from lightning_nas.supernet import derive, find_supernet, refit, sort_channels
from lightning_nas.supernet.subnet import supernet_with

__all__ = ["Comparison", "comparison_architectures", "inherit"]

Comparison = Literal["uniform", "random", "rule"]
"""``uniform``: the source with all widths scaled by one ratio; ``random``: three subnets within the budgets; ``rule``:
blocks fused where the estimator says that it pays, widths scaled by one ratio and rounded to the lanes."""

log = logging.getLogger(__name__)

NUM_RANDOM = 3
# Ratios are half a percent apart.
_STEPS = 200
# A backend takes about a second for a network, and these are only compared with.
_MAX_MEASURED = 16
# Random subnets use the budget up, too, or they would be compared at less latency.
_BAND = (0.95, 1.0)


def comparison_architectures(
    names: Sequence[Comparison], space: SearchSpace, estimator: CostModel, limits: Limits, seed: int
) -> dict[str, Architecture]:
    """Return by name the architectures that a search is compared with: those that keep its budgets.

    Args:
        names: The kinds of networks; ``random`` gives three.
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
        if name == "random":
            drawn = _random(space, estimator, limits, seed)
            found |= {f"random {number}": architecture for number, architecture in enumerate(drawn, start=1)}
        else:
            source = space.decode(space.reference_encoding)
            start = source if name == "uniform" else fused_where_faster(source, estimator)
            scaled = _scaled(start, space, estimator, limits, estimator.lanes if name == "rule" else 1)
            if scaled is None:
                log.warning("No network of the kind %r keeps the budgets: there is nothing to compare with.", name)
            else:
                found[name] = scaled
    for architecture in found.values():
        confirm(limits, estimator, architecture)
    return found


def fused_where_faster(architecture: Architecture, estimator: CostModel) -> Architecture:
    """Return the architecture with each inverted bottleneck fused where that makes the network faster."""
    for number, block in enumerate(architecture.blocks):
        if block.option.kind == "ibn":
            fused = _fused_at(architecture, number)
            if estimator.latency_ms(fused) < estimator.latency_ms(architecture):
                architecture = fused
    return architecture


def fused_everywhere(architecture: Architecture) -> Architecture:
    """Return the architecture with every inverted bottleneck fused."""
    for number, block in enumerate(architecture.blocks):
        if block.option.kind == "ibn":
            architecture = _fused_at(architecture, number)
    return architecture


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


def _scaled(
    start: Architecture, space: SearchSpace, estimator: CostModel, limits: Limits, lanes: int
) -> Architecture | None:
    """Return the widest network of one ratio that keeps the budgets, if any."""
    # Steps of equal widths are one network, which is looked at once.
    steps = (_with_ratio(start, space, step / _STEPS, lanes) for step in range(_STEPS, 0, -1))
    return next((scaled for scaled in dict.fromkeys(steps) if not excess(limits, estimator, scaled)), None)


def _with_ratio(start: Architecture, space: SearchSpace, ratio: float, lanes: int) -> Architecture:
    # Whole channels are no widths that anybody would take: MobileNet's multipliers round to 8, too.
    def scaled(width: int) -> int:
        # Rounding up must not make a layer wider than the source's.
        return min(width, round_to_lanes(width * ratio, max(lanes, 8)))

    stem, head = (part and replace(part, width=scaled(part.width)) for part in (start.stem, start.head))
    assert stem is not None
    stages = tuple(replace(stage, width=scaled(stage.width)) for stage in start.stages)
    tail = space.tail_at([stage.width for stage in stages])
    return replace(start, stem=stem, stages=stages, head=head, tail=tail)


def _fused_at(architecture: Architecture, number: int) -> Architecture:
    option = replace(architecture.blocks[number].option, kind="fused")
    stages, first = [], 0
    for stage in architecture.stages:
        blocks = list(stage.blocks)
        if first <= number < first + len(blocks):
            blocks[number - first] = FixedBlock(option, blocks[number - first].stride)
        stages.append(StageArchitecture(stage.width, tuple(blocks)))
        first += len(blocks)
    return replace(architecture, stages=tuple(stages))


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
