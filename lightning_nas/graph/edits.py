"""Edits of a network as data: operations that stand in the place of others, and operations that are left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lightning_nas.graph.elastic_network import Counts, ElasticNetwork, Key
from lightning_nas.graph.network import IMAGE, Operation

__all__ = ["Edit", "Link", "edited"]


@dataclass(frozen=True)
class Link:
    """An operation that stands in the place of another.

    Attributes:
        operation: What runs; its inputs are not read: it takes the result of the link before it.
        counts: Its channels.
    """

    operation: Operation
    counts: Counts


@dataclass(frozen=True)
class Edit:
    """A change of a network.

    Attributes:
        chains: By the number of an operation, what stands in its place: each reads the one before, and the first what
            the operation read.
        bypassed: Operations that are left out, each with the one whose result is taken in its place.
        removed: Operations that are left out and whose results nobody reads then.
    """

    chains: Mapping[int, tuple[Link, ...]] = field(default_factory=dict)
    bypassed: Mapping[int, int] = field(default_factory=dict)
    removed: frozenset[int] = frozenset()


def edited(network: ElasticNetwork, edits: Sequence[Edit]) -> ElasticNetwork:
    """Return a source network with changes; what one leaves out is left out, whatever another puts there.

    Args:
        network: The network as it was read.
        edits: The changes; no two put something in the place of the same operation.

    Example::

        >>> import torch
        >>> from torch import nn
        >>> from lightning_nas.graph.elastic_network import elastic_network
        >>> net = elastic_network(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), torch.zeros(1, 3, 8, 8))
        >>> [op.layer.operator for op in edited(net, [Edit(bypassed={1: 0})]).network.operations]
        ['conv']
    """
    chains = {number: chain for edit in edits for number, chain in edit.chains.items()}
    bypassed = {number: source for edit in edits for number, source in edit.bypassed.items()}
    removed = frozenset[int]().union(*(edit.removed for edit in edits))
    if not (chains or bypassed or removed):
        return network
    places = {IMAGE: IMAGE}
    operations: list[Operation] = []
    counts: list[Counts] = []
    keys: list[Key] = []
    for number, (operation, own) in enumerate(zip(network.network.operations, network.counts, strict=True)):
        if number in bypassed:
            places[number] = places[bypassed[number]]
            continue
        if number in removed:
            continue
        links = chains.get(number, (Link(operation, own),))
        inputs = tuple(places[source] for source in operation.inputs)
        for place, link in enumerate(links):
            operations.append(replace(link.operation, inputs=inputs))
            counts.append(link.counts)
            keys.append((number, place))
            inputs = (len(operations) - 1,)
        places[number] = len(operations) - 1
    outputs = tuple(dict.fromkeys(places[number] for number in network.network.outputs))
    plain = replace(network.network, operations=tuple(operations), outputs=outputs)
    return ElasticNetwork(plain, network.widths, tuple(counts), tuple(keys))
