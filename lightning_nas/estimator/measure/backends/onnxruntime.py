"""Measure on this machine's processor with ONNX Runtime, in float or in int8.

Subgraphs are measured whole. Sums over three small networks were 14 % below the whole network in int8, steadily, for
alone they find their data in the caches; in float from 36 % below to 25 % above, for a lone one also pays for the
layout of its ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lightning_nas.estimator.device import Device
from lightning_nas.estimator.measure.backends.onnxfile import author
from lightning_nas.estimator.measure.backends.runnable import as_network, lone
from lightning_nas.estimator.measure.backends.timing import Timing, clocked_ms, processor, timed
from lightning_nas.estimator.measure.settings import SETTINGS, checked_settings
from lightning_nas.estimator.measurements import Figures
from lightning_nas.graph.network import Network
from lightning_nas.graph.subgraph import Subgraph

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = ["Measure"]


class Measure:
    """Times subgraphs and networks on this machine.

    Settings of the device: ``precision`` (``fp32``, ``int8``), ``batch`` (latencies are of one image of it),
    ``threads``, ``clock`` (``wall``, ``cpu``) and those of `lightning_nas.estimator.measure.backends.timing`.

    Raises:
        ImportError: ONNX or its runtime is not installed.
        ValueError: A setting is not valid.
    """

    def __init__(self, device: Device) -> None:
        settings = checked_settings(device, SETTINGS["onnxruntime"])
        if settings.text("clock") == "cpu" and settings.count("threads") > 1:
            raise ValueError(f"`clock` cpu of {device.name!r} is of one thread; with several it must be wall.")
        try:
            import onnx
            import onnxruntime
        except ImportError as error:
            raise ImportError(
                f"Device {device.name!r} is measured by ONNX Runtime: pip install 'onnx>=1.16' 'onnxruntime>=1.18'."
            ) from error
        self._onnx, self._runtime = onnx, onnxruntime
        self._precision, self._clock = settings.text("precision"), settings.text("clock")
        self._batch, self._threads = settings.count("batch"), settings.count("threads")
        self._timing = Timing(settings.number("window_ms"), settings.count("num_windows"))

    def measure_subgraph(self, subgraph: Subgraph) -> dict[Subgraph, Figures]:
        """Measure a subgraph alone."""
        return {subgraph: self.measure_network(lone(subgraph))}

    def measure_network(self, network: Network | Sequence[Subgraph]) -> Figures:
        """Measure a whole network."""
        network = as_network(network)
        session = self._session(author(network, self._precision, self._batch))
        height, width, channels = network.image_shape
        shape, draws = (self._batch, channels, height, width), np.random.default_rng(0)
        images = draws.random(shape, np.float32)
        if self._precision == "int8":
            images = draws.integers(0, 256, shape).astype(np.uint8)
        # Bound once: what is timed is the network, not the copies around it.
        binding = session.io_binding()
        binding.bind_cpu_input("image", images)
        for output in session.get_outputs():
            binding.bind_output(output.name)
        return timed(clocked_ms(lambda: session.run_with_iobinding(binding), self._clock), self._timing, self._batch)

    def versions(self) -> dict[str, str]:
        """Return the versions of the runtime and of the format, and what they ran on."""
        versions = {"onnxruntime": self._runtime.__version__, "onnx": self._onnx.__version__}
        return {**versions, "processor": processor()}

    def _session(self, data: bytes) -> InferenceSession:
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        # Idle threads would spin on cores that something else needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        return self._runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
