"""Augmentation of images with boxes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from lightning_nas.data._letterbox import fit_size
from lightning_nas.io.numbers import check_number

__all__ = ["DetectionAugmentation"]

# A crop that would lose every box is drawn again so often; then the image stays whole.
CROP_TRIALS = 5
# Of a box that a crop cuts, less than so many pixels teach nothing.
MIN_BOX_SIDE = 2


@dataclass(frozen=True)
class DetectionAugmentation:
    """Random crop, horizontal flip, zoom out and colour jitter of one image and its boxes.

    The random numbers are torch's global ones. Crops are drawn by area, and keep the boxes whose centre they hold:
    torchvision's ``RandomIoUCrop`` takes about as long as all of this together. Hue and order of the channels stay, as
    colours tell some classes apart.

    Attributes:
        min_crop_area: Smallest crop as a share of the image's area; 1 crops nothing.
        flip: Whether to mirror half of the images.
        zoom_out: Half of the images are shrunk by a factor up to this one, and lie anywhere on the canvas; 1 shrinks
            none.
        color_jitter: Largest relative change of brightness, contrast and saturation; 0 changes none.

    Raises:
        ValueError: A setting is out of range.

    Example::

        >>> augment = DetectionAugmentation(min_crop_area=1, flip=False, zoom_out=1, color_jitter=0)
        >>> image, box = torch.zeros(3, 20, 20, dtype=torch.uint8), torch.tensor([[5.0, 5.0, 10.0, 10.0]])
        >>> image, boxes, labels, place = augment(image, box, torch.tensor([1]), (40, 60))
        >>> image.shape, boxes.tolist(), labels.tolist(), place
        (torch.Size([3, 40, 40]), [[10.0, 10.0, 20.0, 20.0]], [1], (0, 0))
    """

    min_crop_area: float = 0.3
    flip: bool = True
    zoom_out: float = 2.0
    color_jitter: float = 0.2

    def __post_init__(self) -> None:
        check_number("min_crop_area", self.min_crop_area, above=0, most=1)
        check_number("zoom_out", self.zoom_out, least=1, most=8)
        check_number("color_jitter", self.color_jitter, least=0, below=1)

    def __call__(
        self, image: Tensor, boxes: Tensor, labels: Tensor, canvas: tuple[int, int], crowds: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, tuple[int, int]]:
        """Return an augmented copy that fits into the canvas, and where it lies there.

        Args:
            image: RGB, uint8, (3, h, w).
            boxes: Left, top, right and bottom in pixels of the image, float32, (n, 4).
            labels: Classes, int64, (n,).
            canvas: Height and width that the image must fit into.
            crowds: Whether each is a region of many objects, bool, (n,); a crop keeps what it shows of these. None
                where none is.

        Returns:
            The image (3, h', w'), its m <= n boxes (m, 4) in its own pixels, their labels (m,), and its top and left on
            the canvas.
        """
        framed = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=tuple(image.shape[-2:]))
        sample = (tv_tensors.Image(image), framed)
        if self.min_crop_area < 1:
            sample = self._crop(*sample, torch.zeros(len(boxes), dtype=torch.bool) if crowds is None else crowds)
        resized, place = self._resize(*sample, canvas)
        # Mirrored and recoloured last, as there are fewer pixels now; without the padding, which stays grey.
        finished = self._last({"image": resized[0], "boxes": resized[1], "labels": labels})
        return finished["image"].as_subclass(Tensor), finished["boxes"].as_subclass(Tensor), finished["labels"], place

    @cached_property
    def _last(self) -> v2.Transform:
        return v2.Compose(
            [
                v2.RandomHorizontalFlip(0.5 if self.flip else 0.0),
                v2.SanitizeBoundingBoxes(min_size=MIN_BOX_SIDE),
                v2.ColorJitter(self.color_jitter, self.color_jitter, self.color_jitter),
            ]
        )

    def _crop(
        self, image: tv_tensors.Image, boxes: tv_tensors.BoundingBoxes, crowds: Tensor
    ) -> tuple[tv_tensors.Image, tv_tensors.BoundingBoxes]:
        centres = (boxes[:, :2] + boxes[:, 2:]).as_subclass(Tensor) / 2
        for _ in range(CROP_TRIALS):
            top, left, height, width = self._window(image.shape[-2], image.shape[-1])
            corner = torch.tensor([left, top])
            inside = ((centres >= corner) & (centres < corner + torch.tensor([width, height]))).all(dim=1)
            if inside[~crowds].any() or crowds.all():
                cropped = functional.crop(boxes, top, left, height, width)
                # A box without area is what SanitizeBoundingBoxes takes away, with its label.
                cropped[~(inside | crowds)] = 0
                return functional.crop(image, top, left, height, width), cropped
        return image, boxes

    def _window(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Return top, left, height and width of a crop whose aspect ratio is up to a third off the image's."""
        numbers = torch.rand(4).tolist()
        area = self.min_crop_area + (1 - self.min_crop_area) * numbers[0]
        # Such that neither side of the crop is longer than the image's.
        stretch = math.sqrt(max(min((4 / 3) ** (2 * numbers[1] - 1), 1 / area), area))
        side = math.sqrt(area)
        crop_height = min(height, max(1, round(height * side * stretch)))
        crop_width = min(width, max(1, round(width * side / stretch)))
        top, left = int(numbers[2] * (height - crop_height + 1)), int(numbers[3] * (width - crop_width + 1))
        return top, left, crop_height, crop_width

    def _resize(
        self, image: tv_tensors.Image, boxes: tv_tensors.BoundingBoxes, canvas: tuple[int, int]
    ) -> tuple[tuple[tv_tensors.Image, tv_tensors.BoundingBoxes], tuple[int, int]]:
        """Scale to the canvas or smaller: zooming out and letterboxing at once, as each resize costs time."""
        coin, factor, *place = torch.rand(4).tolist()
        zoom = 1 + (self.zoom_out - 1) * factor if coin < 0.5 else 1.0
        height, width = fit_size((image.shape[-2], image.shape[-1]), (int(canvas[0] / zoom), int(canvas[1] / zoom)))
        # Rounding may put a box a hair outside the image, where SanitizeBoundingBoxes takes it away.
        scaled = functional.clamp_bounding_boxes(functional.resize(boxes, [height, width]))
        resized = functional.resize(image, [height, width]), scaled
        if zoom == 1:
            return resized, (0, 0)
        return resized, (int(place[0] * (canvas[0] - height + 1)), int(place[1] * (canvas[1] - width + 1)))
