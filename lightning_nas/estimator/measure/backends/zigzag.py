"""Measure on hardware that need not exist, with the design-phase model of accelerators ZigZag.

Its latency is that of the best mapping of a layer to the array and the memories of a hardware description. Layers are
priced one by one, each with its input and output in DRAM, so sums over networks are exact.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import importlib.metadata
import logging
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_nas.estimator.device import Device
from lightning_nas.estimator.measure.backend import UnsupportedError
from lightning_nas.estimator.measure.settings import SETTINGS, checked_settings
from lightning_nas.estimator.measurements import Figures
from lightning_nas.graph.layer import Layer
from lightning_nas.graph.network import Network
from lightning_nas.graph.subgraph import Subgraph

if TYPE_CHECKING:
    from lightning_nas.estimator.measure.backends.zigzag_hardware import Hardware
    from lightning_nas.estimator.measure.backends.zigzag_mapping import Workload

__all__ = ["Measure"]

_log = logging.getLogger(__name__)

# Fewer layers than this are priced here: starting a process takes seconds.
_MIN_LAYERS_A_PROCESS = 32


class Measure:
    """Prices layers on the hardware that a device describes.

    Settings of the device: ``hardware`` (name of the description, which is beside the device's own file), ``clock_hz``.

    Raises:
        ImportError: ZigZag is not installed.
        FileNotFoundError: The description is not there.
        ValueError: The description is malformed.
    """

    def __init__(self, device: Device) -> None:
        settings = checked_settings(device, SETTINGS["zigzag"])
        self._path, self._clock_hz = device.folder / settings.text("hardware"), settings.number("clock_hz")
        try:
            self._hardware = _read(self._path)
        except ImportError as error:
            raise ImportError(
                f"Device {device.name!r} is measured by ZigZag (Python 3.11 or later): pip install"
                f" 'zigzag-dse==3.9.*' 'six>=1.16'. {error}"
            ) from error
        self._cycles: dict[Layer, int] = {}

    def measure_subgraph(self, subgraph: Subgraph) -> dict[Subgraph, Figures]:
        """Measure the operators of a subgraph; what they share with earlier ones is priced once."""
        return {operator: self._figures(operator.layers) for operator in subgraph.operators}

    def measure_many(self, subgraphs: Sequence[Subgraph]) -> Iterator[dict[Subgraph, Figures]]:
        """Measure subgraphs over all cores, and yield their operators in the order that was asked for."""
        with _Pool(self._path, self._missing(layer for part in subgraphs for layer in part.layers)) as pool:
            for part in subgraphs:
                try:
                    self._cycles.update(pool.cycles(part.layers))
                    yield self.measure_subgraph(part)
                except UnsupportedError as error:
                    _log.warning("%s is left out: %s", part, error)
                    yield {}

    def measure_network(self, network: Network | Sequence[Subgraph]) -> Figures:
        """Measure a whole network."""
        if isinstance(network, Network):
            return self._figures([operation.layer for operation in network.operations])
        return self._figures([layer for part in network for layer in part.layers])

    def versions(self) -> dict[str, str]:
        """Return the version of ZigZag, and which description it was given."""
        digest = hashlib.sha256(self._path.read_bytes()).hexdigest()[:16]
        return {"zigzag-dse": importlib.metadata.version("zigzag-dse"), "hardware": f"{self._path.name} {digest}"}

    def _missing(self, layers: Iterable[Layer]) -> list[Layer]:
        return [layer for layer in dict.fromkeys(layers) if layer not in self._cycles]

    def _figures(self, layers: Sequence[Layer]) -> Figures:
        self._cycles.update((layer, _cycles(self._hardware, layer)) for layer in self._missing(layers))
        return Figures(sum(self._cycles[layer] for layer in layers) / self._clock_hz * 1e3)


class _Pool:
    """Prices layers in as many processes as there are cores, or in this one where that is faster."""

    def __init__(self, path: Path, layers: Sequence[Layer]) -> None:
        num_processes = min(len(os.sched_getaffinity(0)), len(layers) // _MIN_LAYERS_A_PROCESS)
        self._futures: dict[Layer, concurrent.futures.Future[int]] = {}
        self._executor: concurrent.futures.ProcessPoolExecutor | None = None
        if num_processes > 1:
            # A fork would inherit torch's threads, and could wait for one of them for ever.
            context = multiprocessing.get_context("spawn")
            self._executor = concurrent.futures.ProcessPoolExecutor(num_processes, context)
            self._futures = {layer: self._executor.submit(_cycles_of, path, layer) for layer in layers}

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def cycles(self, layers: Iterable[Layer]) -> dict[Layer, int]:
        """Return the cycles of those of the layers that processes price, as soon as they are known."""
        return {layer: self._futures[layer].result() for layer in layers if layer in self._futures}


def _read(path: Path) -> Hardware:
    from lightning_nas.estimator.measure.backends.zigzag_hardware import read_hardware

    # It reports every mapping that it tries, and warns of every type of layer it has no mapping for.
    logging.getLogger("zigzag").setLevel(logging.ERROR)
    return read_hardware(path)


def _cycles(hardware: Hardware, layer: Layer) -> int:
    """Return the cycles of a layer, by its fastest mapping."""
    from lightning_nas.estimator.measure.backends.zigzag_mapping import fastest_cycles

    return fastest_cycles(hardware, _workload(layer))


def _cycles_of(path: Path, layer: Layer) -> int:
    """Return the cycles of a layer in another process."""
    return _cycles(_read_once(path), layer)


# A process prices many layers, all on one hardware.
@lru_cache(maxsize=1)
def _read_once(path: Path) -> Hardware:
    return _read(path)


def _workload(layer: Layer) -> Workload:
    """Return a layer as ZigZag's equations over loops have it.

    Raises:
        UnsupportedError: It has no such equation.
    """
    if layer.operator == "resize":
        # Each of its results goes through the array once.
        rows, columns, channels = layer.out_shape
        layer = Layer("activation", rows, columns, channels, channels)
    if layer.operator not in _EQUATIONS:
        known = ", ".join((*_EQUATIONS, "resize"))
        raise UnsupportedError(f"ZigZag has no equation for the operator {layer.operator!r}; it has {known}.")
    kind, equation = _EQUATIONS[layer.operator]
    rows, columns, _ = layer.out_shape
    if layer.form is not None and layer.form.variant == "broadcast":
        equation = equation.replace("W[b][g][oy][ox]", "W[b][g]")
    window, step, dilation, groups = _filter(layer)
    sizes = {"B": 1, "G": groups, "OY": rows, "OX": columns}
    relations, padding = [], []
    if "fy" in equation:
        sizes |= {"FY": window[0], "FX": window[1]}
        relations = [f"i{axis}={step[n]}*o{axis}+{dilation}*f{axis}" for n, axis in ((1, "x"), (0, "y"))]
        padding = [_padding(layer, n, window, step, dilation) for n in (1, 0)]
    if "k" in equation:
        sizes |= {"K": layer.out_channels // groups, "C": layer.in_channels // groups}
    return {
        "id": 0,
        "name": "layer",
        "operator_type": kind,
        "equation": equation,
        "loop_dims": list(sizes),
        "loop_sizes": list(sizes.values()),
        "dimension_relations": relations,
        # Sums are kept in 16 bits until they are complete, as ZigZag does for networks that it reads from ONNX.
        "operand_precision": {"W": 8, "I": 8, "O": 16 if "+=" in equation else 8, "O_final": 8},
        "operand_source": {"W": 0},
        "pr_loop_dims": ["IX", "IY"] if padding else None,
        "pr_loop_sizes": [layer.width, layer.height] if padding else None,
        "padding": padding or None,
    }


def _filter(layer: Layer) -> tuple[tuple[int, int], tuple[int, int], int, int]:
    """Return the window, the step, the dilation and the groups of a layer."""
    channelwise = layer.operator not in ("conv", "linear")
    if layer.operator == "pool":
        return (layer.height, layer.width), (1, 1), 1, layer.in_channels
    if layer.form is None:
        return layer.window, (layer.stride, layer.stride), 1, layer.in_channels if channelwise else 1
    form = layer.form
    return form.window, form.step, form.dilation, layer.in_channels if channelwise else form.groups


def _padding(layer: Layer, axis: int, window: tuple[int, int], step: tuple[int, int], dilation: int) -> list[int]:
    needed = (layer.out_shape[axis] - 1) * step[axis] + dilation * (window[axis] - 1) + 1
    missing = max(needed - layer.in_shape[axis], 0)
    return [missing // 2, missing - missing // 2]


_CONVOLUTION = "O[b][g][k][oy][ox]+=W[g][k][c][fy][fx]*I[b][g][c][iy][ix]"
_POOLING = "O[b][g][oy][ox]+=W[fy][fx]*I[b][g][iy][ix]"
# Type of layer and equation; the types decide which loops run over the array.
_EQUATIONS = {
    "conv": ("default", _CONVOLUTION),
    "depthwise": ("default", _CONVOLUTION),
    "linear": ("default", _CONVOLUTION),
    "add": ("Add", "O[b][g][oy][ox]=W[b][g][oy][ox]+I[b][g][oy][ox]"),
    "mul": ("Add", "O[b][g][oy][ox]=W[b][g][oy][ox]*I[b][g][oy][ox]"),
    "pool": ("Pooling", _POOLING),
    "avg_pool": ("Pooling", _POOLING),
    "max_pool": ("Pooling", _POOLING),
    # Their tensor goes through the array once, channel by channel, as pools do.
    "activation": ("Pooling", _POOLING),
    "concat": ("Pooling", _POOLING),
}
