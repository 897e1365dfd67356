"""`Estimator`: latency and memory of a network, measured where a table has it, predicted where not."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
from torch import Tensor, nn

from lightning_nas.estimator.device import ANALYTIC, Device
from lightning_nas.estimator.files import cache_path, closed_form, closed_form_errors, device_of, find_device
from lightning_nas.estimator.fit.coverage import Coverage
from lightning_nas.estimator.fit.interval import Errors, level_number
from lightning_nas.estimator.fit.pieces import OPERATOR_KINDS, pieces
from lightning_nas.estimator.fit.rates import Rates, is_operator
from lightning_nas.estimator.fit.regressor import Regressor, held_out_errors
from lightning_nas.estimator.measure.backend import available_backend, open_backend
from lightning_nas.estimator.measurements import Figures, MeasuredNetwork, read_measurements
from lightning_nas.estimator.share import SUFFIX, unpacked
from lightning_nas.graph.decompose import split
from lightning_nas.graph.liveness import BRICKS, Layout
from lightning_nas.graph.memory import Dtype, Memory, network_memory
from lightning_nas.graph.network import Network
from lightning_nas.graph.subgraph import Subgraph, SubgraphKind
from lightning_nas.graph.trace import Fallback, trace
from lightning_nas.io.numbers import check_number
from lightning_nas.space.network import network_of, parts_of
from lightning_nas.space.spec import Architecture

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
        measurements, self.networks = measurements or {}, networks or {}
        self._closed_form = open_backend(device) if device.backend == ANALYTIC else None
        if not measurements and not self.networks and self._closed_form is None:
            raise ValueError(f"The table of device {device.name!r} is empty.")
        self.device = device
        self.measurements = measurements
        self.fallback = fallback
        self._rates = Rates(measurements)
        self._regressor = regressor
        self._cache: Path | None = None
        rows = measurements or [part for network in self.networks.values() for part in network.parts]
        seen = [part for part in rows if not is_operator(part)]
        kinds = frozenset(part.kind for part in seen)
        self._kinds = kinds & OPERATOR_KINDS if device.is_split else kinds
        self._coverage = Coverage(seen)
        looked_up = measurements if exact else {}
        self._verified: dict[Architecture, Figures] = {}
        self._known = {part: device.correction * figures.latency_ms for part, figures in looked_up.items()}
        self._looked_up = frozenset(looked_up)

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        exact: bool = True,
        lanes: int | None = None,
        fallback: Fallback | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Estimator:
        """Load a device of this package by its name, or one of your own by the path of its table.

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
        """Return the estimator with another correction or spread; what it is fitted to is the same."""
        exact = not self._looked_up.isdisjoint(self.measurements)
        return Estimator(device, self.measurements, self.regressor, exact, self.networks, self.fallback)

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

    def interval_ms(self, subgraphs: Sequence[Subgraph], level: float = 0.9) -> np.ndarray:
        """Return the smallest and the largest latency that each subgraph may have, shape (num_subgraphs, 2).

        What was measured is as uncertain as parts of networks are (`Device.spread`); what is predicted, as rows were
        that were held out of the fit; what a closed form says, as it was off on the array that it was compared with.

        Args:
            subgraphs: What is asked.
            level: Share of subgraphs that are to lie within, one of `lightning_nas.estimator.fit.interval.LEVELS`.
        """
        level_number(level)
        return np.array([self.total_interval_ms([part], level) for part in subgraphs]).reshape(-1, 2)

    def total_interval_ms(self, subgraphs: Sequence[Subgraph], level: float = 0.9) -> tuple[float, float]:
        """Return the smallest and the largest latency that a network of these subgraphs may have.

        Errors of different parts are independent and mostly cancel; equal parts are off equally. Where whole networks
        alone were measured, the process that is fitted to them knows which sums they tell and which not.

        Raises:
            ValueError: A part is predicted, and how far such ones are off is not known; or there is no such level.
        """
        level_number(level)  # whatever was measured needs none, and would not say that it is wrong
        total_ms = float(self.predict_ms(subgraphs).sum())
        counts = Counter(piece for part in subgraphs for piece in self._pieces(part))
        guessed = [piece for piece in counts if piece not in self._looked_up]
        half = self.device.spread * abs(total_ms)
        if guessed and self._is_of_networks:
            half = math.hypot(
                half, self.device.correction * self.regressor.half_width_ms(list(counts.elements()), level)
            )
        elif guessed:
            latency_ms = np.array([counts[piece] * self._known[piece] for piece in guessed])
            half = math.hypot(half, *(latency_ms * np.expm1(self._errors.widths_of(guessed, level))))
        return max(total_ms - half, 0.0), max(total_ms + half, 0.0)

    def latency_ms(self, network: nn.Module | Architecture, example_input: Tensor | None = None) -> float:
        """Return the latency of a whole network for one image.

        Args:
            network: A model, or an architecture.
            example_input: Images (NCHW); needed with a model only.
        """
        return float(self.predict_ms(self._parts(network, example_input)).sum())

    def latency_interval_ms(
        self, network: nn.Module | Architecture, example_input: Tensor | None = None, level: float = 0.9
    ) -> tuple[float, float]:
        """Return the smallest and the largest latency that a whole network may have.

        Args:
            network: A model, or an architecture.
            example_input: Images (NCHW); needed with a model only.
            level: Share of networks that are to lie within, one of `lightning_nas.estimator.fit.interval.LEVELS`.
        """
        return self.total_interval_ms(self._parts(network, example_input), level)

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
        """Measure the whole network with the device's backend; None where that is not here."""
        figures = self.verify(network, example_input)
        return None if figures is None else figures.latency_ms

    def verify(self, network: nn.Module | Architecture, example_input: Tensor | None = None) -> Figures | None:
        """Measure the latency and the fast memory of the whole network likewise; an architecture once."""
        backend = available_backend(self.device)
        if backend is None:
            return None
        if isinstance(network, Architecture) and network in self._verified:
            return self._verified[network]
        figures = backend.measure_network(self._network(network, example_input))
        if isinstance(network, Architecture):
            self._verified[network] = figures
        return figures

    def measured_share(self, parts: Iterable[Subgraph]) -> float:
        """Return which share of the latency of a network is measured rather than predicted."""
        pieces = [piece for part in parts for piece in self._pieces(part)]
        self._learn(pieces)
        measured = sum(self._known[piece] for piece in pieces if piece in self.measurements)
        return measured / sum(self._known[piece] for piece in pieces)

    @property
    def _is_of_networks(self) -> bool:
        return not self.measurements and self._closed_form is None

    @cached_property
    def _errors(self) -> Errors:
        """How far rows were off that were held out: when the device was judged, or else of a fit to the table."""
        if self.device.errors:
            return Errors.from_dict(self.device.errors)
        if self._closed_form is not None:
            return closed_form_errors()
        rows = self._fitted_rows()
        if not rows:
            raise ValueError(
                f"How far predictions for {self.name!r} are off is not known: its table has single operators only."
                f" HINT: `lightning-nas estimator error` finds out and records it; it needs rows of"
                f" {', '.join(get_args(SubgraphKind))}."
            )
        return self.regressor.errors or held_out_errors(list(rows), np.array(list(rows.values())))

    def _fitted_rows(self) -> dict[Subgraph, float]:
        """Return the latencies that the regressor is fitted to."""
        return {part: figures.latency_ms for part, figures in self.measurements.items() if not is_operator(part)}

    def _pieces(self, part: Subgraph) -> tuple[Subgraph, ...]:
        if self._closed_form is not None or part in self.measurements or is_operator(part):
            return (part,)
        try:
            return pieces(part, self._kinds)
        except ValueError:
            if self.fallback is None:
                raise
            return (part,)

    def _learn(self, pieces: Iterable[Subgraph]) -> None:
        """Predict what is not known yet."""
        unknown = [piece for piece in dict.fromkeys(pieces) if piece not in self._known]
        if self._closed_form is not None:
            prices = ((piece, self._closed_form.measure_subgraph(piece).values()) for piece in unknown)
            self._known.update({piece: sum(price.latency_ms for price in parts) for piece, parts in prices})
            return
        # What is of no measured kind comes here only with a fallback.
        rated = [piece for piece in unknown if is_operator(piece) or piece.kind not in self._kinds]
        self._known.update({piece: self._rated_ms(piece) for piece in rated})
        unknown = [piece for piece in unknown if piece not in self._known]
        if unknown:
            if warning := self._coverage.warning(unknown):
                _log.warning("The estimate of %s is %s.", self.name, warning)
            predicted_ms = self.device.correction * self.regressor.predict_ms(unknown)
            self._known.update(zip(unknown, predicted_ms.tolist(), strict=True))

    def _rated_ms(self, part: Subgraph) -> float:
        latency_ms = self._rates.predict_ms(part) if is_operator(part) and part.kind != "other" else None
        if latency_ms is None and self.fallback is None:
            raise ValueError(
                f"Module {part.path!r} runs {part}; the table of device {self.name!r} has no operators of that kind."
                f" HINT: `Estimator.load(..., fallback='bytes')` prices them by the bytes that they move."
            )
        return self.device.correction * (self._rates.by_bytes_ms(part) if latency_ms is None else latency_ms)

    def _parts(self, network: nn.Module | Architecture, example_input: Tensor | None) -> list[Subgraph]:
        if isinstance(network, Architecture):
            return parts_of(network)
        return split(self._network(network, example_input))

    def _network(self, network: nn.Module | Architecture, example_input: Tensor | None) -> Network:
        if isinstance(network, Architecture):
            return network_of(network)
        if example_input is None:
            raise ValueError("A model needs an `example_input` (NCHW); only an architecture knows its own.")
        return trace(network, example_input, self.fallback)

    def _cached_regressor(self) -> Regressor:
        if self._cache is not None and self._cache.exists():
            try:
                return Regressor.load(self._cache)
            except ValueError as error:
                _log.warning("The cache is damaged and is made anew: %s", error)
        if self.measurements:
            _log.info("Fitting the estimator of %s to %d measurements.", self.name, len(self.measurements))
            known = self._fitted_rows()
            regressor = Regressor.fit(list(known), np.array(list(known.values())))
        else:
            _log.info("Fitting the estimator of %s to %d networks.", self.name, len(self.networks))
            latency_ms = np.array([network.figures.latency_ms for network in self.networks.values()])
            regressor = Regressor.fit_networks([network.parts for network in self.networks.values()], latency_ms)
        if self._cache is not None:
            _save(regressor, self._cache)
        return regressor


def _save(regressor: Regressor, path: Path) -> None:
    try:
        regressor.save(path)
    except OSError as error:
        # A read-only home costs time at every start, but no result.
        _log.warning("The fitted estimator could not be cached at %s: %s", path, error)
