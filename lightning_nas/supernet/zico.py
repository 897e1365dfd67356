"""ZiCo: how steady the gradients of a network are from batch to batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_nas.graph.tensors import tensors_in
from lightning_nas.io.numbers import check_seed
from lightning_nas.supernet.score_run import check_images, differentiable, score_run
from lightning_nas.supernet.source_outputs import run_network

__all__ = ["zico"]

# As in the paper, which found two batches to be enough.
_BATCHES = 2


def zico(network: nn.Module, images: Tensor, targets: Tensor | None = None, seed: int = 0) -> float:
    """Return ZiCo, the inverse coefficient of variation of the gradients (Li et al. 2023, arXiv 2301.11300).

    For each weight the mean over two batches of the gradient's absolute value is divided by its standard deviation;
    these are added up within each layer, and their logarithms over the convolutions and linear layers. More is better.
    Gradients are of the cross-entropy of classes, or of pixels' classes; of a network with other outputs, such as a
    detector, of the squared distance of all of them from random numbers. Batch norm runs on the statistics of its
    batch, as in the paper, and weights are those that the network has, where the paper's are untrained.

    Args:
        network: The network; it is not changed.
        images: Images, shape (N, 3, H, W), normalised; each half is a batch.
        targets: Classes, shape (N,) or (N, H, W); by default random ones, which need no labels.
        seed: Of the random targets.

    Raises:
        ValueError: There are fewer than 4 images, or the network has an operator through which no gradient flows.
    """
    check_images("zico", images, 2 * _BATCHES)
    check_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    kinds = nn.Conv2d, nn.ConvTranspose2d, nn.Linear
    layers = {path: layer for path, layer in network.named_modules() if isinstance(layer, kinds)}
    gradients: dict[str, list[Tensor]] = {}
    size = len(images) // _BATCHES
    with differentiable(network):
        for number in range(_BATCHES):
            batch = slice(number * size, (number + 1) * size)
            with score_run("zico", network) as ran:
                outputs = tensors_in(run_network(network, images[batch]))
                loss = _loss(outputs, None if targets is None else targets[batch], generator)
                paths = [path for path in layers if path in ran]
                found = torch.autograd.grad(loss, [layers[path].weight for path in paths], allow_unused=True)
            for path, gradient in zip(paths, found, strict=True):
                if gradient is None:
                    raise ValueError(f"`zico` needs gradients, and none reaches module {path!r}.")
                gradients.setdefault(path, []).append(gradient)
    return sum(_steadiness(torch.stack(rows)) for rows in gradients.values())


def _loss(outputs: list[Tensor], targets: Tensor | None, generator: torch.Generator) -> Tensor:
    first = outputs[0]
    if len(outputs) == 1 and first.ndim in (2, 4) and first.shape[1] > 1:
        if targets is None:
            shape = (len(first), *first.shape[2:])
            targets = torch.randint(first.shape[1], shape, generator=generator).to(first.device)
        return functional.cross_entropy(first, targets)
    goals = [torch.randn(tensor.shape, generator=generator).to(tensor) for tensor in outputs]
    return torch.stack([functional.mse_loss(tensor, goal) for tensor, goal in zip(outputs, goals, strict=True)]).sum()


def _steadiness(rows: Tensor) -> float:
    """Return what a layer adds, from its gradients, shape (batches, ...)."""
    deviation = rows.std(0, correction=0)
    moving = deviation > 0
    ratio = (rows.abs().mean(0)[moving] / deviation[moving]).double().sum()
    return float(ratio.log()) if ratio > 0 else 0.0
