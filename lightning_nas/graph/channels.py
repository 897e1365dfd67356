"""Channels: numbered, merged where a network forces two to be one, frozen where one cannot be taken away."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

__all__ = ["NO_CHANNEL", "Channels", "per_index", "spread"]

NO_CHANNEL = -1
"""Label of an element that belongs to no channel, such as a pixel of the image or of a padding."""


class Channels:
    """A disjoint-set forest over the channels of a network.

    A *label* is the number of a channel. Labels of one tensor are an integer tensor of its shape.
    """

    def __init__(self) -> None:
        self._parent = np.empty(0, dtype=np.int64)
        self._frozen: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._parent)

    def fresh(self, count: int) -> Tensor:
        """Return labels of new channels, shape (count,)."""
        start = len(self._parent)
        self._parent = np.append(self._parent, np.arange(start, start + count))
        return torch.arange(start, start + count)

    def find(self, labels: Tensor) -> Tensor:
        """Return the labels with each channel named by the one that stands for all that were merged with it."""
        if not len(self._parent):
            return labels
        # Where a label is repeated along a dimension without memory of its own, it is looked up once.
        small = _unrepeated(labels)
        found = np.where(small.numpy() < 0, 0, small.numpy())
        while not np.array_equal(found, upper := self._parent[found]):
            found = upper
        roots = torch.from_numpy(np.where(small.numpy() < 0, NO_CHANNEL, found))
        return roots.expand(labels.shape)

    def merge(self, first: Tensor, second: Tensor) -> None:
        """Let the channels of two label tensors of one shape be the same, element by element."""
        first, second = _unrepeated_pair(self.find(first), self.find(second))
        pairs = np.stack([first.numpy().ravel(), second.numpy().ravel()], axis=1)
        pairs = pairs[(pairs.min(axis=1) >= 0) & (pairs[:, 0] != pairs[:, 1])]
        for one, other in np.unique(pairs, axis=0):
            low, high = sorted((self._root(int(one)), self._root(int(other))))
            self._parent[high] = low

    def freeze(self, labels: Tensor, reason: str) -> None:
        """Keep channels from being taken away; the first reason of a channel is kept."""
        for label in np.unique(_unrepeated(labels).numpy()):
            if label >= 0:
                self._frozen.setdefault(int(label), reason)

    def frozen(self) -> Mapping[int, str]:
        """Return the reason for each frozen channel, by the channel that stands for it."""
        found: dict[int, str] = {}
        for label, reason in self._frozen.items():
            found.setdefault(self._root(label), reason)
        return found

    def _root(self, label: int) -> int:
        while self._parent[label] != label:
            label = int(self._parent[label])
        return label


def spread(labels: Tensor, shape: torch.Size, dim: int) -> Tensor:
    """Return labels of a tensor of `shape` whose channels lie along `dim`, without copying them."""
    view = [1] * len(shape)
    view[dim] = len(labels)
    return labels.view(view).expand(shape)


def per_index(channels: Channels, labels: Tensor, dim: int) -> Tensor:
    """Return the label of each index of a dimension; channels that share an index are merged.

    Args:
        channels: The channels that are merged.
        labels: Labels of a tensor.
        dim: The dimension.
    """
    rows = _unrepeated(labels.movedim(dim, 0)).reshape(labels.shape[dim] if _varies(labels, dim) else 1, -1)
    if rows.shape[1] > 1:
        # Padding has no channel, whatever stands beside it.
        best = rows.amax(dim=1)
        channels.merge(best[:, None].expand_as(rows), rows)
        rows = best[:, None]
    return channels.find(rows[:, 0].expand(labels.shape[dim]) if len(rows) == 1 else rows[:, 0])


def _varies(labels: Tensor, dim: int) -> bool:
    return labels.shape[dim] == 1 or labels.stride(dim) != 0


def _unrepeated(labels: Tensor) -> Tensor:
    """Return the part of a tensor that has memory of its own: dimensions that only repeat are cut to one index."""
    for dim, (size, stride) in enumerate(zip(labels.shape, labels.stride(), strict=True)):
        if stride == 0 and size > 1:
            labels = labels.narrow(dim, 0, 1)
    return labels


def _unrepeated_pair(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    for dim, size in enumerate(first.shape):
        if size > 1 and first.stride(dim) == 0 and second.stride(dim) == 0:
            first, second = first.narrow(dim, 0, 1), second.narrow(dim, 0, 1)
    return first, second
