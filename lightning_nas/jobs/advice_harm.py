"""Harm of suggestions: what each does to a trained network, alone and refitted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn

from lightning_nas.budget.suggestion import Change, Suggestion
from lightning_nas.graph.eval_mode import evaluating
from lightning_nas.space.block_option import BlockOption
from lightning_nas.space.spec import SearchSpace
from lightning_nas.supernet import sort_channels, supernet_from
from lightning_nas.supernet.option_errors import replace_one
from lightning_nas.supernet.source_judge import SourceJudge

__all__ = ["check_images", "near_chance", "offering", "supernet_around", "with_harm"]

# A network that knows nothing gives each class about the same probability, a trained one seldom.
_CHANCE, _NUM_LOOKED_AT = 0.95, 64


def check_images(images: Tensor, example_input: Tensor) -> None:
    """Refuse images by which nothing can be judged.

    Args:
        images: The images.
        example_input: What the network takes.

    Raises:
        ValueError: They are of another size, or fewer than 2.
    """
    size = tuple(example_input.shape[1:])
    if images.ndim != 4 or tuple(images.shape[1:]) != size:
        raise ValueError(f"`images` must be of the shape (N, {', '.join(map(str, size))}); got {tuple(images.shape)}.")
    if len(images) < 2:
        raise ValueError(f"`images` must be 2 or more, for fitting and for judging; got {len(images)}.")


def near_chance(model: nn.Module, images: Tensor) -> str:
    """Return a sentence where a classifier knows next to nothing of some images; empty where it does.

    Args:
        model: The network.
        images: Images, shape (N, 3, H, W).
    """
    with evaluating(model):
        output = model(images[:_NUM_LOOKED_AT])
    if not isinstance(output, Tensor) or output.ndim != 2 or output.shape[1] < 2:
        return ""
    logs = torch.log_softmax(output.float(), dim=1)
    share = float(-(logs.exp() * logs).sum(1).mean()) / math.log(output.shape[1])
    if share < _CHANCE:
        return ""
    return (
        f"The network is near chance on these images (entropy of its classes: {share:.0%} of the most), as one that is"
        " not trained; harm to such a network means little."
    )


def with_harm(
    suggestions: Sequence[Suggestion], model: nn.Module, space: SearchSpace, images: Tensor
) -> list[Suggestion]:
    """Return suggestions with their harm, where the space can apply them.

    Args:
        suggestions: The suggestions.
        model: The trained network; not changed.
        space: The space around it.
        images: Training images, shape (N, 3, H, W).
    """
    changes = [one.change for one in suggestions if one.change is not None]
    if not changes:
        return list(suggestions)
    offered = offering(space, changes)
    judge = SourceJudge(supernet_around(model, offered), images)
    errors = replace_one(judge).distances
    found = []
    for one in suggestions:
        if one.change is not None:
            option = _option(offered, one.change)
            one = replace(one, harm=max(float(errors[one.change.node][option]), 0.0))
        found.append(one)
    return found


def supernet_around(model: nn.Module, space: SearchSpace) -> nn.Module:
    """Return the supernet of a copy of a network, its channels sorted.

    Args:
        model: The network.
        space: The space around it.
    """
    parameter = next(model.parameters())
    example = torch.zeros(1, *space.input_size, device=parameter.device, dtype=parameter.dtype)
    supernet = supernet_from(deepcopy(model), example, space)
    sort_channels(supernet)
    return supernet


def offering(space: SearchSpace, changes: Sequence[Change]) -> SearchSpace:
    """Return a space of the same nodes that offers some changes alone, beside the network's own options.

    Args:
        space: The space around the network.
        changes: The changes.
    """
    first = len(space.multipliers)
    multipliers = tuple(
        replace(multiplier, widths=tuple(sorted({*_widths(changes, node), multiplier.widths[-1]})))
        for node, multiplier in enumerate(space.multipliers)
    )
    choices = tuple(
        replace(choice, options=tuple(dict.fromkeys([choice.own, *_blocks(changes, node)])))
        for node, choice in enumerate(space.choices, start=first)
    )
    return replace(space, multipliers=multipliers, choices=choices)


def _widths(changes: Sequence[Change], node: int) -> list[tuple[int, ...]]:
    return [change.widths for change in changes if change.node == node]


def _blocks(changes: Sequence[Change], node: int) -> list[BlockOption]:
    return [change.block for change in changes if change.node == node and change.block is not None]


def _option(space: SearchSpace, change: Change) -> int:
    """Return the number of a change among the options of its node."""
    first = len(space.multipliers)
    if change.block is None:
        return space.multipliers[change.node].widths.index(change.widths)
    return space.choices[change.node - first].options.index(change.block)
