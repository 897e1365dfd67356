"""Width groups: channels of several parameters that must stay equal in number, found by running the network once."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_nas.graph.eval_mode import evaluating
from lightning_nas.graph.label_rules import apply_rule
from lightning_nas.graph.labelling import Labeller, Slot
from lightning_nas.graph.module_paths import module_paths

__all__ = ["WidthGroup", "WidthGroups", "width_groups"]


@dataclass(frozen=True)
class WidthGroup:
    """Channels that are kept or left out together, in all parameters that have them.

    Attributes:
        name: Its first parameter that writes it, as a person would call it.
        size: Its full width. Channels that a grouped convolution keeps together count as one.
        slots: The dimensions of parameters that hold its channels, each with its channels a unit of `size`.
        frozen: Why its width cannot be chosen; empty where it can.
    """

    name: str
    size: int
    slots: tuple[tuple[Slot, int], ...]
    frozen: str = ""


@dataclass(frozen=True)
class WidthGroups:
    """The width groups of a network.

    Attributes:
        groups: The groups, in order of execution.
        members: For each slot, by index along its dimension: the number of the group, and the rank within it. Indices
            that belong to no group have -1.
        twins: Pairs of groups that are the equal parts of a split, channel by channel. Code that splits a tensor into
            parts of one size needs them to stay equal; code that names the sizes of the parts does not.
    """

    groups: tuple[WidthGroup, ...]
    members: Mapping[Slot, tuple[NDArray[np.int64], NDArray[np.int64]]]
    twins: tuple[tuple[int, int], ...] = ()

    @property
    def open(self) -> tuple[int, ...]:
        """Numbers of the groups whose widths can be chosen."""
        return tuple(n for n, group in enumerate(self.groups) if not group.frozen and group.size > 1)

    def kept(self, slot: Slot, widths: Mapping[int, int]) -> NDArray[np.int64]:
        """Return the indices of a slot that stay.

        Args:
            slot: The slot.
            widths: The width of each group that is narrowed, by its number: its leading channels stay.
        """
        numbers, ranks = self.members[slot]
        limits = np.array([widths.get(n, group.size) for n, group in enumerate(self.groups)] + [1])
        return np.flatnonzero(ranks < limits[numbers])

    def joined(self, sets: Sequence[Sequence[int]]) -> WidthGroups:
        """Return the groups with each set of groups of one size as one; they keep the order of their first.

        Args:
            sets: Numbers of groups, no number twice.
        """
        target = np.arange(len(self.groups))
        for numbers in sets:
            target[list(numbers)] = min(numbers)
        kept, place = np.unique(target, return_inverse=True)
        groups = []
        for number in kept:
            parts = [group for group, other in zip(self.groups, target, strict=True) if other == number]
            counts = Counter[Slot]()
            for part in parts:
                counts.update(dict(part.slots))
            reason = next((part.frozen for part in parts if part.frozen), "")
            groups.append(replace(parts[0], slots=tuple(counts.items()), frozen=reason))
        renamed = np.append(place, -1)
        members = {slot: (renamed[numbers], ranks) for slot, (numbers, ranks) in self.members.items()}
        twins = {(int(renamed[a]), int(renamed[b])) for a, b in self.twins}
        return WidthGroups(tuple(groups), members, tuple(sorted((a, b) for a, b in twins if a != b)))

    def slots_of(self, numbers: Sequence[int]) -> set[Slot]:
        """Return the slots that hold channels of any of the groups."""
        return {slot for number in numbers for slot, _ in self.groups[number].slots}


def width_groups(
    model: nn.Module, example_input: Tensor, run: Callable[[nn.Module, Tensor], object] | None = None
) -> WidthGroups:
    """Return the width groups of a network.

    The network runs once, in evaluation mode and without gradients, on labels of its channels. What an operator does
    to channels is known for those that convolutional networks are made of; any other freezes the groups that it reads.
    That the groups are right is shown by running narrower networks: see `check_groups`.

    Args:
        model: The network.
        example_input: One batch that it can run, shape (N, C, H, W).
        run: How it runs; by default ``model(example_input)``.

    Raises:
        ValueError: The network does not run on such an input.

    Example::

        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
        >>> for group in width_groups(net, torch.zeros(1, 3, 8, 8)).groups:
        ...     print(group.name, group.size, len(group.slots), group.frozen)
        0 8 7
        3 4 2 it is an output of the network
    """
    with evaluating(model), module_paths(model) as paths, Labeller(model, example_input, paths, apply_rule) as labeller:
        result = model(example_input) if run is None else run(model, example_input)
    labeller.freeze_outputs(result)
    channels = labeller.found.channels
    slots = {slot: channels.find(labels).numpy() for slot, labels in labeller.found.slots.items()}
    splits = [[channels.find(part).numpy() for part in parts] for parts in labeller.found.splits]
    return _grouped(slots, channels.frozen(), splits)


def _grouped(
    slots: Mapping[Slot, NDArray[np.int64]],
    frozen: Mapping[int, str],
    splits: Sequence[Sequence[NDArray[np.int64]]],
) -> WidthGroups:
    """Group the channels that have the same slots."""
    uses: dict[int, dict[Slot, int]] = {}
    for slot, labels in slots.items():
        for label, count in zip(*np.unique(labels[labels >= 0], return_counts=True), strict=True):
            uses.setdefault(int(label), {})[slot] = int(count)
    first = {label: place for place, label in enumerate(_in_order(slots.values()))}
    alike: dict[tuple[frozenset[tuple[Slot, int]], str], list[int]] = {}
    for label in sorted(uses, key=first.__getitem__):
        alike.setdefault((frozenset(uses[label].items()), frozen.get(label, "")), []).append(label)
    number_of = np.full(max(uses, default=-1) + 2, -1)
    rank_of = np.zeros_like(number_of)
    groups = []
    for number, ((counts, reason), alike_labels) in enumerate(alike.items()):
        number_of[alike_labels], rank_of[alike_labels] = number, np.arange(len(alike_labels))
        order = [(slot, count) for slot in slots for slot_, count in counts if slot_ == slot]
        groups.append(WidthGroup(_name([slot for slot, _ in order]), len(alike_labels), tuple(order), reason))
    members = {slot: (number_of[labels], rank_of[labels]) for slot, labels in slots.items()}
    twins = {
        pair
        for parts in splits
        for first_part, other in itertools.pairwise(parts)
        for pair in _twins(number_of, rank_of, first_part, other)
        if groups[pair[0]].size == groups[pair[1]].size
    }
    return WidthGroups(tuple(groups), members, tuple(sorted(twins)))


def _twins(
    number_of: NDArray[np.int64], rank_of: NDArray[np.int64], part: NDArray[np.int64], other: NDArray[np.int64]
) -> set[tuple[int, int]]:
    """Return the pairs of groups whose channels stand at the same indices of two parts, in the same order."""
    pairs = np.stack([number_of[part], number_of[other]], axis=1)
    aligned = rank_of[part] == rank_of[other]
    found = {(int(a), int(b)) for a, b in np.unique(pairs[aligned], axis=0) if a >= 0 <= b and a != b}
    broken = {(int(a), int(b)) for a, b in np.unique(pairs[~aligned], axis=0)}
    return found - broken


def _in_order(rows: Iterable[NDArray[np.int64]]) -> list[int]:
    seen: dict[int, None] = {}
    for row in rows:
        seen.update(dict.fromkeys(row[row >= 0].tolist()))
    return list(seen)


def _name(slots: Sequence[Slot]) -> str:
    """Return the module that writes a group first: the one whose weight has it as outputs."""
    written = [name for name, dim in slots if dim == 0 and name.endswith("weight")]
    return (written or [name for name, _ in slots])[0].rpartition(".")[0]
