"""A training that draws random numbers wherever one can, stopped where it is asked to, and what it ends with.

``python noisy_training.py FOLDER`` does so on two processes, for `test_resume`.
"""

import os
import random
import sys
import warnings
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from timm.layers import DropPath
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from lightning_nas.tasks.metric import TaskMetric
from lightning_nas.training.csv_logger import CSVLogger
from lightning_nas.training.phases import Phases

EPOCHS = 3
STOPS = {"behind an epoch": (1, 0), "in the middle of one": (1, 2), "in the first": (0, 1)}


class StopError(RuntimeError):
    """Stands for whatever kills a training."""


class Noisy(Dataset):
    """Each image has noise of all three generators, drawn in whichever process reads it."""

    def __len__(self):
        return 24

    def __getitem__(self, index):
        noise = torch.randn(3, 8, 8) + float(np.random.rand()) + random.random()
        return index / 24 + noise, index % 2


class Data(pl.LightningDataModule):
    def __init__(self, num_workers=0):
        super().__init__()
        self.num_workers = num_workers

    def train_dataloader(self):
        return DataLoader(Noisy(), batch_size=3, shuffle=True, num_workers=self.num_workers)

    def val_dataloader(self):
        return DataLoader(Noisy(), batch_size=6)

    test_dataloader = val_dataloader


class Net(pl.LightningModule):
    """It has dropout, drop path, mixup and cutmix."""

    metric = TaskMetric("loss", "loss", larger_is_better=False)

    def __init__(self, stop=None):
        super().__init__()
        self.stop = stop
        head = nn.Dropout(0.3), DropPath(0.3), nn.Flatten(), nn.Linear(8 * 6 * 6, 2)
        self.network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), *head)
        self.mix = v2.RandomChoice([v2.MixUp(num_classes=2), v2.CutMix(num_classes=2)])

    def on_train_batch_start(self, batch, batch_idx):
        if (self.current_epoch, batch_idx) == self.stop:
            raise StopError

    def training_step(self, batch, batch_idx):
        loss = self._loss(self.mix(*batch))
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self._loss(batch), sync_dist=True)

    def test_step(self, batch, batch_idx):
        self.log("test_loss", self._loss(batch), sync_dist=True)

    def _loss(self, batch):
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def trained(folder, stop=None, num_workers=0, **options):
    """Train in a folder, again where it is stopped, and return the module, its figures and its log."""
    make = partial(
        pl.Trainer,
        accelerator="cpu",
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )

    def train(stop):
        torch.manual_seed(1)
        module = Net(stop)
        phases = Phases(folder, make, CSVLogger, Data(num_workers), 0, {})
        return module, phases.train("source", module, EPOCHS)

    if stop is not None:
        try:
            train(stop)
        except StopError:
            torch.rand(5)  # another process has drawn other numbers by now
        else:
            raise AssertionError(f"nothing stopped the training at {stop}")
    module, figures = train(None)
    if torch.distributed.is_initialized():  # the first process writes the log, and may be the last to end
        torch.distributed.barrier()
    return module.state_dict(), figures, (folder / "logs" / "source" / "metrics.csv").read_text()


def main(folder):
    for name, stop in {"whole": None, **STOPS}.items():
        found = trained(folder / name, stop, devices=2, strategy="ddp")
        torch.save(found, folder / f"{name}-{os.environ['LOCAL_RANK']}.pt")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]))
