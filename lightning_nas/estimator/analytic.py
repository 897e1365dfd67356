"""Closed forms of arrays of multiply-accumulates, for chips of which nothing but a data sheet exists."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from lightning_nas.estimator.device import ANALYTIC, Device
from lightning_nas.graph.layer import Layer
from lightning_nas.io.numbers import check_number
from lightning_nas.io.reading import JsonObject

__all__ = ["AnalyticArray", "Dataflow", "systolic_cycles"]

Dataflow = Literal["tiled", "output_stationary", "weight_stationary", "input_stationary"]
"""``tiled``: lanes x lanes channels of a tile of pixels at once; the others are those of systolic arrays."""

_POOLS = ("pool", "avg_pool", "max_pool")


@dataclass(frozen=True)
class AnalyticArray:
    """An array of multiply-accumulates and a memory beside it; whichever takes longer for a layer is its latency.

    ``tiled`` arrays take ``lanes`` input and output channels of ``rows`` x ``columns`` pixels in each cycle. Against
    ZigZag's search for the best mapping on such an array (device ``edge_tpu``) this closed form ranks layers
    rightly but its milliseconds are off; its record in ``targets/analytic_array.json`` says by how much. Use it to rank
    networks and to search, and measure the result where milliseconds count.

    Systolic arrays have ``rows`` x ``columns`` multiply-accumulates; the cycles are those of SCALE-Sim without stalls.
    They run depthwise convolutions one channel after the other.

    Args:
        lanes: Channels that are processed together. Systolic arrays are not priced by it; widths are aligned to it.
        rows: Rows of the array.
        columns: Columns of the array.
        clock_hz: Cycles a second.
        dram_bytes_per_s: Bandwidth of the memory: every layer reads its input and its weights from there, 1 byte a
            value, and writes its output there.
        dataflow: What stays in place, see `Dataflow`.

    Raises:
        ValueError: A figure is none that an array can have.

    Example::

        >>> from lightning_nas.estimator import Estimator, Subgraph
        >>> array = AnalyticArray(lanes=16, rows=4, columns=4, clock_hz=5e8, dram_bytes_per_s=4e9)
        >>> estimator = Estimator(array.device("my_chip"))
        >>> f"{estimator.predict_ms([Subgraph('conv', 28, 28, 64, 128, 128, kernel=3)])[0]:.6f}"
        '0.056064'
    """

    lanes: int = 8
    rows: int = 4
    columns: int = 4
    clock_hz: float = 1e9
    dram_bytes_per_s: float = 8e9
    dataflow: Dataflow = "tiled"

    def __post_init__(self) -> None:
        for name in ("lanes", "rows", "columns"):
            check_number(name, getattr(self, name), whole=True, least=1)
        for name in ("clock_hz", "dram_bytes_per_s"):
            check_number(name, getattr(self, name), above=0)
        if self.dataflow not in get_args(Dataflow):
            raise ValueError(f"`dataflow` must be one of {', '.join(get_args(Dataflow))}; got {self.dataflow!r}.")

    @classmethod
    def of(cls, device: Device) -> AnalyticArray:
        """Return the array that the settings of a device describe.

        Raises:
            ValueError: A setting is unknown, or none that an array can have; the message names the device.
        """
        names = [name for name in cls.__dataclass_fields__ if name != "lanes"]
        unknown = [name for name in device.settings if name not in names]
        if unknown:
            raise ValueError(
                f"Settings of device {device.name!r} must be of {', '.join(names)}; got {', '.join(unknown)}."
            )
        try:
            settings: JsonObject = dict(device.settings)  # whatever is in them, the checks of a new one refuse it
            return cls(device.lanes, **settings)
        except ValueError as error:
            raise ValueError(f"Device {device.name!r}: {error}") from error

    def device(self, name: str = "analytic_array") -> Device:
        """Return the array as a device, for `Estimator`; its `Device.save` writes a file for `Estimator.load`."""
        settings = asdict(self)
        return Device(name, ANALYTIC, settings.pop("lanes"), is_split=True, settings=settings)

    def latency_ms(self, layer: Layer) -> float:
        """Return the latency of a layer."""
        array_s = self._cycles(layer) / self.clock_hz
        return 1e3 * max(array_s, _bytes_moved(layer) / self.dram_bytes_per_s)

    def _cycles(self, layer: Layer) -> int:
        # A pool has no sum over input channels.
        if layer.operator in _POOLS:
            return _ceil(layer.out_channels, self.lanes) * _pool_macs(layer)
        if not layer.macs:
            return 0
        # A transposed convolution applies its filter to each pixel of the input.
        height, width, _ = layer.in_shape if layer.operator == "transposed_conv" else layer.out_shape
        groups = layer.in_channels if layer.operator == "depthwise" else layer.form.groups if layer.form else 1
        inner, outer, taps = layer.in_channels // groups, layer.out_channels // groups, math.prod(layer.window)
        if self.dataflow != "tiled":
            return groups * systolic_cycles(height * width, taps * inner, outer, self.rows, self.columns, self.dataflow)
        tiles = _ceil(height, self.rows) * _ceil(width, self.columns)
        return groups * _ceil(outer, self.lanes) * _ceil(inner, self.lanes) * taps * tiles


def systolic_cycles(num_pixels: int, num_taps: int, num_outputs: int, rows: int, columns: int, dataflow: str) -> int:
    """Return the cycles of a convolution, as a product of matrices, on a systolic array without stalls.

    Equal to SCALE-Sim's cycles less its stalls.

    Args:
        num_pixels: Pixels of the output.
        num_taps: Values that go into one output: those of the filter times input channels.
        num_outputs: Output channels.
        rows: Rows of the array.
        columns: Columns of the array.
        dataflow: ``output_stationary``, ``weight_stationary`` or ``input_stationary``.

    Example::

        >>> systolic_cycles(784, 576, 64, 16, 16, "weight_stationary")
        119519
    """
    if dataflow == "output_stationary":
        return _ceil(num_pixels, rows) * _ceil(num_outputs, columns) * (num_taps + rows + columns - 2) - 1
    if dataflow == "weight_stationary":
        return _ceil(num_taps, rows) * _ceil(num_outputs, columns) * (num_pixels + 2 * rows + columns - 2) - 1
    return _ceil(num_taps, rows) * _ceil(num_pixels, columns) * (num_outputs + 2 * rows + columns - 2) - 1


def _bytes_moved(layer: Layer) -> int:
    inputs = 2 if layer.operator in ("add", "mul") else 1
    return inputs * math.prod(layer.in_shape) + math.prod(layer.out_shape) + layer.num_weights


def _pool_macs(layer: Layer) -> int:
    """Return how many values a pool takes together, over all pixels of one channel."""
    if layer.operator == "pool":
        return layer.height * layer.width
    height, width, _ = layer.out_shape
    return height * width * math.prod(layer.window)


def _ceil(size: int, count: int) -> int:
    return -(-size // count)
