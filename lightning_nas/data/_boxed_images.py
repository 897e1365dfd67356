"""Images with boxes, whatever they were read from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_nas.data._contents import SplitContents
from lightning_nas.data._preprocessing import Preprocessing
from lightning_nas.data._splits import Split
from lightning_nas.data.detection_augment import DetectionAugmentation
from lightning_nas.data.detection_batches import DetectionBatches, DetectionRecord
from lightning_nas.data.loading import Loading

__all__ = ["LOADING", "BoxedImages", "Records"]

logger = logging.getLogger(__name__)

LOADING = Loading(cache_limit_bytes=2**31)
"""The default `Loading` of images with boxes."""

Records = Mapping[Split, Sequence[DetectionRecord] | Callable[[], Sequence[DetectionRecord]]]
"""The records of each split, or what makes them when a stage first needs them."""


@dataclass(frozen=True, eq=False)
class BoxedImages:
    """Images with boxes, as an `ImageSet`.

    Attributes:
        title: Name of the data set in messages.
        records: The records of each split. The files of those that are made already are opened before the training.
        class_names: Names of the classes, in the order of their indices.
        image_size: Height and width of the canvas that images are fitted into.
        augment: What is done to training images, or None.
        seed: Decides the augmentation.
        cache_limit_bytes: Splits that take more memory on the canvas are read from files again in every epoch.
    """

    title: str
    records: Records
    class_names: tuple[str, ...]
    image_size: tuple[int, int]
    augment: DetectionAugmentation | None
    seed: int
    cache_limit_bytes: int

    @property
    def preprocessing(self) -> Preprocessing:
        """Preprocessing of an image before the network."""
        return Preprocessing(self.image_size, "letterbox")

    @property
    def contents(self) -> dict[Split, SplitContents]:
        """Number of images of each split, in all and of each class; without the splits that are not made yet."""
        return {split: _contents(records, len(self.class_names)) for split, records in self._made().items()}

    @property
    def paths(self) -> dict[Split, list[Path]]:
        """The files of each split."""
        return {
            split: [record.image for record in records if isinstance(record.image, Path)]
            for split, records in self._made().items()
        }

    @property
    def has_test(self) -> bool:
        """Whether there are test images."""
        return "test" in self.records

    def load(self, split: Split) -> DetectionBatches:
        """Return the images and targets of a split, decoded where they fit into memory."""
        augment = self.augment if split == "train" else None
        own = self.records[split]
        records = own() if callable(own) else own
        part = DetectionBatches(records, self.image_size, augment, self.seed, self.cache_limit_bytes)
        if not part.is_cached:
            size = part.size_bytes >> 20
            logger.info("%s (%s) would take %d MiB: it is read again in every epoch.", self.title, split, size)
        return part

    def _made(self) -> dict[Split, Sequence[DetectionRecord]]:
        return {split: own for split, own in self.records.items() if not callable(own)}


def _contents(records: Sequence[DetectionRecord], num_classes: int) -> SplitContents:
    counts = [0] * num_classes
    for record in records:
        for label in set(record.labels[~record.is_crowd].tolist()):
            counts[label] += 1
    return SplitContents(len(records), tuple(counts))
