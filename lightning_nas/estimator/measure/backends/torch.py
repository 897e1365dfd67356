"""Measure on this machine's processor, or on its CUDA GPU, with PyTorch itself.

Subgraphs are measured whole, and alone they find their weights in the caches: sums over three small networks were 11 to
35 % below the whole, and rotating copies of the weights changed that by 4 to 8 %. On a GPU kernels are queued and timed
by events, so what is measured of a small one is how fast it can be queued, as in a network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from lightning_nas.estimator.device import Device
from lightning_nas.estimator.measure.backends.runnable import as_network, lone
from lightning_nas.estimator.measure.backends.timing import Timing, clocked_ms, processor, timed
from lightning_nas.estimator.measure.backends.torch_module import NetworkModule
from lightning_nas.estimator.measure.settings import SETTINGS, checked_settings
from lightning_nas.estimator.measurements import Figures
from lightning_nas.graph.network import Network
from lightning_nas.graph.subgraph import Subgraph

__all__ = ["Measure"]

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Measure:
    """Times subgraphs and networks on this machine.

    Settings of the device: ``device`` (``cpu``, ``cuda``), ``precision`` (``fp32``, ``fp16``, ``bf16``),
    ``channels_last``, ``batch`` (latencies are of one image of it), ``threads`` and ``clock`` (``wall``, ``cpu``) of a
    processor, and those of `lightning_nas.estimator.measure.backends.timing`.

    Raises:
        ValueError: A setting is not valid, or this machine has no such device.

    Example::

        >>> backend = Measure(Device("my_cpu", "torch", 8))
        >>> backend.measure_network([Subgraph("conv", 8, 8, 8, 8, 8)]).latency_ms > 0
        True
    """

    def __init__(self, device: Device) -> None:
        settings = checked_settings(device, SETTINGS["torch"])
        if settings.text("device") == "cuda" and not torch.cuda.is_available():
            raise ValueError(
                f"`device` of {device.name!r} is cuda, but PyTorch {torch.__version__} finds no CUDA GPU here: set it"
                " to cpu, or install a driver and a build of PyTorch for CUDA."
            )
        if settings.text("device") == "cpu" and settings.text("precision") == "fp16":
            raise ValueError(f"`precision` fp16 of {device.name!r} is of `device` cuda; on cpu it is fp32 or bf16.")
        if settings.text("clock") == "cpu" and (settings.text("device") == "cuda" or settings.count("threads") > 1):
            raise ValueError(f"`clock` cpu of {device.name!r} is of one thread on `device` cpu; for others it is wall.")
        self._clock = settings.text("clock")
        self._device = torch.device(settings.text("device"))
        self._dtype = _DTYPES[settings.text("precision")]
        self._layout = torch.channels_last if settings.is_on("channels_last") else torch.contiguous_format
        self._batch, self._threads = settings.count("batch"), settings.count("threads")
        self._timing = Timing(settings.number("window_ms"), settings.count("num_windows"))

    def measure_subgraph(self, subgraph: Subgraph) -> dict[Subgraph, Figures]:
        """Measure a subgraph alone."""
        return {subgraph: self.measure_network(lone(subgraph))}

    def measure_network(self, network: Network | Sequence[Subgraph]) -> Figures:
        """Measure a whole network."""
        network = as_network(network)
        height, width, channels = network.image_shape
        with torch.inference_mode(), _threads(self._threads):
            module = NetworkModule(network).eval().to(self._device, self._dtype).to(memory_format=self._layout)
            images = torch.rand(self._batch, channels, height, width, device=self._device, dtype=self._dtype)
            images = images.contiguous(memory_format=self._layout)

            def call() -> object:
                return module(images)

            run = clocked_ms(call, self._clock) if self._device.type == "cpu" else lambda count: _queued_ms(call, count)
            return timed(run, self._timing, self._batch)

    def versions(self) -> dict[str, str]:
        """Return the version of PyTorch and what it ran on."""
        is_cpu = self._device.type == "cpu"
        name = processor() if is_cpu else torch.cuda.get_device_name(self._device)
        return {"torch": torch.__version__, "processor": name, **({} if is_cpu else {"cuda": str(torch.version.cuda)})}


def _queued_ms(call: Callable[[], object], count: int) -> float:
    """Return the milliseconds between two events in the queue of a GPU, around calls that it is given meanwhile."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(count):
        call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
