"""Bounds of layers: whether multipliers, memory, or lanes without a channel keep each from being faster."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from lightning_nas.estimator.analytic import AnalyticArray
from lightning_nas.estimator.cost_model import CostModel
from lightning_nas.estimator.device import ANALYTIC, Device
from lightning_nas.graph.layer import Layer
from lightning_nas.graph.subgraph import Subgraph

__all__ = ["Bound", "LayerBound", "layer_bounds", "peak_macs_per_s"]

Bound = Literal["compute", "memory", "lanes", ""]
"""What keeps a layer from being faster.

``compute``: at least two fifths of the multipliers are busy; ``lanes``: they are not, and most lanes have no
channel, or those that have one are busy; ``memory``: neither, so that time goes into moving values; empty where no
figure of the device says it."""

# Convolutions of full lanes reach 0.4 to 1 of the published peak on all shipped devices, where nothing else holds them.
_BUSY = 0.4
# Of sums over parts: where operators are not priced alone, a part is not cut.
_TOLERANCE = 0.01


@dataclass(frozen=True)
class LayerBound:
    """What a layer costs, and what bounds it.

    Attributes:
        path: Module that runs it.
        name: What it is, with its sizes.
        latency_ms: Its latency.
        share: Its share of the network's latency.
        utilisation: Share of the device's multipliers that are busy on average; None where their number is not known.
        lanes_filled: Share of the lanes, over input and output channels, that have a channel.
        bytes_per_s: Bytes of int8 that it reads and writes, over its latency.
        bound: What bounds it.
    """

    path: str
    name: str
    latency_ms: float
    share: float
    utilisation: float | None
    lanes_filled: float
    bytes_per_s: float
    bound: Bound


def layer_bounds(parts: Sequence[Subgraph], estimator: CostModel) -> list[LayerBound]:
    """Return what each layer of a network costs, and what bounds it, in order of execution.

    The priced latency is compared with the least that the multipliers would need, as in a roofline (Williams et al.
    2009, doi:10.1145/1498765.1498785); in place of its second line, which needs bandwidths that data sheets of such
    chips seldom give, stands how full the lanes are.

    Args:
        parts: The parts of the network.
        estimator: The estimator of the device.

    Example::

        >>> from lightning_nas.estimator import Estimator
        >>> sizes = dict(height=56, width=56, in_channels=64, hidden_channels=64, out_channels=64, kernel=3)
        >>> parts = [Subgraph("conv", **sizes), Subgraph("depthwise", **sizes)]
        >>> [bound.bound for bound in layer_bounds(parts, Estimator.load("ethos_u85_1024"))]
        ['compute', 'lanes']
    """
    pieces = [piece for part in parts for piece in _pieces(part, estimator)]
    latencies_ms = estimator.predict_ms(pieces).tolist()
    device = estimator.device
    peak = peak_macs_per_s(device) if isinstance(device, Device) else None
    total_ms = sum(latencies_ms)
    return [
        _bound(piece, latency_ms, total_ms, estimator.lanes, peak)
        for piece, latency_ms in zip(pieces, latencies_ms, strict=True)
    ]


def peak_macs_per_s(device: Device) -> float | None:
    """Return the multiply-accumulates that a device can do in a second; None where its settings do not say.

    Args:
        device: The device.

    Example::

        >>> from lightning_nas.estimator import Estimator
        >>> [f"{peak_macs_per_s(Estimator.load(name).device):.3g}" for name in ("ethos_u55_128", "edge_tpu")]
        ['6.4e+10', '1.02e+12']
    """
    if device.backend == ANALYTIC:
        array = AnalyticArray.of(device)
        vector = array.lanes**2 if array.dataflow == "tiled" else 1
        return array.rows * array.columns * vector * array.clock_hz
    clock_hz, macs = device.settings.get("clock_hz"), device.settings.get("macs")
    cores, hardware = device.settings.get("cores", 1), device.settings.get("hardware")
    if isinstance(hardware, str) and macs is None:
        macs = _array_size(device.folder / hardware)
    figures = [figure for figure in (clock_hz, macs, cores) if isinstance(figure, int | float) and figure > 0]
    return math.prod(figures) if len(figures) == 3 else None


def _array_size(file: Path) -> int | None:
    """Return the multipliers of an array that ZigZag simulates."""
    try:
        sizes = yaml.safe_load(file.read_text(encoding="utf-8"))["operational_array"]["sizes"]
        return math.prod(int(size) for size in sizes)
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return None


def _pieces(part: Subgraph, estimator: CostModel) -> tuple[Subgraph, ...]:
    """Return the operators of a part where they are priced to the same sum; else the part."""
    if len(part.operators) == 1:
        return (part,)
    try:
        apart_ms = float(estimator.predict_ms(part.operators).sum())
    except ValueError:  # the table has no operators
        return (part,)
    whole_ms = float(estimator.predict_ms([part])[0])
    return part.operators if abs(apart_ms - whole_ms) <= _TOLERANCE * abs(whole_ms) else (part,)


def _bound(piece: Subgraph, latency_ms: float, total_ms: float, lanes: int, peak: float | None) -> LayerBound:
    layers = piece.layers
    macs, moved = sum(layer.macs for layer in layers), sum(map(_bytes_moved, layers))
    seconds = max(latency_ms, 1e-9) / 1e3
    filled = _lanes_filled(layers, lanes)
    utilisation = None if peak is None else macs / peak / seconds
    return LayerBound(
        path=piece.path,
        name=str(piece),
        latency_ms=latency_ms,
        share=latency_ms / total_ms if total_ms else 0.0,
        utilisation=utilisation,
        lanes_filled=filled,
        bytes_per_s=moved / seconds,
        bound="" if utilisation is None else _kind(macs, utilisation, filled),
    )


def _kind(macs: int, utilisation: float, filled: float) -> Bound:
    if utilisation >= _BUSY:
        return "compute"
    if macs and (filled <= 0.5 or utilisation >= _BUSY * filled):
        return "lanes"
    return "memory"


def _lanes_filled(layers: Sequence[Layer], lanes: int) -> float:
    """Return the share of lanes with a channel, on average over the multiply-accumulates of some layers."""
    macs = sum(layer.macs for layer in layers)
    if not macs:
        return 1.0
    return sum(layer.macs * _filled_by(layer, lanes) for layer in layers) / macs


def _filled_by(layer: Layer, lanes: int) -> float:
    groups = layer.in_channels if layer.operator == "depthwise" else layer.form.groups if layer.form else 1
    # Groups stand beside each other in the output, and each sums over its own inputs alone.
    return _filled(layer.in_channels // groups, lanes) * _filled(layer.out_channels, lanes)


def _filled(channels: int, lanes: int) -> float:
    return channels / (-(-channels // lanes) * lanes)


def _bytes_moved(layer: Layer) -> int:
    inputs = 2 if layer.operator in ("add", "mul") else 1
    return inputs * math.prod(layer.in_shape) + math.prod(layer.out_shape) + layer.num_weights
