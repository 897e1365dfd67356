"""Progress of a search that a checkpoint keeps, beside logits, multipliers and generators."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields

from lightning_nas.search.readiness import Readiness
from lightning_nas.space.spec import Encoding
from lightning_nas.training.checkpoints import CheckpointState

__all__ = ["Progress"]


@dataclass
class Progress:
    """Counters and results of a search, as a checkpoint keeps them.

    Attributes:
        scored_step: The last optimizer step before which architectures were compared.
        num_values: Numbers in all batches that were trained on, once for each path of a step.
        start: Losses on held-out batches of the source network, and of subnets within the budget, before the training.
        start_batches: On how many held-out batches these were taken.
        ranked: The compared architectures, the best first.
        observed: Sampled architectures with their advantages.
        errors: For each node the error of each option, where these were measured in the trained network.
        readiness: How ready the supernet was when its training ended; None before, and where nothing was held out.
        warnings: What the log warned of at the end.
    """

    scored_step: int = -1
    num_values: int = 0
    start: list[tuple[Encoding, float]] = field(default_factory=list)
    start_batches: int = 0
    ranked: list[Encoding] = field(default_factory=list)
    observed: list[tuple[Encoding, float]] = field(default_factory=list)
    errors: list[list[float]] = field(default_factory=list)
    readiness: Readiness | None = None
    warnings: list[str] = field(default_factory=list)

    def restart(self, keep_observed: bool) -> None:
        """Forget the results at the end of a training that goes on; sampled architectures only if they are not kept."""
        self.ranked, self.readiness, self.warnings = [], None, []
        self.observed = self.observed if keep_observed else []

    def to_dict(self) -> dict[str, object]:
        """Return builtins that `from_dict` reads back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: CheckpointState) -> Progress:
        """Read `to_dict`'s result."""
        known = {field.name: data[field.name] for field in fields(cls) if field.name in data}
        pairs = {
            name: [(tuple(encoding), value) for encoding, value in known.get(name, ())]
            for name in ("start", "observed")
        }
        measured = known.get("readiness")
        found = {
            "readiness": None if measured is None else Readiness(**measured),
            "ranked": [tuple(encoding) for encoding in known.get("ranked", ())],
        }
        return cls(**{**known, **pairs, **found})
