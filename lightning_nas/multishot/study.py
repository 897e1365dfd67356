"""A study of trials in a file or a database that several processes share, and that survives any of them: Optuna's."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_nas.multishot.evolution import Evolution, Genes, Result
from lightning_nas.multishot.process import Owner
from lightning_nas.multishot.propose import propose
from lightning_nas.multishot.space import Ground
from lightning_nas.multishot.study_storage import load_optuna, open_study
from lightning_nas.multishot.trial import LostTrialError, Trial

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

__all__ = ["Study"]

log = logging.getLogger(__name__)


class Study:
    """Hands out trials: those that a dead process left first, then new ones, until there are as many as wanted.

    However many processes share the study, never more than `settings.trials` are trained: Optuna numbers the trials,
    and one with so many before it is given back at once.

    Args:
        storage: File of Optuna's journal, or the URL of a database such as ``sqlite:///study.db``.
        ground: What can be proposed.
        settings: How to propose.
        record: What must be the same for the study to be continued, in builtins.
        seed: Seed of the proposals.
        larger_is_better: Whether more is better of the metric that trials report.

    Raises:
        ImportError: Optuna is not installed.
        ValueError: The storage cannot be written, or holds a study of another search; the message says what differs.
    """

    def __init__(
        self,
        storage: str | Path,
        ground: Ground,
        settings: Evolution,
        record: Mapping[str, Any],
        seed: int,
        larger_is_better: bool = True,
    ) -> None:
        self.ground = ground
        self.settings = settings
        self.seed = seed
        self.owner = Owner.here()
        self._parameters = ground.parameters()
        self._larger_is_better = larger_is_better
        wanted = "maximize" if larger_is_better else "minimize"
        directions = [wanted] if settings.sampler == "evolution" else [wanted, "minimize"]
        self._is_exhausted = False
        self._study = open_study(storage, directions, {**record, "options": self._parameters})
        category = load_optuna().distributions.CategoricalDistribution
        self._distributions = {name: category(values) for name, values in self._parameters.items()}

    def next(self) -> Trial | None:
        """Return a trial to train, or None where none is left to start."""
        for left in self._running():
            if self._is_dead(left) and (trial := self._take_over(left)) is not None:
                return trial
        while True:
            trials = self._trials()
            waiting = any(trial.state.name == "WAITING" for trial in trials)
            if not waiting and (len(self._counted(trials)) >= self.settings.trials or not self._enqueue_next(trials)):
                return None
            if (trial := self._ask()) is not None:
                return trial

    def num_running(self) -> int:
        """Return how many trials are being trained, by any process."""
        return len(self._running())

    def results(self) -> list[Result]:
        """Return what was found so far, the oldest first."""
        finished = [trial for trial in self._trials() if trial.state.name in ("COMPLETE", "PRUNED")]
        finished.sort(key=lambda trial: (trial.datetime_complete, trial.number))
        return [self._result(trial) for trial in finished]

    def totals(self) -> dict[str, float]:
        """Return what all trials cost: seconds, steps, images, and how many were trained, rejected and pruned."""
        trials = [trial for trial in self._trials() if not _is_abandoned(trial)]

        def total(name: str) -> float:
            return sum(trial.user_attrs.get(name, 0) for trial in trials)

        return {
            "seconds": round(total("seconds"), 1),
            "steps": total("steps"),
            "images": total("images"),
            "trials": len(self._counted(trials)),
            "rejected": total("rejected"),
            "pruned": sum(trial.state.name == "PRUNED" for trial in trials),
        }

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _running(self) -> list[FrozenTrial]:
        return [trial for trial in self._trials() if trial.state.name == "RUNNING"]

    @staticmethod
    def _counted(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        return [t for t in trials if t.state.name != "FAIL" or t.user_attrs.get("reason") == "diverged"]

    def _result(self, trial: FrozenTrial) -> Result:
        attributes = trial.user_attrs
        genes = tuple(attributes["genes"])
        rungs = {int(epoch): value for epoch, value in attributes.get("rungs", {}).items()}
        is_complete = trial.state.name == "COMPLETE"
        epochs = attributes["epochs"] if is_complete else max(rungs)
        value = trial.values[0] if is_complete else rungs[epochs]
        number, cost = self._number(trial.number, attributes), self.ground.cost(genes)
        return Result(number, genes, epochs, value, cost, is_complete, self._larger_is_better)

    def _number(self, number: int, attributes: Mapping[str, Any]) -> int:
        """Return the number of a trial, the same whether or not processes died over it and over those before it.

        A trial that was taken over has another number in Optuna, and so has all that follows.

        Args:
            number: Its number in Optuna.
            attributes: Its attributes there.
        """
        first = attributes.get("origin", number)
        again = sum("origin" in trial.user_attrs for trial in self._trials() if trial.number < first)
        return int(first - again)

    def _enqueue_next(self, trials: Sequence[FrozenTrial]) -> bool:
        """Propose for the target with the fewest trials; return whether there was anything to propose."""
        drawn = [trial for trial in trials if not _is_abandoned(trial)]
        rng = np.random.default_rng((self.seed, len(drawn)))
        started = [trial.user_attrs.get("target") for trial in self._counted(trials)]
        seen = {tuple(trial.user_attrs.get("genes", ())) for trial in drawn}
        results = self.results()
        for number in sorted(range(len(self.ground.targets)), key=started.count):
            target = self.ground.targets[number]
            found = propose(self.ground, target, results, seen, started.count(number), self.settings, rng)
            if found is not None:
                if not found.is_verified:
                    log.warning(
                        "The device's backend prices all that was proposed over the budget %s, which the next trial "
                        "keeps by the estimate. HINT: ask for a little less.",
                        target.label,
                    )
                self._enqueue(
                    {
                        "genes": list(found.genes),
                        "target": number,
                        "rejected": found.rejected,
                        **self._costs(found.genes),
                    }
                )
                return True
        if not self._is_exhausted:
            log.warning("No further member of the space within the budgets was found; the study ends early.")
        self._is_exhausted = True
        return False

    def _costs(self, genes: Genes) -> dict[str, Any]:
        architecture = json.dumps(self.ground.decode(genes).to_dict(), separators=(",", ":"))
        return {"architecture": architecture, **self.ground.place(genes).tables.costs(genes[2:])}

    def _enqueue(self, attributes: Mapping[str, Any]) -> None:
        pairs = zip(self._parameters.items(), attributes["genes"], strict=True)
        chosen = {name: values[gene] for (name, values), gene in pairs}
        self._study.enqueue_trial(chosen, user_attrs={**attributes, **self._signs()})

    def _signs(self) -> dict[str, Any]:
        return {"owner": self.owner.to_dict(), "beat": time.time()}

    def _ask(self) -> Trial | None:
        """Start a trial that was enqueued; None where it is one too many, or another process has just started it."""
        asked = self._study.ask(self._distributions)
        number = self._number(asked.number, asked.user_attrs)
        trial = Trial(self._study, asked, number, self.settings, self._larger_is_better)
        before = [other for other in self._counted(self._trials()) if other.number < asked.number]
        genes = asked.user_attrs.get("genes")
        try:
            trial.write(**self._signs())
            if genes is None or len(before) >= self.settings.trials:
                trial.refuse("superfluous")
            elif any(other.user_attrs.get("genes") == genes for other in before):
                trial.refuse("duplicate")
            else:
                return trial
        except LostTrialError:
            pass
        return None

    def _take_over(self, left: FrozenTrial) -> Trial | None:
        """Go on with what a dead process left; None where another process does it."""
        try:
            # Only one process can end the trial; it goes on with a new one, from the checkpoint of the first.
            self._study.tell(left.number, state=load_optuna().trial.TrialState.FAIL)
        except (ValueError, RuntimeError):
            return None
        if "genes" not in left.user_attrs:
            return None
        origin = left.user_attrs.get("origin", left.number)
        log.info("Trial %d was left unfinished; it goes on.", self._number(left.number, left.user_attrs))
        self._enqueue({**left.user_attrs, "origin": origin})
        return self._ask()

    def _is_dead(self, trial: FrozenTrial) -> bool:
        attributes = trial.user_attrs
        started = 0.0 if trial.datetime_start is None else trial.datetime_start.timestamp()
        is_stale = time.time() - attributes.get("beat", started) > self.settings.stale_seconds
        if "owner" not in attributes:  # it was killed before it could say so
            return is_stale
        if attributes["owner"] is None:
            return True
        owner = Owner.from_dict(attributes["owner"])
        return owner != self.owner and (is_stale or self.owner.knows_dead(owner))


def _is_abandoned(trial: FrozenTrial) -> bool:
    """Return whether a process died over a trial; another one took its place, or will."""
    return trial.state.name == "FAIL" and "reason" not in trial.user_attrs
