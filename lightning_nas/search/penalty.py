"""The search's objective as pure functions: the penalty on expected costs and the score-function surrogate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["augmented_lagrangian", "entropy", "leave_one_out", "log_probability", "policy_loss", "relative_excess"]


def relative_excess(expected: Tensor, budget: float) -> Tensor:
    """Return how far a cost is above its budget, as a part of it; negative below.

    Example::

        >>> float(relative_excess(torch.tensor(5.0), budget=4.0))
        0.25
    """
    return expected / budget - 1.0


def augmented_lagrangian(excess: Tensor, multiplier: float, rho: float) -> Tensor:
    """Return ``multiplier * excess + rho / 2 * excess ** 2``, the penalty that holds a cost at its budget.

    It is scale-free, since the excess is relative. The caller moves the multiplier by ``eta * excess`` after each
    step (method of multipliers, Hestenes 1969), so that the constraint is met and not traded.

    Example::

        >>> float(augmented_lagrangian(torch.tensor(0.1), multiplier=1.0, rho=5.0).round(decimals=4))
        0.125
    """
    return multiplier * excess + 0.5 * rho * excess.square()


def log_probability(probabilities: Sequence[Tensor], encoding: Sequence[int]) -> Tensor:
    """Return the log-probability of an architecture whose options are drawn independently; a scalar."""
    return torch.stack([p[node] for p, node in zip(probabilities, encoding, strict=True)]).log().sum()


def leave_one_out(losses: Tensor) -> Tensor:
    """Return each loss less the mean of the others, shape (num_samples,).

    Since all are losses on the same batch, the batch's own difficulty cancels (RLOO; Kool, van Hoof and Welling, 2019).

    Example::

        >>> leave_one_out(torch.tensor([1.0, 3.0]))
        tensor([-2.,  2.])
    """
    count = len(losses)
    return losses - (losses.sum() - losses) / (count - 1)


def policy_loss(probabilities: Sequence[Tensor], samples: Sequence[Sequence[int]], losses: Tensor) -> Tensor:
    """Return the surrogate whose gradient is the score-function estimate of the expected loss's (REINFORCE).

    Args:
        probabilities: Option probabilities of each node.
        samples: Architectures drawn from them, at least two.
        losses: Their losses on one batch, shape (num_samples,), without gradient.
    """
    advantages = leave_one_out(losses)
    scores = torch.stack([log_probability(probabilities, encoding) for encoding in samples])
    return (advantages * scores).mean()


def entropy(probabilities: Sequence[Tensor]) -> Tensor:
    """Return the mean normalised entropy of the choices: 1 undecided, 0 decided; single options do not count."""
    open_choices = [p for p in probabilities if len(p) > 1]
    if not open_choices:
        return torch.zeros(())
    # Options of probability 0 add nothing, and their logarithm would be no number.
    parts = [-(p * p.clamp(min=1e-12).log()).sum() / torch.log(torch.tensor(float(len(p)))) for p in open_choices]
    return torch.stack(parts).mean()
