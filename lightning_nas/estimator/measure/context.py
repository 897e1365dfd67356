"""A subgraph between neighbours, as it stands in a network."""

from __future__ import annotations

from lightning_nas.estimator.layer import Layer
from lightning_nas.estimator.network import IMAGE, Network, Operation, chain
from lightning_nas.estimator.subgraph import Subgraph

__all__ = ["in_context"]


def in_context(subgraph: Subgraph) -> tuple[Network, int]:
    """Return a network with a subgraph between pointwise convolutions, and the number of its first operation there.

    What is joined, added or multiplied comes from two such convolutions.

    Example::

        >>> network, first = in_context(Subgraph("mul", 8, 8, 16, 16, 16))
        >>> [operation.layer.operator for operation in network.operations], first
        (['conv', 'conv', 'mul', 'conv'], 2)
    """
    after = [] if subgraph.kind in ("head", "classifier") else [_pointwise(*subgraph.out_shape)]
    if subgraph.kind in ("add", "mul", "concat"):
        return _joined(subgraph, after)
    before = [] if subgraph.kind == "stem" else [_pointwise(subgraph.height, subgraph.width, subgraph.in_channels)]
    return chain([*before, subgraph, *after]), len(before)


def _joined(subgraph: Subgraph, after: list[Subgraph]) -> tuple[Network, int]:
    height, width, channels = subgraph.height, subgraph.width, subgraph.in_channels
    halves = (channels, channels)
    if subgraph.kind == "concat":
        halves = (-(-channels // 2), channels // 2)
    operations = [
        Operation(Layer("conv", height, width, channels, halves[0]), (IMAGE,), is_bounded=True),
        Operation(Layer("conv", height, width, halves[0], halves[1]), (0,), is_bounded=True),
    ]
    if subgraph.form is not None and subgraph.form.variant == "broadcast":
        operations.append(Operation(Layer("pool", height, width, channels, channels), (1,)))
    first = len(operations)
    operations.append(Operation(subgraph.layers[0], (0, first - 1)))
    operations.extend(Operation(part.layers[0], (first,), is_bounded=True) for part in after)
    return Network((height, width, channels), tuple(operations), (len(operations) - 1,)), first


def _pointwise(height: int, width: int, channels: int) -> Subgraph:
    return Subgraph("conv", height, width, channels, channels, channels)
