"""The jobs that recipes name: what is built, trained, searched and written, in which order."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from tqdm import tqdm

from lightning_nas.budget.ablation import searched_options
from lightning_nas.budget.budget import check_requested, confirm, format_reach
from lightning_nas.budget.tables import space_budgets
from lightning_nas.estimator import Estimator
from lightning_nas.graph.eval_mode import evaluating
from lightning_nas.io.numbers import check_number, check_seed
from lightning_nas.jobs.comparisons import Comparison, comparison_architectures, inherit
from lightning_nas.jobs.early import try_data, try_tasks, try_trainer
from lightning_nas.jobs.inputs import data_name, inputs_and_outputs, network_settings, prepare, training_images
from lightning_nas.jobs.pictures import write_run_picture
from lightning_nas.jobs.record import Compared, Outcome, log_hints, summary, write_run
from lightning_nas.jobs.settings import check_arguments
from lightning_nas.jobs.teacher import TaughtBy, Teacher, better_teacher, check_taught_by
from lightning_nas.search import ArchitectureSearch
from lightning_nas.search.quiet_loss import quiet_copy, task_loss
from lightning_nas.space.spec import Architecture, SearchSpace
from lightning_nas.supernet import derive, option_errors, refit, sort_channels, space_of, supernet_from
from lightning_nas.supernet.source import named_blocks
from lightning_nas.training.fingerprint import described_device, described_network, described_trainer, plain
from lightning_nas.training.phases import Averaging, Phases, shared_phases, source_phases

__all__ = ["Epochs", "search_and_finetune"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Epochs:
    """How long each part trains.

    From the trained source, one way leads over the search and fine-tuning to the subnet; the other, as long, to the
    baseline.

    Attributes:
        source: Epochs of the network as it is; 0 where its weights are of this task already.
        search: Epochs of the supernet, which starts from the source.
        finetune: Epochs of the derived subnet.
    """

    source: int
    search: int
    finetune: int

    def __post_init__(self) -> None:
        for name, least in (("source", 0), ("search", 1), ("finetune", 1)):
            check_number(f"epochs.{name}", getattr(self, name), whole=True, least=least)


def search_and_finetune(
    *,
    recipe: str,
    output_dir: str | Path,
    seed: int,
    latency: float | str | None,
    parameter_bytes: float | str | None,
    peak_activation_bytes: float | str | None,
    network: partial[nn.Module],
    space: Mapping[str, Any],
    data: Any,
    device: str,
    estimator: Callable[[str], Estimator],
    search: Callable[..., ArchitectureSearch],
    task: Callable[..., pl.LightningModule],
    trainer: Callable[..., pl.Trainer],
    logger: Callable[..., Any],
    epochs: Epochs,
    teaching: Mapping[str, Any] | None = None,
    search_task: Mapping[str, Any] | None = None,
    finetune_task: Mapping[str, Any] | None = None,
    averaging: Averaging | None = None,
    taught_by: TaughtBy = "source",
    num_refitted: int = 8,
    num_calibration_batches: int = 32,
    num_trial_images: int = 0,
    comparisons: Sequence[Comparison] = (),
    shared_dir: str | Path | None = None,
    show_images: bool | None = None,
) -> dict[str, Any]:
    """Train the source, turn it into a supernet, search, derive the subnet inside the budget, fine-tune it, compare.

    The source's weights are the supernet's (channels sorted by importance), which it teaches. The baseline is the
    source, trained on by the plain recipe for as many steps as search and fine-tuning take. The subnet's blocks are
    refitted to those of the source, or of the baseline, before fine-tuning, which that network teaches. A run that was
    interrupted continues when it is started again with the same output directory.

    Args:
        recipe: Name of the recipe, for the record.
        output_dir: Directory of the run; it receives result.json, architecture.json, subnet.safetensors, report.html
            and the checkpoints.
        seed: Seed of everything random.
        latency: Budget in milliseconds or relative to the baseline ("0.5x").
        parameter_bytes: Budget on int8 parameters.
        peak_activation_bytes: Budget on live int8 activations.
        network: Makes the source network of `num_classes`.
        space: Options of `space_of`.
        data: A LightningDataModule with `num_classes` and `input_size`.
        device: Name of a shipped device, or the path of a table.
        estimator: Makes the estimator of `device`.
        search: Makes the callback of an estimator and budgets.
        task: Makes the LightningModule of a network and `num_classes`.
        trainer: Makes the Trainer of `max_epochs`, `callbacks` and `logger`.
        logger: Makes the logger of `save_dir` and `version`.
        epochs: How long each part trains.
        teaching: Options of the task where the source is the teacher: how much it is imitated, and which variety of
            images it labels.
        search_task: Options of the task that differ in the search, such as a lower learning rate.
        finetune_task: Those that differ in fine-tuning, and where the source is trained on.
        averaging: Makes the callback that averages the weights there, such as Lightning's ``EMAWeightAveraging``.
        taught_by: What the subnet begins from and imitates: the ``source``; the ``baseline``, which is better where the
            source has not been trained to its end, and worse where it has; or the ``best`` of both by the metric on the
            validation split (the source, with a warning, where none of it is read). The supernet is of the source
            either way.
        num_refitted: How many of the search's candidates are refitted; the one of the lowest validation loss then, of
            imitation too, is the subnet. An undertrained supernet ranks badly; a refitted subnet shows what it can
            become, and fewer images tell how near it is to the source than how often it is right.
        num_calibration_batches: Training batches for the refit.
        num_trial_images: Training images on which every option of every block is tried before the search, to tell what
            it prefers at the start; 0 takes those that keep most weights.
        comparisons: What else is trained as the subnet is, at the same budget, see `Comparison`.
        shared_dir: Directory where runs that differ in nothing but budgets, device and choices find each other's
            baseline and supernet, and all runs of one network, task and data their source; by default each run trains
            its own. The supernet's weights are trained first then (``search.phases=decoupled``), near all latencies
            that ``search.serves`` names.
        show_images: Whether pages of results may show test images; by default only embedded ones. A picture of what the
            subnet finds in them is written either way.

    Returns:
        The content of result.json.

    Raises:
        ValueError: A setting that is not valid, a budget out of reach or none that binds; before any training.
        RuntimeError: What the search found costs more than a budget, by the estimator or the device's backend.
    """
    requested = {
        "latency_ms": latency,
        "parameter_bytes": parameter_bytes,
        "peak_activation_bytes": peak_activation_bytes,
    }
    check_taught_by(taught_by)
    check_seed(seed)
    check_requested(requested)
    check_number("num_refitted", num_refitted, whole=True, least=1)
    check_number("num_calibration_batches", num_calibration_batches, whole=True, least=1)
    check_number("num_trial_images", num_trial_images, whole=True, least=0)
    check_arguments(space_of, space, "space")
    run_dir = Path(output_dir)
    pl.seed_everything(seed, workers=True, verbose=False)
    example = torch.zeros(1, *data.input_size)
    costs = estimator(device)
    source = network(num_classes=data.num_classes)
    full = space_of(source, example, **{"lanes": costs.lanes, **space})
    callback = search(
        costs,
        latency=latency,
        parameter_bytes=parameter_bytes,
        peak_activation_bytes=peak_activation_bytes,
        seed=seed,
    )
    if shared_dir is not None and callback.settings.phases != "decoupled":
        raise ValueError("`shared_dir` needs search=decoupled: one training serves all runs only where it comes first.")
    budgets = space_budgets(full, costs, requested, callback.serves, callback.choices)
    count = math.prod(map(len, searched_options(full, callback.choices)))
    log.info("Budgets and what the space of %.3g architectures can reach:\n%s", count, format_reach(budgets))
    others = comparison_architectures(comparisons, full, costs, budgets, seed)
    prepare([data])

    wanted = {
        "budgets": requested,
        "choices": callback.choices,
        "device": described_device(device),
        "selection": asdict(callback.selection),
    }
    trained = {
        "space": full.to_json(),
        "seed": seed,
        "epochs": vars(epochs),
        "network": described_network(network),
        "task": task,
        "teaching": teaching,
        "search_task": search_task,
        "finetune_task": finetune_task,
        "averaging": averaging,
        "search": asdict(callback.settings),
        "serves": callback.serves,
        "num_calibration_batches": num_calibration_batches,
        "num_trial_images": num_trial_images,
        "data": data,
    }
    rest = {
        "taught_by": taught_by,
        "estimator": estimator,
        "num_refitted": num_refitted,
        "comparisons": list(comparisons),
        "trainer": described_trainer(trainer),
    }
    fingerprint = plain({**trained, **wanted, **rest}, whole_paths=True)
    try_trainer(trainer, averaging)
    tried = {"teaching": teaching, "search_task": search_task, "finetune_task": finetune_task}
    try_tasks(task, source, data.num_classes, **tried)
    try_data([data])
    run = Phases(run_dir, trainer, logger, data, seed, fingerprint)
    with run.opened():
        origin = shared = run
        if shared_dir is not None:
            shared = shared_phases(Path(shared_dir), run, trained)
            origin = source_phases(Path(shared_dir), run, network, task, epochs.source)
        own = full.decode(full.reference_nodes)

        log.info("1/4 Training the source, %.4g ms", costs.latency_ms(own))
        if epochs.source:
            with origin.alone():
                origin.fit("source", task(network=source, num_classes=data.num_classes), epochs.source)

        log.info("2/4 Searching")
        pl.seed_everything(seed, workers=True, verbose=False)
        supernet = _sorted_supernet(source, example, full)
        start, untrained = source, deepcopy(supernet)
        images = training_images(data, num_calibration_batches)
        watch = _Watch()
        if num_trial_images:
            with watch:
                callback.errors = option_errors(untrained, images[:num_trial_images])
        teacher = derive(supernet, full.reference_nodes)
        taught = partial(task, num_classes=data.num_classes, **(teaching or {}))
        blocks = [path for path, _ in named_blocks(teacher)]
        module = taught(network=supernet, teacher=teacher, feature_modules=blocks, **(search_task or {}))
        with shared.alone():
            # The callback judges it: the first step's loss depends on the path that was drawn for it.
            fit = shared.fit("search", module, epochs.search, [callback], ends_worse=False)
            if callback.readiness:
                log.info("Supernet: %s", callback.readiness)
            with watch:
                is_own = shared.claim("search", wanted) or callback.has_chosen
                candidates = callback.candidates if is_own else callback.find(**_named(requested))
                for architecture in candidates[:num_refitted]:
                    confirm(budgets, costs, architecture)

        log.info("3/4 Training the source on, for comparison")
        pl.seed_everything(seed, workers=True, verbose=False)
        with shared.alone():
            baseline = task(network=deepcopy(source), num_classes=data.num_classes, **(finetune_task or {}))
            # A search that was not ready may have trained for longer than was planned; so does the baseline.
            length = fit.epochs + epochs.finetune
            going_on = shared.fit("baseline", baseline, length, averaging=averaging)
            baseline_metric = shared.test(going_on.trainer, baseline)
            before = task(network=deepcopy(source), num_classes=data.num_classes)
            teacher_name = better_teacher(taught_by, shared, going_on.trainer, before, baseline)
        if teacher_name == "baseline":
            start = cast(nn.Module, baseline.network)
            untrained = _sorted_supernet(start, example, full)
            teacher = derive(untrained, full.reference_nodes)

        log.info("4/4 Fine-tuning the subnet%s", f", and {', '.join(others)}" if others else "")
        # A resumed run has drawn less by now.
        pl.seed_everything(seed, workers=True, verbose=False)
        # The map that a classifier pools is imitated by itself; of other networks it has to be named.
        judged = partial(taught, teacher=teacher, feature_modules=blocks[-1:] if full.tail else ())
        with watch:
            chosen, subnet = _best_refitted(candidates[:num_refitted], untrained, teacher, images, judged, data)
        log.info("Found %s, %.4g ms", chosen, costs.latency_ms(chosen))
        finetuned = partial(taught, feature_modules=blocks, **(finetune_task or {}))
        tuned = finetuned(network=subnet, teacher=teacher)
        tuning = run.fit("finetune", tuned, epochs.finetune, averaging=averaging)
        subnet_metric = run.test(tuning.trainer, tuned)
        write_run_picture(run_dir, tuned, data, show_images)
        compared = []
        for name, architecture in others.items():
            pl.seed_everything(seed, workers=True, verbose=False)
            with shared.alone():
                other, its_teacher = inherit(start, architecture, images)
                # Named after what it is: runs of other budgets and choices that compare with the same network find it.
                label = f"{name.replace(' ', '_')}-{_digest(architecture, teacher_name)}"
                rival = finetuned(network=other, teacher=its_teacher)
                metric = shared.train(label, rival, epochs.finetune, averaging)
            compared.append(Compared(name, architecture, metric))

        outcome = Outcome(
            recipe=recipe,
            task=type(tuned).__name__.lower(),
            seed=seed,
            costs=costs,
            budgets=budgets,
            requested=requested,
            choices=callback.choices,
            source=own,
            chosen=chosen,
            subnet=cast(nn.Module, tuned.network),
            source_metric=baseline_metric,
            source_steps=going_on.steps,
            subnet_metric=subnet_metric,
            subnet_steps=tuning.steps,
            compared=compared,
            search={"seconds": round(fit.seconds + watch.seconds, 1), "steps": fit.steps, **callback.found_at_end},
            history=callback.history,
            network=network_settings(network, data.num_classes),
            epochs=vars(epochs),
            data_name=data_name(data),
            taught_by=teacher_name,
            interface=inputs_and_outputs(data),
        )
        result = write_run(run_dir, outcome)
        log.info("%s\nWritten to %s", summary(result), run_dir)
        log_hints(costs)
        return result


class _Watch:
    """Adds up the seconds that are spent within it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._started = time.monotonic()

    def __exit__(self, *error: object) -> None:
        self.seconds += time.monotonic() - self._started


def _named(requested: Mapping[str, float | str | None]) -> dict[str, float | str | None]:
    return {"latency" if name == "latency_ms" else name: value for name, value in requested.items()}


def _best_refitted(
    candidates: Sequence[Architecture],
    untrained: nn.Module,
    teacher: nn.Module,
    images: Tensor,
    taught: Callable[..., pl.LightningModule],
    data: Any,
) -> tuple[Architecture, nn.Module]:
    """Return the candidate that is the best once it is refitted to the teacher, and its network."""
    refitted = []
    for architecture in tqdm(candidates, desc="Refitting candidates"):
        # The search tells architectures apart; what its paths had to share is no better a start than the source.
        subnet = derive(untrained, architecture)
        refit(subnet, teacher, images)
        refitted.append((_validation_loss(taught(network=subnet), data), architecture, subnet))
    _, chosen, best = min(refitted, key=lambda entry: entry[0])
    return chosen, best


def _validation_loss(module: pl.LightningModule, data: Any) -> float:
    """Return the mean loss of `module` on the validation data, in evaluation mode."""
    with evaluating(module), quiet_copy(module) as quiet:
        losses = [task_loss(quiet, batch, index) for index, batch in enumerate(data.val_dataloader())]
    return float(torch.stack(losses).mean())


def _sorted_supernet(network: nn.Module, example: Tensor, space: SearchSpace) -> nn.Module:
    """Return a supernet of a copy of `network`, its channels sorted by importance."""
    supernet = supernet_from(deepcopy(network), example, space)
    sort_channels(supernet)
    return supernet


def _digest(architecture: Architecture, taught_by: Teacher) -> str:
    return hashlib.sha256(f"{architecture.to_json()}{taught_by}".encode()).hexdigest()[:12]
