"""Range of the measured sizes, to warn of subgraphs outside of it, where a regressor extrapolates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from lightning_nas.graph.subgraph import Subgraph

__all__ = ["Coverage"]

_SIZES = ("height", "width", "in_channels", "hidden_channels", "out_channels", "kernel", "stride")


class Coverage:
    """The smallest and the largest of every size that was measured, by kind.

    Args:
        measured: Subgraphs that were measured.

    Example::

        >>> coverage = Coverage([Subgraph("conv", size, size, 8, 8, 8) for size in (8, 16)])
        >>> coverage.warning([Subgraph("conv", 32, 16, 8, 8, 8)])
        'outside of what was measured, by up to 2x: conv 32x16 8->8->8 k1 s1 has height 32, measured were 8 to 16'
    """

    def __init__(self, measured: Iterable[Subgraph]) -> None:
        by_kind: dict[str, list[Subgraph]] = {}
        for part in measured:
            by_kind.setdefault(part.kind, []).append(part)
        tables = {kind: _sizes(parts) for kind, parts in by_kind.items()}
        self._ranges = {kind: np.stack([sizes.min(axis=0), sizes.max(axis=0)]) for kind, sizes in tables.items()}

    def distances(self, parts: Sequence[Subgraph]) -> np.ndarray:
        """Return the factor by which each size of each subgraph is outside of the range; 1 is inside."""
        sizes = _sizes(parts)
        ranges = np.stack([self._ranges[part.kind] for part in parts])
        factors: np.ndarray = np.maximum(1, np.maximum(ranges[:, 0] / sizes, sizes / ranges[:, 1]))
        return factors

    def warning(self, parts: Sequence[Subgraph]) -> str | None:
        """Describe the subgraph that is farthest outside; None where all are inside."""
        distances = self.distances(parts)
        row, column = divmod(int(np.argmax(distances)), len(_SIZES))
        if distances[row, column] <= 1:
            return None
        part, name = parts[row], _SIZES[column]
        low, high = self._ranges[part.kind][:, column].astype(int)
        return (
            f"outside of what was measured, by up to {distances[row, column]:.3g}x: {part} has {name}"
            f" {getattr(part, name)}, measured were {low} to {high}"
        )


def _sizes(parts: Sequence[Subgraph]) -> np.ndarray:
    return np.array([[getattr(part, name) for name in _SIZES] for part in parts], dtype=np.float64)
