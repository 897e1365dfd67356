"""Attributes that a study keeps of a trial, beside Optuna's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightning_nas.multishot.evolution import Genes

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

__all__ = ["TrialRecord"]


@dataclass(frozen=True)
class TrialRecord:
    """Attributes of a trial; those that were not written yet are None, 0 or empty.

    Attributes:
        genes: The member that is trained; None in a trial that something else started.
        target: Index of the budgets that it was proposed for.
        origin: Number in Optuna of its first attempt, where a process died over that one.
        rungs: Its metric at each rung that it reached, by epochs.
        latency_ms: Estimated latency of the member, in milliseconds.
        epochs: Epochs that it was trained for.
        reason: Why it has no result: ``diverged``, ``superfluous`` or ``duplicate``.
        beat: Time of the last sign of life of its process, in seconds since the epoch of the clock.
        is_owned: Whether a process said that it is its own, or that it left it.
        owner: That process, not checked; None where it left the trial.
        seconds: Seconds that the training took.
        steps: Optimizer steps of the training.
        images: Images that were trained on.
        rejected: Proposals that were rejected before this one was found.
    """

    genes: Genes | None
    target: int | None
    origin: int | None
    rungs: dict[int, float]
    latency_ms: float | None
    epochs: int | None
    reason: str | None
    beat: float | None
    is_owned: bool
    owner: object
    seconds: float
    steps: int
    images: int
    rejected: int

    @classmethod
    def of(cls, trial: FrozenTrial | optuna.Trial) -> TrialRecord:
        """Return the attributes of a trial of a study."""
        kept = trial.user_attrs
        genes = kept.get("genes")
        return cls(
            genes=None if genes is None else tuple(genes),
            target=kept.get("target"),
            origin=kept.get("origin"),
            rungs={int(epochs): value for epochs, value in kept.get("rungs", {}).items()},
            latency_ms=kept.get("latency_ms"),
            epochs=kept.get("epochs"),
            reason=kept.get("reason"),
            beat=kept.get("beat"),
            is_owned="owner" in kept,
            owner=kept.get("owner"),
            seconds=kept.get("seconds", 0),
            steps=kept.get("steps", 0),
            images=kept.get("images", 0),
            rejected=kept.get("rejected", 0),
        )
