"""Extents: how many channels of each kind run at some widths, told once and read by all leaves that share them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_nas.graph.labelling import Slot
from lightning_nas.graph.width_groups import WidthGroups
from lightning_nas.supernet.elastic_class import Extent

__all__ = ["Extents"]

_MAX_CACHED = 64


@dataclass
class _Leading:
    """Channels of one group in order, each as often as all: at any width the leading ones are kept."""

    extent: Extent
    group: int
    size: int
    multiplicity: int

    def set(self, widths: Mapping[int, int], _: torch.device) -> None:
        self.extent.count = widths.get(self.group, self.size) * self.multiplicity


@dataclass
class _Mixed:
    """Channels of several groups, or of none, in any order."""

    extent: Extent
    slot: Slot
    groups: WidthGroups
    numbers: tuple[int, ...]
    known: dict[tuple[object, ...], tuple[int, Tensor | None]] = field(default_factory=dict)

    def set(self, widths: Mapping[int, int], device: torch.device) -> None:
        key = (device, *(widths.get(number) for number in self.numbers))
        if key not in self.known:
            if len(self.known) >= _MAX_CACHED:
                self.known.clear()
            kept = self.groups.kept(self.slot, widths)
            is_leading = len(kept) == 0 or kept[-1] == len(kept) - 1
            self.known[key] = len(kept), None if is_leading else torch.from_numpy(kept).to(device)
        self.extent.count, self.extent.index = self.known[key]


class Extents:
    """The extents of the slots of a network's open groups; equal slots share one.

    Args:
        groups: The width groups.
    """

    def __init__(self, groups: WidthGroups) -> None:
        self._groups = groups
        self._rules: list[_Leading | _Mixed] = []
        self._extents: dict[bytes, Extent] = {}
        self._open = frozenset(groups.open)

    def of(self, slot: Slot) -> Extent:
        """Return the extent of a slot."""
        channels = self._groups.slots[slot]
        key = channels.tobytes()
        if key not in self._extents:
            self._extents[key] = Extent(len(channels), len(channels))
            self._rules.append(self._rule(slot, channels, self._extents[key]))
        return self._extents[key]

    def set(self, widths: Mapping[int, int], device: torch.device) -> None:
        """Set all extents that were asked for.

        Args:
            widths: By number of the group, how many of its channels are kept; those that are not named are whole.
            device: Where indices are read.
        """
        for rule in self._rules:
            rule.set(widths, device)

    def _rule(self, slot: Slot, channels: NDArray[np.int64], extent: Extent) -> _Leading | _Mixed:
        numbers, ranks = self._groups.places(channels)
        found = tuple(int(number) for number in np.unique(numbers) if number in self._open)
        if len(found) == 1 and (numbers == found[0]).all():
            size = self._groups.groups[found[0]].size
            multiplicity = len(channels) // size
            if np.array_equal(ranks, np.repeat(np.arange(size), multiplicity)):
                return _Leading(extent, found[0], size, multiplicity)
        return _Mixed(extent, slot, self._groups, found)
