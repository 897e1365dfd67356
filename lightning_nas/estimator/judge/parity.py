"""Pairs of predicted and measured latencies, and their error figures."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from lightning_nas.estimator.judge.scores import scores

__all__ = ["PredictionPairs"]

_NUM_SIZES = 5


@dataclass(frozen=True)
class PredictionPairs:
    """Predicted and measured latencies, pair by pair.

    Attributes:
        groups: Of each, what it belongs to: its kind, or its name.
        predicted_ms: What was predicted.
        true_ms: What was measured.
    """

    groups: tuple[str, ...]
    predicted_ms: np.ndarray
    true_ms: np.ndarray

    @property
    def figures(self) -> dict[str, float]:
        """Error figures over all pairs."""
        predicted_ms, true_ms = self.predicted_ms, self.true_ms
        off = np.abs(predicted_ms / true_ms - 1)
        return {**scores(predicted_ms, true_ms), "nine_of_ten": float(np.quantile(off, 0.9))}

    @property
    def bias(self) -> tuple[float, float]:
        """Mean of the signed relative error, and the standard error of that mean.

        What is off by more than all of it counts as that, so that single ones do not decide.
        """
        relative = np.clip(self.predicted_ms / self.true_ms - 1, -1, 1)
        return float(relative.mean()), float(relative.std() / np.sqrt(len(relative)))

    def only(self, chosen: np.ndarray) -> PredictionPairs:
        """Return the pairs for which a mask is true."""
        groups = tuple(group for group, here in zip(self.groups, chosen.tolist(), strict=True) if here)
        return PredictionPairs(groups, self.predicted_ms[chosen], self.true_ms[chosen])

    def by_group(self) -> dict[str, dict[str, float]]:
        """Return the error figures of each group, the largest group first.

        Example::

            >>> parity = PredictionPairs(("a", "b", "b"), np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.3]))
            >>> [(name, figures["count"]) for name, figures in parity.by_group().items()]
            [('b', 2), ('a', 1)]
        """
        names, counts = np.unique(self.groups, return_counts=True)
        ordered = names[np.argsort(-counts, kind="stable")].tolist()
        return {name: self.only(np.array(self.groups) == name).figures for name in ordered}

    def by_size(self) -> dict[str, dict[str, float]]:
        """Return the error figures by measured latency, in five groups of equal size."""
        edges = np.quantile(self.true_ms, np.linspace(0, 1, _NUM_SIZES + 1))
        # The largest latency is the last edge itself, behind which there is no group.
        place = np.clip(np.searchsorted(edges, self.true_ms, side="right") - 1, 0, _NUM_SIZES - 1)
        names = [f"{low:.3g} to {high:.3g} ms" for low, high in pairwise(edges.tolist())]
        chosen = {name: place == number for number, name in enumerate(names)}
        return {name: self.only(here).figures for name, here in chosen.items() if here.any()}
