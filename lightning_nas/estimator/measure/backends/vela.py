"""Measure on Arm Ethos-U with the cycle model of the Vela compiler, inside this process.

Arm says of these cycles that they are no accurate picture of silicon: they are the compiler's model of it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

from lightning_nas.estimator.device import Device
from lightning_nas.estimator.measure.backend import UnsupportedError
from lightning_nas.estimator.measure.backends.in_context import in_context
from lightning_nas.estimator.measure.backends.tflite import WEIGHT_SEED, WEIGHT_SIGMA, author
from lightning_nas.estimator.measure.settings import SETTINGS, checked_settings
from lightning_nas.estimator.measurements import Figures
from lightning_nas.graph.lower import lowered
from lightning_nas.graph.network import Network, chain
from lightning_nas.graph.subgraph import Subgraph

__all__ = ["Measure"]

_OPTIONS = """
[compiler]
enable_db=true
output_format=TFLite
cop_format=COP1

[scheduler]
optimize=Performance
arena_size_limit=4294967296
disable_feature=
"""

# The compiler adds to the names of the tensors that it splits.
_ORIGIN = re.compile(r"@(\d+)")


_Row: TypeAlias = dict[str, str]
"""What the compiler says of an operator, by the names of its columns."""


class _Memory(Protocol):
    peakUsage: int


class _Report(Protocol):
    cpuOps: int
    stagingMemoryArea: str
    memories: Mapping[str, _Memory]


class _Table(Protocol):
    header: Sequence[str]
    data: Sequence[Sequence[str]]


class _Database(Protocol):
    tables: Mapping[str, _Table]


class _Compiled(Protocol):
    """What is read of the compiler's result; Vela has no types of its own."""

    perf_report: _Report
    opt_database: _Database


class Measure:
    """Compiles subgraphs and networks for one Ethos-U.

    Settings of the device: ``accelerator`` (``EthosU55``, ``EthosU65``, ``EthosU85``), ``macs`` (a cycle), ``cores``,
    ``clock_hz``, ``system_config`` and ``memory_mode`` (sections of Vela's own ``vela.ini``).

    Raises:
        ImportError: Vela is not installed.
        ValueError: The memory mode is one of those whose subgraphs do not add up to the network.
    """

    def __init__(self, device: Device) -> None:
        try:
            # Internal to Vela, hence the exact version in the extra: a block takes milliseconds so, and more than a
            # second by the command line.
            from ethosu import regor
        except ImportError as error:
            raise ImportError(
                f"Device {device.name!r} is measured by Vela: pip install 'ethos-u-vela==5.2.*' 'flatbuffers>=24'."
            ) from error
        settings = checked_settings(device, SETTINGS["vela"])
        # Feature maps would live in DRAM, and a part alone would pay for what stays in the cache in a network.
        memory_mode = settings.text("memory_mode")
        if memory_mode.startswith("Dedicated_Sram"):
            raise ValueError(f"`memory_mode` must be Shared_Sram or Sram_Only; got {memory_mode}.")
        self._compiler = regor
        self._is_split = device.is_split
        self._accelerator = settings.text("accelerator")
        self._clock_hz = settings.number("clock_hz")
        self._config = (
            f"[architecture]\nmacs={settings.count('macs')}\ncores={settings.count('cores')}\n"
            f"[vela]\nsystem_config_name={settings.text('system_config')}\nmemory_mode_name={memory_mode}\n"
        ) + _bundled_config()

    def measure_subgraph(self, subgraph: Subgraph) -> dict[Subgraph, Figures]:
        """Measure the operators of a subgraph, or the whole, between two pointwise convolutions as thin as its ends.

        Alone it would also pay for the layout of the network's input and output: on Ethos-U85 sums over networks were
        then 2 % too high with errors up to 11 %, against 0.1 % and 3 % between neighbours. In such a place the cost of
        an operator is its own: of 218 that were met in different subgraphs, 217 had the same cycles in all of them.
        """
        network, first = in_context(subgraph)
        last = len(subgraph.operators) - 1
        num_after = len(network.operations) - first - len(subgraph.layers)
        network = lowered(network)
        end = len(network.operations) - num_after
        owned: dict[int, list[_Row]] = {}
        for row in self._operators(network):
            number = int(_ORIGIN.findall(row["name"])[0])
            if first <= number < end and not _is_before(row, subgraph):
                # The addition is chained to the last operator.
                owned.setdefault(min(number - first, last), []).append(row)
        if not self._is_split:
            return {subgraph: self._figures([row for rows in owned.values() for row in rows])}
        return {operator: self._figures(owned.get(number, [])) for number, operator in enumerate(subgraph.operators)}

    def measure_network(self, network: Network | Sequence[Subgraph]) -> Figures:
        """Measure a whole network."""
        return self._figures(self._operators(network if isinstance(network, Network) else chain(network)))

    def peak_bytes(self, network: Network, buffering: bool = True) -> int:
        """Return the fast memory that the compiler plans for a network, with or without its buffers of weights."""
        features = "" if buffering else "WeightBuffering|Cascading"
        report = self._compile(network, features).perf_report
        return int(report.memories[report.stagingMemoryArea].peakUsage)

    def versions(self) -> dict[str, str]:
        """Return the version of the compiler and the statistics of the weights that it compressed."""
        weights = f"Gaussian int8, deviation {WEIGHT_SIGMA:g}, seed {WEIGHT_SEED}"
        return {"ethos-u-vela": importlib.metadata.version("ethos-u-vela"), "weights": weights}

    def _figures(self, rows: Sequence[_Row]) -> Figures:
        # What is chained to its neighbours takes no cycles of its own; one keeps its row distinct from an error.
        cycles = max(sum(int(row["op_cycles"]) for row in rows), 1)
        return Figures(cycles / self._clock_hz * 1e3, max((int(row["staging_usage"]) for row in rows), default=0))

    def _operators(self, network: Network) -> list[_Row]:
        table = self._compile(network).opt_database.tables["perf"]
        return [dict(zip(table.header, row, strict=True)) for row in table.data]

    def _compile(self, network: Network, disabled: str = "") -> _Compiled:
        options = _OPTIONS.replace("disable_feature=", f"disable_feature={disabled}")
        data = author(lowered(network))
        compiled: _Compiled = self._compiler.compile(self._accelerator, data, "TFLITE", self._config, options=options)
        if compiled.perf_report.cpuOps:
            raise UnsupportedError(f"{compiled.perf_report.cpuOps} operators do not run on the NPU.")
        return compiled


def _is_before(row: _Row, subgraph: Subgraph) -> bool:
    """Return whether a row is of the convolution before: the compiler lets that write what the operator results in."""
    return subgraph.kind in ("activation", "add", "mul", "concat") and row["operator"] == "Conv2D"


def _bundled_config() -> str:
    spec = importlib.util.find_spec("ethosu")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    files = [Path(folder, "config_files", "Arm", "vela.ini") for folder in folders]
    return next(file for file in files if file.exists()).read_text()
