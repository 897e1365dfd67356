"""Gradient estimates for the logits from one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_nas.search.engine import Search
from lightning_nas.space.spec import Encoding

__all__ = ["Score", "gates_score", "sampled_score"]


@dataclass(frozen=True)
class Score:
    """What the logits learn from a batch.

    Attributes:
        surrogate: A scalar whose gradient with respect to the logits is the estimate of the expected loss's.
        observed: The architectures that were evaluated, each with its loss less their mean.
    """

    surrogate: Tensor
    observed: tuple[tuple[Encoding, float], ...] = ()


def sampled_score(search: Search, losses: Callable[[list[Encoding]], Tensor]) -> Score | None:
    """Draw architectures by the logits and compare them; None where a loss is not finite.

    Args:
        search: The search.
        losses: Evaluates architectures on one batch, shape (num_samples,), without gradient.
    """
    # All on one batch: losses differed three times as much between batches as between architectures.
    samples = [search.draw() for _ in range(search.training.strategy.num_samples)]
    values = losses(samples)
    if not search.rewards.is_usable(values):
        return None
    advantages = (values - values.mean()).tolist()
    return Score(search.surrogate(samples, values), tuple(zip(samples, advantages, strict=True)))


def gates_score(search: Search, loss: Tensor, gradients: Sequence[Tensor]) -> Score | None:
    """Return the score that a mixture's loss and its gradients give; None where these are not finite.

    Args:
        search: The search.
        loss: The mixture's loss, a scalar.
        gradients: For each node the loss's gradient with respect to its logits.
    """
    if not search.rewards.is_usable(torch.cat([loss.detach().cpu().reshape(1), *gradients])):
        return None
    # Linear in the logits, so that its gradient is the one that the mixture's backward pass gave.
    pairs = zip(search.logits, gradients, strict=True)
    return Score(torch.stack([(row * gradient).sum() for row, gradient in pairs]).sum())
