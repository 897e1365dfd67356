"""What is asked of a user's own task and data, and what is said where it is missing."""

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_nas.data.digits import DigitsDataModule
from lightning_nas.jobs.check import check_data, check_task
from lightning_nas.tasks.metric import TaskMetric

BATCH = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 0, 1])


class Task(pl.LightningModule):
    metric = TaskMetric("accuracy", "acc")

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2))

    def training_step(self, batch, batch_idx):
        return functional.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_acc", 0.5)

    def test_step(self, batch, batch_idx):
        self.log("test_acc", 0.5)


class Data(pl.LightningDataModule):
    num_classes = 2
    input_size = (3, 8, 8)

    def train_dataloader(self):
        return DataLoader(TensorDataset(*BATCH), batch_size=2)

    val_dataloader = test_dataloader = train_dataloader


def test_what_fits_is_let_pass_and_left_as_it_was():
    task = Task()
    before = {name: value.clone() for name, value in task.state_dict().items()}
    check_task(task, BATCH)
    check_data(Data())
    check_data(DigitsDataModule(image_size=32, batch_size=8, scenes_per_digit=1))
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())


def test_all_that_a_task_lacks_is_named():
    class Bare(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = nn.Linear(4, 4)

        def training_step(self, batch, batch_idx):
            return self.network(batch[0]).sum()

    with pytest.raises(ValueError, match="Bare is not a task") as error:
        check_task(Bare(), BATCH)
    said = str(error.value)
    assert "`metric` must be a TaskMetric" in said
    assert "`validation_step` is missing" in said
    assert "`test_step` is missing" in said
    assert "`training_step` fails on the batch: RuntimeError" in said


def test_a_task_without_a_network_is_refused():
    with pytest.raises(ValueError, match="`network` must be the module that is searched; got None"):
        check_task(pl.LightningModule(), BATCH)


def test_a_loss_that_is_not_finite_is_refused():
    class Endless(Task):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) / 0

    with pytest.raises(ValueError, match="must return a finite loss; got inf"):
        check_task(Endless(), BATCH)


def test_all_that_data_lacks_is_named():
    class Bare(pl.LightningDataModule):
        input_size = (8, 8)

        def train_dataloader(self):
            return DataLoader(torch.zeros(4, 3, 8, 8))

    with pytest.raises(ValueError, match="Bare does not fit") as error:
        check_data(Bare())
    said = str(error.value)
    assert "`num_classes` must be a whole number of at least 1; got None" in said
    assert "`input_size` must be channels, height and width; got (8, 8)" in said
    assert "A batch of `train_dataloader` must be a pair of images and targets; got Tensor" in said
    assert "`val_dataloader` is missing" in said


def test_images_of_another_size_are_named():
    class Larger(Data):
        input_size = (3, 16, 16)

    with pytest.raises(ValueError, match=r"Images of `train_dataloader` must be of `input_size` \(3, 16, 16\)"):
        check_data(Larger())


def test_classes_without_a_name_are_named():
    class Named(Data):
        class_names = ("cat",)

    with pytest.raises(ValueError, match="`class_names` must have one name for each of 2 classes; got 1: cat"):
        check_data(Named())
