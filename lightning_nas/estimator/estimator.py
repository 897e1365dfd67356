"""`Estimator`: latency and memory of a network, measured where a table has it, predicted where not."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import get_args

import numpy as np
from torch import Tensor, nn

from lightning_nas.estimator.device import ANALYTIC, Device
from lightning_nas.estimator.files import closed_form, closed_form_errors, device_of, find_device
from lightning_nas.estimator.fit.cache import cache_path, cached
from lightning_nas.estimator.fit.interval import ErrorQuantiles, level_number
from lightning_nas.estimator.fit.regressor import Regressor, fitted_rows, held_out_errors
from lightning_nas.estimator.measure.backend import available_backend
from lightning_nas.estimator.measurements import Figures, MeasuredNetwork, read_measurements
from lightning_nas.estimator.prices import Prices
from lightning_nas.estimator.share import SUFFIX, unpacked
from lightning_nas.graph.decompose import split
from lightning_nas.graph.fold import folded
from lightning_nas.graph.liveness import BRICKS, Layout
from lightning_nas.graph.memory import Dtype, Memory, network_memory
from lightning_nas.graph.network import Network
from lightning_nas.graph.subgraph import Subgraph, SubgraphKind
from lightning_nas.graph.trace import Fallback, trace
from lightning_nas.io.numbers import check_number
from lightning_nas.space.architecture import Architecture

__all__ = ["Estimator"]

_log = logging.getLogger(__name__)


class Estimator:
    """Latency, memory and multiply-accumulates of networks on one device.

    A network is cut into subgraphs; the latencies of those add up. What the table holds is returned as it was measured,
    the rest is predicted by a regressor that is fitted to the table: to its subgraphs, or, where there are none, to its
    whole networks. A device that is a closed form (`lightning_nas.estimator.analytic`) needs neither.

    Args:
        device: What is estimated.
        measurements: Figures of subgraphs or of operators; none of a closed form.
        regressor: Predicts what the measurements lack; by default it is fitted to them at first use.
        exact: Whether measured figures are returned as such; else everything is predicted.
        networks: Networks that were measured whole, by name.
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
        measurements: Mapping[Subgraph, Figures] | None = None,
        regressor: Regressor | None = None,
        exact: bool = True,
        networks: Mapping[str, MeasuredNetwork] | None = None,
        fallback: Fallback | None = None,
    ) -> None:
        if not measurements and not networks and device.backend != ANALYTIC:
            raise ValueError(f"The table of device {device.name!r} is empty.")
        self.device = device
        self.measurements, self.networks = measurements or {}, networks or {}
        self.fallback = fallback
        self._is_exact = exact
        self._regressor = regressor
        self._cache: Path | None = None
        # A function in place of the regressor, so that nothing is fitted while all parts are measured ones.
        self._prices = Prices(device, self.measurements, self.networks, lambda: self.regressor, exact, fallback)
        self._verified: dict[Architecture, Figures] = {}
        self._unmeasured: set[str] = set()

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        exact: bool = True,
        lanes: int | None = None,
        fallback: Fallback | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> Estimator:
        """Load the estimator of a shipped device by its name, or of your own device by the path of its table.

        Args:
            name_or_path: A name, or a ``.csv`` file, see `lightning_nas.estimator.measurements`. A device in a
                ``.json`` file of that name beside it says more; without one the file is named after the device. Or
                both in one ``.estimator.zip`` file, see `lightning_nas.estimator.share`. Of a closed form there is the
                ``.json`` file alone.
            exact: Whether measured figures are returned as such; else everything is predicted.
            lanes: Channels that the device processes together; by default what its ``.json`` file says, else where
                latency steps in the table (see `lightning_nas.estimator.fit.staircase`), else 8.
            fallback: ``bytes`` prices operators of which the table has no rows by the bytes that they move; by default
                they are refused.
            settings: Settings of a closed form that replace those of its file, see
                `lightning_nas.estimator.analytic.AnalyticArray`.

        Raises:
            ValueError: There is no such device, or its files are malformed, or it was measured with other settings.

        Example::

            >>> chip = Estimator.load("analytic_array", lanes=16, settings={"dram_bytes_per_s": 4e9})
            >>> f"{chip.predict_ms([Subgraph('conv', 28, 28, 64, 128, 128, kernel=3)])[0]:.6f}"
            '0.056064'
        """
        if lanes is not None:
            check_number("lanes", lanes, whole=True, least=1)
        if str(name_or_path).endswith(SUFFIX):
            with unpacked(Path(name_or_path)) as table:
                return cls.load(table, exact, lanes, fallback)
        table = find_device(name_or_path)
        if table.suffix == ".json":
            return cls(closed_form(table, lanes, settings or {}), fallback=fallback)
        if settings:
            raise ValueError(
                f"Device {table.stem!r} was measured with its settings; they cannot be replaced by {dict(settings)}."
                f" HINT: copy its .json file under another name, change it there, and measure that."
            )
        rows = read_measurements(table)
        measured = rows.subgraphs
        # What search spaces hold and what only stock networks need are measured apart.
        operators = table.with_name(f"{table.stem}_operators.csv")
        if operators.exists():
            measured = {**measured, **read_measurements(operators).subgraphs}
        device = device_of(table, rows, lanes)
        recorded = device.record.get("rows", 0)
        if isinstance(recorded, int) and len(measured) < recorded:
            raise ValueError(
                f"{table.name} has {len(measured)} measurements, but {table.stem}.json records {recorded}: it is"
                " truncated. HINT: get the table again, measure it again, or take `rows` out of the record."
            )
        estimator = cls(device, measured, exact=exact, networks=rows.networks, fallback=fallback)
        estimator._cache = cache_path(table)
        return estimator

    def with_device(self, device: Device) -> Estimator:
        """Return this estimator with another correction, spread or errors; the fit is the same."""
        return Estimator(device, self.measurements, self.regressor, self._is_exact, self.networks, self.fallback)

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
        """The fitted regressor: read from the cache, or fitted at first use."""
        if self._regressor is None:
            self._regressor = cached(self._cache, self._fit)
        return self._regressor

    def predict_ms(self, subgraphs: Sequence[Subgraph]) -> np.ndarray:
        """Return the latency of each subgraph, in one vectorised call.

        Raises:
            ValueError: The table has no operators of such a kind, and there is no fallback; the message names the
                module.
        """
        return self._prices.predict_ms(subgraphs)

    def interval_ms(self, subgraphs: Sequence[Subgraph], level: float = 0.9) -> np.ndarray:
        """Return a prediction interval of the latency of each subgraph, shape (num_subgraphs, 2).

        What was measured is as uncertain as parts of networks are (`Device.spread`); what is predicted, as rows were
        that were held out of the fit; what a closed form says, as it was off on the array that it was compared with.

        Args:
            subgraphs: What is asked.
            level: Share of subgraphs that are to lie within, one of `lightning_nas.estimator.fit.interval.LEVELS`.
        """
        level_number(level)
        return np.array([self.total_interval_ms([part], level) for part in subgraphs]).reshape(-1, 2)

    def total_interval_ms(self, subgraphs: Sequence[Subgraph], level: float = 0.9) -> tuple[float, float]:
        """Return the prediction interval of the latency of a network of these subgraphs: its lower and upper end.

        Errors of different parts are independent and mostly cancel; equal parts are off equally. Where whole networks
        alone were measured, the process that is fitted to them knows which sums they tell and which not.

        Raises:
            ValueError: A part is predicted, and how far such ones are off is not known; or there is no such level.
        """
        level_number(level)  # whatever was measured needs none, and would not say that it is wrong
        total_ms = float(self.predict_ms(subgraphs).sum())
        counts = Counter(piece for part in subgraphs for piece in self._prices.pieces(part))
        guessed = [piece for piece in counts if not self._prices.is_looked_up(piece)]
        # What networks have in common may have a negative share, see `Additive`.
        half = self.device.spread * abs(total_ms)
        if guessed and not self.measurements and self.device.backend != ANALYTIC:
            process_half = self.regressor.half_width_ms(list(counts.elements()), level)
            half = math.hypot(half, self.device.correction * process_half)
        elif guessed:
            latency_ms = np.array([counts[piece] for piece in guessed]) * self._prices.predict_ms(guessed)
            # The quantiles are of logarithms. Errors of different parts are independent, so that their squares add up.
            half = math.hypot(half, *(latency_ms * np.expm1(self._errors.widths_of(guessed, level))))
        return max(total_ms - half, 0.0), max(total_ms + half, 0.0)

    def latency_ms(self, network: nn.Module | Architecture, example_input: Tensor | None = None) -> float:
        """Return the latency of a whole network for one image.

        Args:
            network: A model, or an architecture.
            example_input: Images (NCHW); needed with a model only.
        """
        return float(self.predict_ms(_parts(network, example_input, self.fallback)).sum())

    def latency_interval_ms(
        self, network: nn.Module | Architecture, example_input: Tensor | None = None, level: float = 0.9
    ) -> tuple[float, float]:
        """Return the prediction interval of a network's latency: its lower and upper end.

        Args:
            network: A model, or an architecture.
            example_input: Images (NCHW); needed with a model only.
            level: Share of networks that are to lie within, one of `lightning_nas.estimator.fit.interval.LEVELS`.
        """
        return self.total_interval_ms(_parts(network, example_input, self.fallback), level)

    def memory(
        self,
        network: nn.Module | Architecture,
        example_input: Tensor | None = None,
        dtype: Dtype = "int8",
        layout: Layout = BRICKS,
    ) -> Memory:
        """Return the memory of a network: bytes of its parameters and peak bytes of its activations.

        Args:
            network: A model, or an architecture.
            example_input: Images (NCHW); needed with a model only.
            dtype: ``int8``, ``fp16`` or ``fp32``, of weights and activations.
            layout: How the device stores activations: `BRICKS` as Ethos-U does, `PLAIN` as interpreters do.
        """
        return network_memory(_network(network, example_input, self.fallback), dtype, layout)

    def macs(self, network: nn.Module | Architecture, example_input: Tensor | None = None) -> int:
        """Return the multiply-accumulates of a network for one image."""
        return sum(part.macs for part in _parts(network, example_input, self.fallback))

    def verify_ms(self, network: nn.Module | Architecture, example_input: Tensor | None = None) -> float | None:
        """Measure the latency of the whole network with the device's backend; None where no backend is here."""
        figures = self.verify(network, example_input)
        return None if figures is None else figures.latency_ms

    def verify(self, network: nn.Module | Architecture, example_input: Tensor | None = None) -> Figures | None:
        """Measure the latency and the fast memory of the whole network; None where no backend is here.

        An architecture is measured once and remembered. Where operators are priced by their bytes (`fallback`), the
        backend may not know them: a warning says which, once, and nothing is measured.
        """
        backend = available_backend(self.device)
        if backend is None:
            return None
        # A module may change from one call to the next; an architecture cannot.
        if isinstance(network, Architecture) and network in self._verified:
            return self._verified[network]
        try:
            figures = backend.measure_network(_network(network, example_input, self.fallback))
        except ValueError as error:
            if self.fallback is None:
                raise
            self._warn_unmeasured(str(error))
            return None
        if isinstance(network, Architecture):
            self._verified[network] = figures
        return figures

    def _warn_unmeasured(self, reason: str) -> None:
        if reason not in self._unmeasured:
            self._unmeasured.add(reason)
            _log.warning("Networks are not measured whole by %s, and their estimates count: %s", self.name, reason)

    def measured_share(self, parts: Iterable[Subgraph]) -> float:
        """Return the share of a network's latency that is measured rather than predicted."""
        pieces = [piece for part in parts for piece in self._prices.pieces(part)]
        latencies_ms = self._prices.predict_ms(pieces).tolist()
        measured = sum(ms for piece, ms in zip(pieces, latencies_ms, strict=True) if piece in self.measurements)
        return float(measured / sum(latencies_ms))

    @cached_property
    def _errors(self) -> ErrorQuantiles:
        """Error quantiles of predicted parts: as recorded with the device, or else of rows held out of the fit."""
        if self.device.errors:
            return ErrorQuantiles.from_dict(self.device.errors)
        if self.device.backend == ANALYTIC:
            return closed_form_errors()
        rows = fitted_rows(self.measurements)
        if not rows:
            raise ValueError(
                f"How far predictions for {self.name!r} are off is not known: its table has single operators only."
                f" HINT: `lightning-nas estimator error` finds out and records it; it needs rows of"
                f" {', '.join(get_args(SubgraphKind))}."
            )
        return self.regressor.errors or held_out_errors(list(rows), np.array(list(rows.values())))

    def _fit(self) -> Regressor:
        if self.measurements:
            _log.info("Fitting the estimator of %s to %d measurements.", self.name, len(self.measurements))
            known = fitted_rows(self.measurements)
            return Regressor.fit(list(known), np.array(list(known.values())))
        _log.info("Fitting the estimator of %s to %d networks.", self.name, len(self.networks))
        latency_ms = np.array([network.figures.latency_ms for network in self.networks.values()])
        return Regressor.fit_networks([network.parts for network in self.networks.values()], latency_ms)


def _parts(
    network: nn.Module | Architecture, example_input: Tensor | None, fallback: Fallback | None
) -> list[Subgraph]:
    if isinstance(network, Architecture):
        return list(network.subgraphs)
    return split(_network(network, example_input, fallback))


def _network(network: nn.Module | Architecture, example_input: Tensor | None, fallback: Fallback | None) -> Network:
    if isinstance(network, Architecture):
        return folded(network.network)
    if example_input is None:
        raise ValueError("A model needs an `example_input` (NCHW); only an architecture knows its own.")
    return trace(network, example_input, fallback)
