"""Budgets as a user writes them: absolute (8.0 milliseconds, "256KiB") or relative to the source network ("0.5x")."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

__all__ = ["LATENCY", "PARAMETERS", "PEAK_ACTIVATIONS", "Budget", "resolve_budget"]

LATENCY, PARAMETERS, PEAK_ACTIVATIONS = "latency_ms", "parameter_bytes", "peak_activation_bytes"
"""Names of the costs, in tables and records."""

_BYTE_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "kib": 2**10, "mib": 2**20}
_BYTES = "bytes (262144, '256KiB', '1MB') or a part of the source network's ('0.5x')"
_FORMS = {
    LATENCY: "milliseconds (8.0) or a part of the source network's latency ('0.5x')",
    PARAMETERS: _BYTES,
    PEAK_ACTIVATIONS: _BYTES,
}
_COSTS = {"latency": LATENCY, "parameters": PARAMETERS, "peak_activations": PEAK_ACTIVATIONS}


@dataclass(frozen=True)
class Budget:
    """What a network may cost at most. At least one of the costs is bounded; None leaves the others open.

    `lightning_nas.budget.resolve.resolve` turns it into figures, against a search space and its cost tables.

    Attributes:
        latency: Milliseconds (8.0 or "8ms"), or a part of the source network's latency ("0.5x").
        parameters: Bytes of int8 parameters (262144, "256KiB", "1MB"), or a part of the source network's ("0.5x").
        peak_activations: Largest sum of live int8 activations, in the same forms.

    Raises:
        ValueError: No cost is bounded, or a bound is not a positive number of a known form.

    Example::

        >>> Budget(latency="0.5x", parameters="256KiB").given
        {'latency_ms': '0.5x', 'parameter_bytes': '256KiB'}
    """

    latency: float | str | None = None
    parameters: float | str | None = None
    peak_activations: float | str | None = None

    def __post_init__(self) -> None:
        if not self.given:
            raise ValueError(f"A budget bounds at least one of {', '.join(_COSTS)}, such as latency='0.5x'; got none.")
        for name, value in self.given.items():
            # The source's cost is not known here; any number shows whether the form is valid.
            resolve_budget(value, 1.0, name)

    @property
    def given(self) -> dict[str, float | str]:
        """The bounds that there are, by the name of the cost."""
        values = ((_COSTS[field.name], getattr(self, field.name)) for field in fields(self))
        return {cost: value for cost, value in values if value is not None}

    @property
    def requested(self) -> dict[str, float | str | None]:
        """All bounds by the name of the cost, for a record."""
        return {cost: getattr(self, name) for name, cost in _COSTS.items()}

    def figures(self, source: Mapping[str, float]) -> dict[str, float]:
        """Return the bounds in milliseconds and bytes.

        Args:
            source: What the source network costs, by the name of the cost.
        """
        return {name: resolve_budget(value, source[name], name) for name, value in self.given.items()}

    def completed(self, other: Budget) -> Budget:
        """Return this budget, with the bounds of another one where it has none.

        Example::

            >>> Budget(latency=2.0).completed(Budget(latency="0.5x", parameters="1MB"))
            Budget(latency=2.0, parameters='1MB', peak_activations=None)
        """
        return replace(other, **{name: value for name in _COSTS if (value := getattr(self, name)) is not None})


def resolve_budget(value: float | str, source: float, name: str, asked_as: str = "") -> float:
    """Return a bound in absolute figures.

    Args:
        value: What the user gave.
        source: The source network's cost, for relative bounds.
        name: `LATENCY`, `PARAMETERS` or `PEAK_ACTIVATIONS`.
        asked_as: What the user gave it as, where that is not the field of a `Budget`.

    Example::

        >>> resolve_budget("0.5x", 4.0, "latency_ms"), resolve_budget("2KiB", 0, "parameter_bytes")
        (2.0, 2048.0)

    Raises:
        ValueError: It is not a positive number of a known form.
    """
    match = re.fullmatch(r"\s*([-+]?[\d.]+(?:e[-+]?\d+)?|[-+]?nan|[-+]?inf)\s*([a-z]*)\s*", str(value).lower())
    units = {"x": source, "": 1.0, **({"ms": 1.0} if name == LATENCY else _BYTE_UNITS)}
    try:
        number = float(match[1]) * units[match[2]] if match else math.nan
    except (KeyError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        field = next(field for field, cost in _COSTS.items() if cost == name)
        raise ValueError(
            f"The budget {asked_as or field}={value!r} is not valid; give a positive number: {_FORMS[name]}."
        )
    return number
