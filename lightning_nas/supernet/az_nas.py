"""AZ-NAS: four scores of a network by its blocks' feature maps, to be ranked and multiplied."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_nas.io.numbers import check_seed
from lightning_nas.supernet.score_run import check_images, differentiable, score_run
from lightning_nas.supernet.source_outputs import run_network

__all__ = ["BlockScores", "block_scores"]

# Maps further apart do not stand on both sides of a block, and would have channels by the thousands.
_MOST_STRIDE = 4


@dataclass(frozen=True)
class BlockScores:
    """Scores of AZ-NAS by a network's feature maps; of each more is better. The fourth, complexity, is `macs`.

    Attributes:
        expressivity: The entropy of how a map's variance is spread over its principal components, summed over maps.
        progressivity: The least increase of that from a map to the next.
        trainability: How near the largest singular value of what a block does to gradients is to 1: the mean of
            2 - s - 1/s, which is 0 at best.
    """

    expressivity: float
    progressivity: float
    trainability: float


def block_scores(network: nn.Module, images: Tensor, modules: Sequence[str] = (), seed: int = 0) -> BlockScores:
    """Return the scores of AZ-NAS by feature maps (Lee and Ham 2024, arXiv 2403.19232).

    Networks are compared by the product of their ranks by the three, and by `macs`. Weights are those that the network
    has and images are given, where the paper has untrained weights and random numbers. A block that hands on what it
    takes, since it is left out, is not judged by its gradients.

    Args:
        network: The network; it is not changed. Batch norm runs on the statistics of its batch, as in the paper.
        images: Images, shape (N, 3, H, W), normalised.
        modules: Paths of the modules that give the maps behind its blocks, in order, such as
            `SearchSpace.feature_modules`; by default the maps of all convolutions.
        seed: Of the random gradients.

    Raises:
        ValueError: There are fewer than 2 images or 2 maps, or the network has an operator that fails.
    """
    check_images("az_nas", images, 2)
    check_seed(seed)
    paths = modules or [path for path, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    generator = torch.Generator().manual_seed(seed)
    with differentiable(network), score_run("az_nas", network):
        maps = _maps(network, images, paths)
        if len(maps) < 2:
            raise ValueError(f"`az_nas` compares 2 feature maps or more; {', '.join(paths)} give {len(maps)}.")
        entropies = [_entropy(values.detach()) for values in maps]
        norms = [_gradient_norm(*pair, generator) for pair in itertools.pairwise(maps)]
    known = [norm for norm in norms if norm is not None]
    return BlockScores(
        expressivity=sum(entropies),
        progressivity=min(second - first for first, second in itertools.pairwise(entropies)),
        trainability=sum(2 - norm - 1 / (norm + 1e-6) for norm in known) / max(1, len(known)),
    )


def _maps(network: nn.Module, images: Tensor, paths: Sequence[str]) -> list[Tensor]:
    """Return the feature maps that modules give, in the order in which they run."""
    found: list[Tensor] = []

    def keep(_: nn.Module, __: object, output: object) -> object:
        if not isinstance(output, Tensor) or output.ndim != 4 or output.shape[-2:].numel() == 1:
            return None  # what is pooled, as in a gate, is no map
        found.append(output)
        # What works in place behind it would change what is kept.
        return output.clone()

    hook: Callable[..., object] = keep
    handles = [network.get_submodule(path).register_forward_hook(hook) for path in paths]
    try:
        run_network(network, images)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _rows(values: Tensor) -> Tensor:
    return values.movedim(1, -1).flatten(0, -2)


def _entropy(values: Tensor) -> float:
    rows = _rows(values)
    rows = rows - rows.mean(0)
    # Not every device has float64.
    variances = torch.linalg.eigvalsh((rows.T @ rows).cpu().double()).clamp(min=0)
    # A map that is constant is spread over nothing.
    return float(torch.special.entr(variances / variances.sum().clamp(min=1e-30)).sum())


def _gradient_norm(before: Tensor, after: Tensor, generator: torch.Generator) -> float | None:
    """Return the largest singular value of a block's Jacobian, from random gradients of plus and minus 1.

    None where the second map does not follow from the first, or is the first.
    """
    signs = torch.randint(2, after.shape, generator=generator).to(after) * 2 - 1
    (found,) = torch.autograd.grad(after, before, signs, retain_graph=True, allow_unused=True)
    if found is None or (found.shape == signs.shape and torch.equal(found, signs)):
        return None
    inner, outer = _alike(found, signs)
    if inner.shape[2:] != outer.shape[2:]:
        return None
    rows, others = _rows(inner), _rows(outer)
    return float(torch.linalg.matrix_norm(rows.T @ others / len(rows), 2))


def _alike(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return two maps with the pixels of the finer one folded into channels, where its size is a whole multiple."""
    ratio = first.shape[-1] / second.shape[-1]
    if ratio > 1:
        return _folded(first, second), second
    return first, _folded(second, first) if ratio < 1 else second


def _folded(fine: Tensor, coarse: Tensor) -> Tensor:
    factor = fine.shape[-1] // coarse.shape[-1]
    if factor > _MOST_STRIDE or fine.shape[-1] % factor or fine.shape[-2] % factor:
        return fine
    return functional.pixel_unshuffle(fine, factor)
