"""What a network costs on a device, without the device: measured where it was measured, predicted where not."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from lightning_nas.estimator.decompose import split
from lightning_nas.estimator.device import Device
from lightning_nas.estimator.liveness import BRICKS, Layout
from lightning_nas.estimator.measure.backend import open_backend
from lightning_nas.estimator.measurements import Figures, read_measurements
from lightning_nas.estimator.memory import Dtype, Memory, network_memory
from lightning_nas.estimator.network import Network, chain
from lightning_nas.estimator.rates import Rates, is_operator
from lightning_nas.estimator.regressor import VERSION, Regressor
from lightning_nas.estimator.subgraph import Subgraph, subgraphs
from lightning_nas.estimator.trace import Fallback, trace
from lightning_nas.space.spec import Architecture

__all__ = ["TARGETS", "Estimator", "available_devices"]

TARGETS = Path(__file__).parent / "targets"
"""Where the devices are that come with the package."""

_log = logging.getLogger(__name__)


class Estimator:
    """Latency, memory and multiply-accumulates of networks on one device.

    A network is cut into subgraphs; the latencies of those add up. What the table holds is returned as it was measured,
    the rest is predicted by a regressor that is fitted to the table.

    Args:
        device: What is estimated.
        measurements: Figures of subgraphs or of operators.
        regressor: Predicts what the measurements lack; by default it is fitted to them at first use.
        exact: Whether measured figures are returned as such; else everything is predicted.
        fallback: ``bytes`` prices operators of which the table has no rows by the bytes that they move; by default
            they are refused.

    Example::

        >>> estimator = Estimator.load("ethos_u85_1024")
        >>> sizes = dict(height=112, width=112, in_channels=16, hidden_channels=96, out_channels=24)
        >>> blocks = [Subgraph(kind, **sizes, kernel=3, stride=2) for kind in ("ibn", "fused")]
        >>> [f"{latency_ms:.2f}" for latency_ms in estimator.predict_ms(blocks)]
        ['0.46', '0.12']
    """

    def __init__(
        self,
        device: Device,
        measurements: Mapping[Subgraph, Figures],
        regressor: Regressor | None = None,
        exact: bool = True,
        fallback: Fallback | None = None,
    ) -> None:
        if not measurements:
            raise ValueError(f"The table of device {device.name!r} is empty.")
        self.device = device
        self.measurements = measurements
        self.fallback = fallback
        self._rates = Rates(measurements)
        self._regressor = regressor
        self._cache: Path | None = None
        self._known = {part: figures.latency_ms for part, figures in measurements.items()} if exact else {}

    @classmethod
    def load(cls, name_or_path: str | Path, exact: bool = True, fallback: Fallback | None = None) -> Estimator:
        """Load a device of this package by its name, or one of your own by the path of its table.

        Args:
            name_or_path: A name, or a ``.csv`` file beside which lies the device in a ``.json`` file of that name.
            exact: Whether measured figures are returned as such; else everything is predicted.
            fallback: ``bytes`` prices operators of which the table has no rows by the bytes that they move; by default
                they are refused.

        Raises:
            ValueError: There is no such device, or its files are malformed.
        """
        table = _find(name_or_path)
        rows = read_measurements(table)
        # What search spaces hold and what only stock networks need are measured apart.
        operators = table.with_name(f"{table.stem}_operators.csv")
        if operators.exists():
            rows = {**read_measurements(operators), **rows}
        estimator = cls(Device.load(table.with_suffix(".json")), rows, exact=exact, fallback=fallback)
        estimator._cache = _cache_path(table)
        return estimator

    @property
    def name(self) -> str:
        """Name of the device."""
        return self.device.name

    @property
    def lanes(self) -> int:
        """Channels that the device processes together."""
        return self.device.lanes

    @property
    def regressor(self) -> Regressor:
        """The regressor, from the cache or fitted now."""
        if self._regressor is None:
            self._regressor = self._cached_regressor()
        return self._regressor

    def predict_ms(self, subgraphs: Sequence[Subgraph]) -> np.ndarray:
        """Return the latency of each subgraph, in one vectorised call.

        Raises:
            ValueError: The table has no operators of such a kind, and there is no fallback; the message names the
                module.
        """
        unknown = {part: self._pieces(part) for part in dict.fromkeys(subgraphs) if part not in self._known}
        self._learn(piece for pieces in unknown.values() for piece in pieces)
        self._known.update({part: sum(self._known[piece] for piece in pieces) for part, pieces in unknown.items()})
        return np.array([self._known[part] for part in subgraphs], dtype=np.float64)

    def latency_ms(self, network: nn.Module | Architecture, example_input: Tensor | None = None) -> float:
        """Return the latency of a whole network for one image.

        Args:
            network: A model, or an architecture.
            example_input: Images (NCHW); needed with a model only.
        """
        return float(self.predict_ms(self._parts(network, example_input)).sum())

    def memory(
        self,
        network: nn.Module | Architecture,
        example_input: Tensor | None = None,
        dtype: Dtype = "int8",
        layout: Layout = BRICKS,
    ) -> Memory:
        """Return the bytes of parameters and the largest sum of live activations over the order of execution.

        Args:
            network: A model, or an architecture.
            example_input: Images (NCHW); needed with a model only.
            dtype: ``int8``, ``fp16`` or ``fp32``, of weights and activations.
            layout: How the device stores activations: `BRICKS` as Ethos-U does, `PLAIN` as interpreters do.
        """
        return network_memory(self._network(network, example_input), dtype, layout)

    def macs(self, network: nn.Module | Architecture, example_input: Tensor | None = None) -> int:
        """Return the multiply-accumulates for one image."""
        return sum(part.macs for part in self._parts(network, example_input))

    def verify_ms(self, network: nn.Module | Architecture, example_input: Tensor | None = None) -> float | None:
        """Measure the whole network with the device's backend; None where that is not installed."""
        try:
            backend = open_backend(self.device)
        except ImportError as error:
            _log.info("Not verified: %s", error)
            return None
        return backend.measure_network(self._network(network, example_input)).latency_ms

    def measured_share(self, parts: Iterable[Subgraph]) -> float:
        """Return which share of the latency of a network is measured rather than predicted."""
        pieces = [piece for part in parts for piece in self._pieces(part)]
        self._learn(pieces)
        measured = sum(self._known[piece] for piece in pieces if piece in self.measurements)
        return measured / sum(self._known[piece] for piece in pieces)

    def _pieces(self, part: Subgraph) -> tuple[Subgraph, ...]:
        return part.operators if self.device.is_split and part not in self.measurements else (part,)

    def _learn(self, pieces: Iterable[Subgraph]) -> None:
        """Predict what is not known yet."""
        unknown = [piece for piece in dict.fromkeys(pieces) if piece not in self._known]
        self._known.update({piece: self._rated_ms(piece) for piece in unknown if is_operator(piece)})
        unknown = [piece for piece in unknown if not is_operator(piece)]
        if unknown:
            self._known.update(zip(unknown, self.regressor.predict_ms(unknown).tolist(), strict=True))

    def _rated_ms(self, part: Subgraph) -> float:
        latency_ms = self._rates.predict_ms(part) if part.kind != "other" else None
        if latency_ms is None and self.fallback is None:
            raise ValueError(
                f"Module {part.path!r} runs {part}; the table of device {self.name!r} has no operators of that kind."
                f" HINT: `Estimator.load(..., fallback='bytes')` prices them by the bytes that they move."
            )
        return self._rates.by_bytes_ms(part) if latency_ms is None else latency_ms

    def _parts(self, network: nn.Module | Architecture, example_input: Tensor | None) -> list[Subgraph]:
        if isinstance(network, Architecture):
            return subgraphs(network)
        return split(self._network(network, example_input))

    def _network(self, network: nn.Module | Architecture, example_input: Tensor | None) -> Network:
        if isinstance(network, Architecture):
            return chain(subgraphs(network))
        if example_input is None:
            raise ValueError("A model needs an `example_input` (NCHW); only an architecture knows its own.")
        return trace(network, example_input, self.fallback)

    def _cached_regressor(self) -> Regressor:
        if self._cache is not None and self._cache.exists():
            try:
                return Regressor.load(self._cache)
            except ValueError as error:
                _log.warning("The cache is damaged and is made anew: %s", error)
        _log.info("Fitting the estimator of %s to %d measurements.", self.name, len(self.measurements))
        rows = {part: figures.latency_ms for part, figures in self.measurements.items() if not is_operator(part)}
        regressor = Regressor.fit(list(rows), np.array(list(rows.values())))
        if self._cache is not None:
            _save(regressor, self._cache)
        return regressor


def available_devices() -> list[str]:
    """Return the names of the devices that come with the package."""
    return sorted(path.stem for path in TARGETS.glob("*.csv") if path.with_suffix(".json").exists())


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    table = path if path.suffix == ".csv" else TARGETS / f"{path}.csv"
    if path.suffix != ".csv" and str(name_or_path) not in available_devices():
        raise ValueError(f"Device must be one of {', '.join(available_devices())}, or a .csv file; got {path}.")
    for file in (table, table.with_suffix(".json")):
        if not file.exists():
            raise ValueError(f"A device is a .csv table and a .json file beside it; there is no {file}.")
    return table


def _cache_path(table: Path) -> Path:
    key = hashlib.sha256(table.read_bytes())
    key.update(f"{VERSION} {importlib.metadata.version('scikit-learn')} {np.__version__}".encode())
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lightning_nas"
    return folder / f"{table.stem}-{key.hexdigest()[:16]}.npz"


def _save(regressor: Regressor, path: Path) -> None:
    try:
        regressor.save(path)
    except OSError as error:
        # A read-only home costs time at every start, but no result.
        _log.warning("The fitted estimator could not be cached at %s: %s", path, error)
