"""Batches of images and masks from memory, or from files where they do not fit."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from lightning_nas.data._batches import IMAGENET_MEAN, IMAGENET_STD, BatchAugmentation, SeededBatches
from lightning_nas.data._contents import SplitContents
from lightning_nas.data._file_check import naming_all
from lightning_nas.data._labels import IGNORE, Labels, check_labels
from lightning_nas.data._letterbox import canvas_size
from lightning_nas.data._mask_files import Pair, count_ids, decode_all, decode_some, oriented
from lightning_nas.data._preprocessing import Preprocessing
from lightning_nas.data._splits import Split, Splits
from lightning_nas.io.numbers import check_number

__all__ = ["MaskFilesData", "MaskedImages"]

logger = logging.getLogger(__name__)


class MaskedImages(SeededBatches[tuple[Tensor, Tensor]]):
    """Images and masks that are fetched, augmented and normalised a batch at a time.

    Args:
        load: Returns the uint8 images (N, 3, H, W) and masks (N, H, W) at a list of indices.
        num_images: Number of images.
        augment: What to do to the images and masks of a batch, or None.
        seed: With the batch's indices it decides the augmentation.

    Example::

        >>> pairs = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.ones(4, 8, 8, dtype=torch.uint8)
        >>> data = MaskedImages(lambda indices: (pairs[0][indices], pairs[1][indices]), num_images=4)
        >>> images, masks = data.__getitems__([2, 0])
        >>> images.shape, masks.shape, masks.dtype
        (torch.Size([2, 3, 8, 8]), torch.Size([2, 8, 8]), torch.int64)
    """

    def __init__(
        self,
        load: Callable[[list[int]], tuple[Tensor, Tensor]],
        num_images: int,
        augment: BatchAugmentation | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(num_images, seed)
        self.load = load
        self.augment = augment
        self._mean = torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
        self._std = torch.tensor(IMAGENET_STD).view(3, 1, 1)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images, masks = self.__getitems__([index])
        return images[0], masks[0]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        images, masks = self.load(indices)
        images = images.float().div_(255)
        if self.augment is not None:
            generator = torch.Generator().manual_seed(self.batch_seed(indices))
            images, masks = self.augment.together(images, masks, generator)
        images = (images - self._mean).div_(self._std)
        return images.contiguous(memory_format=torch.channels_last), masks.long()


class MaskFilesData(L.LightningDataModule):
    """Images with masks in files. Masks are checked when this is made, and all files opened before the training.

    Images of other proportions are stretched to `image_size`. Decoded splits are kept in memory where they fit.

    Args:
        root: Folder of the data set.
        files: Images and masks of each split. Without ``test`` those of ``val`` are the test images too.
        labels: What the ids in masks mean, or a function that says it, given how many pixels of each id each mask of
            a split has.
        image_size: Height and width that images and masks are resized to, in pixels; one number for both.
        mask_size: Those of the masks for validation and test, where networks for several image sizes are compared;
            None for `image_size`.
        batch_size: Images a batch.
        num_workers: Worker processes; 0 is usually fastest while the images are in memory.
        seed: Decides the shuffles and the augmentation.
        min_crop_area: Smallest training crop as a share of the image's area; 1 crops nothing.
        flip: Whether to mirror half of the training images.
        color_jitter: Largest relative change of brightness, contrast and saturation of training images.
        cache_limit_bytes: Decoded splits above this size are read from files again in every epoch.

    Raises:
        ValueError: A setting is out of range, or a file cannot be used.
    """

    def __init__(
        self,
        root: Path,
        files: Mapping[Split, Sequence[Pair]],
        labels: Labels | Callable[[Mapping[Split, NDArray[np.int64]]], Labels],
        image_size: int | Sequence[int] = (192, 256),
        batch_size: int = 16,
        num_workers: int = 0,
        seed: int = 0,
        min_crop_area: float = 0.5,
        flip: bool = True,
        color_jitter: float = 0.2,
        cache_limit_bytes: int = 2**30,
        mask_size: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.seed = seed
        paths = {split: [path for pair in pairs for path in (pair.image, pair.mask)] for split, pairs in files.items()}
        self.splits = Splits(self._load, batch_size, num_workers, seed, f"'{root}'", "test" in files, paths)
        self.root = root
        self.image_size = canvas_size(image_size)
        self.mask_size = self.image_size if mask_size is None else canvas_size(mask_size, "mask_size")
        check_number("cache_limit_bytes", cache_limit_bytes, whole=True, least=0)
        self.cache_limit_bytes = cache_limit_bytes
        self._augment = BatchAugmentation(min_crop_area, flip, color_jitter)
        # Masks are read here, so that the number of classes is known before the network is built, and what is wrong
        # with the test images before the training.
        with naming_all(path for split in paths.values() for path in split):
            self._files = files = oriented(root, files)
            counts = {split: count_ids(pairs) for split, pairs in files.items()}
        self._labels = labels if isinstance(labels, Labels) else labels(counts)
        if not 2 <= self.num_classes <= IGNORE:
            raise ValueError(f"Masks must have 2 to {IGNORE} classes; those of '{root}' have {self.num_classes}.")
        for split, pairs in files.items():
            check_labels(f"'{root}' ({split})", [pair.mask for pair in pairs], counts[split], self._labels)
        self._contents = {split: _contents(counts[split], self._labels) for split in files}

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self._labels.names)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their indices."""
        return self._labels.names

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        return 3, *self.image_size

    @property
    def contents(self) -> dict[Split, SplitContents]:
        """How many images each split has, and how many of them show each class."""
        return self._contents

    @property
    def preprocessing(self) -> Preprocessing:
        """What is done to an image before the network."""
        return Preprocessing(self.image_size)

    @override
    def prepare_data(self) -> None:
        self.splits.prepare()

    @override
    def setup(self, stage: str | None = None) -> None:
        self.splits.setup(stage)

    @override
    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        return self.splits.loader("train")

    @override
    def val_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        return self.splits.loader("val")

    @override
    def test_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        return self.splits.loader("test")

    def _load(self, split: Split) -> MaskedImages:
        pairs = self._files[split]
        augment = self._augment if split == "train" else None
        # In training they are cropped together.
        mask_size = self.image_size if split == "train" else self.mask_size
        size_bytes = len(pairs) * (3 * math.prod(self.image_size) + math.prod(mask_size))
        load: Callable[[list[int]], tuple[Tensor, Tensor]]
        if size_bytes <= self.cache_limit_bytes:
            images, masks = decode_all(pairs, self.image_size, mask_size, self._labels)
            load = partial(_pick, images, masks)
        else:
            logger.info(
                "%s (%s) would take %d MiB: it is read again in every epoch.", self.root, split, size_bytes >> 20
            )
            load = partial(decode_some, pairs, self.image_size, mask_size, self._labels)
        return MaskedImages(load, len(pairs), augment, self.seed)


def _contents(counts: NDArray[np.int64], labels: Labels) -> SplitContents:
    """Return what masks show, from how many pixels of each id each has."""
    ids = [[number for number, own in labels.classes.items() if own == label] for label in range(len(labels.names))]
    return SplitContents(len(counts), tuple(int(counts[:, own].any(axis=1).sum()) for own in ids))


def _pick(images: Tensor, masks: Tensor, indices: list[int]) -> tuple[Tensor, Tensor]:
    return images[indices], masks[indices]
