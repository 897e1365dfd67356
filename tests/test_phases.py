"""What a run's trainings say of the data that they were judged on."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from torch.utils.data import DataLoader, IterableDataset

from lightning_nas._phases import _num_images


class Endless(IterableDataset):
    def __iter__(self):
        return iter(torch.randn(6, 32))


@pytest.mark.parametrize(
    ("dataset", "limit", "expected"),
    [(torch.randn(10, 32), 1.0, 10), (torch.randn(10, 32), 2, 8), (Endless(), 2, None)],
)
def test_the_images_of_the_test_split_are_counted_where_the_loader_tells(tmp_path, dataset, limit, expected):
    trainer = pl.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", logger=False, limit_test_batches=limit, enable_progress_bar=False
    )
    trainer.test(BoringModel(), DataLoader(dataset, batch_size=4), verbose=False)
    assert _num_images(trainer) == expected
