"""Batches of images and masks from memory, or from files where they do not fit."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_nas.data._batches import IMAGENET_MEAN, IMAGENET_STD, SeededBatches
from lightning_nas.data._contents import SplitContents
from lightning_nas.data._file_check import naming_all
from lightning_nas.data._labels import IGNORE, Labels, check_labels
from lightning_nas.data._letterbox import canvas_size
from lightning_nas.data._mask_files import Pair, count_ids, decode_all, decode_some, oriented
from lightning_nas.data._preprocessing import Preprocessing
from lightning_nas.data._splits import Split
from lightning_nas.data.batch_augment import BatchAugmentation
from lightning_nas.data.loading import Loading

__all__ = ["AUGMENT", "MaskFiles", "MaskSizes", "MaskedImages", "mask_files"]

logger = logging.getLogger(__name__)


AUGMENT = BatchAugmentation(0.5)


@dataclass(frozen=True)
class MaskSizes:
    """Height and width in pixels.

    Attributes:
        images: Those of the images, and of the masks in training.
        masks: Those of the masks for validation and test.
    """

    images: tuple[int, int]
    masks: tuple[int, int]

    @staticmethod
    def of(image_size: int | Sequence[int], mask_size: int | Sequence[int] | None) -> MaskSizes:
        """Return checked sizes.

        Args:
            image_size: Height and width of the images, or one number for both.
            mask_size: Those of the masks for validation and test; None for `image_size`.

        Raises:
            ValueError: One is neither, or too small.
        """
        images = canvas_size(image_size)
        return MaskSizes(images, images if mask_size is None else canvas_size(mask_size, "mask_size"))


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


@dataclass(frozen=True)
class MaskFiles:
    """Images and masks in files, as an `ImageSet`; see `mask_files`, which checks them.

    Attributes:
        root: Folder of the data set.
        files: Images and masks of each split. Without ``test`` those of ``val`` are the test images too.
        labels: What the ids in masks mean.
        contents: How many images each split has, and how many of them show each class.
        sizes: The sizes that images and masks are resized to.
        augment: What is done to training images and their masks, or None.
        seed: Decides the augmentation.
        cache_limit_bytes: Decoded splits above this size are read from files again in every epoch.
    """

    root: Path
    files: dict[Split, list[Pair]]
    labels: Labels
    contents: dict[Split, SplitContents]
    sizes: MaskSizes
    augment: BatchAugmentation | None
    seed: int
    cache_limit_bytes: int

    @property
    def title(self) -> str:
        """Name of the data set in messages."""
        return f"'{self.root}'"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their indices."""
        return self.labels.names

    @property
    def preprocessing(self) -> Preprocessing:
        """Preprocessing of an image before the network."""
        return Preprocessing(self.sizes.images)

    @property
    def paths(self) -> dict[Split, list[Path]]:
        """The files of each split."""
        return _paths(self.files)

    @property
    def has_test(self) -> bool:
        """Whether there are test images."""
        return "test" in self.files

    def load(self, split: Split) -> MaskedImages:
        """Return the images and masks of a split, decoded where they fit into memory."""
        pairs, size = self.files[split], self.sizes.images
        augment = self.augment if split == "train" else None
        # In training they are cropped together.
        mask_size = size if split == "train" else self.sizes.masks
        size_bytes = len(pairs) * (3 * math.prod(size) + math.prod(mask_size))
        load: Callable[[list[int]], tuple[Tensor, Tensor]]
        if size_bytes <= self.cache_limit_bytes:
            images, masks = decode_all(pairs, size, mask_size, self.labels)
            load = partial(_pick, images, masks)
        else:
            logger.info(
                "%s (%s) would take %d MiB: it is read again in every epoch.", self.root, split, size_bytes >> 20
            )
            load = partial(decode_some, pairs, size, mask_size, self.labels)
        return MaskedImages(load, len(pairs), augment, self.seed)


def mask_files(
    root: Path,
    files: Mapping[Split, Sequence[Pair]],
    labels: Labels | Callable[[Mapping[Split, NDArray[np.int64]]], Labels],
    sizes: MaskSizes,
    augment: BatchAugmentation | None,
    loading: Loading,
) -> MaskFiles:
    """Return the images and masks of a folder, once all masks are checked.

    Masks are read here, so that the number of classes is known before the network is built, and what is wrong with the
    test images before the training. Images of other proportions than theirs are stretched.

    Args:
        root: Folder of the data set.
        files: Images and masks of each split. Without ``test`` those of ``val`` are the test images too.
        labels: What the ids in masks mean, or a function that says it, given how many pixels of each id each mask of
            a split has.
        sizes: The sizes that images and masks are resized to.
        augment: What is done to training images and their masks, or None.
        loading: How batches are made of them.

    Raises:
        ValueError: A file cannot be used.
    """
    with naming_all(path for split in _paths(files).values() for path in split):
        found = oriented(root, files)
        counts = {split: count_ids(pairs) for split, pairs in found.items()}
    known = labels if isinstance(labels, Labels) else labels(counts)
    if not 2 <= len(known.names) <= IGNORE:
        raise ValueError(f"Masks must have 2 to {IGNORE} classes; those of '{root}' have {len(known.names)}.")
    for split, pairs in found.items():
        check_labels(f"'{root}' ({split})", [pair.mask for pair in pairs], counts[split], known)
    contents = {split: _contents(counts[split], known) for split in found}
    return MaskFiles(root, found, known, contents, sizes, augment, loading.seed, loading.cache_limit_bytes)


def _paths(files: Mapping[Split, Sequence[Pair]]) -> dict[Split, list[Path]]:
    return {split: [path for pair in pairs for path in (pair.image, pair.mask)] for split, pairs in files.items()}


def _contents(counts: NDArray[np.int64], labels: Labels) -> SplitContents:
    """Return the number of masks, in all and of each class, from how many pixels of each id each mask has."""
    ids = [[number for number, own in labels.classes.items() if own == label] for label in range(len(labels.names))]
    return SplitContents(len(counts), tuple(int(counts[:, own].any(axis=1).sum()) for own in ids))


def _pick(images: Tensor, masks: Tensor, indices: list[int]) -> tuple[Tensor, Tensor]:
    return images[indices], masks[indices]
