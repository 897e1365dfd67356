"""Price by the closed form of an array: no chip, no compiler and no table is needed."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_nas.estimator.analytic import AnalyticArray
from lightning_nas.estimator.device import Device
from lightning_nas.estimator.measurements import Figures
from lightning_nas.graph.layer import Layer
from lightning_nas.graph.network import Network
from lightning_nas.graph.subgraph import Subgraph

__all__ = ["Measure"]


class Measure:
    """Prices layers by an `AnalyticArray`, whose arguments but the lanes are the settings of the device.

    Raises:
        ValueError: The settings describe no array.
    """

    def __init__(self, device: Device) -> None:
        self._array = AnalyticArray.of(device)

    def measure_subgraph(self, subgraph: Subgraph) -> dict[Subgraph, Figures]:
        """Price the operators of a subgraph."""
        return {operator: self._figures(operator.layers) for operator in subgraph.operators}

    def measure_network(self, network: Network | Sequence[Subgraph]) -> Figures:
        """Price a whole network."""
        if isinstance(network, Network):
            return self._figures([operation.layer for operation in network.operations])
        return self._figures([layer for part in network for layer in part.layers])

    def versions(self) -> dict[str, str]:
        """Return the array."""
        return {"array": str(self._array)}

    def _figures(self, layers: Sequence[Layer]) -> Figures:
        return Figures(sum(self._array.latency_ms(layer) for layer in layers))
