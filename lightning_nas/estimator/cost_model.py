"""`CostModel`: the protocol of what says how much networks cost, for an `Estimator` or a model of your own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lightning_nas.graph.memory import Memory
from lightning_nas.graph.subgraph import Subgraph
from lightning_nas.space.architecture import Architecture

__all__ = ["CostModel", "Named"]


class Named(Protocol):
    """A device, as far as a search must know it."""

    @property
    def name(self) -> str:
        """Name of the device, for messages and records."""
        ...


@runtime_checkable
class CostModel(Protocol):
    """Prices networks on one device. `Estimator` is one; a search takes any object with these attributes.

    A search solves for the architecture whose parts cost least, so the latency of a network must be the sum of the
    latencies of its subgraphs: ``latency_ms(architecture)`` must equal ``predict_ms(subgraphs(architecture)).sum()``,
    with `lightning_nas.estimator.subgraphs`. What is no such sum belongs in `verify_ms`.

    Example::

        >>> from lightning_nas.estimator import Device, subgraphs
        >>> class Macs:
        ...     "A device on which a million multiply-accumulates take one millisecond."
        ...
        ...     device, lanes = Device("mac_counter", "csv", lanes=8), 8
        ...
        ...     def predict_ms(self, subgraphs):
        ...         return np.array([1e-6 * part.macs for part in subgraphs])
        ...
        ...     def latency_ms(self, network):
        ...         return float(self.predict_ms(subgraphs(network)).sum())
        ...
        ...     def memory(self, network):
        ...         parts = subgraphs(network)
        ...         return Memory(
        ...             sum(part.parameter_bytes for part in parts), max(part.peak_activation_bytes for part in parts)
        ...         )
        ...
        ...     def verify_ms(self, network):
        ...         return None
        >>> isinstance(Macs(), CostModel)
        True
    """

    @property
    def device(self) -> Named:
        """The device that networks are priced on."""
        ...

    @property
    def lanes(self) -> int:
        """Channels that the device processes together; other widths than its multiples waste some of them."""
        ...

    def predict_ms(self, subgraphs: Sequence[Subgraph], /) -> NDArray[np.float64]:
        """Return the latency of each subgraph in milliseconds.

        Cost tables call this once for all parts of a search space, thousands of them.

        Args:
            subgraphs: Parts of networks, with their sizes.
        """
        ...

    def latency_ms(self, network: Architecture, /) -> float:
        """Return the latency of a whole network in milliseconds, for one image: the sum over its subgraphs.

        Args:
            network: An architecture of the search space.
        """
        ...

    def memory(self, network: Architecture, /) -> Memory:
        """Return the bytes of the parameters of a network and of its largest sum of live activations.

        Args:
            network: An architecture of the search space.
        """
        ...

    def verify_ms(self, network: Architecture, /) -> float | None:
        """Return the latency of a whole network as a compiler or a clock measures it; None where neither is here.

        A search drops architectures whose measured latency is over the budget. It asks for the same architecture
        several times: keep what takes long.

        Args:
            network: An architecture of the search space.
        """
        ...
