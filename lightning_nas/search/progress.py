"""Progress of a search that a checkpoint keeps, beside logits, multipliers and generators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

__all__ = ["Progress"]

Nodes = tuple[int, ...]


@dataclass
class Progress:
    """How far a search has come.

    Attributes:
        scored_step: The last optimizer step before which architectures were compared.
        num_values: Numbers in all batches that were trained on, once for each path of a step.
        start: Losses on held-out batches of the source network, and of subnets within the budget, before the training.
        start_batches: On how many held-out batches these were taken.
        ranked: The compared architectures, the best first.
        observed: Sampled architectures with their advantages.
        readiness: The figures of `Readiness`, once they were measured.
        warnings: What the log warned of at the end.
    """

    scored_step: int = -1
    num_values: int = 0
    start: list[tuple[Nodes, float]] = field(default_factory=list)
    start_batches: int = 0
    ranked: list[Nodes] = field(default_factory=list)
    observed: list[tuple[Nodes, float]] = field(default_factory=list)
    readiness: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)

    def restart(self, keep_observed: bool) -> None:
        """Forget what was found at the end of a training that goes on, and what was observed unless that is kept."""
        self.ranked, self.readiness, self.warnings = [], None, []
        self.observed = self.observed if keep_observed else []

    def to_dict(self) -> dict[str, Any]:
        """Return builtins that `from_dict` reads back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Progress:
        """Read `to_dict`'s result."""
        known = {field.name: data[field.name] for field in fields(cls) if field.name in data}
        pairs = {
            name: [(tuple(nodes), value) for nodes, value in known.get(name, ())] for name in ("start", "observed")
        }
        return cls(**{**known, **pairs, "ranked": [tuple(nodes) for nodes in known.get("ranked", ())]})
