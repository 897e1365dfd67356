"""Subgraphs as runtimes of this machine run them, with the padding of their convolutions."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_nas.graph.layer import Layer
from lightning_nas.graph.network import IMAGE, Network, Operation, chain
from lightning_nas.graph.subgraph import Subgraph

__all__ = ["as_network", "joins_rows", "lone", "paddings"]


def as_network(network: Network | Sequence[Subgraph]) -> Network:
    """Return a network as it is, or a chain of subgraphs as one."""
    return network if isinstance(network, Network) else chain(network)


def lone(subgraph: Subgraph) -> Network:
    """Return a network of one subgraph.

    What is joined or multiplied is the image twice. An addition or a product with a single input has a constant as its
    other operand: that is how something is added that comes from elsewhere.

    Example::

        >>> lone(Subgraph("ds", 8, 8, 16, 16, 24, 3, residual=True)).operations[-1].inputs
        (1,)
    """
    shape = (subgraph.height, subgraph.width, subgraph.in_channels)
    layers = subgraph.layers
    if subgraph.kind == "concat":
        rows = joins_rows(layers[0])
        shape = (shape[0] // 2, *shape[1:]) if rows else (*shape[:2], shape[2] // 2)
        return Network(shape, (Operation(layers[0], (IMAGE, IMAGE), subgraph.path),), (0,))
    if subgraph.kind in ("add", "mul"):
        broadcast = layers[0].form is not None and layers[0].form.variant == "broadcast"
        inputs = (IMAGE,) if broadcast else (IMAGE, IMAGE)
        return Network(shape, (Operation(layers[0], inputs, subgraph.path),), (0,))
    if subgraph.residual and subgraph.out_shape != shape:
        bounded = [number < len(layers) - 1 for number in range(len(layers))]
        operations = tuple(
            Operation(layer, (number - 1,), subgraph.path, bounded[number]) for number, layer in enumerate(layers)
        )
        return Network(shape, operations, (len(layers) - 1,))
    return chain([subgraph])


def paddings(layer: Layer) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the rows that are added above and below the input of a convolution or a pool, and the columns beside it.

    Example::

        >>> paddings(Layer("conv", 8, 8, 16, 16, kernel=3, stride=2))
        ((1, 1), (1, 1))
    """
    step = layer.form.step if layer.form is not None else (layer.stride, layer.stride)
    dilation = layer.form.dilation if layer.form is not None else 1
    sizes, outs = (layer.height, layer.width), layer.out_shape[:2]
    first, second = (_padding(*values, dilation) for values in zip(sizes, outs, layer.window, step, strict=True))
    return first, second


def joins_rows(layer: Layer) -> bool:
    """Return whether a concatenation joins rows, as heads of detectors are joined, and not channels."""
    return layer.width == 1


def _padding(size: int, out: int, window: int, step: int, dilation: int) -> tuple[int, int]:
    span = (window - 1) * dilation + 1
    half = span // 2
    # What frameworks add, where that results in the size that was seen.
    if (size + 2 * half - span) // step + 1 == out:
        return half, half
    # As TensorFlow pads: what is odd comes behind.
    missing = max(0, (out - 1) * step + span - size)
    return missing // 2, missing - missing // 2
