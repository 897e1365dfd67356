"""The trainings of one run, one after the other, each resumable."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypedDict, runtime_checkable

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from typing_extensions import override

from lightning_nas.io.locks import alone
from lightning_nas.io.writing import remove_parts, write_text
from lightning_nas.training.checkpoints import CheckpointFile, CheckpointState, WholeCheckpointIO
from lightning_nas.training.divergence import Divergence
from lightning_nas.training.fingerprint import described_network, described_trainer, keep_fingerprint, plain
from lightning_nas.training.seeds import EpochSeeds, begin_random
from lightning_nas.training.stop import KeepStopping

__all__ = ["Averaging", "Fit", "KeepLast", "Metric", "Phases", "MetricFigures", "shared_phases", "source_phases"]

log = logging.getLogger(__name__)

Averaging = Callable[[], pl.Callback]
"""Makes a callback that averages weights while they are trained, such as Lightning's ``EMAWeightAveraging``."""


class MetricFigures(TypedDict):
    """The metric of a trained network on the test split, as a run's record has it.

    Attributes:
        name: What a person calls the metric.
        value: Its value.
        larger_is_better: Whether more is better.
        split: The split that it was taken on.
        num_images: Images in it; None where the loader does not say.
    """

    name: str
    value: float
    larger_is_better: bool
    split: str
    num_images: int | None


class KeepLast(Checkpoint):
    """Saves the state at the start and after each epoch, so that a stop loses less than an epoch.

    Args:
        file: The checkpoint, replaced each time.
    """

    def __init__(self, file: CheckpointFile) -> None:
        super().__init__()
        self.file = file
        self.seconds = 0.0
        self._started = time.monotonic()
        self._has_ended = False

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = time.monotonic()

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = time.monotonic()
        self._has_ended = False
        # The first process decides for all, which wait for each other in saving: it may have written the file by now.
        if not trainer.strategy.broadcast(self.file.exists):
            self._save(trainer)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._count()
        # The last one is saved with what callbacks find at the end, such as the search's candidates. Resumed between
        # the two, they would have to find it without the batches of the training.
        if not (trainer.should_stop or trainer.current_epoch + 1 >= (trainer.max_epochs or math.inf)):
            self._save(trainer)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._count()
        self._has_ended = True
        self._save(trainer)

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Stopped behind its last epoch and resumed, a training goes straight here; callbacks make up for their ends.
        if not self._has_ended:
            self.on_train_end(trainer, pl_module)

    def _save(self, trainer: pl.Trainer) -> None:
        for logger in trainer.loggers:
            logger.save()  # a training that goes on from here logs what comes next
        trainer.save_checkpoint(self.file.path)

    def _count(self) -> None:
        now = time.monotonic()
        self.seconds, self._started = self.seconds + now - self._started, now

    @override
    def state_dict(self) -> dict[str, object]:
        return {"seconds": self.seconds, "has_ended": self._has_ended}

    @override
    def load_state_dict(self, state_dict: CheckpointState) -> None:
        self.seconds = state_dict["seconds"]
        # Checkpoints of earlier versions do not say it.
        self._has_ended = state_dict.get("has_ended", True)


@dataclass(frozen=True)
class Fit:
    """A finished training: its trainer, the seconds it took over all its parts, its optimizer steps, its epochs."""

    trainer: pl.Trainer
    seconds: float
    steps: int
    epochs: int


class Phases:
    """Runs trainings with one Trainer each, in one run directory.

    Args:
        run_dir: Directory of the run; checkpoints go to its folder ``checkpoints``.
        trainer: Makes a Trainer of `max_epochs`, `callbacks`, `logger` and `default_root_dir`.
        logger: Makes a logger of `save_dir`, `name` and `version`.
        data: The LightningDataModule.
        seed: Seed of each training.
        fingerprint: What must be the same for a run to be continued.
        is_shared: Whether other runs may train in this directory, too, each in its turn, see `alone`. Where they may
            not, the directory is to be `opened`.

    Raises:
        ValueError: The directory is shared and holds a run of other settings.
    """

    def __init__(
        self,
        run_dir: Path,
        trainer: Callable[..., pl.Trainer],
        logger: Callable[..., Logger],
        data: pl.LightningDataModule,
        seed: int,
        fingerprint: Mapping[str, object],
        is_shared: bool = False,
    ) -> None:
        self.run_dir = run_dir
        self.make_trainer = trainer
        self.make_logger = logger
        self.data = data
        self.seed = seed
        self.fingerprint = fingerprint
        self.is_shared = is_shared
        if is_shared:
            self._begin()

    def fit(
        self,
        name: str,
        module: pl.LightningModule,
        epochs: int,
        callbacks: Sequence[pl.Callback] = (),
        averaging: Averaging | None = None,
        ends_worse: bool = True,
    ) -> Fit:
        """Train `module`, resumed from its checkpoint if there is one.

        Args:
            name: Of the training, and of its checkpoint.
            module: What is trained.
            epochs: How long.
            callbacks: Called besides the job's own.
            averaging: Makes what averages the weights, if they are to be.
            ends_worse: Whether a loss far above that of the first step is an error in the end.

        Raises:
            DivergedError: The training has diverged.
            UnwritableError: There is no room for its state.
        """
        file = self.checkpoint(name)
        keep = KeepLast(file)
        divergence = Divergence(f"training {name!r}", ends_worse)
        averages = [] if averaging is None else [averaging()]
        logger = self.make_logger(save_dir=self.run_dir, name="logs", version=name)
        trainer = self.make_trainer(
            max_epochs=epochs,
            # Seeds come first, see `EpochSeeds`; what has diverged ends before its state is saved, which is last.
            callbacks=[EpochSeeds(self.seed), KeepStopping(), divergence, *callbacks, *averages, keep],
            logger=logger,
            default_root_dir=self.run_dir,
        )
        # A plugin or a strategy that writes checkpoints in its own way keeps to that.
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeCheckpointIO()
        # `weights_only`: loading a checkpoint runs no code that it holds.
        trainer.fit(module, datamodule=self.data, ckpt_path=file.readable(), weights_only=True)
        return Fit(trainer, keep.seconds, trainer.global_step, trainer.current_epoch)

    def train(
        self, name: str, module: pl.LightningModule, epochs: int, averaging: Averaging | None = None
    ) -> MetricFigures:
        """Train `module` as `fit` does, and return its metric on the test split."""
        return self.test(self.fit(name, module, epochs, averaging=averaging).trainer, module)

    def test(self, trainer: pl.Trainer, module: pl.LightningModule) -> MetricFigures:
        """Return the metric of a trained module on the test split."""
        begin_random(self.seed)
        figures = trainer.test(module, datamodule=self.data, verbose=False, weights_only=True)[0]
        metric = _metric_of(module)
        if metric.test_key not in figures:
            raise MisconfigurationException(_not_logged(metric.test_key, module, figures, "test_step"))
        return {
            "name": metric.name,
            "value": figures[metric.test_key],
            "larger_is_better": metric.larger_is_better,
            "split": "test",
            # A hundredth means little on few images, so pages say how many they are.
            "num_images": _num_images(trainer),
        }

    def validate(self, trainer: pl.Trainer, module: pl.LightningModule) -> float:
        """Return the metric of a module on the validation split; NaN if the Trainer reads no validation batches."""
        begin_random(self.seed)
        figures = trainer.validate(module, datamodule=self.data, verbose=False, weights_only=True)
        key = _metric_of(module).val_key
        if not figures or not sum(trainer.num_val_batches):
            return math.nan
        if key not in figures[0]:
            raise MisconfigurationException(_not_logged(key, module, figures[0], "validation_step"))
        return float(figures[0][key])

    def checkpoint(self, name: str) -> CheckpointFile:
        """Return the checkpoint file of a training."""
        return CheckpointFile(self._folder / f"{name}.ckpt")

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Lock this directory against other processes while the context lasts.

        Raises:
            InUseError: One does.
            ValueError: The directory holds a run of other settings.
            UnwritableError: There is no room, or no right to write there.
        """
        with alone(self._lock, f"The run directory {str(self.run_dir)!r}"):
            self._begin()
            for folder in (self.run_dir, self._folder, *self.run_dir.glob("logs/*")):
                remove_parts(folder)
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Lock a shared directory while the context lasts; other processes wait, and then find the result."""
        if not self.is_shared:
            yield
            return
        with alone(self._lock, f"the shared trainings in {str(self.run_dir)!r}", is_waiting=True):
            # Trials of other processes are trained here meanwhile.
            remove_parts(self._folder, others_write=True)
            yield

    @property
    def _folder(self) -> Path:
        return self.run_dir / "checkpoints"

    @property
    def _lock(self) -> Path:
        return self._folder / ".lock"

    def _begin(self) -> None:
        # Where nothing was trained yet there is nothing to be continued.
        is_begun = any(self._folder.glob("*.ckpt"))
        keep_fingerprint(self.run_dir, "checkpoints/fingerprint.json", self.fingerprint, is_begun)

    def claim(self, name: str, wanted: Mapping[str, object]) -> bool:
        """Record what a training is made for, unless an earlier run did; return whether it is for `wanted`."""
        path = self._folder / f"{name}.json"
        text = json.dumps(wanted, sort_keys=True)
        if not path.exists():
            write_text(path, text)
        return path.read_bytes() == text.encode()


def shared_phases(root: Path, run: Phases, settings: Mapping[str, object]) -> Phases:
    """Return the trainings that all runs with equal settings share, in a folder of `root` that is named after these.

    Args:
        root: Directory of all shared trainings.
        run: Trainings of one run.
        settings: What the trainings depend on.
    """
    described = plain({**settings, "trainer": described_trainer(run.make_trainer)}, whole_paths=True)
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]
    folder = root / f"{type(run.data).__name__}-{digest}"
    return Phases(folder, run.make_trainer, run.make_logger, run.data, run.seed, described, is_shared=True)


def source_phases(
    root: Path,
    run: Phases,
    network: partial[nn.Module],
    task: object,
    epochs: int,
    variant: Mapping[str, object] | None = None,
) -> Phases:
    """Return the trainings of the source, which searches of any kind, space and budget share.

    Args:
        root: Directory of all shared trainings.
        run: Trainings of one run.
        network: Makes the source.
        task: Makes its LightningModule.
        epochs: How long it trains.
        variant: Keywords of `network` beside its own.
    """
    settings = {
        "network": described_network(network, variant),
        "task": task,
        "data": run.data,
        "seed": run.seed,
        "source": epochs,
    }
    return shared_phases(root, run, settings)


@runtime_checkable
class Metric(Protocol):
    """Metric by which a LightningModule is compared, such as `lightning_nas.tasks.metric.TaskMetric`."""

    name: str
    larger_is_better: bool

    @property
    def val_key(self) -> str:
        """Name under which it is logged on the validation data."""
        ...

    @property
    def test_key(self) -> str:
        """Name under which it is logged on the test data."""
        ...


def _metric_of(module: pl.LightningModule) -> Metric:
    metric = getattr(module, "metric", None)
    if not isinstance(metric, Metric):
        raise TypeError(
            f"`metric` of a {type(module).__name__} must be a TaskMetric, such as TaskMetric('accuracy', 'acc'); got"
            f" {metric!r}."
        )
    return metric


def _not_logged(key: str, module: pl.LightningModule, figures: Mapping[str, float], step: str) -> str:
    logged = ", ".join(sorted(figures)) or "nothing"
    return (
        f"{type(module).__name__} is judged by {key!r}, which it does not log; it logs {logged}. HINT:"
        f" `self.log({key!r}, ...)` in `{step}`."
    )


def _num_images(trainer: pl.Trainer) -> int | None:
    """Return how many images of the test split a Trainer looked at; None where its loader does not tell."""
    loader = trainer.test_dataloaders
    dataset, batch_size = getattr(loader, "dataset", None), getattr(loader, "batch_size", None)
    if not isinstance(dataset, Sized) or batch_size is None:
        return None
    return int(min(len(dataset), sum(trainer.num_test_batches) * batch_size))
