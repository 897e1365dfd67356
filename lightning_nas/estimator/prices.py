"""Latency of single parts of networks: measured, from the rate of their kind, from a closed form, or predicted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lightning_nas.estimator.device import ANALYTIC, Device
from lightning_nas.estimator.fit.coverage import Coverage
from lightning_nas.estimator.fit.pieces import OPERATOR_KINDS, pieces
from lightning_nas.estimator.fit.rates import Rates, is_operator
from lightning_nas.estimator.fit.regressor import Regressor
from lightning_nas.estimator.measure.backend import open_backend
from lightning_nas.estimator.measurements import Figures, MeasuredNetwork
from lightning_nas.graph.subgraph import Subgraph
from lightning_nas.graph.trace import Fallback

__all__ = ["Prices"]

_log = logging.getLogger(__name__)


class Prices:
    """Latency of parts of networks on one device; each part is priced once and remembered.

    Args:
        device: What is estimated.
        measurements: Figures of subgraphs or of operators.
        networks: Networks that were measured whole, by name.
        regressor: Returns what predicts the parts that were not measured; called when the first one is asked.
        exact: Whether measured figures are returned as such; else everything is predicted.
        fallback: ``bytes`` prices operators of which the table has no rows by the bytes that they move; by default
            they are refused.

    Example::

        >>> rows = {Subgraph("mul", n, n, 16, 16, 16): Figures(n * n * 0.5) for n in (4, 8)}
        >>> prices = Prices(Device("npu", "csv", 8), rows, {}, lambda: Regressor("trees", None, None, {}))
        >>> prices.predict_ms([Subgraph("mul", n, n, 16, 16, 16) for n in (4, 6)]).round(6).tolist()
        [8.0, 18.0]
    """

    def __init__(
        self,
        device: Device,
        measurements: Mapping[Subgraph, Figures],
        networks: Mapping[str, MeasuredNetwork],
        regressor: Callable[[], Regressor],
        exact: bool = True,
        fallback: Fallback | None = None,
    ) -> None:
        self._device, self._measurements, self._fallback = device, measurements, fallback
        self._closed_form = open_backend(device) if device.backend == ANALYTIC else None
        self._regressor = regressor
        self._rates = Rates(measurements)
        rows = measurements or [part for network in networks.values() for part in network.parts]
        seen = [part for part in rows if not is_operator(part)]
        kinds = frozenset(part.kind for part in seen)
        self._kinds = kinds & OPERATOR_KINDS if device.is_split else kinds
        self._coverage = Coverage(seen)
        looked_up = measurements if exact else {}
        self._known = {part: device.correction * figures.latency_ms for part, figures in looked_up.items()}
        self._looked_up = frozenset(looked_up)

    def predict_ms(self, parts: Sequence[Subgraph]) -> NDArray[np.float64]:
        """Return the latency of each part, in one vectorised call.

        Raises:
            ValueError: The table has no operators of such a kind, and there is no fallback; the message names the
                module.
        """
        unknown = {part: self.pieces(part) for part in dict.fromkeys(parts) if part not in self._known}
        self._learn(piece for pieces in unknown.values() for piece in pieces)
        self._known.update({part: sum(self._known[piece] for piece in pieces) for part, pieces in unknown.items()})
        return np.array([self._known[part] for part in parts], dtype=np.float64)

    def pieces(self, part: Subgraph) -> tuple[Subgraph, ...]:
        """Return what the price of a part is the sum of: the part itself, or its operators.

        Raises:
            ValueError: Neither is measured, and there is no fallback.
        """
        if self._closed_form is not None or part in self._measurements or is_operator(part):
            return (part,)
        try:
            return pieces(part, self._kinds)
        except ValueError:
            if self._fallback is None:
                raise
            return (part,)

    def is_looked_up(self, part: Subgraph) -> bool:
        """Return whether the price of a part is a measured one."""
        return part in self._looked_up

    def _learn(self, parts: Iterable[Subgraph]) -> None:
        """Predict what is not known yet."""
        unknown = [part for part in dict.fromkeys(parts) if part not in self._known]
        if self._closed_form is not None:
            prices = ((part, self._closed_form.measure_subgraph(part).values()) for part in unknown)
            self._known.update({part: sum(price.latency_ms for price in figures) for part, figures in prices})
            return
        # What is of no measured kind comes here only with a fallback.
        rated = [part for part in unknown if is_operator(part) or part.kind not in self._kinds]
        self._known.update({part: self._rated_ms(part) for part in rated})
        unknown = [part for part in unknown if part not in self._known]
        if unknown:
            if warning := self._coverage.warning(unknown):
                _log.warning("The estimate of %s is %s.", self._device.name, warning)
            predicted_ms = self._device.correction * self._regressor().predict_ms(unknown)
            self._known.update(zip(unknown, predicted_ms.tolist(), strict=True))

    def _rated_ms(self, part: Subgraph) -> float:
        latency_ms = self._rates.predict_ms(part) if is_operator(part) and part.kind != "other" else None
        if latency_ms is None and self._fallback is None:
            raise ValueError(
                f"Module {part.path!r} runs {part}; the table of device {self._device.name!r} has no operators of that"
                " kind. HINT: `Estimator.load(..., fallback='bytes')` prices them by the bytes that they move."
            )
        return self._device.correction * (self._rates.by_bytes_ms(part) if latency_ms is None else latency_ms)
