"""Width groups: channels of several parameters that must stay equal in number, found by running the network once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_nas.graph.detector import without_detection
from lightning_nas.graph.eval_mode import undisturbed
from lightning_nas.graph.label_rules import apply_rule
from lightning_nas.graph.labelling import Labeller, Slot
from lightning_nas.graph.module_paths import module_paths

__all__ = ["WidthGroup", "WidthGroups", "groups_of", "width_groups"]


@dataclass(frozen=True)
class WidthGroup:
    """Channels that are kept or left out together, in all parameters that have them.

    Attributes:
        name: The module that writes it first. Where a module writes several groups, which are split or joined
            otherwise behind it, the second is `module[1]`, and so on, in the order of their channels.
        size: Its full width. Channels that a grouped convolution keeps together count as one.
        slots: The dimensions of parameters that hold its channels, each with its channels a unit of `size`.
        frozen: Why its width cannot be chosen; empty where it can.
    """

    name: str
    size: int
    slots: tuple[tuple[Slot, int], ...]
    frozen: str = ""


@dataclass(frozen=True, eq=False)
class WidthGroups:
    """The width groups of a network.

    Attributes:
        groups: The groups, in order of execution.
        slots: For each slot the channel of each of its indices, -1 for none.
        number_of: For each channel the number of its group, -1 for none.
        rank_of: For each channel its rank within the group.
    """

    groups: tuple[WidthGroup, ...]
    slots: Mapping[Slot, NDArray[np.int64]]
    number_of: NDArray[np.int64]
    rank_of: NDArray[np.int64]

    @property
    def open(self) -> tuple[int, ...]:
        """Numbers of the groups whose widths can be chosen."""
        return tuple(n for n, group in enumerate(self.groups) if not group.frozen and group.size > 1)

    def freezing(self, reasons: Mapping[int, str]) -> WidthGroups:
        """Return the groups with further ones that keep their widths, by number with the reason."""
        found = enumerate(self.groups)
        groups = tuple(replace(group, frozen=group.frozen or reasons.get(number, "")) for number, group in found)
        return replace(self, groups=groups)

    def kept(self, slot: Slot, widths: Mapping[int, int]) -> NDArray[np.int64]:
        """Return the indices of a slot that stay.

        Args:
            slot: The slot.
            widths: The width of each group that is narrowed, by its number: its leading channels stay.
        """
        numbers, ranks = self.places(self.slots[slot])
        limits = np.array([widths.get(n, group.size) for n, group in enumerate(self.groups)] + [1])
        return np.flatnonzero(ranks < limits[numbers])

    def places(self, channels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return for channels, -1 for none, the number of the group and the rank within it; -1 and 0 for no group."""
        # The last entry of both is that of no channel.
        return self.number_of[channels], self.rank_of[channels]

    def slots_of(self, numbers: Sequence[int]) -> set[Slot]:
        """Return the slots that hold channels of any of the groups."""
        return {slot for number in numbers for slot, _ in self.groups[number].slots}


def width_groups(model: nn.Module, example_input: Tensor) -> WidthGroups:
    """Return the width groups of a network.

    The network runs once, in evaluation mode and without gradients, on labels of its channels. What an operator does
    to channels is known for those that convolutional networks are made of; any other freezes the groups that it reads.
    That the groups are right is shown by running narrower networks: see `checked_groups`.

    Args:
        model: The network.
        example_input: One batch that it can run, shape (N, C, H, W).

    Raises:
        ValueError: The network does not run on such an input.

    Example::

        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
        >>> for group in width_groups(net, torch.zeros(1, 3, 8, 8)).groups:
        ...     print(f"{group.name}: {group.size}, {len(group.slots)} slots, {group.frozen or 'open'}")
        0: 8, 7 slots, open
        3: 4, 2 slots, it is an output of the network
    """
    with (
        undisturbed(model),
        module_paths(model) as paths,
        Labeller(model, example_input, paths, apply_rule) as labeller,
    ):
        result = without_detection(model)(example_input)
    return groups_of(labeller, result)


def groups_of(labeller: Labeller, result: object) -> WidthGroups:
    """Return the width groups that a run on labels has found.

    Args:
        labeller: The labels of the run.
        result: What the network returned.
    """
    labeller.freeze_outputs(result)
    labeller.freeze_shared()
    channels = labeller.found.channels
    slots = {slot: channels.find(labels).numpy() for slot, labels in labeller.found.slots.items()}
    return _grouped(slots, channels.frozen(), len(channels))


def _grouped(slots: Mapping[Slot, NDArray[np.int64]], frozen: Mapping[int, str], num_channels: int) -> WidthGroups:
    """Group the channels that have the same slots."""
    uses: dict[int, dict[Slot, int]] = {}
    for slot, labels in slots.items():
        for label, count in zip(*np.unique(labels[labels >= 0], return_counts=True), strict=True):
            uses.setdefault(int(label), {})[slot] = int(count)
    first = {label: place for place, label in enumerate(_in_order(slots.values()))}
    alike: dict[tuple[frozenset[tuple[Slot, int]], str], list[int]] = {}
    for label in sorted(uses, key=first.__getitem__):
        alike.setdefault((frozenset(uses[label].items()), frozen.get(label, "")), []).append(label)
    number_of = np.full(num_channels + 1, -1)
    rank_of = np.zeros_like(number_of)
    groups: list[WidthGroup] = []
    names: Counter[str] = Counter()
    for number, ((counts, reason), alike_labels) in enumerate(alike.items()):
        number_of[alike_labels], rank_of[alike_labels] = number, np.arange(len(alike_labels))
        order = [(slot, count) for slot in slots for slot_, count in counts if slot_ == slot]
        name = _name([slot for slot, _ in order])
        unique = f"{name}[{names[name]}]" if names[name] else name
        names[name] += 1
        groups.append(WidthGroup(unique, len(alike_labels), tuple(order), reason))
    return WidthGroups(tuple(groups), slots, number_of, rank_of)


def _in_order(rows: Iterable[NDArray[np.int64]]) -> list[int]:
    seen: dict[int, None] = {}
    for row in rows:
        seen.update(dict.fromkeys(row[row >= 0].tolist()))
    return list(seen)


def _name(slots: Sequence[Slot]) -> str:
    """Return the module that writes a group first: the one whose weight has it as outputs."""
    written = [name for name, dim in slots if dim == 0 and name.endswith("weight")]
    return (written or [name for name, _ in slots])[0].rpartition(".")[0]
