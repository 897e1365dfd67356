"""Phase two of a search: the weights are frozen, and the logits learn from losses on held-out batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from .engine import Search

__all__ = ["learn_logits"]

Nodes = tuple[int, ...]


def learn_logits(
    search: Search, losses: Callable[[Sequence[Nodes], int], Tensor], steps: int, show: bool = True
) -> list[tuple[Nodes, float]]:
    """Let the logits of a search learn while its weights rest.

    Each step draws architectures by the logits and compares them on one batch: the score-function gradient with a
    leave-one-out baseline, plus the exact gradient of the penalty on the expected costs.

    Args:
        search: The search; its logits and multipliers change.
        losses: Evaluates architectures on the batch of a step, shape (num_samples,), without gradient.
        steps: How many.
        show: Whether to show progress.

    Returns:
        Every architecture that was drawn, with its loss less the mean on its batch, for `utilities`.
    """
    settings, logits = search.settings, search.supernet.logits
    optimizer = torch.optim.Adam(logits, settings.lr, betas=(settings.beta1, 0.999))
    observed: list[tuple[Nodes, float]] = []
    for step in tqdm(range(steps), desc="Searching", unit="step", leave=False, disable=not show):
        samples = [search.draw() for _ in range(settings.samples)]
        values = losses(samples, step)
        if not search.is_usable(values):
            continue
        gradients = torch.autograd.grad(search.objective(samples, values), logits, allow_unused=True)
        for parameter, gradient in zip(logits, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad()
        search.update_multipliers()
        observed += zip(samples, (values - values.mean()).tolist(), strict=True)
    return observed
