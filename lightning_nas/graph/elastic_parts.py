"""`ElasticPart`: a priced part of a network, whose sizes are functions of the widths of few groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lightning_nas.graph.decompose import split
from lightning_nas.graph.elastic_network import ElasticNetwork
from lightning_nas.graph.fold import folded
from lightning_nas.graph.layer import Form
from lightning_nas.graph.subgraph import Subgraph

__all__ = ["ElasticPart", "cut_alike", "elastic_parts"]


@dataclass(frozen=True, eq=False)
class ElasticPart:
    """A subgraph at full width, and how its sizes follow the groups that it reads and writes.

    Attributes:
        whole: The subgraph at full width.
        gains: For each group that it depends on, what one channel of the group adds to the input, hidden and output
            channels, to the groups of a convolution and to the values of constants, shape (5,).
        sizes: Full width of each of these groups.
    """

    whole: Subgraph
    gains: Mapping[int, NDArray[np.int64]]
    sizes: Mapping[int, int]

    def at(self, widths: Mapping[int, int]) -> Subgraph:
        """Return the subgraph at other widths; groups that are not named have their full width."""
        values = _values(self.whole)
        for group, gain in self.gains.items():
            values = values - (self.sizes[group] - widths.get(group, self.sizes[group])) * gain
        return _with_values(self.whole, values)


def elastic_parts(network: ElasticNetwork) -> list[ElasticPart]:
    """Cut a network into priced parts, in order of execution, each with the groups that its sizes depend on.

    The network is cut once at full width, and once more for each group at half of its width: sizes are affine in the
    widths, so two points give them all.

    Args:
        network: The network, with its groups.

    Raises:
        ValueError: A network of another width is cut otherwise, see `cut_alike`.

    Example::

        >>> import torch
        >>> from torch import nn
        >>> from lightning_nas.graph.elastic_network import elastic_network
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1))
        >>> parts = elastic_parts(elastic_network(net, torch.zeros(1, 3, 16, 16)))
        >>> [sorted(part.gains) for part in parts], parts[1].at({0: 6, 1: 12}).in_channels
        ([[0], [0, 1], [1]], 6)
    """
    whole = _cut(network, {})
    gains: list[dict[int, NDArray[np.int64]]] = [{} for _ in whole]
    sizes = {number: network.groups.groups[number].size for number in network.groups.open}
    for number, size in sizes.items():
        step = size - size // 2
        narrower = _cut(network, {number: size // 2})
        if not _are_alike(whole, narrower):
            raise ValueError(
                f"At another width of {network.groups.groups[number].name!r} the network is cut into other parts."
            )
        for part, other, found in zip(whole, narrower, gains, strict=True):
            gain, rest = np.divmod(_values(part) - _values(other), step)
            if rest.any():
                raise ValueError(f"Sizes of {part} are not affine in the width of group {number}.")
            if gain.any():
                found[number] = gain
    return [
        ElasticPart(part, found, {number: sizes[number] for number in found})
        for part, found in zip(whole, gains, strict=True)
    ]


def cut_alike(network: ElasticNetwork) -> ElasticNetwork:
    """Return the network with those groups frozen whose half width is cut into other parts.

    A convolution of two groups is a dense one at half of its width, and may be fused with what follows.

    Args:
        network: The network, with its groups.
    """
    whole, groups = _cut(network, {}), list(network.groups.groups)
    for number in network.groups.open:
        if not _are_alike(whole, _cut(network, {number: groups[number].size // 2})):
            groups[number] = replace(groups[number], frozen="the network is cut into other parts at other widths")
    return replace(network, groups=replace(network.groups, groups=tuple(groups)))


def _are_alike(parts: Sequence[Subgraph], others: Sequence[Subgraph]) -> bool:
    return [_form_of(part) for part in parts] == [_form_of(part) for part in others]


def _cut(network: ElasticNetwork, widths: Mapping[int, int]) -> list[Subgraph]:
    return split(folded(network.at(widths)))


def _form_of(part: Subgraph) -> tuple[object, ...]:
    """Return what a part is, whatever its channels."""
    form = part.form and replace(part.form, groups=1, num_values=0)
    return part.kind, part.height, part.width, part.kernel, part.stride, part.residual, form


def _values(part: Subgraph) -> NDArray[np.int64]:
    form = part.form or Form((1, 1))
    channels = (part.in_channels, part.hidden_channels, part.out_channels)
    return np.array([*channels, form.groups, form.num_values], dtype=np.int64)


def _with_values(part: Subgraph, values: Sequence[int] | NDArray[np.int64]) -> Subgraph:
    inner, hidden, outer, groups, num_values = (int(value) for value in values)
    form = part.form and replace(part.form, groups=groups, num_values=num_values)
    return replace(part, in_channels=inner, hidden_channels=hidden, out_channels=outer, form=form)
