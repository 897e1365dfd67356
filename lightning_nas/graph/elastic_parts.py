"""`ElasticPart`: a priced part of a network, whose sizes are functions of few widths, and which few choices have."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lightning_nas.graph.decompose import runs_of, subgraph_of
from lightning_nas.graph.elastic_network import Counts, ElasticNetwork, Key, resized
from lightning_nas.graph.fold import folded, folded_with_numbers
from lightning_nas.graph.layer import Layer
from lightning_nas.graph.network import Operation
from lightning_nas.graph.structures import Dependence, Structures, dependences
from lightning_nas.graph.subgraph import Subgraph, SubgraphKind

__all__ = ["ElasticPart", "cut_alike", "elastic_parts"]


@dataclass(frozen=True)
class _Place:
    """A subgraph as it stands in a network: what it is made of, and which operations these are."""

    kind: SubgraphKind | None
    layers: tuple[tuple[Layer, Counts], ...]
    keys: tuple[Key, ...]
    path: str


@dataclass(frozen=True)
class ElasticPart:
    """A subgraph at any widths, and the choices that have it.

    Attributes:
        kind: What it is made of, or None for a single operator.
        layers: Its layers at full width with their channels.
        sizes: The full width of each group of the network.
        path: Path of its first module.
        dependence: The choices that it depends on, and whether their combinations have it (1) or not (None).
    """

    kind: SubgraphKind | None
    layers: tuple[tuple[Layer, Counts], ...]
    sizes: tuple[int, ...]
    path: str
    dependence: Dependence[int]

    @property
    def groups(self) -> tuple[int, ...]:
        """Numbers of the groups that its sizes depend on, ascending."""
        return tuple(sorted({group for _, counts in self.layers for count in counts for group, _ in count.gains}))

    def at(self, widths: Sequence[int]) -> Subgraph:
        """Return the subgraph at the widths of all groups."""
        layers = (resized(layer, counts, widths, self.sizes) for layer, counts in self.layers)
        return subgraph_of(self.kind, [Operation(layer, (), self.path) for layer in layers])


def elastic_parts(structures: Structures) -> list[ElasticPart]:
    """Cut a network into priced parts, in order of execution, and those of its alternatives.

    The cost of a member is the sum over the parts that its choices have.

    Args:
        structures: The network and its alternatives; at all widths it is cut into the same parts, see `cut_alike`.

    Example::

        >>> import torch
        >>> from torch import nn
        >>> from lightning_nas.graph.elastic_network import elastic_network
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1))
        >>> parts = elastic_parts(Structures(elastic_network(net, torch.zeros(1, 3, 16, 16)), ()))
        >>> [part.groups for part in parts], parts[1].at((6, 12, 4)).in_channels
        ([(0,), (0, 1), (1, 2)], 6)
    """
    found = dependences(structures, _places, lambda place: (number for number, _ in place.keys))
    ordered = sorted(found, key=lambda place: place.keys)
    sizes = structures.network.sizes
    return [ElasticPart(place.kind, place.layers, sizes, place.path, found[place]) for place in ordered]


def cut_alike(network: ElasticNetwork) -> ElasticNetwork:
    """Return the network with those groups frozen whose half width is cut into other parts.

    A convolution of two groups is a dense one at half of its width, and may be fused with what follows.

    Args:
        network: The network, with its groups.
    """
    grouped = {
        group
        for operation, counts in zip(network.network.operations, network.counts, strict=True)
        # What has no groups of its own is the same at all widths.
        if operation.layer.operator == "conv" and operation.layer.form is not None and operation.layer.form.groups > 1
        for count in counts
        for group in count.groups
    }
    reasons = {}
    whole = _forms(network, network.sizes)
    for number in set(network.open) & grouped:
        half = tuple(size // 2 if n == number else size for n, size in enumerate(network.sizes))
        if _forms(network, half) != whole:
            reasons[number] = "the network is cut into other parts at other widths"
    return network.freezing(reasons)


def _places(network: ElasticNetwork) -> Mapping[_Place, int]:
    plain, numbers = folded_with_numbers(network.network)
    found = {}
    for kind, run in runs_of(plain):
        layers = tuple((plain.operations[n].layer, network.counts[numbers[n]]) for n in run)
        keys = tuple(network.keys[numbers[n]] for n in run)
        found[_Place(kind, layers, keys, plain.operations[run[0]].path)] = 1
    return found


def _forms(network: ElasticNetwork, widths: Sequence[int]) -> list[tuple[object, ...]]:
    """Return what each part of a network is, whatever its channels."""
    plain = folded(network.at(widths))
    return [
        (kind, *itertools.chain(*(_form(plain.operations[number].layer) for number in run)))
        for kind, run in runs_of(plain)
    ]


def _form(layer: Layer) -> tuple[object, ...]:
    form = layer.form and replace(layer.form, groups=1, num_values=0)
    return layer.operator, layer.height, layer.width, layer.kernel, layer.stride, form
