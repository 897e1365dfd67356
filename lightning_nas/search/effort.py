"""Cost of readiness and of comparing candidates, counted in forward passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

__all__ = ["Comparison", "Effort", "affordable", "comparison", "num_values", "spread", "training_cost"]

T = TypeVar("T")

# A backward pass takes about as long as two forward passes.
_PASSES_A_STEP = 3


@dataclass(frozen=True)
class Effort:
    """Number of subnets that are evaluated, and of the batches that each is evaluated on.

    Attributes:
        num_subnets: Subnets.
        num_calibration: Training batches that batch norm is recalibrated on for each.
        num_held_out: Held-out batches that the loss of each is taken on.
    """

    num_subnets: int
    num_calibration: int
    num_held_out: int


def affordable(
    cost: float | None, wanted: Effort, calibration_size: float, held_out_size: float, least: Effort
) -> Effort:
    """Reduce an effort to what a cost allows: fewer batches first, then fewer subnets, and never below the least.

    Args:
        cost: Numbers that may pass the networks, see `num_values`; None for any.
        wanted: The whole effort.
        calibration_size: Numbers in a calibration batch.
        held_out_size: Numbers in a held-out batch.
        least: What is done in any case.

    Example::

        >>> affordable(1000, Effort(10, 8, 8), 10, 10, Effort(2, 1, 1))
        Effort(num_subnets=10, num_calibration=5, num_held_out=5)
        >>> affordable(100, Effort(10, 8, 8), 10, 10, Effort(2, 1, 1))
        Effort(num_subnets=5, num_calibration=1, num_held_out=1)
    """
    each = wanted.num_calibration * calibration_size + wanted.num_held_out * held_out_size
    if cost is None or wanted.num_subnets * each <= cost:
        return wanted
    part = cost / (wanted.num_subnets * each)
    num_calibration = max(least.num_calibration, int(part * wanted.num_calibration))
    num_held_out = min(wanted.num_held_out, max(least.num_held_out, int(part * wanted.num_held_out)))
    each = num_calibration * calibration_size + num_held_out * held_out_size
    num_subnets = min(wanted.num_subnets, max(least.num_subnets, int(cost / each)))
    return Effort(num_subnets, num_calibration, num_held_out)


@dataclass(frozen=True)
class Comparison:
    """Plan of a comparison of candidates: all of them on some data, then the best on all data (successive halving).

    Attributes:
        first: How many, and on how much.
        num_finalists: How many of the best are evaluated on all data; 0 where all were, or where less than two can be.
    """

    first: Effort
    num_finalists: int = 0


def comparison(cost: float | None, wanted: Effort, calibration_size: float, held_out_size: float) -> Comparison:
    """Return how candidates are compared at a given cost: all on some data, then the best on all data.

    Example::

        >>> comparison(1000, Effort(20, 8, 8), 10, 10)
        Comparison(first=Effort(num_subnets=20, num_calibration=1, num_held_out=1), num_finalists=3)
    """
    least = Effort(1, 1, 1)
    first = affordable(cost, wanted, calibration_size, held_out_size, least)
    each = wanted.num_calibration * calibration_size + wanted.num_held_out * held_out_size
    # Half of the cost goes to finalists, if that is enough for two of them to be told apart.
    num_finalists = 0 if cost is None or first == wanted else int(cost / 2 / each)
    if cost is None or num_finalists < 2:
        return Comparison(first)
    return Comparison(
        affordable(cost - num_finalists * each, wanted, calibration_size, held_out_size, least), num_finalists
    )


def training_cost(num_trained: float) -> float:
    """Return the cost of a training in forward passes, counted in numbers that pass the network.

    Args:
        num_trained: Numbers in all batches that it was trained on.
    """
    return _PASSES_A_STEP * num_trained


def num_values(batch: object) -> int:
    """Return how many numbers the tensors of a batch hold, whatever the form of the batch.

    Example::

        >>> import torch
        >>> num_values({"image": torch.zeros(2, 3), "targets": [torch.zeros(4), "name"]})
        10
    """
    if isinstance(batch, Tensor):
        return batch.numel()
    if isinstance(batch, Mapping):
        return sum(map(num_values, batch.values()))
    return sum(map(num_values, batch)) if isinstance(batch, list | tuple) else 0


def spread(items: Sequence[T], count: int) -> list[T]:
    """Return `count` items at equal distances, since validation data often comes sorted by class.

    Example::

        >>> spread("abcdef", 3), spread("ab", 5)
        (['b', 'd', 'f'], ['a', 'b'])
    """
    if count >= len(items):
        return list(items)
    return [items[(2 * place + 1) * len(items) // (2 * count)] for place in range(count)]
