"""The weights of options in a mixture: softmax, Gumbel-softmax, or straight through one drawn option."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["gates_of", "temperature"]

# TF-NAS (arXiv 2008.05314): from soft to sharp.
_WARMEST, _COLDEST = 5.0, 0.3


def temperature(progress: float) -> float:
    """Return the temperature of Gumbel-softmax at a part of the search, falling from 5 to 0.3 by equal ratios.

    Example::

        >>> [round(temperature(part), 2) for part in (0.0, 0.5, 1.0)]
        [5.0, 1.22, 0.3]
    """
    return float(_WARMEST * (_COLDEST / _WARMEST) ** min(max(progress, 0.0), 1.0))


def gates_of(
    gradient: str, probabilities: Sequence[Tensor], progress: float, generator: torch.Generator
) -> list[Tensor]:
    """Return the gates of each node's options, differentiable with respect to the probabilities.

    Args:
        gradient: ``softmax``: the probabilities (DARTS). ``gumbel_soft``: Gumbel-softmax (Jang et al. 2017, arXiv
            1611.01144). ``gumbel_st``: 1 for the largest of these and 0 for the others, with their gradient (GDAS).
        probabilities: Of each node's options.
        progress: Part of the search, for the temperature.
        generator: Of the noise.
    """
    if gradient == "softmax":
        return list(probabilities)
    soft = [_gumbel_softmax(row, temperature(progress), generator) for row in probabilities]
    if gradient == "gumbel_soft":
        return soft
    hard = [torch.zeros_like(row).scatter(0, row.argmax(0, keepdim=True), 1.0) for row in soft]
    # `row - row.detach()` is exactly zero: options that were not drawn have a gate of zero, and are not run.
    return [one + (row - row.detach()) for one, row in zip(hard, soft, strict=True)]


def _gumbel_softmax(row: Tensor, tau: float, generator: torch.Generator) -> Tensor:
    # Both logarithms below stay finite; much nearer to 1, float32 would round to 1.
    uniform = torch.rand(len(row), generator=generator).clamp(1e-9, 1 - 1e-6).to(row)
    # What no architecture within the budgets has stays at exactly zero.
    logs = torch.where(row > 0, row.clamp(min=1e-30).log(), -torch.inf)
    return ((logs - (-uniform.log()).log()) / tau).softmax(0)
