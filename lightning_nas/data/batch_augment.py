"""Augmentation of whole batches of images, and of masks with them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lightning_nas.io.numbers import check_number

__all__ = ["BatchAugmentation"]


@dataclass(frozen=True)
class BatchAugmentation:
    """Random resized crop, horizontal flip and colour jitter, with own random numbers for each image of a batch.

    torchvision's transforms draw one set of numbers a call, so a batch would need one call an image; crop, resize and
    flip of a whole batch are one ``grid_sample`` here.

    Attributes:
        min_crop_area: Smallest crop as a share of the image's area; 1 crops nothing.
        flip: Whether to mirror half of the images.
        color_jitter: Largest relative change of brightness, contrast and saturation; 0 changes none.

    Raises:
        ValueError: A setting is out of range.

    Example::

        >>> augment = BatchAugmentation(min_crop_area=1, flip=False, color_jitter=0)
        >>> images = torch.rand(2, 3, 8, 8)
        >>> torch.allclose(augment(images, torch.Generator()), images, atol=1e-5)
        True
    """

    min_crop_area: float = 0.6
    flip: bool = True
    color_jitter: float = 0.2

    def __post_init__(self) -> None:
        check_number("min_crop_area", self.min_crop_area, above=0, most=1)
        check_number("color_jitter", self.color_jitter, least=0, below=1)

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
        if self.min_crop_area == 1 and not self.flip:
            return None
        side = (self.min_crop_area + (1 - self.min_crop_area) * torch.rand(count, generator=generator)).sqrt()
        shift = (2 * torch.rand(count, 2, generator=generator) - 1) * (1 - side)[:, None]
        mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0) if self.flip else torch.ones(1)
        theta = torch.zeros(count, 2, 3)
        theta[:, 0, 0] = side * mirror
        theta[:, 1, 1] = side
        theta[:, :, 2] = shift
        return functional.affine_grid(theta, list(images.shape), align_corners=False)

    def _recolour(self, images: Tensor, generator: torch.Generator) -> Tensor:
        if self.color_jitter == 0:
            return images
        shape = (3, len(images), 1, 1, 1)
        brightness, contrast, saturation = 1 + self.color_jitter * (2 * torch.rand(shape, generator=generator) - 1)
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
