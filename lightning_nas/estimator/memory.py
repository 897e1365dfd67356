"""What a network holds in memory: parameters by sum, activations by the largest subgraph."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lightning_nas.estimator.subgraph import Subgraph

__all__ = ["Memory", "memory_of"]


@dataclass(frozen=True)
class Memory:
    """Memory of an int8 network.

    Attributes:
        parameter_bytes: Weights (1 byte) and biases (4 bytes), after norms are folded, before any compression.
        peak_activation_bytes: Largest sum of live tensors, channels rounded up to 16, residuals added in place.
    """

    parameter_bytes: int
    peak_activation_bytes: int


def memory_of(subgraphs: Iterable[Subgraph]) -> Memory:
    """Return the memory of a network out of subgraphs.

    Example::

        >>> memory_of([Subgraph("stem", 32, 32, 3, 16, 16, kernel=3, stride=2)])
        Memory(parameter_bytes=496, peak_activation_bytes=7168)
    """
    parts = list(subgraphs)
    peak = max((part.peak_activation_bytes for part in parts), default=0)
    return Memory(sum(part.parameter_bytes for part in parts), peak)
