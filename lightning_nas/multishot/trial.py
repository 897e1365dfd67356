"""Trial that this process trains: reports to the study, and signs that the process is alive."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import TYPE_CHECKING

from lightning_nas.multishot.evolution import Evolution, Genes, is_promoted
from lightning_nas.multishot.study_storage import load_optuna
from lightning_nas.multishot.trial_record import TrialRecord

if TYPE_CHECKING:
    import optuna

__all__ = ["LostTrialError", "Trial"]

# Signs of life within the time after which a process is taken for dead, so that single ones may be late.
_BEATS = 10


class LostTrialError(RuntimeError):
    """Another process took the trial over, since this one gave no sign of life for too long."""


class Trial:
    """A started trial of a study.

    Args:
        study: Where it is written.
        asked: The trial there.
        number: Of its first attempt, where there were several.
        settings: Rungs, and how long a process may be silent.
        larger_is_better: Whether more is better of the metric.
    """

    def __init__(
        self,
        study: optuna.Study,
        asked: optuna.Trial,
        number: int,
        settings: Evolution,
        larger_is_better: bool = True,
    ) -> None:
        self.number = number
        self._study = study
        self._asked = asked
        self._settings = settings
        self._larger_is_better = larger_is_better
        self._state = load_optuna().trial.TrialState

    @property
    def genes(self) -> Genes:
        """The member that is trained."""
        genes = self._record.genes
        assert genes is not None, "a trial without them is refused"
        return genes

    @property
    def target(self) -> int:
        """Index of the budgets that it was proposed for."""
        target = self._record.target
        assert target is not None, "it was enqueued with the genes"
        return target

    @property
    def _record(self) -> TrialRecord:
        return TrialRecord.of(self._asked)

    def write(self, **attributes: object) -> None:
        """Write attributes of the trial.

        Raises:
            LostTrialError: Another process trains it by now.
        """
        with _losing():
            for name, value in attributes.items():
                self._asked.set_user_attr(name, value)

    def report(self, epoch: int, value: float) -> bool:
        """Write the metric after `epoch` epochs and return whether to go on.

        At a rung it has to be among the best of the trials of the same budgets; else small networks never went on.

        Raises:
            LostTrialError: Another process trains it by now.
        """
        # Optuna takes no intermediate values where there are several objectives.
        if len(self._study.directions) == 1 and math.isfinite(value):
            with _losing():
                self._asked.report(value, epoch)
        if not math.isfinite(value):
            return False
        if epoch not in self._settings.rungs:
            return True
        rungs = {**self._record.rungs, epoch: value}
        # Keys of a JSON object are text.
        self.write(rungs={str(reached): then for reached, then in rungs.items()})
        return is_promoted(value, self._others(epoch), self._settings.eta, self._larger_is_better)

    def finish(self, value: float, epochs: int, is_pruned: bool, figures: Mapping[str, float]) -> None:
        """Write the result of the trial to the study.

        Args:
            value: Metric at the end. One that is not finite is none.
            epochs: How long it was trained.
            is_pruned: Whether a rung stopped it.
            figures: What it took: seconds, steps, images.

        Raises:
            LostTrialError: Another process trains it by now.
        """
        self.write(epochs=epochs, **figures)
        if not math.isfinite(value):
            self.refuse("diverged")
            return
        with _losing():
            if is_pruned:
                self._study.tell(self._asked, state=self._state.PRUNED)
            else:
                latency_ms = self._record.latency_ms
                assert latency_ms is not None, "it was enqueued with the genes"
                # A study of NSGA-II has latency as its second objective, that of evolution has the metric alone.
                self._study.tell(self._asked, [value, latency_ms][: len(self._study.directions)])

    def refuse(self, reason: str) -> None:
        """End the trial without a result: ``diverged``, or ``superfluous`` or ``duplicate`` before any training."""
        self.write(reason=reason)
        with _losing():
            self._study.tell(self._asked, state=self._state.FAIL)

    @contextmanager
    def training(self, hopeless: type[Exception] | tuple[()] = ()) -> Iterator[None]:
        """Write signs of life while the body runs; if it fails, leave the trial to another process.

        Args:
            hopeless: What the body fails with where the training diverges: such a trial is left to nobody. None by
                default.
        """
        ended = Event()

        def beat() -> None:
            with suppress(LostTrialError):  # the next report says so
                while not ended.wait(self._settings.stale_seconds / _BEATS):
                    self.write(beat=time.time())

        thread = Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        except hopeless:
            self.refuse("diverged")
            raise
        # Whatever it ends by, a stop included: another process may go on at once.
        except BaseException:
            with suppress(LostTrialError):
                self.write(owner=None)
            raise
        finally:
            ended.set()
            thread.join()

    def _others(self, epoch: int) -> list[float]:
        """Return the metrics that the other trials of the same budgets had at a rung."""
        trials = self._study.get_trials(deepcopy=False)
        others = [TrialRecord.of(trial) for trial in trials if trial.state.name != "FAIL"]
        same = [other for other in others if other.target == self.target and epoch in other.rungs]
        return [other.rungs[epoch] for other in same if other.genes != self.genes]


@contextmanager
def _losing() -> Iterator[None]:
    """Say of a trial that was ended elsewhere that it was lost."""
    try:
        yield
    # Of a trial that has ended, `tell` raises the one and writing an attribute the other.
    except (load_optuna().exceptions.UpdateFinishedTrialError, ValueError) as error:
        raise LostTrialError(f"Another process took the trial over: {error}") from error
