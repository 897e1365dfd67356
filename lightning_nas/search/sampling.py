"""Seeded draws of architectures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..estimator.table import CostTable
from ..space.spec import BlockOption, SearchSpace, hidden_width

__all__ = ["draw", "draw_near", "narrowest"]


def draw(probabilities: Sequence[Tensor], generator: torch.Generator) -> tuple[int, ...]:
    """Draw an architecture; the same from the same generator state on every device."""
    return tuple(int(torch.multinomial(p.detach().cpu(), 1, generator=generator)) for p in probabilities)


def draw_near(
    table: CostTable, budget: float, band: tuple[float, float], generator: torch.Generator, attempts: int = 32
) -> tuple[int, ...]:
    """Draw an architecture uniformly from those whose cost is within `band` times the budget.

    Training only paths that could win is what a narrow budget needs (algorithms of the band: PreNAS, arXiv
    2304.14636). Where no attempt falls into the band, the one nearest to the budget is taken.
    """
    uniform = torch.rand(attempts, len(table.node_sizes), generator=generator)
    nodes = (uniform * torch.tensor(table.node_sizes)).long().numpy()
    ratios = table.exact_many(nodes) / budget
    inside = np.flatnonzero((ratios >= band[0]) & (ratios <= band[1]))
    row = inside[0] if len(inside) else np.abs(np.log(ratios)).argmin()
    return tuple(int(node) for node in nodes[row])


def narrowest(space: SearchSpace) -> tuple[int, ...]:
    """Return the nodes of the smallest network: least widths, and for each block the option with fewest weights."""
    counts = [[_weight_count(option) for option in choice.options] for choice in space.choices]
    blocks = [row.index(min(row)) for row in counts]
    return (*[0] * len(space.multipliers), *blocks)


def _weight_count(option: BlockOption, width: int = 64) -> float:
    """Return the weights of an option at one width, which is enough to order the options of a block."""
    hidden = hidden_width(width, option.expansion)
    spatial = hidden * option.kernel**2 * (width if option.kind == "fused" else 1)
    return spatial + hidden * width * (2 if option.kind == "ibn" else 1)
