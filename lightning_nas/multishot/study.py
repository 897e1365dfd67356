"""Study of trials in a file or a database of Optuna's, which several processes share and which survives any of them."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lightning_nas.multishot.evolution import Evolution, Genes, Result
from lightning_nas.multishot.process import Owner
from lightning_nas.multishot.propose import propose
from lightning_nas.multishot.space import JointSpace
from lightning_nas.multishot.study_storage import load_optuna, open_study
from lightning_nas.multishot.trial import LostTrialError, Trial
from lightning_nas.multishot.trial_record import TrialRecord

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

__all__ = ["Study"]

log = logging.getLogger(__name__)


class Study:
    """Hands out trials: those that a dead process left first, then new ones, until there are as many as wanted.

    However many processes share the study, never more than `settings.trials` are trained: Optuna numbers the trials,
    and one with so many before it is given back at once.

    Args:
        storage: File of Optuna's journal, or the URL of a database such as ``sqlite:///study.db``.
        joint_space: What can be proposed.
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
        joint_space: JointSpace,
        settings: Evolution,
        record: Mapping[str, object],
        seed: int,
        larger_is_better: bool = True,
    ) -> None:
        self.joint_space = joint_space
        self.settings = settings
        self.seed = seed
        self.owner = Owner.here()
        self._parameters = joint_space.parameters()
        self._larger_is_better = larger_is_better
        wanted = "maximize" if larger_is_better else "minimize"
        directions = [wanted] if settings.sampler == "evolution" else [wanted, "minimize"]
        self._is_exhausted = False
        self._study = open_study(storage, directions, {**record, "options": self._parameters})
        category = load_optuna().distributions.CategoricalDistribution
        self._distributions = {name: category(values) for name, values in self._parameters.items()}

    def next(self) -> Trial | None:
        """Start a trial and return it, or None if there are as many as wanted."""
        for left in self._running():
            if self._is_dead(left) and (trial := self._take_over(left)) is not None:
                return trial
        while True:
            trials = self._trials()
            # What was enqueued, by any process, is started before more is proposed.
            waiting = any(trial.state.name == "WAITING" for trial in trials)
            if not waiting and (len(self._counted(trials)) >= self.settings.trials or not self._enqueue_next(trials)):
                return None
            if (trial := self._ask()) is not None:
                return trial

    def num_running(self) -> int:
        """Return how many trials are being trained, by any process."""
        return len(self._running())

    def results(self) -> list[Result]:
        """Return the results of all finished trials, the oldest first."""
        finished = [trial for trial in self._trials() if trial.state.name in ("COMPLETE", "PRUNED")]
        finished.sort(key=lambda trial: (trial.datetime_complete, trial.number))
        return [self._result(trial) for trial in finished]

    def totals(self) -> dict[str, float]:
        """Return what all trials cost: seconds, steps, images, and how many were trained, rejected and pruned."""
        trials = [trial for trial in self._trials() if not _is_abandoned(trial)]
        records = [TrialRecord.of(trial) for trial in trials]
        return {
            "seconds": round(sum(record.seconds for record in records), 1),
            "steps": sum(record.steps for record in records),
            "images": sum(record.images for record in records),
            "trials": len(self._counted(trials)),
            "rejected": sum(record.rejected for record in records),
            "pruned": sum(trial.state.name == "PRUNED" for trial in trials),
        }

    def _trials(self) -> list[FrozenTrial]:
        # They are only read, and copies of all trials would be made again and again.
        return self._study.get_trials(deepcopy=False)

    def _running(self) -> list[FrozenTrial]:
        return [trial for trial in self._trials() if trial.state.name == "RUNNING"]

    @staticmethod
    def _counted(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        return [t for t in trials if t.state.name != "FAIL" or TrialRecord.of(t).reason == "diverged"]

    def _result(self, trial: FrozenTrial) -> Result:
        record, is_complete = TrialRecord.of(trial), trial.state.name == "COMPLETE"
        genes, epochs = record.genes, record.epochs if is_complete else max(record.rungs)
        assert genes is not None, "only proposed trials have a result"
        assert epochs is not None, "they are written before the result"
        value = trial.values[0] if is_complete else record.rungs[epochs]
        number, cost = self._number(trial), self.joint_space.cost(genes)
        return Result(number, genes, epochs, value, cost, is_complete, self._larger_is_better)

    def _number(self, trial: FrozenTrial | optuna.Trial) -> int:
        """Return the number of a trial, the same whether or not processes died over it and over those before it.

        A trial that was taken over has another number in Optuna, and so has all that follows.

        Args:
            trial: The trial in Optuna.
        """
        origin = TrialRecord.of(trial).origin
        first = trial.number if origin is None else origin
        earlier = (other for other in self._trials() if other.number < first)
        return first - sum("origin" in other.user_attrs for other in earlier)

    def _enqueue_next(self, trials: Sequence[FrozenTrial]) -> bool:
        """Propose for the target with the fewest trials; return whether there was anything to propose."""
        drawn = [trial for trial in trials if not _is_abandoned(trial)]
        # By the number of proposals, so that a study that was interrupted goes on to draw what it would have drawn.
        rng = np.random.default_rng((self.seed, len(drawn)))
        started = [TrialRecord.of(trial).target for trial in self._counted(trials)]
        seen = {TrialRecord.of(trial).genes or () for trial in drawn}
        results = self.results()
        for number in sorted(range(len(self.joint_space.targets)), key=started.count):
            target = self.joint_space.targets[number]
            found = propose(self.joint_space, target, results, seen, started.count(number), self.settings, rng)
            if found is not None:
                if not found.is_verified:
                    log.warning(
                        "The device's backend prices all that was proposed over the budget %s, which the next trial "
                        "keeps by the estimate. HINT: ask for a little less.",
                        target.label,
                    )
                proposed = {"genes": list(found.genes), "target": number, "rejected": found.rejected}
                self._enqueue(found.genes, {**proposed, **self._costs(found.genes)})
                return True
        if not self._is_exhausted:
            log.warning("No further member of the space within the budgets was found; the study ends early.")
        self._is_exhausted = True
        return False

    def _costs(self, genes: Genes) -> dict[str, object]:
        architecture = json.dumps(self.joint_space.decode(genes).to_dict(), separators=(",", ":"))
        return {"architecture": architecture, **self.joint_space.setting(genes).tables.costs(genes[2:])}

    def _enqueue(self, genes: Genes, attributes: Mapping[str, object]) -> None:
        pairs = zip(self._parameters.items(), genes, strict=True)
        chosen = {name: values[gene] for (name, values), gene in pairs}
        self._study.enqueue_trial(chosen, user_attrs={**attributes, **self._signs()})

    def _signs(self) -> dict[str, object]:
        return {"owner": self.owner.to_dict(), "beat": time.time()}

    def _ask(self) -> Trial | None:
        """Start a trial that was enqueued; None where it is one too many, or another process has just started it."""
        asked = self._study.ask(self._distributions)
        trial = Trial(self._study, asked, self._number(asked), self.settings, self._larger_is_better)
        # Optuna numbers the trials of all processes: of two that saw room for one more, the later number gives it back.
        before = [other for other in self._counted(self._trials()) if other.number < asked.number]
        genes = TrialRecord.of(asked).genes
        try:
            trial.write(**self._signs())
            if genes is None or len(before) >= self.settings.trials:
                trial.refuse("superfluous")
            elif any(TrialRecord.of(other).genes == genes for other in before):
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
        record = TrialRecord.of(left)
        if record.genes is None:
            return None
        log.info("Trial %d was left unfinished; it goes on.", self._number(left))
        origin = left.number if record.origin is None else record.origin
        self._enqueue(record.genes, {**left.user_attrs, "origin": origin})
        return self._ask()

    def _is_dead(self, trial: FrozenTrial) -> bool:
        record = TrialRecord.of(trial)
        started = 0.0 if trial.datetime_start is None else trial.datetime_start.timestamp()
        beat = started if record.beat is None else record.beat
        is_stale = time.time() - beat > self.settings.stale_seconds
        if not record.is_owned:  # it was killed before it could say so
            return is_stale
        if record.owner is None:
            return True
        owner = Owner.from_dict(record.owner)
        return owner != self.owner and (is_stale or self.owner.knows_dead(owner))


def _is_abandoned(trial: FrozenTrial) -> bool:
    """Return whether a process died over a trial; another one took its place, or will."""
    return trial.state.name == "FAIL" and TrialRecord.of(trial).reason is None
