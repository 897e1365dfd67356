"""Architectures of plain subnets, and the smallest supernet that holds a given architecture."""

from __future__ import annotations

from dataclasses import replace

import torch
from timm.models import EfficientNet
from torch import nn
from torchvision.models.mobilenetv2 import MobileNetV2

from lightning_nas.space.options import SpaceOptions
from lightning_nas.space.spec import (
    Architecture,
    BlockOption,
    Choice,
    FixedBlock,
    Kind,
    SearchSpace,
    StageArchitecture,
    hidden_width,
)
from lightning_nas.supernet.convert import space_of, supernet_from
from lightning_nas.supernet.source import ConvNorm, backbone_of, named_blocks

__all__ = ["architecture_of", "supernet_with"]


def architecture_of(subnet: nn.Module, space: SearchSpace) -> Architecture:
    """Return the architecture of a plain network that `derive` made of a supernet, by looking at its layers.

    Args:
        subnet: The network, or a module that holds it.
        space: The supernet's space.

    Raises:
        ValueError: It is not in the space.
    """
    _, backbone = backbone_of(subnet)
    blocks = [parts for _, parts in named_blocks(backbone)]
    if len(blocks) != len(space.choices):
        raise ValueError(f"A subnet of this space has {len(space.choices)} plain blocks; this one has {len(blocks)}.")
    left = iter(blocks)
    stages = []
    for stage in space.stages:
        found = [(next(left), choice) for choice in stage.blocks]
        fixed = tuple(FixedBlock(_option(parts, choice), choice.stride) for parts, choice in found)
        stages.append(StageArchitecture(found[-1][0][-1][0].out_channels, fixed))
    stem = replace(space.stem, width=blocks[0][0][0].in_channels)
    head = space.head and replace(space.head, width=_head(backbone).out_channels)
    tail = space.tail_at([stage.width for stage in stages])
    architecture = Architecture(space.input_size, stem, tuple(stages), head, space.num_classes, tail)
    space.encode(architecture)
    return architecture


def supernet_with(network: nn.Module, architecture: Architecture) -> nn.Module:
    """Turn a network in place into the smallest supernet that holds an architecture, and return it.

    Raises:
        ValueError: The architecture is not of this network.
    """
    options = [block.option for block in architecture.blocks]
    example = torch.zeros(1, *architecture.input_size).to(next(network.parameters()))
    smallest = SpaceOptions(
        expansions=[option.expansion for option in options],
        kernels=[option.kernel for option in options],
        widths=[[stage.width] for stage in architecture.stages],
        stem_widths=[architecture.stem.width],
        head_widths=[architecture.head.width] if architecture.head else None,
    )
    space = space_of(network, example, lanes=1, options=smallest)
    return supernet_from(network, example, space)


def _option(parts: tuple[ConvNorm, ...], choice: Choice) -> BlockOption:
    first, last = parts[0][0], parts[-1][0]
    two: Kind = "fused" if first.groups == 1 else "ds"
    kind, kernel = "ibn" if len(parts) == 3 else two, parts[-2][0].kernel_size[0]
    for option in choice.options:
        hidden = first.in_channels if kind == "ds" else hidden_width(first.in_channels, option.expansion)
        if (option.kind, option.kernel, hidden) == (kind, kernel, last.in_channels):
            return option
    found = f"{kind} k{kernel} with {last.in_channels} hidden channels on {first.in_channels}"
    raise ValueError(f"A block is {found}; the space offers {', '.join(map(str, choice.options))}.")


def _head(backbone: MobileNetV2 | EfficientNet) -> nn.Conv2d:
    """Return the 1x1 convolution behind the blocks."""
    found = backbone.features[-1][0] if isinstance(backbone, MobileNetV2) else backbone.conv_head
    assert isinstance(found, nn.Conv2d)
    return found
