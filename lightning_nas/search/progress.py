"""How far a search has come: what a checkpoint keeps of it beside logits, multipliers and generators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Progress"]

Nodes = tuple[int, ...]


@dataclass
class Progress:
    """How far a search has come.

    Attributes:
        scored_step: The last optimizer step before which architectures were compared.
        start_loss: Loss of the source network on the first batch.
        ranked: The compared architectures, the best first.
        observed: Sampled architectures with their advantages.
    """

    scored_step: int = -1
    start_loss: float | None = None
    ranked: list[Nodes] = field(default_factory=list)
    observed: list[tuple[Nodes, float]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return builtins that `from_dict` reads back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Progress:
        """Read `to_dict`'s result."""
        ranked = [tuple(nodes) for nodes in data["ranked"]]
        observed = [(tuple(nodes), advantage) for nodes, advantage in data["observed"]]
        return cls(data["scored_step"], data["start_loss"], ranked, observed)
