"""Writers of width groups: the modules whose outputs are all channels of a group."""

from __future__ import annotations

from lightning_nas.graph.elastic_network import ElasticNetwork

__all__ = ["writers_of"]

_WRITING = ("conv", "transposed_conv", "linear")


def writers_of(network: ElasticNetwork) -> dict[int, list[str]]:
    """Return for each width group the modules that give its channels: norms, or convolutions that none follows.

    Args:
        network: The network, with its groups.

    Example::

        >>> import torch
        >>> from torch import nn
        >>> from lightning_nas.graph.elastic_network import elastic_network
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
        >>> writers_of(elastic_network(net, torch.zeros(1, 3, 8, 8)))
        {0: ['1'], 1: ['3']}
    """
    operations = network.network.operations
    readers: dict[int, list[int]] = {}
    for number, operation in enumerate(operations):
        for source in operation.inputs:
            readers.setdefault(source, []).append(number)
    found: dict[int, dict[str, None]] = {}
    for number, (operation, (_, result)) in enumerate(zip(operations, network.counts, strict=True)):
        if operation.layer.operator in _WRITING and len(result.gains) == 1 and not result.constant:
            behind = readers.get(number, [])
            norm = operations[behind[0]] if len(behind) == 1 else operation
            path = norm.path if norm.layer.operator == "norm" else operation.path
            found.setdefault(result.gains[0][0], {})[path] = None
    return {group: list(paths) for group, paths in found.items()}
