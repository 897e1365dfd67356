"""`NetworkRecord` and what it is made of: costs and metric of a network of a run, and the budget of costs."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from lightning_nas.io.reading import shown
from lightning_nas.report.fields import Fields

__all__ = ["BudgetRecord", "ComparisonRecord", "CostRecord", "MetricRecord", "NetworkRecord"]


@dataclass(frozen=True)
class MetricRecord:
    """The figure that a network is judged by.

    Attributes:
        name: What a person calls it, such as ``accuracy``.
        value: The figure; NaN where the training diverged.
        split: The split of the data that it was taken on.
        larger_is_better: Whether more is better, as it is where a record before 2026-11-29 does not tell.
        num_images: Number of images that it was taken on, or None where that is not known.
    """

    name: str
    value: float
    split: str
    larger_is_better: bool = True
    num_images: int | None = None  # in records since 2026-11-27

    @classmethod
    def from_fields(cls, fields: Fields) -> MetricRecord:
        """Return the metric that a file holds."""
        value = fields.plain("value")
        return cls(
            name=fields.text("name"),
            value=value if isinstance(value, float) and math.isnan(value) else fields.number("value"),
            split=fields.text("split"),
            larger_is_better=fields.flag("larger_is_better", default=True),
            num_images=fields.whole_or_none("num_images"),
        )

    def to_dict(self) -> dict[str, object]:
        """Return it as data that JSON knows."""
        return {
            "name": self.name,
            "value": self.value,
            "larger_is_better": self.larger_is_better,
            "split": self.split,
            "num_images": self.num_images,
        }


@dataclass(frozen=True)
class CostRecord:
    """What a network costs on the device.

    Attributes:
        latency_ms: Latency by the estimator.
        verified_latency_ms: Latency of the whole network by the device's backend, or None where that was not there.
        parameter_bytes: Size of the weights.
        peak_activation_bytes: Peak memory of the activations.
        macs: Multiply-accumulates, or None in files that were written by others.
    """

    latency_ms: float
    verified_latency_ms: float | None
    parameter_bytes: float
    peak_activation_bytes: float
    macs: float | None

    @classmethod
    def from_fields(cls, fields: Fields) -> CostRecord:
        """Return the costs that a file holds."""
        return cls(
            latency_ms=fields.number("latency_ms"),
            verified_latency_ms=fields.number_or_none("verified_latency_ms"),
            parameter_bytes=fields.number("parameter_bytes"),
            peak_activation_bytes=fields.number("peak_activation_bytes"),
            macs=fields.number_or_none("macs"),
        )


@dataclass(frozen=True)
class ComparisonRecord:
    """Another network of the same budget.

    Attributes:
        cost: What it costs.
        metric: Its metric, or None where it was not trained.
        network: Its name, where it is a stock one.
    """

    cost: CostRecord
    metric: MetricRecord | None = None
    network: str | None = None

    @classmethod
    def from_fields(cls, fields: Fields) -> ComparisonRecord:
        """Return the network that a file holds."""
        metric = _metric(fields) if fields.has("metric") else None
        return cls(CostRecord.from_fields(fields), metric, fields.text_or_none("network"))

    def to_dict(self) -> dict[str, object]:
        """Return it as data that JSON knows."""
        named = {} if self.network is None else {"network": self.network}
        return {**asdict(self.cost), "metric": None if self.metric is None else self.metric.to_dict(), **named}


@dataclass(frozen=True)
class NetworkRecord:
    """The baseline or the subnet of a run.

    Attributes:
        cost: What it costs.
        metric: Its metric.
        steps: Optimizer steps that it was trained for since the source, or None where a record does not tell.
    """

    cost: CostRecord
    metric: MetricRecord
    steps: int | None = None  # in records since 2026-11-29

    @classmethod
    def from_fields(cls, fields: Fields) -> NetworkRecord:
        """Return the network that a file holds."""
        return cls(CostRecord.from_fields(fields), _metric(fields), fields.whole_or_none("steps"))

    def to_dict(self) -> dict[str, object]:
        """Return it as data that JSON knows."""
        steps = {} if self.steps is None else {"steps": self.steps}
        return {**asdict(self.cost), "metric": self.metric.to_dict(), **steps}


@dataclass(frozen=True)
class BudgetRecord:
    """What the subnet was allowed to cost; None where there is no such limit.

    Attributes:
        latency_ms: Greatest latency.
        peak_activation_bytes: Greatest peak memory of the activations.
        parameter_bytes: Greatest size of the weights.
        requested: The bounds that were given as parts of the source's cost, such as ``0.5x``, or None.
    """

    latency_ms: float | None = None
    peak_activation_bytes: float | None = None
    parameter_bytes: float | None = None
    requested: str | None = None

    @classmethod
    def from_fields(cls, fields: Fields) -> BudgetRecord:
        """Return the budget that a file holds."""
        return cls(
            latency_ms=fields.number_or_none("latency_ms"),
            peak_activation_bytes=fields.number_or_none("peak_activation_bytes"),
            parameter_bytes=fields.number_or_none("parameter_bytes"),
            requested=fields.text_or_none("requested"),
        )

    @property
    def limits(self) -> dict[str, float | None]:
        """The limits by the name of the cost."""
        return {
            "latency_ms": self.latency_ms,
            "peak_activation_bytes": self.peak_activation_bytes,
            "parameter_bytes": self.parameter_bytes,
        }

    def is_kept_by(self, cost: CostRecord) -> bool:
        """Return whether a network keeps every limit, by the estimator.

        Example::

            >>> cost = CostRecord(2.1, None, parameter_bytes=10, peak_activation_bytes=10, macs=10)
            >>> BudgetRecord(latency_ms=2.0).is_kept_by(cost), BudgetRecord(parameter_bytes=10).is_kept_by(cost)
            (False, True)
        """
        pairs = (
            (cost.latency_ms, self.latency_ms),
            (cost.peak_activation_bytes, self.peak_activation_bytes),
            (cost.parameter_bytes, self.parameter_bytes),
        )
        return all(limit is None or figure <= limit for figure, limit in pairs)

    def to_dict(self) -> dict[str, object]:
        """Return it as data that JSON knows."""
        return {**self.limits, **({} if self.requested is None else {"requested": self.requested})}


def _metric(fields: Fields) -> MetricRecord:
    """Return the metric of a network, or raise an error that names the fields that every metric has."""
    metric = fields.nested("metric")
    if not {"name", "value", "split"} <= set(metric):
        raise ValueError(
            f"'{fields.file}' must give name, value and split as the metric of {fields.owner!r};"
            f" got {shown(fields.plain('metric'))}."
        )
    return MetricRecord.from_fields(metric)
