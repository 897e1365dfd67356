"""Batches of images with boxes: decoding, letterboxing and augmentation that a seed repeats."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.ops import box_area
from typing_extensions import NotRequired, TypedDict

from lightning_nas.data._batches import IMAGENET_MEAN, IMAGENET_STD, SeededBatches
from lightning_nas.data._decode import DECODE_THREADS, open_image, rgb
from lightning_nas.data._letterbox import GREY, fit_size, scale_boxes
from lightning_nas.data._orientation import orientation_of
from lightning_nas.data.detection_augment import DetectionAugmentation

__all__ = ["DetectionBatches", "DetectionRecord", "Target"]

# Training crops are enlarged to the canvas; so much more detail than the canvas shows is kept for them.
TRAIN_DETAIL = 1.25


class Target(TypedDict):
    """The objects of one image.

    Attributes:
        boxes: Left, top, right and bottom in pixels of the canvas, float32, (n, 4).
        labels: Class indices, int64, (n,).
        iscrowd: 1 for a region of many objects that are not told apart, else 0, int64, (n,).
        area: Square pixels that each object covers of the annotated image, by which COCO's measure tells small from
            large ones, float32, (n,). Augmented images have none.
        scale: Pixels of the annotated image to one of the canvas, across and down, float32, (2,). Augmented images have
            none.
    """

    boxes: Tensor
    labels: Tensor
    iscrowd: Tensor
    area: NotRequired[Tensor]
    scale: NotRequired[Tensor]


@dataclass(frozen=True, eq=False)
class DetectionRecord:
    """One image and its objects.

    Attributes:
        image: Its file, or RGB, uint8, (3, h, w).
        size: Height and width of the image that the boxes count the pixels of. A file may have another size.
        boxes: Left, top, right and bottom, float32, (n, 4).
        labels: Class indices, int64, (n,).
        crowds: Whether each is a region of many objects that are not told apart, bool, (n,); None where none is.
        areas: Square pixels that each covers, float32, (n,); None for those of the boxes.
        as_stored: Whether the boxes are of the file's pixels as stored, not as its EXIF orientation turns them.
    """

    image: Path | Tensor
    size: tuple[int, int]
    boxes: Tensor
    labels: Tensor
    crowds: Tensor | None = None
    areas: Tensor | None = None
    as_stored: bool = False

    @property
    def is_crowd(self) -> Tensor:
        """Whether each is a region of many objects that are not told apart, bool, (n,)."""
        return torch.zeros(len(self.labels), dtype=torch.bool) if self.crowds is None else self.crowds


class DetectionBatches(SeededBatches[tuple[Tensor, Target]]):
    """Images on a canvas of one size, with boxes, that are fetched, augmented and normalised a batch at a time.

    An image keeps its aspect ratio, and grey fills what it leaves of the canvas at the right and at the bottom. The
    images are kept in memory as bytes, about as large as on the canvas, where they fit.

    Args:
        records: One an image.
        image_size: Height and width of the canvas.
        augment: What to do to each image, or None.
        seed: With the batch's indices it decides the augmentation.
        cache_limit_bytes: Images that take more memory are read from their files again each time.

    Raises:
        ValueError: A file is no image.

    Example::

        >>> image = torch.zeros(3, 60, 120, dtype=torch.uint8)
        >>> record = DetectionRecord(image, (60, 120), torch.tensor([[0.0, 0.0, 60.0, 60.0]]), torch.tensor([1]))
        >>> images, targets = DetectionBatches([record, record], (40, 40)).__getitems__([0, 1])
        >>> images.shape, targets[1]["boxes"].tolist(), targets[1]["labels"].tolist()
        (torch.Size([2, 3, 40, 40]), [[0.0, 0.0, 20.0, 20.0]], [1])
    """

    def __init__(
        self,
        records: Sequence[DetectionRecord],
        image_size: tuple[int, int],
        augment: DetectionAugmentation | None = None,
        seed: int = 0,
        cache_limit_bytes: int = 2**31,
    ) -> None:
        super().__init__(len(records), seed)
        self.records = records
        self.image_size = image_size
        self.augment = augment
        detail = 1.0 if augment is None else TRAIN_DETAIL
        self._bound = round(detail * image_size[0]), round(detail * image_size[1])
        self._mean = 255 * torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
        self._std = 255 * torch.tensor(IMAGENET_STD).view(3, 1, 1)
        self.size_bytes = sum(3 * int(np.prod(fit_size(record.size, self._bound))) for record in records)
        self.is_cached = self.size_bytes <= cache_limit_bytes
        self._cache = self._read(records) if self.is_cached else []

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        images, targets = self.__getitems__([index])
        return images[0], targets[0]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, list[Target]]:
        records = [self.records[index] for index in indices]
        images = [self._cache[index] for index in indices] if self.is_cached else self._read(records)
        canvas = torch.tensor(GREY, dtype=torch.uint8).expand(len(indices), *self.image_size, 3).contiguous()
        targets = []
        # torchvision's transforms know torch's global random numbers only. Those of an accelerator are left alone.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.batch_seed(indices))
            for image, record, ground in zip(images, records, canvas.permute(0, 3, 1, 2), strict=True):
                targets.append(self._paste(image, record, ground))
        # The canvas has its channels last already, hence no copy.
        return canvas.permute(0, 3, 1, 2).float().sub_(self._mean).div_(self._std), targets

    def _paste(self, image: Tensor, record: DetectionRecord, ground: Tensor) -> Target:
        """Put an image on its canvas, and return where its objects are."""
        size = image.shape[-2], image.shape[-1]
        boxes, crowds = scale_boxes(record.boxes, record.size, size), record.is_crowd
        if self.augment is not None:
            numbers = torch.arange(len(boxes))
            image, boxes, kept, (top, left) = self.augment(image, boxes, numbers, self.image_size, crowds)
            ground[:, top : top + image.shape[-2], left : left + image.shape[-1]] = image
            boxes = boxes + torch.tensor([left, top, left, top])
            return {"boxes": boxes, "labels": record.labels[kept], "iscrowd": crowds[kept].long()}
        if (fitted := fit_size(size, self.image_size)) != size:
            image, boxes = _resize(image, fitted), scale_boxes(boxes, size, fitted)
        ground[:, : image.shape[-2], : image.shape[-1]] = image
        return {
            "boxes": boxes,
            "labels": record.labels,
            "iscrowd": crowds.long(),
            "area": box_area(record.boxes) if record.areas is None else record.areas,
            "scale": torch.tensor([record.size[1] / fitted[1], record.size[0] / fitted[0]]),
        }

    def _read(self, records: Sequence[DetectionRecord]) -> list[Tensor]:
        with ThreadPoolExecutor(DECODE_THREADS) as pool:
            return list(pool.map(partial(_decode, bound=self._bound), records))


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = size
    pixels = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)


def _decode(record: DetectionRecord, bound: tuple[int, int]) -> Tensor:
    """Return the image (3, h, w), uint8, no larger than `bound`; its memory has the channels last."""
    if isinstance(record.image, Tensor):
        return record.image
    with open_image(record.image) as file:
        orientation = orientation_of(file)
        size = orientation.stored if record.as_stored else orientation.upright
        height, width = min(size, fit_size(size, bound))
        # JPEG can skip most of the work for a small copy; twice the size keeps the result sharp.
        file.draft("RGB", (2 * width, 2 * height) if size == orientation.stored else (2 * height, 2 * width))
        pixels = rgb(file if record.as_stored else ImageOps.exif_transpose(file))
        if pixels.size != (width, height):
            pixels = pixels.resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
