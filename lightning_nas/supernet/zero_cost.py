"""Scores of a network that need no training, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple

from torch import Tensor, nn

from lightning_nas.graph.trace import trace
from lightning_nas.supernet.activation_codes import naswot, swap
from lightning_nas.supernet.az_nas import block_scores
from lightning_nas.supernet.synflow import synflow
from lightning_nas.supernet.zico import zico

__all__ = ["AGREEMENT", "SCORES", "macs", "params", "zero_cost"]

SCORES = ("naswot", "swap", "synflow", "zico", "az_nas", "params", "macs")
"""Names of the scores."""

AGREEMENT = {
    "naswot": 0.51,
    "swap": 0.52,
    "synflow": -0.1,
    "zico": 0.18,
    "az_nas": 0.14,
    "params": -0.16,
    "macs": -0.01,
}
"""Kendall's tau of each score with how near members of one latency come to the source by fine-tuning:
``tests/benchmarks/truth_set.md``."""


def params(network: nn.Module) -> float:
    """Return the number of a network's parameters, which as a score is hard to beat (arXiv 2101.08134).

    Example::

        >>> params(nn.Conv2d(3, 8, 3))
        224.0
    """
    return float(sum(parameter.numel() for parameter in network.parameters()))


def macs(network: nn.Module, images: Tensor) -> float:
    """Return the multiply-accumulates of a network on one image, as a score.

    Args:
        network: The network.
        images: Images that it runs on, shape (N, C, H, W).

    Raises:
        ValueError: The network does not run on such images.

    Example::

        >>> import torch
        >>> macs(nn.Conv2d(3, 8, 3), torch.zeros(1, 3, 10, 10))
        13824.0
    """
    return float(sum(operation.layer.macs for operation in trace(network, images, "bytes").operations))


def zero_cost(
    name: str, network: nn.Module, images: Tensor, modules: Sequence[str] = (), seed: int = 0
) -> tuple[float, ...]:
    """Return a score of a network by its name: one number, or several that are to be ranked and multiplied.

    Args:
        name: One of `SCORES`.
        network: The network; it is not changed.
        images: Images, shape (N, 3, H, W), normalised.
        modules: For ``az_nas`` the modules that give the maps behind its blocks, see `block_scores`.
        seed: Of random targets and gradients.

    Raises:
        ValueError: There is no such score, there are too few images for it, or the network has an operator that it
            cannot run, whose module the message names.
    """
    match name:
        case "naswot":
            return (naswot(network, images),)
        case "swap":
            return (swap(network, images),)
        case "synflow":
            return (synflow(network, images),)
        case "zico":
            return (zico(network, images, seed=seed),)
        case "az_nas":
            return (*astuple(block_scores(network, images, modules, seed)), macs(network, images))
        case "params":
            return (params(network),)
        case "macs":
            return (macs(network, images),)
    raise ValueError(f"There is no score {name!r}; there are: {', '.join(SCORES)}.")
