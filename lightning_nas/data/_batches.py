"""Batches of images from memory: whole-batch decoding, augmentation and shuffling that a seed repeats."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_nas.io.numbers import check_number

__all__ = ["BatchAugmentation", "BatchedImages", "EpochSampler", "SeededBatches", "image_loader"]

Item = TypeVar("Item", covariant=True)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class BatchAugmentation:
    """Random resized crop, horizontal flip and colour jitter, with own random numbers for each image of a batch.

    torchvision's transforms draw one set of numbers a call, so a batch would need one call an image; crop, resize and
    flip of a whole batch are one ``grid_sample`` here.

    Attributes:
        min_area: Smallest crop as a share of the image's area; 1 crops nothing.
        flip: Whether to mirror half of the images.
        jitter: Largest relative change of brightness, contrast and saturation; 0 changes none.

    Example::

        >>> augment = BatchAugmentation(min_area=1, flip=False, jitter=0)
        >>> images = torch.rand(2, 3, 8, 8)
        >>> torch.allclose(augment(images, torch.Generator()), images, atol=1e-5)
        True
    """

    min_area: float = 0.6
    flip: bool = True
    jitter: float = 0.2

    def __post_init__(self) -> None:
        # By the names of the datamodules, which is where they are given.
        check_number("min_crop_area", self.min_area, above=0, most=1)
        check_number("color_jitter", self.jitter, least=0, below=1)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return an augmented copy of float images in 0..1, NCHW."""
        grid = self._grid(images, generator)
        return self._recolour(_at(grid, images), generator)

    def together(self, images: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return augmented copies of images, and of integer masks (N, H, W) that are cropped and mirrored as they are.

        Masks keep their labels: each pixel has that of the nearest one.
        """
        grid = self._grid(images, generator)
        moved = _at(grid, masks[:, None].float(), mode="nearest")[:, 0].to(masks.dtype)
        return self._recolour(_at(grid, images), generator), moved

    def _grid(self, images: Tensor, generator: torch.Generator) -> Tensor | None:
        """Return where the pixels of crops are read, (N, H, W, 2), or None where they stay in their places."""
        count = len(images)
        if self.min_area == 1 and not self.flip:
            return None
        side = (self.min_area + (1 - self.min_area) * torch.rand(count, generator=generator)).sqrt()
        shift = (2 * torch.rand(count, 2, generator=generator) - 1) * (1 - side)[:, None]
        mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0) if self.flip else torch.ones(1)
        theta = torch.zeros(count, 2, 3)
        theta[:, 0, 0] = side * mirror
        theta[:, 1, 1] = side
        theta[:, :, 2] = shift
        return functional.affine_grid(theta, list(images.shape), align_corners=False)

    def _recolour(self, images: Tensor, generator: torch.Generator) -> Tensor:
        if self.jitter == 0:
            return images
        shape = (3, len(images), 1, 1, 1)
        brightness, contrast, saturation = 1 + self.jitter * (2 * torch.rand(shape, generator=generator) - 1)
        # All three changes are linear in the pixel, so that one pass over the batch does them:
        # saturation * x + (1 - saturation) * grey, then about the mean grey, then the gain.
        grey = images.mean(dim=1, keepdim=True)
        mean = grey.mean(dim=(2, 3), keepdim=True)
        changed = images * (brightness * contrast * saturation)
        changed += brightness * (contrast * (1 - saturation) * grey + (1 - contrast) * mean)
        return changed.clamp_(0, 1)


def _at(grid: Tensor | None, images: Tensor, mode: str = "bilinear") -> Tensor:
    if grid is None:
        return images
    return functional.grid_sample(images, grid, mode=mode, padding_mode="border", align_corners=False)


class SeededBatches(Dataset[Item]):
    """A data set that gives whole batches, whose random numbers follow from a seed and the batch's indices.

    So neither the number of worker processes nor a resumed run changes them.

    Args:
        num_images: Number of images.
        seed: Seed of the data.
    """

    def __init__(self, num_images: int, seed: int = 0) -> None:
        self.num_images = num_images
        self.seed = seed

    def __len__(self) -> int:
        return self.num_images

    def batch_seed(self, indices: Sequence[int]) -> int:
        """Return the seed of the batch with these indices."""
        return zlib.crc32(np.asarray(indices, dtype=np.int64).tobytes(), self.seed & 0xFFFFFFFF)


class BatchedImages(SeededBatches[tuple[Tensor, Tensor]]):
    """Images and labels that are fetched, augmented and normalised a batch at a time.

    Args:
        load: Returns the uint8 images (N, 3, H, W) at a list of indices, from memory or from files.
        labels: One class index an image.
        augment: What to do to the images of a batch, or None.
        seed: With the batch's indices it decides the augmentation.

    Example::

        >>> images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
        >>> data = BatchedImages(images.__getitem__, torch.arange(4))
        >>> batch, labels = data.__getitems__([2, 0])
        >>> batch.shape, labels.tolist()
        (torch.Size([2, 3, 8, 8]), [2, 0])
    """

    def __init__(
        self,
        load: Callable[[list[int]], Tensor],
        labels: Tensor,
        augment: BatchAugmentation | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(len(labels), seed)
        self.load = load
        self.labels = labels
        self.augment = augment
        self._mean = torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
        self._std = torch.tensor(IMAGENET_STD).view(3, 1, 1)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        images = self.load(indices).float().div_(255)
        if self.augment is not None:
            images = self.augment(images, torch.Generator().manual_seed(self.batch_seed(indices)))
        images = (images - self._mean).div_(self._std)
        return images.contiguous(memory_format=torch.channels_last), self.labels[indices]


class EpochSampler(Sampler[int]):
    """A shuffle that depends on the seed and the epoch alone; Lightning calls `set_epoch`, after a resume as well.

    Example::

        >>> sampler = EpochSampler(5, seed=1)
        >>> first = list(sampler)
        >>> sampler.set_epoch(1)
        >>> sorted(first), first == list(sampler)
        ([0, 1, 2, 3, 4], False)
    """

    def __init__(self, num_images: int, seed: int = 0) -> None:
        self.num_images = num_images
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_images

    def __iter__(self) -> Iterator[int]:
        seed = int(np.random.SeedSequence((self.seed, self.epoch)).generate_state(1)[0])
        yield from torch.randperm(self.num_images, generator=torch.Generator().manual_seed(seed)).tolist()


def image_loader(
    images: SeededBatches[Item], batch_size: int, *, shuffle: bool = False, num_workers: int = 0
) -> DataLoader[Item]:
    """Return a loader of whole batches.

    A shuffled loader drops an incomplete last batch, unless there is no other: a batch norm cannot train on one image.
    """
    return DataLoader(
        images,
        batch_size=batch_size,
        sampler=EpochSampler(len(images), images.seed) if shuffle else None,
        num_workers=num_workers,
        collate_fn=_whole_batch,
        drop_last=shuffle and len(images) >= batch_size,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
    )


def _whole_batch(batch: object) -> object:
    return batch
