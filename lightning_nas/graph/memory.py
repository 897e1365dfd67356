"""Memory of a network: parameters by sum, activations by what is live at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lightning_nas.graph.liveness import BRICKS, Layout, peak_values
from lightning_nas.graph.lower import lowered
from lightning_nas.graph.network import Network

__all__ = ["Dtype", "Memory", "network_memory"]

Dtype = Literal["int8", "fp16", "fp32"]

_VALUE_BYTES = {"int8": 1, "fp16": 2, "fp32": 4}
# Biases of int8 networks are added to accumulators of 32 bits.
_BIAS_BYTES = {"int8": 4, "fp16": 2, "fp32": 4}


@dataclass(frozen=True)
class Memory:
    """Memory of a network.

    Attributes:
        parameter_bytes: Weights and biases, after norms are folded, before any compression; of int8 networks 1 byte a
            weight and 4 a bias.
        peak_activation_bytes: Largest sum of live tensors.
    """

    parameter_bytes: int
    peak_activation_bytes: int


def network_memory(network: Network, dtype: Dtype = "int8", layout: Layout = BRICKS) -> Memory:
    """Return the memory of any network, by the liveness of its tensors over its order of execution.

    Args:
        network: What runs, and in which order.
        dtype: ``int8``, ``fp16`` or ``fp32``, of weights and activations.
        layout: How the device stores activations.

    Raises:
        ValueError: There is no such `dtype`.

    Example::

        >>> from lightning_nas.graph.network import chain
        >>> from lightning_nas.graph.subgraph import Subgraph
        >>> network_memory(chain([Subgraph("stem", 32, 32, 3, 16, 16, kernel=3, stride=2)]), "fp32")
        Memory(parameter_bytes=1792, peak_activation_bytes=28672)
    """
    if dtype not in _VALUE_BYTES:
        raise ValueError(f"`dtype` must be one of {', '.join(_VALUE_BYTES)}; got {dtype!r}.")
    network = lowered(network)
    layers = [operation.layer for operation in network.operations]
    weights, biases = sum(layer.num_weights for layer in layers), sum(layer.num_biases for layer in layers)
    parameter_bytes = weights * _VALUE_BYTES[dtype] + biases * _BIAS_BYTES[dtype]
    return Memory(parameter_bytes, peak_values(network, layout) * _VALUE_BYTES[dtype])
