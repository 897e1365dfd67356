"""A datamodule of images that are split into train, val and test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import lightning as L
from torch.utils.data import DataLoader
from typing_extensions import override

from lightning_nas.data._batches import SeededBatches
from lightning_nas.data._contents import SplitContents
from lightning_nas.data._preprocessing import Preprocessing
from lightning_nas.data._splits import Split, Splits
from lightning_nas.data.loading import Loading

__all__ = ["ImageSet", "SplitDataModule"]

Item = TypeVar("Item")
Item_co = TypeVar("Item_co", covariant=True)


class ImageSet(Protocol[Item_co]):
    """The images of a data set and what they show, which a `SplitDataModule` reads."""

    @property
    def title(self) -> str:
        """Name of the data set in messages."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their indices."""
        ...

    @property
    def preprocessing(self) -> Preprocessing:
        """Preprocessing of an image before the network."""
        ...

    @property
    def contents(self) -> dict[Split, SplitContents]:
        """Number of images of each split, in all and of each class; empty where that is not known yet."""
        ...

    @property
    def paths(self) -> Mapping[Split, Sequence[Path]]:
        """The files of each split, which are opened before the training."""
        ...

    @property
    def has_test(self) -> bool:
        """Whether there are test images; else those of ``val`` are the test images too."""
        ...

    def load(self, split: Split) -> SeededBatches[Item_co]:
        """Return the images of a split with what they show; called once a split."""
        ...


class SplitDataModule(L.LightningDataModule, Generic[Item]):
    """A LightningDataModule of a set of images. Each split is loaded when a stage first needs it.

    `Item` is an image with what it shows: a label, a mask, or boxes.

    Args:
        images: The images.
        loading: How they are loaded.

    Attributes:
        batch_size: Images a batch.
        seed: Decides the shuffles and the augmentation.
        splits: The splits that are loaded.
    """

    def __init__(self, images: ImageSet[Item], loading: Loading) -> None:
        super().__init__()
        self.images = images
        self.batch_size = loading.batch_size
        self.seed = loading.seed
        self.splits = Splits(images.load, loading, images.title, images.has_test, images.paths)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.images.class_names)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their indices."""
        return self.images.class_names

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        return 3, *self.images.preprocessing.image_size

    @property
    def contents(self) -> dict[Split, SplitContents]:
        """Number of images of each split, in all and of each class; empty where that is not known yet."""
        return self.images.contents

    @property
    def preprocessing(self) -> Preprocessing:
        """Preprocessing of an image before the network."""
        return self.images.preprocessing

    @override
    def prepare_data(self) -> None:
        self.splits.prepare()

    @override
    def setup(self, stage: str | None = None) -> None:
        self.splits.setup(stage)

    @override
    def train_dataloader(self) -> DataLoader[Item]:
        return self.splits.loader("train")

    @override
    def val_dataloader(self) -> DataLoader[Item]:
        return self.splits.loader("val")

    @override
    def test_dataloader(self) -> DataLoader[Item]:
        return self.splits.loader("test")
