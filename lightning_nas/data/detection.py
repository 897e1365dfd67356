"""A datamodule of images with boxes, whatever they were read from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import lightning as L
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from lightning_nas.data._contents import SplitContents
from lightning_nas.data._letterbox import canvas_size
from lightning_nas.data._preprocessing import Preprocessing
from lightning_nas.data._splits import Split, Splits
from lightning_nas.data.detection_augment import DetectionAugmentation
from lightning_nas.data.detection_batches import DetectionBatches, DetectionRecord, Target
from lightning_nas.io.numbers import check_number

__all__ = ["DetectionDataModule"]

logger = logging.getLogger(__name__)


class DetectionDataModule(L.LightningDataModule):
    """Batches of images and their objects for a detector, from records.

    A batch is ``(images, targets)``: images (N, 3, H, W), float32, normalised by ImageNet's mean and deviation, in
    channels-last memory format; targets a list of N dicts with ``boxes`` (n, 4), left, top, right and bottom in pixels
    of H x W, float32, and ``labels`` (n,), int64; also what COCO's measure asks for, see `Target`. There may be images
    without objects.

    Without a ``test`` split the images of ``val`` are the test images too, with a warning.

    Args:
        records: The records of each split, or what makes them when a stage first needs them. The files of those that
            are there are opened before the training.
        class_names: Names of the classes, in the order of their indices.
        image_size: Height and width of the canvas that images are fitted into, or one number for both.
        batch_size: Images a batch.
        num_workers: Worker processes.
        seed: Decides the shuffles and the augmentation.
        augment: What to do to training images, or None.
        cache_limit_bytes: Splits that take more memory on the canvas are read from files again in every epoch.

    Raises:
        ValueError: A setting is out of range.

    Example::

        >>> import torch
        >>> image = torch.zeros(3, 32, 32, dtype=torch.uint8)
        >>> record = DetectionRecord(image, (32, 32), torch.tensor([[4.0, 4.0, 20.0, 20.0]]), torch.tensor([0]))
        >>> data = DetectionDataModule({"train": lambda: [record], "val": lambda: [record]}, ["box"], 64)
        >>> data.setup("validate")
        >>> images, targets = next(iter(data.val_dataloader()))
        >>> images.shape, targets[0]["boxes"].tolist()
        (torch.Size([1, 3, 64, 64]), [[8.0, 8.0, 40.0, 40.0]])
    """

    def __init__(
        self,
        records: Mapping[Split, Sequence[DetectionRecord] | Callable[[], Sequence[DetectionRecord]]],
        class_names: Sequence[str],
        image_size: int | Sequence[int],
        batch_size: int = 16,
        num_workers: int = 0,
        seed: int = 0,
        augment: DetectionAugmentation | None = None,
        cache_limit_bytes: int = 2**31,
    ) -> None:
        super().__init__()
        self._made = {split: own for split, own in records.items() if not callable(own)}
        files = {
            split: [record.image for record in own if isinstance(record.image, Path)]
            for split, own in self._made.items()
        }
        name, has_test = type(self).__name__, "test" in records
        self.splits = Splits(self._load, batch_size, num_workers, seed, name, has_test, files)
        self.image_size = canvas_size(image_size)
        check_number("cache_limit_bytes", cache_limit_bytes, whole=True, least=0)
        self.batch_size = batch_size
        self.seed = seed
        self.augment = augment
        self.cache_limit_bytes = cache_limit_bytes
        self._records = records
        self._class_names = tuple(class_names)

    @property
    def num_classes(self) -> int:
        """Number of classes, without a background."""
        return len(self._class_names)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their indices."""
        return self._class_names

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        return 3, *self.image_size

    @property
    def contents(self) -> dict[Split, SplitContents]:
        """How many images each split has, and how many of them show each class; nothing where they are not made yet."""
        return {split: _contents(records, self.num_classes) for split, records in self._made.items()}

    @property
    def preprocessing(self) -> Preprocessing:
        """What is done to an image before the network."""
        return Preprocessing(self.image_size, "letterbox")

    @override
    def prepare_data(self) -> None:
        self.splits.prepare()

    @override
    def setup(self, stage: str | None = None) -> None:
        self.splits.name = self._name()  # subclasses know their folder by now
        self.splits.setup(stage)

    @override
    def train_dataloader(self) -> DataLoader[tuple[Tensor, Target]]:
        return self.splits.loader("train")

    @override
    def val_dataloader(self) -> DataLoader[tuple[Tensor, Target]]:
        return self.splits.loader("val")

    @override
    def test_dataloader(self) -> DataLoader[tuple[Tensor, Target]]:
        return self.splits.loader("test")

    def _load(self, split: Split) -> DetectionBatches:
        augment = self.augment if split == "train" else None
        own = self._records[split]
        records = own() if callable(own) else own
        part = DetectionBatches(records, self.image_size, augment, self.seed, self.cache_limit_bytes)
        if not part.is_cached:
            size = part.size_bytes >> 20
            logger.info("%s (%s) would take %d MiB: it is read again in every epoch.", self._name(), split, size)
        return part

    def _name(self) -> str:
        return f"'{self.root}'" if hasattr(self, "root") else type(self).__name__


def _contents(records: Sequence[DetectionRecord], num_classes: int) -> SplitContents:
    counts = [0] * num_classes
    for record in records:
        for label in set(record.labels[~record.is_crowd].tolist()):
            counts[label] += 1
    return SplitContents(len(records), tuple(counts))
