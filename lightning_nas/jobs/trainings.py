"""The trainings of a multishot search: source, trials, fine-tuning, at several input sizes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_nas.budget.tables import cost_tables
from lightning_nas.estimator import Estimator
from lightning_nas.jobs.comparisons import inherit
from lightning_nas.jobs.early import try_data, try_tasks, try_trainer
from lightning_nas.jobs.inputs import data_name, inputs_and_outputs, network_settings, prepare, training_images
from lightning_nas.jobs.plan import FinetunePlan, Model, MultishotPlan, Run
from lightning_nas.jobs.teacher import Teacher, better_teacher
from lightning_nas.multishot.evolution import Genes
from lightning_nas.multishot.rungs import Rungs
from lightning_nas.multishot.space import Ground, Place
from lightning_nas.report.network_record import MetricRecord
from lightning_nas.supernet import derive, option_errors, sort_channels, space_of, supernet_from
from lightning_nas.supernet.source import named_blocks
from lightning_nas.supernet.subnet import supernet_with
from lightning_nas.tasks.metric import TaskMetric, metric_of
from lightning_nas.training.checkpoints import CheckpointFile
from lightning_nas.training.fingerprint import plain
from lightning_nas.training.phases import Fit, Phases, source_phases

__all__ = ["Finetuned", "Trainings"]

log = logging.getLogger(__name__)

Report = Callable[[int, float], bool]


@dataclass(frozen=True)
class Finetuned:
    """A trial that was trained on.

    Attributes:
        module: Its LightningModule.
        value: Its metric on the validation data, by which it is chosen.
        metric: Its metric on the test data, as records have it.
        steps: Optimizer steps since the network that it began from: of the trial, where that goes on, and fine-tuning.
        interface: What whoever deploys it has to know of the data, at its size of images.
    """

    module: Any
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
        teacher_name: Who teaches in fine-tuning, as `train_baseline` found.
    """

    def __init__(self, run: Run, model: Model, plan: MultishotPlan, finetuning: FinetunePlan) -> None:
        self.run, self.model, self.finetuning = run, model, finetuning
        self.epochs, self.teaching = run.epochs, finetuning.teaching or {}
        self.search_task, self.finetune_task = plan.task or {}, finetuning.task or {}
        self.image_sizes, self.variants = plan.image_sizes or (None,), plan.variants or ({},)
        self.teacher_name: Teacher = "source"
        self._modules: list[Any] = []
        self._sources: list[nn.Module] = []
        self._teachers: list[nn.Module] = []
        self._phases: list[Phases] = []
        self._images: dict[int, Tensor] = {}

    @property
    def has_source(self) -> bool:
        """Whether there are trained weights to inherit."""
        return self.epochs.source > 0 or self.model.network.keywords.get("weights") is not None

    @property
    def network_settings(self) -> dict[str, Any]:
        """Settings of the source network, without its weights."""
        return network_settings(self.model.network, self._modules[0].num_classes)

    @property
    def data_name(self) -> str:
        """What is trained on."""
        return data_name(self._modules[0])

    def prepare(self) -> None:
        """Say which classes and splits were found, and open all image files before anything is trained.

        Raises:
            ValueError: Image files are missing, damaged or no images.
        """
        prepare(self._modules)

    def described_data(self) -> list[Any]:
        """Return what the data of each size of images is, as a run of this machine depends on it."""
        return [plain(module, whole_paths=True) for module in self._modules]

    @property
    def metric(self) -> TaskMetric:
        """What trials are compared by."""
        return metric_of(self._task(self._sources[0]))

    def places(self, costs: Estimator, space: Mapping[str, Any]) -> tuple[Place, ...]:
        """Build the data and the source of every size and variant, and return what can be chosen there.

        Args:
            costs: The estimator of the device.
            space: Options of `space_of`.

        Raises:
            ValueError: The network does not take a variant, two sizes are the same, or there is nothing to imitate.
        """
        if self.teaching and not self.has_source:
            raise ValueError("`teaching` needs a trained source: `epochs.source` of at least 1, or `network.weights`.")
        make = self.model.data
        self._modules = [make() if size is None else make(image_size=size) for size in self.image_sizes]
        sizes = [_size_name(module.input_size) for module in self._modules]
        if len(set(sizes)) < len(sizes) or any(variant in self.variants[:i] for i, variant in enumerate(self.variants)):
            raise ValueError(f"`image_sizes` and `variants` must differ; got {sizes} and {list(self.variants)}.")
        if len({getattr(module, "mask_size", None) for module in self._modules}) > 1:
            log.warning(
                "Each size of images is judged on masks of its own size, which are not equally hard. HINT: set"
                " `data.mask_size`."
            )
        self._sources = [self._source(variant) for variant in self.variants]
        places = []
        for name, module in zip(sizes, self._modules, strict=True):
            example = torch.zeros(1, *module.input_size)
            for variant, source in zip(self.variants, self._sources, strict=True):
                found = space_of(source, example, **{"lanes": costs.lanes, **space})
                places.append(Place(name, variant, found, cost_tables(found, costs)))
        return tuple(places)

    def try_parts(self) -> None:
        """Make once what is made late, so that what is wrong with it is said before anything is written.

        Raises:
            ValueError: A setting of the task, the Trainer or the data is not valid.
        """
        # Trials are compared on validation data.
        try_trainer(self.run.trainer, self.finetuning.averaging, ("train", "val", "test"))
        options = {"teaching": self.teaching, "search_task": self.search_task, "finetune_task": self.finetune_task}
        try_tasks(self.model.task, self._sources[0], self._modules[0].num_classes, **options)
        try_data(self._modules)

    def open(self, fingerprint: dict[str, Any]) -> None:
        """Use the folder of a run, and for its source that of all runs, where there is one.

        Args:
            fingerprint: What must be the same for a run to be continued.

        Raises:
            ValueError: The folder holds a run of other settings.
        """
        run, model = self.run, self.model
        given = run.trainer, run.logger
        self._phases = [
            Phases(run.folder, *given, module, run.seed, fingerprint, is_shared=True) for module in self._modules
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

    def option_errors(self, ground: Ground, num_images: int) -> list[list[Tensor]]:
        """Try all options on training images of the first size, and return their errors for each variant.

        Args:
            ground: What is searched.
            num_images: On how many.
        """
        images = self._calibration(0)[:num_images]
        found = []
        for source, place in zip(self._sources, ground.places, strict=False):
            supernet = supernet_from(deepcopy(source), images[:1], place.space)
            sort_channels(supernet)
            found.append(option_errors(supernet, images))
        return found

    def train(
        self, ground: Ground, genes: Genes, number: int, report: Report | None = None
    ) -> tuple[Fit, Rungs, nn.Module]:
        """Train the network of a trial, from its checkpoint where there is one.

        Args:
            ground: Where the genes are of.
            genes: What is trained.
            number: Number of the trial.
            report: Takes epochs and metric, and returns whether to go on.

        Returns:
            The training, what it reported, and the network.
        """
        self.run.begin_random()
        network, taught = self._build(ground, genes, self._sources)
        module = taught(network=network, **self.search_task)
        rungs = Rungs(self.metric.val_key, report)
        fit = self._phases[genes[0]].fit(f"trial-{number}", module, self.epochs.search, [rungs])
        return fit, rungs, network

    def finetune(self, ground: Ground, genes: Genes, number: int) -> Finetuned:
        """Train a finished trial on, or anew from the baseline where that teaches, and judge it."""
        self.run.begin_random()
        network, taught = self._build(ground, genes, self._teachers)
        steps = 0
        if self.teacher_name == "source":
            saved = self._trained(number)
            if saved is None:  # another machine's
                fit, _, network = self.train(ground, genes, number)
                steps = fit.steps
            else:
                taught(network=network, **self.search_task).load_state_dict(saved["state_dict"])
                steps = saved["global_step"]
        self.run.begin_random()
        module = taught(network=network, **self.finetune_task)
        phases = self._phases[genes[0]]
        tuned = phases.fit(f"finetune-{number}", module, self.epochs.finetune, averaging=self.finetuning.averaging)
        value = phases.validate(tuned.trainer, module)
        metric = MetricRecord(**phases.test(tuned.trainer, module))
        return Finetuned(module, value, metric, steps + tuned.steps, inputs_and_outputs(phases.data))

    def train_baseline(self) -> tuple[MetricRecord, int]:
        """Train the source on, for as long as a trial and its fine-tuning, and see which of the two teaches.

        Returns:
            The baseline's metric on the test data, and the optimizer steps that it took.
        """
        self.run.begin_random()
        phases, epochs = self._phases[0], self.epochs.search + self.epochs.finetune
        baseline = self._task(deepcopy(self._sources[0]), **self.finetune_task)
        trained = phases.fit("baseline", baseline, epochs, averaging=self.finetuning.averaging)
        before = self._task(deepcopy(self._sources[0]))
        self.teacher_name = better_teacher(self.finetuning.taught_by, phases, trained.trainer, before, baseline)
        if self.teacher_name == "baseline":
            self._teachers = [baseline.network, *deepcopy(self._sources[1:])]
            _give_weights(baseline.network, self._teachers[1:])
        return MetricRecord(**phases.test(trained.trainer, baseline)), trained.steps

    def forget(self, number: int) -> None:
        """Remove the checkpoint of a trial that is not needed any more."""
        self._checkpoint(number).remove()

    def _checkpoint(self, number: int) -> CheckpointFile:
        return self._phases[0].checkpoint(f"trial-{number}")

    def _trained(self, number: int) -> dict[str, Any] | None:
        """Return the checkpoint of a trial where it is here, and of its end."""
        saved = self._checkpoint(number).load()
        if saved is None:
            return None
        is_whole = saved["callbacks"][Rungs.__qualname__]["epochs"] == self.epochs.search
        return saved if is_whole else None

    def _build(
        self, ground: Ground, genes: Genes, sources: Sequence[nn.Module]
    ) -> tuple[nn.Module, Callable[..., Any]]:
        """Return the network of the genes, with weights of its variant's among `sources`, and what makes its module."""
        architecture, source = ground.decode(genes), sources[genes[1]]
        if not self.has_source and self.teacher_name == "source":
            return derive(supernet_with(deepcopy(source), architecture), architecture), self._task
        network, teacher = inherit(source, architecture, self._calibration(genes[0]))
        if not self.teaching:
            return network, self._task
        blocks = [path for path, _ in named_blocks(teacher)]
        return network, partial(self._task, teacher=teacher, feature_modules=blocks, **self.teaching)

    def _task(self, network: nn.Module, **options: Any) -> Any:
        return self.model.task(network=network, num_classes=self._modules[0].num_classes, **options)

    def _source(self, variant: Mapping[str, Any]) -> nn.Module:
        self.run.begin_random()
        try:
            return self.model.network(num_classes=self._modules[0].num_classes, **variant)
        except (TypeError, ValueError) as error:
            if not variant:
                raise
            raise ValueError(f"The network does not take the variant {dict(variant)}: {error}.") from error

    def _calibration(self, size: int) -> Tensor:
        """Return training images of a size, shape (N, 3, H, W), always the same."""
        if size not in self._images:
            self.run.begin_random()
            self._images[size] = training_images(self._modules[size], self.finetuning.num_calibration_batches)
        return self._images[size]


def _size_name(size: Sequence[int]) -> str:
    _, height, width = size
    return str(height) if height == width else f"{height}x{width}"


def _give_weights(network: nn.Module, others: Sequence[nn.Module]) -> None:
    """Give the weights of `network` to `others` where they fit."""
    trained = network.state_dict()
    for other in others:
        own = other.state_dict()
        fitting = {k: v for k, v in trained.items() if k in own and own[k].shape == v.shape}
        other.load_state_dict(fitting, strict=False)
