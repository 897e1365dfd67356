"""The multishot job: evolution over whole trainings, each trial a plain fit of a plain network."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from itertools import chain

from lightning_nas.budget.budget import Budget
from lightning_nas.budget.confirm import confirm
from lightning_nas.budget.limits import Limits
from lightning_nas.io.numbers import check_number
from lightning_nas.jobs.job import carry_out
from lightning_nas.jobs.plan import Epochs, FinetunePlan, Goal, Model, MultishotPlan, Run
from lightning_nas.jobs.record import Outcome, log_hints, summary, write_run
from lightning_nas.jobs.search_data import SearchData
from lightning_nas.jobs.trainings import Trainings
from lightning_nas.multishot.best_trial import best_trials
from lightning_nas.multishot.evolution import Evolution, Result
from lightning_nas.multishot.space import JointSpace, Target, targets_of
from lightning_nas.multishot.study import Study
from lightning_nas.multishot.trial import LostTrialError, Trial
from lightning_nas.report.run_record import RunRecord
from lightning_nas.report.search_record import SearchRecord, TrialsRecord
from lightning_nas.search.describe import format_reach
from lightning_nas.tasks.metric import TaskMetric
from lightning_nas.training.divergence import DivergedError
from lightning_nas.training.fingerprint import described_device, described_network, described_trainer, plain

__all__ = ["MultishotJob", "evolve_and_finetune"]

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0


def evolve_and_finetune(
    run: Run, goal: Goal, model: Model[Callable[..., SearchData]], search: MultishotPlan, finetune: FinetunePlan
) -> RunRecord | dict[str, RunRecord]:
    """Train the source, evolve trials from it within the budgets, fine-tune the best for each budget, compare.

    A trial is a network of the space at one of the input sizes, in one of the variants, that inherits the source's
    weights and is trained for ``epochs.search``. Trials are selected by the metric on the validation data; of each
    budget, the best that uses it is fine-tuned, and then each gets the best of these within it. The test data is used
    only for what is fine-tuned in the end, and for the baseline, the source trained on for as many epochs. Where the
    device's backend is installed, whole networks are measured before they are trained, and what is over is passed over.

    The study is kept in Optuna's storage. It can be killed at any time and goes on when the job is started again with
    the same output directory. Several processes that are given the same output directory share the work: none starts a
    trial beyond `search.trials`, and each waits for the others' last ones. Machines without a common file system can
    share a database as `storage`; each trains the source, and in the end the best again where it was another's.

    Args:
        run: Where to write, and how to train. For several latencies each gets a folder that is named after it, such as
            ``0.49x``.
        goal: What has to be reached, on which device.
        model: What is searched.
        search: How.
        finetune: How the best trials are trained on.

    Returns:
        The content of result.json; for several latencies that of each, by the names of their folders.

    Raises:
        ImportError: Optuna is not installed.
        ValueError: A setting that is not valid, a budget out of reach at every size or none that binds, or a study of
            another search; before any training.
        RuntimeError: The best trial costs more than a budget, by the estimator or the device's backend.
    """
    return carry_out(MultishotJob(run, goal, model, search, finetune))


class MultishotJob:
    """The phases of `evolve_and_finetune`, one method each, in the order of `Job`. The arguments are the same."""

    def __init__(
        self,
        run: Run,
        goal: Goal,
        model: Model[Callable[..., SearchData]],
        search: MultishotPlan,
        finetune: FinetunePlan,
    ) -> None:
        self.run, self.goal, self.model, self.searching, self.finetuning = run, goal, model, search, finetune
        self.budgets = _budgets(goal.budget, search.latencies)
        _check(search.search, run.epochs, len(self.budgets))
        run.begin_random()
        self.estimator = goal.estimator(goal.device)
        self.trainings = Trainings(run, model, search, finetune)
        settings = self.trainings.settings(self.estimator)
        targets = targets_of(settings, self.budgets, search.search.floor)
        # A backend takes about a second for a network, and proposals, finalists and the last choice ask for the same
        # ones again.
        joint_space = JointSpace(settings, len(self.trainings.variants), targets, cache(self.estimator.verify_ms))
        _log_reach(joint_space)
        self.trainings.data.prepare()
        self._fingerprint = self._described(joint_space)
        self.trainings.try_parts()
        storage, metric = search.storage or run.folder / "study.journal", self.trainings.metric
        self.study = Study(storage, joint_space, search.search, self._fingerprint, run.seed, metric.larger_is_better)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Use the directory of the run, which other processes of the same search may use, too."""
        finetuning = self.finetuning
        rest = {
            # Of one machine, whose folders of one name are told apart.
            "data": self.trainings.data.described(),
            "finetune": self.run.epochs.finetune,
            "finetune_task": finetuning.task or {},
            "averaging": finetuning.averaging,
            "taught_by": finetuning.taught_by,
        }
        self.trainings.open({**self._fingerprint, **rest})
        yield

    def train_source(self) -> None:
        """Train the source network at the first of the input sizes."""
        first = self.study.joint_space.settings[0].space
        latency_ms = self.estimator.latency_ms(first.decode(first.reference_encoding))
        log.info("1/3 Training the source, %.4g ms", latency_ms)
        self.trainings.train_source()

    def search(self) -> None:
        """Train trials until as many are finished as are wanted, by this process and by others."""
        study, trainings, num_images = self.study, self.trainings, self.searching.num_trial_images
        log.info("2/3 Training %d trials: %s", study.settings.trials, study.settings.sampler)
        if num_images and trainings.has_source and len(study.results()) < study.settings.trials:
            study.joint_space = study.joint_space.with_errors(trainings.option_errors(study.joint_space, num_images))
        _run_trials(study, trainings)
        log.info("3/3 Fine-tuning the best, and training the source on, for comparison")

    def train_baseline(self) -> None:
        """Train the source on, for as long as a trial and its fine-tuning, once finalists keep the budgets."""
        # Of several processes of a study the first trains all that follows; the others wait, and find its checkpoints.
        with self.trainings.alone():
            joint_space, results = self.study.joint_space, self.study.results()
            count = self.searching.finalists
            self.finalists = [_finalists(results, joint_space, target, count) for target in joint_space.targets]
            for target, own in zip(joint_space.targets, self.finalists, strict=True):
                for best in own:
                    confirm(_limits_of(joint_space, target, best), self.estimator, joint_space.decode(best.genes))
            self.baseline = self.trainings.train_baseline()

    def finetune(self) -> None:
        """Fine-tune the finalists of each budget."""
        with self.trainings.alone():
            # A trial may be a finalist of several budgets; it is fine-tuned once.
            self.trained_on = dict.fromkeys(chain.from_iterable(self.finalists))
            self.finetuned = {
                best.number: self.trainings.finetune(self.study.joint_space, best.genes, best.number)
                for best in self.trained_on
            }

    def record(self) -> RunRecord | dict[str, RunRecord]:
        """Write the files of the run; return the content of result.json, for several budgets of each by its label."""
        folder, records = self.run.folder, dict[str, RunRecord]()
        with self.trainings.alone():
            for label, outcome in self.outcomes().items():
                here = folder / label if len(self.budgets) > 1 else folder
                here.mkdir(parents=True, exist_ok=True)
                records[label] = write_run(here, outcome)
                log.info("%s: %s\n%s\nWritten to %s", label, outcome.chosen, summary(records[label]), here)
            log_hints(self.estimator)
        return records if len(self.budgets) > 1 else next(iter(records.values()))

    def outcomes(self) -> dict[str, Outcome]:
        """Return the outcome of each budget by its label: of all networks within it the best on the validation data."""
        pairs = zip(self.study.joint_space.targets, self.finalists, strict=True)
        return {target.label: self._outcome(target, own) for target, own in pairs}

    def _outcome(self, target: Target, own: Sequence[Result]) -> Outcome:
        joint_space, trainings = self.study.joint_space, self.trainings
        source = joint_space.settings[0].space
        # Now that they are trained to the end, a smaller network that is better serves a larger budget, too.
        within = [best for best in self.trained_on if best in own or joint_space.meets(best.genes, target)]
        best = max(within, key=lambda best: trainings.metric.score(self.finetuned[best.number].value))
        tuned = self.finetuned[best.number]
        limits, chosen = _limits_of(joint_space, target, best), joint_space.decode(best.genes)
        confirm(limits, self.estimator, chosen)
        metric, steps = self.baseline
        return Outcome(
            recipe=self.run.recipe,
            task=tuned.task,
            seed=self.run.seed,
            estimator=self.estimator,
            budget=target.budget,
            limits=limits,
            choices="both",
            space=source,
            chosen=chosen,
            subnet=tuned.network,
            origin=trainings.source_of(best.genes),
            baseline_metric=metric,
            baseline_steps=steps,
            subnet_metric=tuned.metric,
            subnet_steps=tuned.steps,
            compared=(),
            search=_search_record(self.study.totals(), len(self.finetuned)),
            history=_history(self.study.results(), trainings.metric),
            network={**trainings.network_settings, **joint_space.setting(best.genes).variant},
            epochs=self.run.epochs,
            data_name=trainings.data_name,
            taught_by=trainings.teacher_name,
            interface=tuned.interface,
        )

    def _described(self, joint_space: JointSpace) -> dict[str, object]:
        """Return the settings that the trials of a study depend on."""
        run, search, finetuning = self.run, self.searching.search, self.finetuning
        spaces = "".join(setting.space.to_json() for setting in joint_space.settings)
        teaching = {"all": self.model.task, "search": self.searching.task, "teaching": finetuning.teaching}
        # Without whole paths: machines that share a study in a database keep data in different folders.
        described: dict[str, object] = plain(
            {
                "device": described_device(self.goal.device),
                "budgets": {label: budget.requested for label, budget in self.budgets.items()},
                "epochs": {"source": run.epochs.source, "search": run.epochs.search},
                "search": {name: getattr(search, name) for name in ("sampler", "rungs", "eta")},
                "seed": run.seed,
                "data": self.model.data,
                "network": described_network(self.model.network),
                "task": teaching,
                "estimator": self.goal.estimator,
                "metric": vars(self.trainings.metric),
                "num_calibration_batches": finetuning.num_calibration_batches,
                "num_trial_images": self.searching.num_trial_images,
                "trainer": described_trainer(run.trainer),
                "spaces": hashlib.sha256(spaces.encode()).hexdigest()[:12],
            }
        )
        return described


def _budgets(budget: Budget, latencies: Sequence[float | str]) -> dict[str, Budget]:
    """Return the budgets by label, one for each latency."""
    budgets = {}
    for value in latencies or (budget.latency,):
        # Labels become names of folders, so that a bare number has to say its unit.
        number = re.fullmatch(r"[\d.]+", str(value))
        label = "budget" if value is None else f"{value}ms" if number else str(value).replace(" ", "")
        if label in budgets:
            raise ValueError(f"`budgets` must differ; got {list(latencies)}.")
        budgets[label] = replace(budget, latency=value)
    return budgets


def _search_record(totals: Mapping[str, float], num_finetuned: int) -> SearchRecord:
    """Return what a study cost, see `Study.totals`."""
    counts = {name: int(totals[name]) for name in ("images", "trials", "rejected", "pruned")}
    return SearchRecord(totals["seconds"], totals["steps"], trials=TrialsRecord(**counts, finetuned=num_finetuned))


def _check(search: Evolution, epochs: Epochs, num_budgets: int) -> None:
    # A rung at the last epoch would have nothing left to stop.
    check_number("epochs.search", epochs.search, whole=True, least=1)
    late = [rung for rung in search.rungs if rung >= epochs.search]
    if late:
        raise ValueError(f"`rungs` must be before the end of a trial, `epochs.search` = {epochs.search}; got {late}.")
    # Budgets take turns, so with fewer trials one would get none.
    if search.trials < num_budgets:
        raise ValueError(f"`trials` must be at least the number of budgets, {num_budgets}; got {search.trials}.")


def _log_reach(joint_space: JointSpace) -> None:
    for target in joint_space.targets:
        for setting, limits in zip(joint_space.settings, target.limits, strict=True):
            reach = "out of reach" if limits is None else format_reach(limits)
            count = setting.space.num_architectures
            log.info("Budget %s at %s, %.3g architectures:\n%s", target.label, setting, count, reach)


def _run_trials(study: Study, trainings: Trainings) -> None:
    """Train trials until as many are finished as are wanted, by this process and by others."""
    is_waiting = False
    while True:
        trial = study.next()
        if trial is not None:
            is_waiting = False
            _run_trial(study, trial, trainings)
        elif study.num_running() == 0:
            return
        else:
            if not is_waiting:
                log.info("Waiting for %d trials of other processes", study.num_running())
            is_waiting = True
            time.sleep(_POLL_SECONDS)


def _run_trial(study: Study, trial: Trial, trainings: Trainings) -> None:
    joint_space, number = study.joint_space, trial.number
    setting = joint_space.setting(trial.genes)
    finished = len(study.results())
    wanted = study.settings.trials
    log.info("Trial %d (%d of %d finished), %s: %s", number, finished, wanted, setting, joint_space.decode(trial.genes))
    try:
        with trial.training(hopeless=DivergedError):
            fit, rungs, _ = trainings.train(joint_space, trial.genes, number, trial.report)
            figures = {"seconds": fit.seconds, "steps": fit.steps, "images": rungs.num_images}
            trial.finish(rungs.value, rungs.epochs, rungs.is_stopped, figures)
    except DivergedError as error:
        log.warning("Trial %d is no result. %s", number, error)
        # A diverged trial is left to nobody, see `Trial.training`, so nothing goes on from its checkpoint.
        trainings.forget(number)
        return
    except LostTrialError as error:
        # Its checkpoint stays: the process that took the trial over goes on from it.
        log.warning("Trial %d is dropped. %s", number, error)
        return
    # Only complete trials can be fine-tuned, see `best_trials`.
    if rungs.is_stopped:
        trainings.forget(number)
    target = joint_space.targets[trial.target]
    best = next(iter(best_trials(study.results(), joint_space, target)), None)
    log.info(
        "Trial %d: %s %.4f after %d of %d epochs%s",
        number,
        rungs.key,
        rungs.value,
        rungs.epochs,
        trainings.epochs.search,
        "" if best is None else f"; the best for {target.label} is trial {best.number}, {best.value:.4f}",
    )


def _finalists(results: Sequence[Result], joint_space: JointSpace, target: Target, count: int) -> list[Result]:
    best = best_trials(results, joint_space, target, count)
    if not best:
        raise RuntimeError(
            f"No trial within the budget {target.label} was trained to the end. HINT: more trials, fewer rungs, or a"
            " smaller learning rate where metrics are not finite."
        )
    names = "; ".join(f"trial {result.number}, {joint_space.setting(result.genes)}" for result in best)
    log.info("Finalists for %s, %d of %d asked for: %s", target.label, len(best), count, names)
    return best


def _limits_of(joint_space: JointSpace, target: Target, result: Result) -> Limits:
    limits = target.limits[joint_space.index(result.genes)]
    assert limits is not None, "a trial within the budgets is at a setting that can meet them"
    return limits


def _history(results: Sequence[Result], metric: TaskMetric) -> list[dict[str, float]]:
    """Return the metric of each complete trial, and the best so far, for the curves of the report."""
    key, history = metric.val_key, list[dict[str, float]]()
    for result in results:
        if result.is_complete:
            best = metric.best(result.value, *(record[f"best_{key}"] for record in history[-1:]))
            history.append({"step": float(result.number), key: result.value, f"best_{key}": best})
    return history
