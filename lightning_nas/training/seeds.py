"""Random numbers that are the same in a resumed and in an uninterrupted training."""

from __future__ import annotations

import random

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader
from typing_extensions import override

from lightning_nas.training.checkpoints import CheckpointState

__all__ = ["EpochSeeds", "begin_random"]


def begin_random(seed: int, epoch: int = 0, part: int = 0) -> None:
    """Seed the generators of PyTorch, NumPy and Python for a part of an epoch."""
    # Mixed rather than added: seed + epoch would give neighbouring seeds the same epochs.
    value = int(np.random.SeedSequence((seed, epoch, part)).generate_state(1)[0])
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)


class EpochSeeds(pl.Callback):
    """Seeds the random generators anew in every epoch, so that a resumed training draws the same numbers.

    They are what loaders without a generator, samplers, augmentation in this process or in workers, dropout, mixup and
    drop path draw from: the generators of PyTorch, NumPy and Python. In an epoch that follows another one, the loader
    is asked for an iterator behind `on_train_epoch_start`; in the first one of a process it has been asked before.
    Therefore the generators begin three times: where a fit begins, for that iterator; with each epoch; and with its
    first batch, by which time a resumed process and one that went on have drawn unlike amounts.

    It must be the first callback. Workers that stay from epoch to epoch (``persistent_workers``) go on with their own
    random numbers, so data that draws from these in workers is not the same after a resume.

    Args:
        seed: Seed of the training.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._next_epoch = 0
        self._has_iterator = False

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        begin_random(self.seed, self._next_epoch)
        self._has_iterator = True

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        begin_random(self.seed, trainer.current_epoch)
        if self._has_iterator:
            _draw_like_iterators(trainer.train_dataloader)
        self._has_iterator = False

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        if not batch_idx:
            begin_random(self.seed, trainer.current_epoch, part=1)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._next_epoch = trainer.current_epoch + 1

    @override
    def state_dict(self) -> dict[str, object]:
        return {"next_epoch": self._next_epoch}

    @override
    def load_state_dict(self, state_dict: CheckpointState) -> None:
        self._next_epoch = state_dict["next_epoch"]


def _draw_like_iterators(loaders: object) -> None:
    """Draw as many random numbers as loaders do when they make an iterator: a seed for their workers."""
    for loader in CombinedLoader(loaders).flattened:
        if isinstance(loader, DataLoader) and loader.generator is None:
            torch.empty((), dtype=torch.int64).random_()
