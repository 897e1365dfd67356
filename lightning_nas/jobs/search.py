"""The single-shot job: train the source, search in its supernet, fine-tune what was found, compare."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from tqdm import tqdm

from lightning_nas.budget.ablation import searched_options
from lightning_nas.budget.confirm import confirm
from lightning_nas.graph.eval_mode import evaluating
from lightning_nas.io.numbers import check_number
from lightning_nas.jobs.comparisons import comparison_architectures, inherit
from lightning_nas.jobs.early import try_data, try_tasks, try_trainer
from lightning_nas.jobs.inputs import data_name, inputs_and_outputs, prepare, training_images
from lightning_nas.jobs.job import carry_out
from lightning_nas.jobs.networks import make_network, network_settings
from lightning_nas.jobs.pictures import write_run_picture
from lightning_nas.jobs.plan import FinetunePlan, Goal, Model, Run, SearchPlan
from lightning_nas.jobs.record import Compared, Outcome, cost_of, log_hints, summary, write_run
from lightning_nas.jobs.search_data import SearchData, datamodule_of
from lightning_nas.jobs.stock_comparison import stock_comparison
from lightning_nas.jobs.teacher import Teacher, better_teacher, is_teachable
from lightning_nas.report.network_record import MetricRecord
from lightning_nas.report.run_record import RunRecord
from lightning_nas.report.search_record import ReadinessRecord, SearchRecord, SupernetRecord
from lightning_nas.search import Decoupled, SupernetTraining
from lightning_nas.search.describe import format_reach
from lightning_nas.search.is_trained import warn_untrained
from lightning_nas.search.quiet_loss import quiet_copy, task_loss
from lightning_nas.search.settings import Fitting
from lightning_nas.search.warnings_heard import heard_warnings
from lightning_nas.space.nodes import described
from lightning_nas.space.spec import Architecture, SearchSpace
from lightning_nas.supernet import derive, option_errors, sort_channels, supernet_from
from lightning_nas.supernet.refine import fit_member
from lightning_nas.tasks.search_task import network_of
from lightning_nas.training.fingerprint import described_device, described_network, described_trainer, plain
from lightning_nas.training.phases import Phases, shared_phases, source_phases

__all__ = ["SearchJob", "search_and_finetune"]

log = logging.getLogger(__name__)


def search_and_finetune(run: Run, goal: Goal, model: Model, search: SearchPlan, finetune: FinetunePlan) -> RunRecord:
    """Train the source, turn it into a supernet, search, derive the subnet inside the budget, fine-tune it, compare.

    The source's weights are the supernet's (channels sorted by importance), which it teaches. The baseline is the
    source, trained on by the plain recipe for as many steps as search and fine-tuning take. The subnet's blocks are
    refitted to those of the source, or of the baseline, before fine-tuning, which that network teaches. A run that was
    interrupted continues when it is started again with the same output directory.

    Args:
        run: Where to write, and how to train.
        goal: What has to be reached, on which device.
        model: What is searched.
        search: How.
        finetune: How the subnet is trained on, and what it is compared with.

    Returns:
        The content of result.json.

    Raises:
        ValueError: A setting that is not valid, a budget out of reach or none that binds; before any training.
        RuntimeError: What the search found costs more than a budget, by the estimator or the device's backend.
    """
    return carry_out(SearchJob(run, goal, model, search, finetune))


class SearchJob:
    """The phases of `search_and_finetune`, one method each, in the order of `Job`. The arguments are the same."""

    def __init__(
        self, run: Run, goal: Goal, model: Model[SearchData], search: SearchPlan, finetune: FinetunePlan
    ) -> None:
        self.run, self.goal, self.model, self.searching, self.finetuning = run, goal, model, search, finetune
        run.begin_random()
        self.example = torch.zeros(1, *model.data.input_size)
        self.estimator = goal.estimator(goal.device)
        self.source = make_network(model.network, model.data.num_classes)
        self.space = model.space_of(self.source, self.example, self.estimator)
        self.callback = search.search(self.estimator, goal.budget)
        method = self.callback.method
        self.trains_supernet = isinstance(method, SupernetTraining)
        if run.shared_dir is not None and self.trains_supernet and not isinstance(method, Decoupled):
            raise ValueError(
                "`shared_dir` needs search=decoupled, library or zeroshot: one training serves all runs only where it"
                " comes first."
            )
        if self.trains_supernet:
            check_number("epochs.search", run.epochs.search, whole=True, least=1)
        self.limits = self.callback.limits_in(self.space)
        count = math.prod(map(len, searched_options(self.space, self.callback.choices)))
        reach = format_reach(self.limits)
        log.info("Budgets and what the space of %.3g architectures can reach:\n%s", count, reach)
        self.others = comparison_architectures(finetune.comparisons, self.space, self.estimator, self.limits, run.seed)
        self.stock = None
        if "stock" in finetune.comparisons:
            parts = self.example, self.estimator, self.limits, self.space.network.network.is_classifier
            self.stock = stock_comparison(run, model, *parts)
        self.is_teachable = is_teachable(model.task)
        prepare([model.data])
        training = self._training_settings()
        described = plain({**training, **self._search_settings(), **self._finetuning_settings()}, whole_paths=True)
        self._try_parts()
        self.trainings = Phases(run.folder, run.trainer, run.logger, datamodule_of(model.data), run.seed, described)
        self._shared_settings = training
        self._watch = _Watch()
        self.teacher_name: Teacher = "source"

    @property
    def source_architecture(self) -> Architecture:
        """The source network, as a member of the space."""
        return self.space.decode(self.space.reference_encoding)

    def opened(self) -> AbstractContextManager[None]:
        """Let no other process work in the directory of the run for as long as the context lasts."""
        return self.trainings.opened()

    def train_source(self) -> None:
        """Train the source network."""
        run, model = self.run, self.model
        origin = self.shared = self.trainings
        if run.shared_dir is not None:
            shared_dir = Path(run.shared_dir)
            self.shared = shared_phases(shared_dir, self.trainings, self._shared_settings)
            origin = source_phases(shared_dir, self.trainings, model.network, model.task, run.epochs.source)
        log.info("1/4 Training the source, %.4g ms", self.estimator.latency_ms(self.source_architecture))
        if run.epochs.source:
            with origin.alone():
                origin.fit("source", self._task(self.source), run.epochs.source)

    def search(self) -> None:
        """Train the supernet of the source, and find candidates within the budget."""
        log.info("2/4 Searching")
        run, model, callback = self.run, self.model, self.callback
        run.begin_random()
        supernet = _sorted_supernet(self.source, self.example, self.space)
        # Training changes the supernet, but candidates are derived from the source's weights, see `_choose`.
        self.start, self.untrained = self.source, deepcopy(supernet)
        self.images = training_images(model.data, self.finetuning.num_calibration_batches)
        if (num_images := self.searching.num_trial_images) and self.trains_supernet:
            with self._watch:
                callback.errors = option_errors(self.untrained, self.images[:num_images])
        with heard_warnings() as self.heard:
            if not self.trains_supernet:
                # Without its teacher, which is itself and would see the same images; training batches mix the classes.
                alone = self._task(deepcopy(self.source))
                warn_untrained(alone, network_of(alone), model.data.train_dataloader())
        # Out of the sorted supernet: maps are imitated channel by channel, so teacher and subnets need one order.
        self.teacher = derive(supernet, self.space.reference_encoding)
        module = self._taught(supernet, feature_modules=self.space.feature_modules, **(self.searching.task or {}))
        with self.shared.alone():
            # The callback judges it: the first step's loss depends on the path that was drawn for it.
            epochs = run.epochs.search if self.trains_supernet else 1
            # A search without a training takes its time before the fit would count it.
            with nullcontext() if self.trains_supernet else self._watch:
                self.searched = self.shared.fit("search", module, epochs, [callback], ends_worse=False)
            if callback.readiness:
                log.info("Supernet: %s", callback.readiness)
            with self._watch:
                # A shared supernet's checkpoint holds the candidates of the run that trained it, for its budget and its
                # choices.
                is_own = self.shared.claim("search", self._search_settings()) or callback.has_chosen
                candidates = callback.candidates if is_own else callback.find(self.goal.budget)
                self.candidates = candidates[: self.finetuning.num_refitted]
                for architecture in self.candidates:
                    confirm(self.limits, self.estimator, architecture)

    def train_baseline(self) -> None:
        """Train the source on, for as long as search and fine-tuning take, and see which of the two teaches."""
        log.info("3/4 Training the source on, for comparison")
        self.run.begin_random()
        plan = self.finetuning
        with self.shared.alone():
            # A copy, since the source itself is judged and teaches below.
            baseline = self._task(deepcopy(self.source), **(plan.task or {}))
            self.baseline_fit = self.shared.fit("baseline", baseline, self._length, averaging=plan.averaging)
            trainer = self.baseline_fit.trainer
            self.baseline_metric = MetricRecord(**self.shared.test(trainer, baseline))
            source = self._task(deepcopy(self.source))
            self.teacher_name = better_teacher(plan.taught_by, self.shared, trainer, source, baseline)
        if self.teacher_name == "baseline":
            self.start = network_of(baseline)
            self.untrained = _sorted_supernet(self.start, self.example, self.space)
            self.teacher = derive(self.untrained, self.space.reference_encoding)

    def finetune(self) -> None:
        """Choose the best of the candidates, and train it and what it is compared with."""
        named = f", and {', '.join(self.others)}" if self.others else ""
        log.info("4/4 Fine-tuning the subnet%s", named)
        # A resumed run has drawn less by now.
        self.run.begin_random()
        self._choose()
        self._finetune_subnet()
        self._finetune_others()
        self._train_stock()

    def record(self) -> RunRecord:
        """Write the files of the run, and return the content of result.json."""
        searched, callback = self.searched, self.callback
        readiness = callback.readiness
        supernet = SupernetRecord(
            None if readiness is None else ReadinessRecord(str(readiness), readiness.to_dict()),
            (*self.heard, *callback.warnings),
        )
        outcome = Outcome(
            recipe=self.run.recipe,
            task=type(self.tuned).__name__.lower(),
            seed=self.run.seed,
            estimator=self.estimator,
            budget=self.goal.budget,
            limits=self.limits,
            choices=callback.choices,
            space=self.space,
            chosen=self.chosen,
            subnet=network_of(self.tuned),
            origin=self.source,
            baseline_metric=self.baseline_metric,
            baseline_steps=self.baseline_fit.steps,
            subnet_metric=self.subnet_metric,
            subnet_steps=self.tuning.steps,
            compared=self.compared,
            search=SearchRecord(round(searched.seconds + self._watch.seconds, 1), searched.steps, supernet),
            history=callback.history,
            network=network_settings(self.model.network, self.model.data.num_classes),
            epochs=self.run.epochs if self.trains_supernet else replace(self.run.epochs, search=0),
            data_name=data_name(self.model.data),
            taught_by=self.teacher_name,
            interface=inputs_and_outputs(self.model.data),
        )
        record = write_run(self.run.folder, outcome)
        log.info("%s\nWritten to %s", summary(record), self.run.folder)
        log_hints(self.estimator)
        return record

    def _choose(self) -> None:
        """Refit the candidates to the teacher, and take the best."""
        # The map that a classifier pools is imitated by itself; of other networks it has to be named.
        last = () if self.space.network.network.is_classifier else self.space.feature_modules[-1:]
        refitted, refine_steps = [], Fitting.of(self.callback.method).refine_steps
        with self._watch:
            for architecture in tqdm(self.candidates, desc="Refitting candidates"):
                # The search tells architectures apart; what its paths had to share is no better a start than the
                # source.
                subnet, encoding = derive(self.untrained, architecture), self.space.encode(architecture)
                fit_member(subnet, self.teacher, self.images, self.space, encoding, refine_steps)
                loss = _validation_loss(self._taught(subnet, feature_modules=last), self.model.data)
                refitted.append((loss, architecture, subnet))
            _, self.chosen, self.subnet = min(refitted, key=lambda entry: entry[0])
        words = described(self.space, self.space.encode(self.chosen))
        log.info("Selected architecture, %.4g ms: %s", self.estimator.latency_ms(self.chosen), words)

    def _finetune_subnet(self) -> None:
        self.tuned = self._finetuned_module(self.subnet, self.teacher)
        epochs, averaging = self.run.epochs.finetune, self.finetuning.averaging
        self.tuning = self.trainings.fit("finetune", self.tuned, epochs, averaging=averaging)
        self.subnet_metric = MetricRecord(**self.trainings.test(self.tuning.trainer, self.tuned))
        write_run_picture(self.run.folder, self.tuned, self.model.data, self.run.show_images)

    def _finetune_others(self) -> None:
        """Train other networks of the same budget, and the source if that is asked for, as the subnet was trained."""
        self.compared = []
        for name, architecture in self.others.items():
            self.run.begin_random()
            with self.shared.alone():
                network, its_teacher = inherit(self.start, architecture, self.images)
                # Named after what it is: runs of other budgets and choices that compare with the same network find it.
                label = f"{name.replace(' ', '_')}-{_digest(architecture, self.teacher_name)}"
                other = self._finetuned_module(network, its_teacher)
                metric = self.shared.train(label, other, self.run.epochs.finetune, self.finetuning.averaging)
            self.compared.append(Compared(name, cost_of(self.estimator, architecture), MetricRecord(**metric)))
        if "taught" not in self.finetuning.comparisons:
            return
        self.run.begin_random()
        with self.shared.alone():
            # Out of the sorted supernet, as its teacher: their maps are compared channel by channel.
            source = derive(self.untrained, self.space.reference_encoding)
            taught, epochs = self._finetuned_module(source, self.teacher), self.run.epochs.finetune
            metric = self.shared.train(f"taught-{self.teacher_name}", taught, epochs, self.finetuning.averaging)
        cost = cost_of(self.estimator, self.source_architecture)
        self.compared.append(Compared("taught", cost, MetricRecord(**metric)))

    def _train_stock(self) -> None:
        """Train the stock network as the baseline was: as the source, and on for as long."""
        if self.stock is None:
            return
        stock, plan = self.stock, self.finetuning
        log.info("Training the stock network %s, for comparison", stock.name)
        with self.shared.alone():
            self.run.begin_random()
            if self.run.epochs.source:
                self.shared.fit(f"{stock.label}-source", self._task(stock.network), self.run.epochs.source)
            self.run.begin_random()
            module = self._task(stock.network, **(plan.task or {}))
            metric = self.shared.train(stock.label, module, self._length, plan.averaging)
        self.compared.append(Compared("stock", stock.cost, MetricRecord(**metric), stock.name))

    @property
    def _length(self) -> int:
        """Epochs of the baseline: a search that was not ready may have trained for longer than was planned."""
        return self.searched.epochs + self.run.epochs.finetune

    def _training_settings(self) -> dict[str, object]:
        """Return the settings of source, supernet and baseline, which runs of several budgets can share."""
        callback, finetuning = self.callback, self.finetuning
        return {
            "space": self.space.to_json(),
            "seed": self.run.seed,
            "epochs": vars(self.run.epochs),
            "network": described_network(self.model.network),
            "task": self.model.task,
            "teaching": finetuning.teaching,
            "search_task": self.searching.task,
            "finetune_task": finetuning.task,
            "averaging": finetuning.averaging,
            "search": callback.method,
            "serves": callback.serves,
            "num_calibration_batches": finetuning.num_calibration_batches,
            "num_trial_images": self.searching.num_trial_images,
            "data": self.model.data,
        }

    def _search_settings(self) -> dict[str, object]:
        """Return the settings of a search in a supernet that may be shared."""
        return {
            "budgets": self.goal.budget.requested,
            "choices": self.callback.choices,
            "device": described_device(self.goal.device),
            "selection": plain(self.callback.selection),
        }

    def _finetuning_settings(self) -> dict[str, object]:
        """Return the settings of what follows the search."""
        return {
            "taught_by": self.finetuning.taught_by,
            "estimator": self.goal.estimator,
            "num_refitted": self.finetuning.num_refitted,
            "comparisons": list(self.finetuning.comparisons),
            "trainer": described_trainer(self.run.trainer),
        }

    def _try_parts(self) -> None:
        finetuning, model = self.finetuning, self.model
        try_trainer(self.run.trainer, finetuning.averaging)
        tried = {"teaching": finetuning.teaching, "search_task": self.searching.task, "finetune_task": finetuning.task}
        try_tasks(model.task, self.source, model.data.num_classes, **tried)
        try_data([model.data])

    def _task(self, network: nn.Module, **options: object) -> pl.LightningModule:
        return self.model.task(network=network, num_classes=self.model.data.num_classes, **options)

    def _taught(self, network: nn.Module, **options: object) -> pl.LightningModule:
        """Return the module of a network that the teacher teaches; alone where the task takes no teacher."""
        if not self.is_teachable:
            alone = {name: value for name, value in options.items() if name not in ("teacher", "feature_modules")}
            return self._task(network, **alone)
        return self._task(network, **{"teacher": self.teacher, **(self.finetuning.teaching or {}), **options})

    def _finetuned_module(self, network: nn.Module, teacher: nn.Module) -> pl.LightningModule:
        options = {"feature_modules": self.space.feature_modules, **(self.finetuning.task or {})}
        return self._taught(network, teacher=teacher, **options)


class _Watch:
    """Adds up the seconds that are spent within it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._started = time.monotonic()

    def __exit__(self, *error: object) -> None:
        self.seconds += time.monotonic() - self._started


def _validation_loss(module: pl.LightningModule, data: SearchData) -> float:
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
