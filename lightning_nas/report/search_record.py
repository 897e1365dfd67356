"""`SearchRecord`: what a search cost, and what is known of its supernet or its trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from lightning_nas.report.fields import Fields

__all__ = ["ReadinessRecord", "SearchRecord", "SupernetRecord", "TrialsRecord"]


@dataclass(frozen=True)
class SearchRecord:
    """What a search cost. Runs of several budgets can share a supernet or trials; each records all of it.

    Attributes:
        seconds: Seconds of one machine, or of all that trained trials.
        steps: Optimizer steps.
        supernet: What is known of the supernet of a single-shot search; in records since 2026-11-29.
        trials: What is known of the trials of a multishot search; None for a single-shot search.
    """

    seconds: float
    steps: float
    supernet: SupernetRecord | None = None
    trials: TrialsRecord | None = None

    @classmethod
    def from_fields(cls, fields: Fields) -> SearchRecord:
        """Return the search that a file holds."""
        has_supernet = not {"readiness", "warnings"}.isdisjoint(fields)
        return cls(
            seconds=fields.number("seconds"),
            steps=fields.number("steps"),
            supernet=SupernetRecord.from_fields(fields) if has_supernet else None,
            trials=TrialsRecord.from_fields(fields) if fields.has("trials") else None,
        )

    def to_dict(self) -> dict[str, object]:
        """Return it as data that JSON knows."""
        parts = (part.to_dict() for part in (self.supernet, self.trials) if part is not None)
        found: dict[str, object] = {"seconds": self.seconds, "steps": self.steps}
        for part in parts:
            found |= part
        return found


@dataclass(frozen=True)
class ReadinessRecord:
    """How ready a supernet was, see `lightning_nas.search.readiness.Readiness`.

    Attributes:
        text: The figures in a sentence.
        figures: The figures by their names; None where one was not measured.
    """

    text: str
    figures: Mapping[str, float | None] = field(default_factory=dict)

    @classmethod
    def from_fields(cls, fields: Fields) -> ReadinessRecord:
        """Return the readiness that a file holds."""
        figures = {name: fields.number_or_none(name) for name in fields if name != "text"}
        return cls(fields.text("text"), figures)

    def to_dict(self) -> dict[str, object]:
        """Return it as data that JSON knows."""
        return {**self.figures, "text": self.text}


@dataclass(frozen=True)
class SupernetRecord:
    """What is known of a search's supernet.

    Attributes:
        readiness: How ready it was, or None where that was not measured.
        warnings: What was warned of at the end of its training.
    """

    readiness: ReadinessRecord | None = None
    warnings: tuple[str, ...] = ()

    @classmethod
    def from_fields(cls, fields: Fields) -> SupernetRecord:
        """Return the supernet of a search that a file holds."""
        readiness = fields.nested_or_none("readiness")
        warnings = fields.listed("warnings", "a list of texts") if fields.has("warnings") else None
        return cls(
            readiness=None if readiness is None else ReadinessRecord.from_fields(readiness),
            warnings=() if warnings is None else tuple(warnings.text(place) for place in warnings),
        )

    def to_dict(self) -> dict[str, object]:
        """Return it as data that JSON knows."""
        readiness = None if self.readiness is None else self.readiness.to_dict()
        return {"readiness": readiness, "warnings": list(self.warnings)}


@dataclass(frozen=True, kw_only=True)
class TrialsRecord:
    """The trials of a multishot search, for all of its budgets together.

    Attributes:
        images: Number of training images that all trials saw.
        trials: Number of networks that were trained.
        rejected: Number of networks that the device's backend found over a budget, so that they were not trained.
        pruned: Number of trials that were stopped early.
        finetuned: Number of trials that were fine-tuned.
    """

    images: int | None = None
    trials: int
    rejected: int | None = None
    pruned: int | None = None
    finetuned: int | None = None  # in records since 2026-11-28

    @classmethod
    def from_fields(cls, fields: Fields) -> TrialsRecord:
        """Return the trials of a search that a file holds."""
        return cls(
            images=fields.whole_or_none("images"),
            trials=fields.whole("trials"),
            rejected=fields.whole_or_none("rejected"),
            pruned=fields.whole_or_none("pruned"),
            finetuned=fields.whole_or_none("finetuned"),
        )

    def to_dict(self) -> dict[str, object]:
        """Return what is known as data that JSON knows."""
        return {name: count for name, count in asdict(self).items() if count is not None}
