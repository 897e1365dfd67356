"""The smallest supernet that holds a given architecture: how a subnet of any widths is built."""

from __future__ import annotations

import torch
from torch import nn

from ..space.spec import Architecture
from .convert import space_of, supernet_from

__all__ = ["supernet_with"]


def supernet_with(network: nn.Module, architecture: Architecture) -> nn.Module:
    """Turn a network into the smallest supernet that holds an architecture of any widths, in place, and return it.

    Raises:
        ValueError: The architecture is not of this network.
    """
    options = [block.option for block in architecture.blocks]
    example = torch.zeros(1, *architecture.input_size)
    space = space_of(
        network,
        example,
        lanes=1,
        expansions=[option.expansion for option in options],
        kernels=[option.kernel for option in options],
        widths=[[stage.width] for stage in architecture.stages],
        stem_widths=[architecture.stem.width],
        head_widths=[architecture.head.width] if architecture.head else None,
    )
    return supernet_from(network, example, space)
