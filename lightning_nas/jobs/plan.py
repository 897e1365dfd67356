"""Arguments of a job in groups: `Run`, `Goal`, `Model` and plans, which check their settings when they are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import lightning.pytorch as pl
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn

from lightning_nas.budget.budget import Budget
from lightning_nas.estimator import CostModel, Estimator
from lightning_nas.io.numbers import check_number, check_seed
from lightning_nas.jobs.comparisons import Comparison
from lightning_nas.jobs.teacher import TaughtBy, check_taught_by
from lightning_nas.multishot.evolution import Evolution
from lightning_nas.search import ArchitectureSearch
from lightning_nas.space.options import SpaceOptions
from lightning_nas.space.spec import SearchSpace
from lightning_nas.supernet import space_of
from lightning_nas.training.phases import Averaging

__all__ = ["Epochs", "FinetunePlan", "Goal", "Model", "MultishotPlan", "Run", "SearchPlan"]

Data = TypeVar("Data")


@dataclass(frozen=True)
class Epochs:
    """Number of epochs of each part of a job.

    From the trained source, one way leads over the search and fine-tuning to the subnet; the other, as long, to the
    baseline.

    Attributes:
        source: Epochs of the network as it is; 0 where its weights are of this task already.
        search: Epochs of the supernet, which starts from the source; in a multishot search those of each trial. Without
            a supernet none are trained, whatever is asked for.
        finetune: Epochs of the derived subnet.
    """

    source: int
    search: int
    finetune: int

    def __post_init__(self) -> None:
        for name, least in (("source", 0), ("search", 0), ("finetune", 1)):
            check_number(f"epochs.{name}", getattr(self, name), whole=True, least=least)


@dataclass(frozen=True)
class Run:
    """Directory, seed, epochs and Trainer of a job.

    Attributes:
        recipe: Name of the recipe, for the record.
        output_dir: Directory of the run; it receives result.json, architecture.json, subnet.safetensors, report.html
            and the checkpoints. A job that was interrupted goes on when it is started with the same directory.
        seed: Seed of everything random.
        epochs: How long each part trains.
        trainer: Makes the Trainer of `max_epochs`, `callbacks` and `logger`.
        logger: Makes the logger of `save_dir` and `version`.
        shared_dir: Directory where runs of one network, task and data find each other's source; single-shot searches
            that differ in nothing but budgets, device and choices find their baseline and supernet there, too. The
            supernet's weights are trained first then (``search.phases=decoupled``), near all latencies that
            ``search.serves`` names. By default each run trains its own.
        show_images: Whether pages of results may show test images; by default only embedded ones. A picture of what the
            subnet finds in them is written either way.
    """

    recipe: str
    output_dir: str | Path
    seed: int
    epochs: Epochs
    trainer: Callable[..., pl.Trainer]
    logger: Callable[..., Logger]
    shared_dir: str | Path | None = None
    show_images: bool | None = None

    def __post_init__(self) -> None:
        check_seed(self.seed)

    @property
    def folder(self) -> Path:
        """The directory of the run."""
        return Path(self.output_dir)

    def begin_random(self) -> None:
        """Seed all generators, so that a part draws the same numbers whatever ran before it."""
        pl.seed_everything(self.seed, workers=True, verbose=False)


@dataclass(frozen=True)
class Goal:
    """Device and budget of a search.

    Attributes:
        device: Name of a shipped device, or the path of a table.
        estimator: Makes the estimator of `device`.
        budget: What the network may cost; relative bounds refer to the source network, at the first input size.
    """

    device: str
    estimator: Callable[[str], Estimator]
    budget: Budget


@dataclass(frozen=True)
class Model(Generic[Data]):
    """Network, data and task that are searched.

    Attributes:
        network: Makes the source network of `num_classes`.
        space: What the search space offers.
        data: A LightningDataModule that is a `lightning_nas.jobs.search_data.SearchData`; for a multishot search what
            makes it, of `image_size` where sizes are given.
        task: Makes a LightningModule that is a `lightning_nas.tasks.search_task.SearchTask`, of a network and
            `num_classes`.
    """

    network: partial[nn.Module]
    space: SpaceOptions
    data: Data
    task: Callable[..., pl.LightningModule]

    def space_of(self, network: nn.Module, example: Tensor, estimator: CostModel) -> SearchSpace:
        """Return the search space around a network.

        Args:
            network: The network, or a variant of it.
            example: One batch that it can run, shape (N, C, H, W).
            estimator: The estimator of the device, of whose lanes the widths are multiples.
        """
        return space_of(network, example, estimator.lanes, self.space)


@dataclass(frozen=True)
class SearchPlan:
    """Settings of a single-shot search.

    Attributes:
        search: Makes the callback of an estimator and a budget.
        task: Options of the task that differ in the search, such as a lower learning rate.
        num_trial_images: Training images on which every option of every block is tried before the search, to tell what
            it prefers at the start; 0 takes those that keep most weights.
    """

    search: Callable[..., ArchitectureSearch]
    task: Mapping[str, object] | None = None
    num_trial_images: int = 0

    def __post_init__(self) -> None:
        check_number("num_trial_images", self.num_trial_images, whole=True, least=0)


@dataclass(frozen=True)
class MultishotPlan:
    """Settings of a search by whole trainings.

    Attributes:
        search: How trials are proposed and stopped.
        latencies: Several in place of the budget's own; the study serves them all, in turns.
        image_sizes: Input sizes to choose from; none for that of the data alone.
        variants: Keywords of the network to choose from, such as ``[{output_stride: 8}, {output_stride: 16}]``.
        storage: File of Optuna's journal or URL of a database; by default the file ``study.journal`` of the run.
        task: Options of the task that differ in the trials.
        num_trial_images: Training images on which every option of every block is tried before the first trial, so that
            the first population is near the source; 0 begins with what keeps most weights and with random members.
        finalists: Of how many input sizes and variants the best trial is fine-tuned, for each budget; the best of these
            on the validation data is kept. Brief trials flatter small images, which are learnt first.
    """

    search: Evolution
    latencies: Sequence[float | str] = ()
    image_sizes: Sequence[int | Sequence[int]] = ()
    variants: Sequence[Mapping[str, object]] = ()
    storage: str | Path | None = None
    task: Mapping[str, object] | None = None
    num_trial_images: int = 0
    finalists: int = 1

    def __post_init__(self) -> None:
        check_number("finalists", self.finalists, whole=True, least=1)
        check_number("num_trial_images", self.num_trial_images, whole=True, least=0)
        for sides in self.image_sizes:
            for side in sides if isinstance(sides, Sequence) else (sides,):
                check_number("image_sizes", side, whole=True, least=1)


@dataclass(frozen=True)
class FinetunePlan:
    """Settings of fine-tuning, and of the networks that the subnet is compared with.

    Attributes:
        teaching: Options of the task where there is a teacher: how much it is imitated, and which variety of images it
            labels.
        task: Options of the task that differ in fine-tuning, and where the source is trained on.
        averaging: Makes the callback that averages the weights there, such as Lightning's ``EMAWeightAveraging``.
        taught_by: What the subnet begins from and imitates: the ``source``; the ``baseline``, which is better where the
            source has not been trained to its end, and worse where it has; or the ``best`` of both by the metric on the
            validation split (the source, with a warning, where none of it is read). The supernet, and the trials of a
            multishot search, are of the source either way.
        num_refitted: How many of a search's candidates are refitted; the one of the lowest validation loss then, of
            imitation too, is the subnet. An undertrained supernet ranks badly; a refitted subnet shows what it can
            become, and fewer images tell how near it is to the source than how often it is right.
        num_calibration_batches: Training batches for the refit.
        comparisons: What else is trained as the subnet is, at the same budget, see `Comparison`.
    """

    teaching: Mapping[str, object] | None = None
    task: Mapping[str, object] | None = None
    averaging: Averaging | None = None
    taught_by: TaughtBy = "source"
    num_refitted: int = 8
    num_calibration_batches: int = 32
    comparisons: Sequence[Comparison] = ()

    def __post_init__(self) -> None:
        check_taught_by(self.taught_by)
        check_number("num_refitted", self.num_refitted, whole=True, least=1)
        check_number("num_calibration_batches", self.num_calibration_batches, whole=True, least=1)
