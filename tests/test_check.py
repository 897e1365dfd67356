"""What is asked of a user's own task and data, and what is said where it is missing."""

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import BinaryAccuracy

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

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


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
    assert "`configure_optimizers` is missing" in said
    assert "`training_step` fails on the batch: RuntimeError" in said


def test_figures_that_are_not_logged_are_named():
    class Silent(Task):
        def validation_step(self, batch, batch_idx):
            self.log_dict({"val_loss": 0.5, "val_f1": 0.5})

        def test_step(self, batch, batch_idx):
            """Log nothing."""

    with pytest.raises(ValueError, match="Silent is not a task") as error:
        check_task(Silent(), BATCH)
    said = str(error.value)
    assert "`validation_step` must log `val_acc`, which is what `metric` names; it logs `val_loss`, `val_f1`." in said
    assert "`test_step` must log `test_acc`, which is what `metric` names; it logs nothing." in said


def test_an_evaluation_that_fails_is_named():
    class Failing(Task):
        def test_step(self, batch, batch_idx):
            raise KeyError("boxes")

    with pytest.raises(ValueError, match="`test_step` fails on the batch: KeyError: 'boxes'"):
        check_task(Failing(), BATCH)


def test_a_figure_may_be_logged_at_the_end_of_the_epoch():
    class AtTheEnd(Task):
        def __init__(self):
            super().__init__()
            self.accuracy = BinaryAccuracy()

        def validation_step(self, batch):
            assert not self.training
            self.accuracy.update(self.network(batch[0]).argmax(1), batch[1])

        def on_validation_epoch_end(self):
            self.log("val_acc", self.accuracy.compute())

    task = AtTheEnd()
    check_task(task, BATCH)
    assert task.training
    assert task.accuracy.update_count == 0
    assert "log" not in vars(task)


@pytest.mark.parametrize("wrong", [4, -1])
def test_labels_out_of_range_are_named(wrong):
    class Labelled(Data):
        def val_dataloader(self):
            return DataLoader(TensorDataset(BATCH[0], torch.tensor([0, 1, 1, wrong])), batch_size=2)

    with pytest.raises(ValueError, match="Labelled does not fit") as error:
        check_data(Labelled())
    wanted = f"Labels of `val_dataloader` must be from 0 to 1, as `num_classes` is 2; got {wrong}."
    assert str(error.value).splitlines()[1:] == [f"  {wanted}"]


def test_targets_that_are_no_labels_are_left_alone():
    class Regression(Data):
        def train_dataloader(self):
            return DataLoader(TensorDataset(BATCH[0], torch.full((4,), 7.5)), batch_size=2)

    check_data(Regression())


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
