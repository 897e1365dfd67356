"""`ElasticNetwork`: a network as data, at any widths of its groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_nas.graph.eval_mode import evaluating
from lightning_nas.graph.label_rules import apply_rule
from lightning_nas.graph.labelling import Labeller
from lightning_nas.graph.layer import Form, Layer
from lightning_nas.graph.module_paths import module_paths
from lightning_nas.graph.network import Network
from lightning_nas.graph.width_groups import WidthGroups, groups_of

__all__ = ["ChannelCount", "ElasticNetwork", "elastic_network"]

_BY_OUTPUT = ("add", "mul", "concat", "activation", "norm")
"""Operators whose input channels a `Layer` counts as those of their output."""


@dataclass(frozen=True, eq=False)
class ChannelCount:
    """The channels of a tensor, as a function of the widths of groups.

    Attributes:
        constant: Channels that belong to no group.
        ranks: For each group with channels in the tensor, the rank of each of them within the group, ascending.
    """

    constant: int
    ranks: Mapping[int, NDArray[np.int64]]

    def at(self, widths: Mapping[int, int]) -> int:
        """Return the channels at some widths; groups that are not named have their full width."""
        kept = (
            np.searchsorted(ranks, widths[group]) if group in widths else len(ranks)
            for group, ranks in self.ranks.items()
        )
        return self.constant + int(sum(kept))


@dataclass(frozen=True, eq=False)
class ElasticNetwork:
    """A network whose widths can be chosen, as data.

    Attributes:
        network: The network at full width, as it was traced: norms and activations on their own.
        groups: Its width groups.
        rows: For each operation the channels of its first input and of its output, by index; -1 for none.
    """

    network: Network
    groups: WidthGroups
    rows: tuple[tuple[NDArray[np.int64], NDArray[np.int64]], ...]

    @cached_property
    def counts(self) -> tuple[tuple[ChannelCount, ChannelCount], ...]:
        """For each operation the number of channels of its first input and of its output, as functions of widths."""
        return tuple((_count(self.groups, source), _count(self.groups, output)) for source, output in self.rows)

    def at(self, widths: Mapping[int, int]) -> Network:
        """Return the network at other widths, as tracing the narrower network would.

        Args:
            widths: For groups, by number, how many of their channels are kept; others have their full width.
        """
        operations = tuple(
            replace(operation, layer=_resized(operation.layer, source.at(widths), result.at(widths), result.at({})))
            for operation, (source, result) in zip(self.network.operations, self.counts, strict=True)
        )
        return replace(self.network, operations=operations)


def elastic_network(model: nn.Module, example_input: Tensor) -> ElasticNetwork:
    """Return a network as data, with its width groups, from one run in evaluation mode.

    Args:
        model: The network.
        example_input: One batch that it can run, shape (N, C, H, W); one image of it runs.

    Example::

        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
        >>> elastic = elastic_network(net, torch.zeros(1, 3, 8, 8))
        >>> [operation.layer.out_channels for operation in elastic.at({0: 6}).operations]
        [6, 6, 4]
    """
    image = example_input[:1]
    with evaluating(model), module_paths(model) as paths, Labeller(model, image, paths, apply_rule) as labeller:
        result = model(image)
    groups, find = groups_of(labeller, result), labeller.found.channels.find
    rows = tuple((find(source).numpy(), find(output).numpy()) for source, output in labeller.rows)
    _, channels, height, width = image.shape
    network = Network((height, width, channels), tuple(labeller.log.operations), labeller.log.outputs(result))
    return ElasticNetwork(network, groups, rows)


def _count(groups: WidthGroups, row: NDArray[np.int64]) -> ChannelCount:
    numbers, ranks = groups.places(row)
    inside = {int(number): np.sort(ranks[numbers == number]) for number in np.unique(numbers) if number >= 0}
    return ChannelCount(int((numbers < 0).sum()), inside)


def _resized(layer: Layer, num_in: int, num_out: int, full_out: int) -> Layer:
    """Return a layer with other channels, and a form that follows them."""
    # What has no model counts the channels of all its results.
    num_out *= max(1, layer.out_channels // max(1, full_out))
    num_in = num_out if layer.operator in _BY_OUTPUT else num_in
    form = layer.form and _resized_form(layer, layer.form, num_in, num_out)
    return replace(layer, in_channels=num_in, out_channels=num_out, form=form)


def _resized_form(layer: Layer, form: Form, num_in: int, num_out: int) -> Form:
    groups = form.groups
    if groups > 1:
        groups = num_in if groups == layer.in_channels else groups * num_out // layer.out_channels
    num_values = num_out if form.num_values == layer.out_channels else form.num_values
    return replace(form, groups=groups, num_values=num_values)
