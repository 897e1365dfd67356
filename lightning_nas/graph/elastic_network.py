"""`ElasticNetwork`: a network as data, at any widths of its groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_nas.graph.detector import without_detection
from lightning_nas.graph.eval_mode import undisturbed
from lightning_nas.graph.label_rules import apply_rule
from lightning_nas.graph.labelling import Labeller
from lightning_nas.graph.layer import Form, Layer
from lightning_nas.graph.module_paths import module_paths
from lightning_nas.graph.network import Network
from lightning_nas.graph.width_groups import WidthGroups, groups_of

__all__ = ["ChannelCount", "ElasticNetwork", "ElasticWidth", "elastic_network", "read_network", "resized"]

_BY_OUTPUT = ("add", "mul", "concat", "activation", "norm")
"""Operators whose input channels a `Layer` counts as those of their output."""

_PARTIAL = "a tensor lays its channels out in a way that cannot be priced"

Key = tuple[int, int]
"""An operation: its number in the source network, and which it is of those that stand in its place."""


@dataclass(frozen=True)
class ElasticWidth:
    """The width of a group of channels, see `WidthGroup`.

    Attributes:
        name: The module that writes the channels first.
        size: Its full width.
        frozen: Why it cannot be chosen; empty where it can.
    """

    name: str
    size: int
    frozen: str = ""

    @property
    def is_open(self) -> bool:
        """Whether it can be chosen."""
        return not self.frozen and self.size > 1


@dataclass(frozen=True)
class ChannelCount:
    """The channels of a tensor, as an affine function of widths.

    Attributes:
        constant: Channels that belong to no group.
        gains: Numbers of groups, each with the channels that the tensor has for one channel of the group.
    """

    constant: int
    gains: tuple[tuple[int, int], ...] = ()

    def at(self, widths: Sequence[int]) -> int:
        """Return the channels at the widths of all groups."""
        return self.constant + sum(gain * widths[group] for group, gain in self.gains)

    @property
    def groups(self) -> tuple[int, ...]:
        """Numbers of the groups that it depends on."""
        return tuple(group for group, _ in self.gains)


Counts = tuple[ChannelCount, ChannelCount]
"""Channels of the first input of an operation, and of its output."""


@dataclass(frozen=True)
class ElasticNetwork:
    """A network whose widths can be chosen, as data.

    Attributes:
        network: The network at full width, as it was traced: norms and activations on their own.
        widths: The widths of its groups.
        counts: For each operation the channels of its first input and of its output.
        keys: For each operation what it is in the source network.
    """

    network: Network
    widths: tuple[ElasticWidth, ...]
    counts: tuple[Counts, ...]
    keys: tuple[Key, ...]

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The full width of each group."""
        return tuple(width.size for width in self.widths)

    @cached_property
    def open(self) -> tuple[int, ...]:
        """Numbers of the groups whose widths can be chosen."""
        return tuple(number for number, width in enumerate(self.widths) if width.is_open)

    @cached_property
    def units(self) -> tuple[int, ...]:
        """For each group the channels that the first tensor with it has for one of its width."""
        found: dict[int, int] = {}
        for _, result in self.counts:
            for group, gain in result.gains:
                found.setdefault(group, gain)
        return tuple(found.get(group, 1) for group in range(len(self.widths)))

    def at(self, widths: Sequence[int]) -> Network:
        """Return the network at the widths of all groups, as tracing the narrower network would."""
        changed = {number for number, (size, width) in enumerate(zip(self.sizes, widths, strict=True)) if size != width}
        operations = tuple(
            replace(operation, layer=resized(operation.layer, counts, widths, self.sizes))
            if any(group in changed for count in counts for group, _ in count.gains)
            else operation
            for operation, counts in zip(self.network.operations, self.counts, strict=True)
        )
        return replace(self.network, operations=operations)

    def freezing(self, reasons: Mapping[int, str]) -> ElasticNetwork:
        """Return the network with further groups that keep their widths, by number with the reason."""
        found = enumerate(self.widths)
        widths = tuple(replace(w, frozen=w.frozen or reasons.get(number, "")) for number, w in found)
        return replace(self, widths=widths)


def elastic_network(model: nn.Module, example_input: Tensor) -> ElasticNetwork:
    """Return a network as data, with its width groups, from one run in evaluation mode.

    Args:
        model: The network.
        example_input: One batch that it can run, shape (N, C, H, W); one image of it runs.

    Example::

        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
        >>> elastic = elastic_network(net, torch.zeros(1, 3, 8, 8))
        >>> [operation.layer.out_channels for operation in elastic.at((6, 4)).operations]
        [6, 6, 4]
    """
    return read_network(model, example_input)[0]


def read_network(model: nn.Module, example_input: Tensor) -> tuple[ElasticNetwork, WidthGroups]:
    """Return a network as data, and its width groups with the parameters that have their channels.

    Args:
        model: The network.
        example_input: One batch that it can run, shape (N, C, H, W); one image of it runs.
    """
    image = example_input[:1]
    with undisturbed(model), module_paths(model) as paths, Labeller(model, image, paths, apply_rule) as labeller:
        result = without_detection(model)(image)
    groups, find = groups_of(labeller, result), labeller.found.channels.find
    partial: dict[int, str] = {}
    counts = tuple(
        (_count(groups, find(source).numpy(), partial), _count(groups, find(output).numpy(), partial))
        for source, output in labeller.rows
    )
    widths = tuple(ElasticWidth(group.name, group.size, group.frozen) for group in groups.groups)
    _, channels, height, width = image.shape
    operations = tuple(labeller.log.operations)
    network = Network((height, width, channels), operations, labeller.log.outputs(result))
    elastic = ElasticNetwork(network, widths, counts, tuple((number, 0) for number in range(len(operations))))
    return elastic.freezing(partial), groups.freezing(partial)


def resized(layer: Layer, counts: Counts, widths: Sequence[int], sizes: Sequence[int]) -> Layer:
    """Return a layer at other widths, and a form that follows them.

    Args:
        layer: The layer at full width.
        counts: Its channels.
        widths: The width of each group.
        sizes: The full width of each group.
    """
    num_in, num_out = (count.at(widths) for count in counts)
    # What has no model counts the channels of all its results.
    num_out *= max(1, layer.out_channels // max(1, counts[1].at(sizes)))
    num_in = num_out if layer.operator in _BY_OUTPUT else num_in
    form = layer.form and _resized_form(layer, layer.form, num_in, num_out)
    return replace(layer, in_channels=num_in, out_channels=num_out, form=form)


def _count(groups: WidthGroups, row: NDArray[np.int64], partial: dict[int, str]) -> ChannelCount:
    numbers, ranks = groups.places(row)
    gains = []
    for number in np.unique(numbers[numbers >= 0]).tolist():
        found = np.bincount(ranks[numbers == number], minlength=groups.groups[number].size)
        if found.min() == found.max():
            gains.append((number, int(found.max())))
        else:
            partial[number] = _PARTIAL
    constant = len(row) - sum(gain * groups.groups[number].size for number, gain in gains)
    return ChannelCount(constant, tuple(gains))


def _resized_form(layer: Layer, form: Form, num_in: int, num_out: int) -> Form:
    groups = form.groups
    if groups > 1:
        groups = num_in if groups == layer.in_channels else groups * num_out // layer.out_channels
    num_values = num_out if form.num_values == layer.out_channels else form.num_values
    return replace(form, groups=groups, num_values=num_values)
