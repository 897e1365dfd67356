"""Multishot search as a job: evolution over whole trainings, each trial a plain fit of a plain network."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch import nn

from lightning_nas.budget.budget import Budgets, check_requested, confirm, format_reach
from lightning_nas.estimator import Estimator
from lightning_nas.io.numbers import check_number, check_seed
from lightning_nas.jobs.record import Outcome, log_hints, summary, write_run
from lightning_nas.jobs.search import Epochs
from lightning_nas.jobs.settings import check_arguments
from lightning_nas.jobs.teacher import TaughtBy, check_taught_by
from lightning_nas.jobs.trainings import Trainings
from lightning_nas.multishot.best_trial import best_trials
from lightning_nas.multishot.evolution import Evolution, Result
from lightning_nas.multishot.space import Ground, Target, targets_of
from lightning_nas.multishot.study import Study
from lightning_nas.multishot.trial import LostTrialError, Trial
from lightning_nas.supernet import space_of
from lightning_nas.tasks.metric import TaskMetric
from lightning_nas.training.divergence import DivergedError
from lightning_nas.training.fingerprint import described_device, described_network, described_trainer, plain
from lightning_nas.training.phases import Averaging

__all__ = ["evolve_and_finetune"]

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0


def evolve_and_finetune(
    *,
    recipe: str,
    output_dir: str | Path,
    seed: int,
    latency: float | str | None,
    parameter_bytes: float | str | None,
    peak_activation_bytes: float | str | None,
    network: partial[nn.Module],
    space: Mapping[str, Any],
    data: partial[Any],
    device: str,
    estimator: Callable[[str], Estimator],
    search: Evolution,
    task: Callable[..., pl.LightningModule],
    trainer: Callable[..., pl.Trainer],
    logger: Callable[..., Any],
    epochs: Epochs,
    budgets: Sequence[float | str] = (),
    image_sizes: Sequence[int | Sequence[int]] = (),
    variants: Sequence[Mapping[str, Any]] = (),
    storage: str | Path | None = None,
    teaching: Mapping[str, Any] | None = None,
    taught_by: TaughtBy = "source",
    search_task: Mapping[str, Any] | None = None,
    finetune_task: Mapping[str, Any] | None = None,
    averaging: Averaging | None = None,
    num_calibration_batches: int = 8,
    num_trial_images: int = 0,
    finalists: int = 1,
    shared_dir: str | Path | None = None,
) -> dict[str, Any]:
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
        recipe: Name of the recipe, for the record.
        output_dir: Directory of the run. It receives what `write_run` writes, for several budgets each in a folder that
            is named after it, such as ``0.49x``.
        seed: Seed of everything random.
        latency: Budget in milliseconds or relative to the source at the first input size ("0.5x").
        parameter_bytes: Budget on int8 parameters.
        peak_activation_bytes: Budget on live int8 activations.
        network: Makes the source network of `num_classes` and a variant's keywords.
        space: Options of `space_of`.
        data: Makes a LightningDataModule with `num_classes` and `input_size`, of `image_size` where sizes are given.
        device: Name of a shipped device, or the path of a table.
        estimator: Makes the estimator of `device`.
        search: How trials are proposed and stopped.
        task: Makes the LightningModule of a network and `num_classes`; its `metric` is a
            `lightning_nas.tasks.metric.TaskMetric`.
        trainer: Makes the Trainer of `max_epochs`, `callbacks` and `logger`.
        logger: Makes the logger of `save_dir` and `version`.
        epochs: How long the source, each trial (``search``) and fine-tuning take.
        budgets: Several latencies in place of `latency`; the study serves them all, in turns.
        image_sizes: Input sizes to choose from; none for that of `data` alone.
        variants: Keywords of `network` to choose from, such as ``[{output_stride: 8}, {output_stride: 16}]``.
        storage: File of Optuna's journal or URL of a database; by default the file ``study.journal`` of the run.
        teaching: Options of the task where there is a teacher; none for plain training.
        taught_by: What fine-tuning begins from and imitates: the ``source``, and then the trial is trained on; the
            ``baseline``, which is better where the source has not been trained to its end, and then the trial's network
            inherits its weights; or the ``best`` of both by the metric on the validation images. Trials are taught by
            the source.
        search_task: Options of the task that differ in the trials.
        finetune_task: Those that differ in fine-tuning, and where the source is trained on.
        averaging: Makes the callback that averages the weights there, such as Lightning's ``EMAWeightAveraging``.
        num_calibration_batches: Training batches by which a network is refitted to the source whose weights it
            inherits.
        num_trial_images: Training images on which every option of every block is tried before the first trial, so that
            the first population is near the source; 0 begins with what keeps most weights and with random members.
        finalists: Of how many input sizes and variants the best trial is fine-tuned, for each budget; the best of these
            on the validation data is kept. Brief trials flatter small images, which are learnt first.
        shared_dir: Directory where searches of one network, task and data, by whichever recipe, find each other's
            source; by default each run trains its own.

    Returns:
        The content of result.json; for several budgets that of each, by the names of their folders.

    Raises:
        ImportError: Optuna is not installed.
        ValueError: A setting that is not valid, a budget out of reach at every size or none that binds, or a study of
            another search; before any training.
        RuntimeError: The best trial costs more than a budget, by the estimator or the device's backend.
    """
    run_dir = Path(output_dir)
    check_seed(seed)
    requests = _requests(latency, budgets, parameter_bytes, peak_activation_bytes)
    check_number("finalists", finalists, whole=True, least=1)
    check_number("num_calibration_batches", num_calibration_batches, whole=True, least=1)
    check_number("num_trial_images", num_trial_images, whole=True, least=0)
    for sides in image_sizes:
        for side in sides if isinstance(sides, Sequence) else (sides,):
            check_number("image_sizes", side, whole=True, least=1)
    _check(search, epochs, len(requests))
    pl.seed_everything(seed, workers=True, verbose=False)
    check_arguments(space_of, space, "space")
    check_taught_by(taught_by)
    costs = estimator(device)
    trainings = Trainings(
        network=network,
        data=data,
        image_sizes=image_sizes or (None,),
        variants=variants or ({},),
        task=task,
        teaching=teaching or {},
        search_task=search_task or {},
        finetune_task=finetune_task or {},
        averaging=averaging,
        taught_by=taught_by,
        epochs=epochs,
        seed=seed,
        num_calibration_batches=num_calibration_batches,
    )
    places = trainings.places(costs, space)
    targets = targets_of(places, requests, search.floor)
    ground = Ground(places, len(trainings.variants), targets, cache(costs.verify_ms))
    _log_reach(ground)
    trainings.prepare()
    spaces = "".join(place.space.to_json() for place in places)
    record = plain(
        {
            "device": described_device(device),
            "budgets": requests,
            "epochs": {"source": epochs.source, "search": epochs.search},
            "search": {name: getattr(search, name) for name in ("sampler", "rungs", "eta")},
            "seed": seed,
            "data": data,
            "network": described_network(network),
            "task": {"all": task, "search": search_task, "teaching": teaching},
            "estimator": estimator,
            "metric": vars(trainings.metric),
            "num_calibration_batches": num_calibration_batches,
            "num_trial_images": num_trial_images,
            "trainer": described_trainer(trainer),
            "spaces": hashlib.sha256(spaces.encode()).hexdigest()[:12],
        }
    )
    trainings.try_parts(trainer)
    study = Study(storage or run_dir / "study.journal", ground, search, record, seed, trainings.metric.larger_is_better)
    finetuning = {
        # Of one machine, whose folders of one name are told apart.
        "data": trainings.described_data(),
        "finetune": epochs.finetune,
        "finetune_task": finetune_task or {},
        "averaging": averaging,
        "taught_by": taught_by,
    }
    shared = None if shared_dir is None else Path(shared_dir)
    trainings.open(run_dir, trainer, logger, {**record, **finetuning}, shared)
    log.info(
        "1/3 Training the source, %.4g ms",
        costs.latency_ms(places[0].space.decode(places[0].space.reference_nodes)),
    )
    trainings.train_source()
    log.info("2/3 Training %d trials: %s", search.trials, search.sampler)
    if num_trial_images and trainings.has_source and len(study.results()) < search.trials:
        study.ground = ground.with_errors(trainings.option_errors(ground, num_trial_images))
    _run_trials(study, trainings)
    log.info("3/3 Fine-tuning the best, and training the source on, for comparison")
    with trainings.alone():
        results = {}
        for label, outcome in _finish(study, trainings, costs, recipe, seed, finalists).items():
            folder = run_dir / label if len(requests) > 1 else run_dir
            folder.mkdir(parents=True, exist_ok=True)
            results[label] = write_run(folder, outcome)
            log.info("%s: %s\n%s\nWritten to %s", label, outcome.chosen, summary(results[label]), folder)
        log_hints(costs)
    return results if len(requests) > 1 else next(iter(results.values()))


def _requests(
    latency: float | str | None,
    budgets: Sequence[float | str],
    parameter_bytes: float | str | None,
    peak_activation_bytes: float | str | None,
) -> dict[str, dict[str, float | str | None]]:
    """Return the budgets by label, one set for each latency."""
    others = {"parameter_bytes": parameter_bytes, "peak_activation_bytes": peak_activation_bytes}
    requests = {}
    for value in budgets or (latency,):
        number = re.fullmatch(r"[\d.]+", str(value))
        label = "budget" if value is None else f"{value}ms" if number else str(value).replace(" ", "")
        if label in requests:
            raise ValueError(f"`budgets` must differ; got {list(budgets)}.")
        requests[label] = {"latency_ms": value, **others}
        check_requested(requests[label])
    return requests


def _check(search: Evolution, epochs: Epochs, num_budgets: int) -> None:
    late = [rung for rung in search.rungs if rung >= epochs.search]
    if late:
        raise ValueError(f"`rungs` must be before the end of a trial, `epochs.search` = {epochs.search}; got {late}.")
    if search.trials < num_budgets:
        raise ValueError(f"`trials` must be at least the number of budgets, {num_budgets}; got {search.trials}.")


def _log_reach(ground: Ground) -> None:
    for target in ground.targets:
        for place, budgets in zip(ground.places, target.budgets, strict=True):
            reach = "out of reach" if budgets is None else format_reach(budgets)
            count = place.space.num_architectures
            log.info("Budget %s at %s, %.3g architectures:\n%s", target.label, place, count, reach)


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
    ground, number = study.ground, trial.number
    place = ground.place(trial.genes)
    finished = len(study.results())
    wanted = study.settings.trials
    log.info("Trial %d (%d of %d finished), %s: %s", number, finished, wanted, place, ground.decode(trial.genes))
    try:
        with trial.training():
            fit, rungs, _ = trainings.train(ground, trial.genes, number, trial.report)
            figures = {"seconds": fit.seconds, "steps": fit.steps, "images": rungs.num_images}
            trial.finish(rungs.value, rungs.epochs, rungs.is_stopped, figures)
    except DivergedError as error:
        log.warning("Trial %d is no result. %s", number, error)
        trainings.forget(number)
        return
    except LostTrialError as error:
        log.warning("Trial %d is dropped. %s", number, error)
        return
    if rungs.is_stopped:
        trainings.forget(number)
    target = ground.targets[trial.target]
    best = next(iter(best_trials(study.results(), ground, target)), None)
    log.info(
        "Trial %d: %s %.4f after %d of %d epochs%s",
        number,
        rungs.key,
        rungs.value,
        rungs.epochs,
        trainings.epochs.search,
        "" if best is None else f"; the best for {target.label} is trial {best.number}, {best.value:.4f}",
    )


def _finish(
    study: Study, trainings: Trainings, costs: Estimator, recipe: str, seed: int, finalists: int
) -> dict[str, Outcome]:
    """Fine-tune the finalists of each budget, give each budget the best of all within it, and train the source on."""
    ground, results = study.ground, study.results()
    source = ground.places[0].space
    picked = [_finalists(results, ground, target, finalists) for target in ground.targets]
    for target, own in zip(ground.targets, picked, strict=True):
        for best in own:
            confirm(_budgets_of(ground, target, best), costs, ground.decode(best.genes))
    baseline, steps = trainings.train_baseline()
    trained_on = dict.fromkeys(chain.from_iterable(picked))
    finetuned = {best.number: trainings.finetune(ground, best.genes, best.number) for best in trained_on}
    totals = {**study.totals(), "finetuned": len(finetuned)}
    outcomes = {}
    for target, own in zip(ground.targets, picked, strict=True):
        # Now that they are trained to the end, a smaller network that is better serves a larger budget, too.
        within = [best for best in trained_on if best in own or ground.meets(best.genes, target)]
        best = max(within, key=lambda best: trainings.metric.score(finetuned[best.number].value))
        tuned = finetuned[best.number]
        place, budgets = ground.place(best.genes), _budgets_of(ground, target, best)
        chosen = ground.decode(best.genes)
        confirm(budgets, costs, chosen)
        outcomes[target.label] = Outcome(
            recipe=recipe,
            task=type(tuned.module).__name__.lower(),
            seed=seed,
            costs=costs,
            budgets=budgets,
            requested=target.requested,
            choices="both",
            source=source.decode(source.reference_nodes),
            chosen=chosen,
            subnet=tuned.module.network,
            source_metric=baseline,
            source_steps=steps,
            subnet_metric=tuned.metric,
            subnet_steps=tuned.steps,
            compared=(),
            search=totals,
            history=_history(results, trainings.metric),
            network={**trainings.network_settings, **place.variant},
            epochs=vars(trainings.epochs),
            data_name=trainings.data_name,
            taught_by=trainings.teacher_name,
            interface=tuned.interface,
        )
    return outcomes


def _finalists(results: Sequence[Result], ground: Ground, target: Target, count: int) -> list[Result]:
    best = best_trials(results, ground, target, count)
    if not best:
        raise RuntimeError(
            f"No trial within the budget {target.label} was trained to the end. HINT: more trials, fewer rungs, or a"
            " smaller learning rate where metrics are not finite."
        )
    names = "; ".join(f"trial {result.number}, {ground.place(result.genes)}" for result in best)
    log.info("Finalists for %s, %d of %d asked for: %s", target.label, len(best), count, names)
    return best


def _budgets_of(ground: Ground, target: Target, result: Result) -> Budgets:
    budgets = target.budgets[ground.index(result.genes)]
    assert budgets is not None, "a trial within the budgets is at a place that can meet them"
    return budgets


def _history(results: Sequence[Result], metric: TaskMetric) -> list[dict[str, float]]:
    """Return the metric of each complete trial, and the best so far, for the curves of the report."""
    key, history = metric.val_key, list[dict[str, float]]()
    for result in results:
        if result.is_complete:
            best = metric.best(result.value, *(record[f"best_{key}"] for record in history[-1:]))
            history.append({"step": float(result.number), key: result.value, f"best_{key}": best})
    return history
