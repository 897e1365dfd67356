"""Trainings of a multishot search: the source, the trials, the finalists and the baseline, each resumable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
from torch import Tensor, nn

from lightning_nas.budget.tables import cost_tables
from lightning_nas.estimator.cost_model import CostModel
from lightning_nas.jobs.comparisons import inherit
from lightning_nas.jobs.early import try_data, try_tasks, try_trainer
from lightning_nas.jobs.inputs import data_name, inputs_and_outputs
from lightning_nas.jobs.networks import make_network, network_settings
from lightning_nas.jobs.plan import FinetunePlan, Model, MultishotPlan, Run
from lightning_nas.jobs.search_data import SearchData, datamodule_of
from lightning_nas.jobs.sized_data import SizedData
from lightning_nas.jobs.teacher import Teacher, better_teacher
from lightning_nas.multishot.evolution import Genes
from lightning_nas.multishot.rungs import Rungs
from lightning_nas.multishot.space import JointSpace, Setting
from lightning_nas.report.network_record import MetricRecord
from lightning_nas.supernet import derive, option_errors, sort_channels, supernet_from
from lightning_nas.supernet.subnet import supernet_with
from lightning_nas.tasks.metric import TaskMetric, metric_of
from lightning_nas.tasks.search_task import network_of
from lightning_nas.training.checkpoints import CheckpointFile
from lightning_nas.training.phases import Fit, Phases, source_phases

__all__ = ["Finetuned", "Trainings"]

Report = Callable[[int, float], bool]
"""Takes the number of epochs and the metric of a trial, and returns whether it goes on."""


@dataclass(frozen=True)
class Finetuned:
    """A trial that was fine-tuned.

    Attributes:
        network: Its network.
        task: Name of its task, such as ``classification``.
        value: Its metric on the validation data, by which it is chosen.
        metric: Its metric on the test data.
        steps: Optimizer steps since the network that it began from: of the trial, where that goes on, and fine-tuning.
        interface: What whoever deploys it has to know of the data, at its size of images.
    """

    network: nn.Module
    task: str
    value: float
    metric: MetricRecord
    steps: int
    interface: Mapping[str, object] = field(default_factory=dict)


class Trainings:
    """Makes networks of genes and trains them, each resumable, in the folder of one run.

    Args:
        run: Where to write, and how to train.
        model: What is searched; its data is what makes the datamodule of a size of images.
        plan: How the search goes.
        finetuning: How what was found is trained on.

    Attributes:
        data: The data of each image size.
        variants: Keywords of the network for each variant.
        teacher_name: Who teaches in fine-tuning, as `train_baseline` found.

    Raises:
        ValueError: There is nothing to imitate, two sizes or two variants are the same, or the network does not take a
            variant.
    """

    def __init__(
        self, run: Run, model: Model[Callable[..., SearchData]], plan: MultishotPlan, finetuning: FinetunePlan
    ) -> None:
        self.run, self.model, self.finetuning = run, model, finetuning
        self.epochs, self.teaching = run.epochs, finetuning.teaching or {}
        self.search_task, self.finetune_task = plan.task or {}, finetuning.task or {}
        self.variants = plan.variants or ({},)
        self.teacher_name: Teacher = "source"
        if self.teaching and not self.has_source:
            raise ValueError("`teaching` needs a trained source: `epochs.source` of at least 1, or `network.weights`.")
        self.data = SizedData(model.data, plan.image_sizes, finetuning.num_calibration_batches, run)
        if any(variant in self.variants[:place] for place, variant in enumerate(self.variants)):
            raise ValueError(f"`variants` must differ; got {list(self.variants)}.")
        self._sources = [_source(run, model.network, self.data.num_classes, variant) for variant in self.variants]
        self._teachers: list[nn.Module] = []
        self._phases: list[Phases] = []

    @property
    def has_source(self) -> bool:
        """Whether there are trained weights to inherit."""
        return self.epochs.source > 0 or self.model.network.keywords.get("weights") is not None

    @property
    def network_settings(self) -> dict[str, object]:
        """Settings of the source network, without its weights."""
        return network_settings(self.model.network, self.data.num_classes)

    @property
    def data_name(self) -> str:
        """Name of the data."""
        return data_name(self.data.modules[0])

    @property
    def metric(self) -> TaskMetric:
        """The metric by which trials are compared."""
        return metric_of(self._task(self._sources[0]))

    def settings(self, estimator: CostModel) -> tuple[Setting, ...]:
        """Return what can be chosen at each size of images in each variant.

        Args:
            estimator: The estimator of the device.
        """
        settings = []
        for name, example in zip(self.data.size_names, self.data.examples, strict=True):
            for variant, source in zip(self.variants, self._sources, strict=True):
                space = self.model.space_of(source, example, estimator)
                settings.append(Setting(name, variant, space, cost_tables(space, estimator)))
        return tuple(settings)

    def try_parts(self) -> None:
        """Make Trainer, tasks and loaders once, so that an invalid setting is reported before anything is written.

        Raises:
            ValueError: A setting of the task, the Trainer or the data is not valid.
        """
        # Trials are compared on validation data.
        try_trainer(self.run.trainer, self.finetuning.averaging, ("train", "val", "test"))
        options = {"teaching": self.teaching, "search_task": self.search_task, "finetune_task": self.finetune_task}
        try_tasks(self.model.task, self._sources[0], self.data.num_classes, **options)
        try_data(self.data.modules)

    def open(self, fingerprint: dict[str, object]) -> None:
        """Use the folder of a run, and for its source that of all runs, where there is one.

        Args:
            fingerprint: What must be the same for a run to be continued.

        Raises:
            ValueError: The folder holds a run of other settings.
        """
        run, model = self.run, self.model
        made_by = run.trainer, run.logger
        # All write to one folder, where a trial is known by its number; they differ in the size of the images.
        self._phases = [
            Phases(run.folder, *made_by, datamodule_of(module), run.seed, fingerprint, is_shared=True)
            for module in self.data.modules
        ]
        self._origin = self._phases[0]
        if run.shared_dir is not None:
            shared_dir, epochs = Path(run.shared_dir), run.epochs.source
            self._origin = source_phases(shared_dir, self._origin, model.network, model.task, epochs, self.variants[0])

    def alone(self) -> AbstractContextManager[None]:
        """Let no other process work in the folder meanwhile."""
        return self._phases[0].alone()

    def train_source(self) -> None:
        """Train the source at the first size, and give its weights to the other variants where they fit."""
        if self.epochs.source:
            self.run.begin_random()
            with self._origin.alone():
                self._origin.fit("source", self._task(self._sources[0]), self.epochs.source)
        _give_weights(self._sources[0], self._sources[1:])
        self._teachers = self._sources

    def option_errors(self, joint_space: JointSpace, num_images: int) -> list[list[Tensor]]:
        """Try all options on training images of the first size, and return their errors for each variant.

        Args:
            joint_space: What is searched.
            num_images: Number of images.
        """
        images = self.data.calibration(0)[:num_images]
        found = []
        # Settings are sorted by size, so the first ones are those of the first size in each variant.
        for source, setting in zip(self._sources, joint_space.settings, strict=False):
            supernet = supernet_from(deepcopy(source), images[:1], setting.space)
            sort_channels(supernet)
            found.append(option_errors(supernet, images))
        return found

    def train(
        self, joint_space: JointSpace, genes: Genes, number: int, report: Report | None = None
    ) -> tuple[Fit, Rungs, nn.Module]:
        """Train the network of a trial, from its checkpoint where there is one.

        Args:
            joint_space: The joint search space.
            genes: What is trained.
            number: Number of the trial.
            report: Decides after each epoch whether the trial goes on; by default it does.

        Returns:
            The training, what it reported, and the network.
        """
        self.run.begin_random()
        network, taught = self._build(joint_space, genes, self._sources)
        module = taught(network=network, **self.search_task)
        rungs = Rungs(self.metric.val_key, report)
        fit = self._phases[genes[0]].fit(f"trial-{number}", module, self.epochs.search, [rungs])
        return fit, rungs, network

    def finetune(self, joint_space: JointSpace, genes: Genes, number: int) -> Finetuned:
        """Train a finished trial on, or anew from the baseline where that teaches, and judge it.

        Args:
            joint_space: The joint search space.
            genes: What is trained.
            number: Number of the trial.
        """
        self.run.begin_random()
        network, taught = self._build(joint_space, genes, self._teachers)
        steps = 0
        if self.teacher_name == "source":
            trained = self._trained(number)
            if trained is None:  # another machine's
                fit, _, network = self.train(joint_space, genes, number)
                steps = fit.steps
            else:
                taught(network=network, **self.search_task).load_state_dict(trained.weights)
                steps = trained.steps
        # A trial that had to be trained again has drawn more numbers by now.
        self.run.begin_random()
        module = taught(network=network, **self.finetune_task)
        phases = self._phases[genes[0]]
        tuned = phases.fit(f"finetune-{number}", module, self.epochs.finetune, averaging=self.finetuning.averaging)
        return Finetuned(
            network=network,
            task=type(module).__name__.lower(),
            value=phases.validate(tuned.trainer, module),
            metric=MetricRecord(**phases.test(tuned.trainer, module)),
            steps=steps + tuned.steps,
            interface=inputs_and_outputs(phases.data),
        )

    def train_baseline(self) -> tuple[MetricRecord, int]:
        """Train the source on, for as long as a trial and its fine-tuning, and see which of the two teaches.

        Returns:
            The baseline's metric on the test data, and the optimizer steps that it took.
        """
        self.run.begin_random()
        phases, epochs = self._phases[0], self.epochs.search + self.epochs.finetune
        # A copy, since the source itself is judged and teaches below.
        baseline = self._task(deepcopy(self._sources[0]), **self.finetune_task)
        trained = phases.fit("baseline", baseline, epochs, averaging=self.finetuning.averaging)
        source = self._task(deepcopy(self._sources[0]))
        self.teacher_name = better_teacher(self.finetuning.taught_by, phases, trained.trainer, source, baseline)
        if self.teacher_name == "baseline":
            network = network_of(baseline)
            self._teachers = [network, *deepcopy(self._sources[1:])]
            _give_weights(network, self._teachers[1:])
        return MetricRecord(**phases.test(trained.trainer, baseline)), trained.steps

    def forget(self, number: int) -> None:
        """Remove the checkpoint of a trial that is not needed any more."""
        self._checkpoint(number).remove()

    def _checkpoint(self, number: int) -> CheckpointFile:
        return self._phases[0].checkpoint(f"trial-{number}")

    def _trained(self, number: int) -> _TrainedTrial | None:
        """Return the state of a trial where its checkpoint is here, and of its end."""
        checkpoint = self._checkpoint(number).load()
        if checkpoint is None:
            return None
        # Lightning keeps the state of a callback under the name of its class.
        is_whole = checkpoint["callbacks"][Rungs.__qualname__]["epochs"] == self.epochs.search
        return _TrainedTrial(checkpoint["state_dict"], checkpoint["global_step"]) if is_whole else None

    def _build(
        self, joint_space: JointSpace, genes: Genes, sources: Sequence[nn.Module]
    ) -> tuple[nn.Module, Callable[..., pl.LightningModule]]:
        """Return the network of the genes, with weights of its variant's among `sources`, and what makes its module."""
        architecture, source = joint_space.decode(genes), sources[genes[1]]
        if not self.has_source and self.teacher_name == "source":
            # Nothing is inherited: weights of an untrained source are neither worth sorting nor worth imitating.
            return derive(supernet_with(deepcopy(source), architecture), architecture), self._task
        network, teacher = inherit(source, architecture, self.data.calibration(genes[0]))
        if not self.teaching:
            return network, self._task
        blocks = joint_space.setting(genes).space.feature_modules
        task: Callable[..., pl.LightningModule] = self._task
        return network, partial(task, teacher=teacher, feature_modules=blocks, **self.teaching)

    def _task(self, network: nn.Module, **options: object) -> pl.LightningModule:
        return self.model.task(network=network, num_classes=self.data.num_classes, **options)


@dataclass(frozen=True)
class _TrainedTrial:
    """Weights and optimizer steps of a trial."""

    weights: Mapping[str, Tensor]
    steps: int


def _source(run: Run, make: partial[nn.Module], num_classes: int, variant: Mapping[str, object]) -> nn.Module:
    run.begin_random()
    try:
        return make_network(make, num_classes, **variant)
    except (TypeError, ValueError) as error:
        if not variant:
            raise
        raise ValueError(f"The network does not take the variant {dict(variant)}: {error}.") from error


def _give_weights(network: nn.Module, others: Sequence[nn.Module]) -> None:
    """Give the weights of `network` to `others` where they fit."""
    trained = network.state_dict()
    for other in others:
        own = other.state_dict()
        fitting = {k: v for k, v in trained.items() if k in own and own[k].shape == v.shape}
        other.load_state_dict(fitting, strict=False)
