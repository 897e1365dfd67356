"""Architectures of plain subnets, and the smallest supernet that holds a given architecture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from lightning_nas.graph.labelling import Slot
from lightning_nas.graph.width_groups import WidthGroups
from lightning_nas.space.block_option import BlockOption
from lightning_nas.space.choice import Choice
from lightning_nas.space.multiplier import DepthMultiplier
from lightning_nas.space.options import SpaceOptions
from lightning_nas.space.read import space_of
from lightning_nas.space.spec import Architecture, SearchSpace
from lightning_nas.supernet.convert import supernet_from
from lightning_nas.supernet.supernet import Supernet

__all__ = ["architecture_of", "space_with", "supernet_with"]


def architecture_of(subnet: nn.Module, supernet: Supernet) -> Architecture:
    """Return the architecture of a plain network that `derive` made of a supernet, by looking at its layers.

    Args:
        subnet: The network.
        supernet: The supernet.

    Raises:
        ValueError: It is not in the supernet's space.
    """
    space = supernet.space
    widths = list(space.network.sizes)
    for number, width in _widths(subnet, supernet.leaves.groups).items():
        if number in space.network.open:
            widths[number] = width
    options = [_option(subnet, choice, widths, space) for choice in space.choices]
    architecture = space.member(widths, options)
    space.encode(architecture)
    return architecture


def supernet_with(network: nn.Module, architecture: Architecture) -> nn.Module:
    """Turn a network in place into the smallest supernet that holds an architecture, and return it.

    Raises:
        ValueError: The architecture is not of this network.
    """
    example = torch.zeros(1, *architecture.input_size).to(next(network.parameters()))
    return supernet_from(network, example, space_with(network, example, architecture))


def space_with(network: nn.Module, example_input: Tensor, architecture: Architecture) -> SearchSpace:
    """Return the smallest space around a network that holds an architecture.

    Args:
        network: The network.
        example_input: One batch that it can run, shape (N, C, H, W).
        architecture: What it has to hold.

    Raises:
        ValueError: The architecture is not of this network.
    """
    named = dict(architecture.blocks)
    kernels = sorted({option.kernel for option in named.values()} - {1})
    options = SpaceOptions(kinds=("ibn", "fused", "skip"), kernels=kernels)
    whole = space_of(network, example_input, lanes=1, options=options, check=False)
    choices = tuple(_narrowed(choice, named[choice.path]) for choice in whole.choices if choice.path in named)
    hidden = {choice.block.group for choice in choices if choice.block is not None and choice.size}
    wanted = dict(architecture.widths)
    known = whole.network.widths
    closed = {n: "the architecture has no such width" for n, width in enumerate(known) if width.name not in wanted}
    multipliers = tuple(
        DepthMultiplier(known[n].name, (n,), tuple((w,) for w in sorted({wanted[known[n].name], known[n].size})))
        for n in whole.network.open
        if known[n].name in wanted and n not in hidden
    )
    space = SearchSpace(whole.network.freezing(closed), multipliers, choices)
    space.encode(architecture)
    return space


def _narrowed(choice: Choice, option: BlockOption) -> Choice:
    if (option.kind, option.kernel) not in choice.structures:
        offered = ", ".join(map(str, choice.options))
        raise ValueError(f"Block {choice.path!r} can be {offered}; the architecture has {option}.")
    return replace(choice, options=tuple(dict.fromkeys([choice.own, option])))


def _widths(subnet: nn.Module, groups: WidthGroups) -> dict[int, int]:
    """Return the widths of the open groups of a plain network, by the sizes of its parameters.

    A parameter has the channels of one group, or of several: each tells the width of one that no other has told.
    """
    found: dict[int, int] = {}
    left = set(groups.open)
    slots = sorted({slot for number in left for slot, _ in groups.groups[number].slots})
    while left:
        before = len(left)
        for slot in slots:
            numbers, counts = np.unique(groups.places(groups.slots[slot])[0], return_counts=True)
            unknown = [number for number in numbers.tolist() if number in left]
            if len(unknown) != 1 or (size := _size(subnet, slot)) is None:
                continue
            held = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
            rest = held.pop(-1, 0)
            per_width = {number: count // groups.groups[number].size for number, count in held.items()}
            known = (per_width[n] * found.get(n, groups.groups[n].size) for n in per_width if n != unknown[0])
            found[unknown[0]] = (size - rest - sum(known)) // per_width[unknown[0]]
            left.discard(unknown[0])
        if len(left) == before:  # such as what stands in a module that is left out
            found |= {number: groups.groups[number].size for number in left}
            break
    return found


def _size(subnet: nn.Module, slot: Slot) -> int | None:
    """Return the size of a dimension of a parameter; None where the network has no such one."""
    path, _, attribute = slot[0].rpartition(".")
    tensor = _tensor(subnet, path, attribute)
    return None if tensor is None or tensor.ndim <= slot[1] else tensor.shape[slot[1]]


def _tensor(subnet: nn.Module, path: str, attribute: str) -> Tensor | None:
    try:
        found = getattr(subnet.get_submodule(path), attribute, None)
    except AttributeError:
        return None
    return found if isinstance(found, Tensor) else None


def _option(subnet: nn.Module, choice: Choice, widths: list[int], space: SearchSpace) -> BlockOption:
    """Return the option of a block that a plain network has; the widths of its inputs are known."""
    if choice.residual and isinstance(subnet.get_submodule(choice.residual), nn.Identity):
        return next(option for option in choice.options if option.kind == "skip")
    if choice.block is None:
        return choice.own
    block = choice.block
    kind, conv = choice.own.kind, subnet.get_submodule(block.depthwise or block.expand)
    if block.depthwise and isinstance(conv, nn.Identity):
        kind, conv = "fused", subnet.get_submodule(block.expand)
    elif isinstance(conv, nn.Sequential):
        kind, conv = "ibn", conv[-1]
    if not isinstance(conv, nn.Conv2d):
        raise ValueError(f"Block {choice.path!r} convolves by {type(conv).__name__}.")
    for option in choice.options:
        # Without hidden channels of its own, a block runs on those of others.
        is_wide = not choice.size or choice.hidden(option, widths, space.network.sizes) == widths[block.group]
        if option.kind == kind and option.kernel == conv.kernel_size[0] and is_wide:
            return option
    found = f"{kind} k{conv.kernel_size[0]} with {widths[block.group]} hidden channels"
    raise ValueError(f"Block {choice.path!r} is {found}; the space offers {', '.join(map(str, choice.options))}.")
