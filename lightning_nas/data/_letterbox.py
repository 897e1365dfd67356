"""Letterboxing: images keep their aspect ratio on a canvas of one size, and boxes go with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lightning_nas.data._batches import IMAGENET_MEAN
from lightning_nas.io.numbers import check_number

__all__ = ["GREY", "canvas_size", "fit_size", "scale_boxes"]

GREY = tuple(round(255 * mean) for mean in IMAGENET_MEAN)
"""ImageNet's mean colour, which fills what an image leaves of its canvas."""

MIN_SIDE = 8


def canvas_size(image_size: int | Sequence[int], name: str = "image_size") -> tuple[int, int]:
    """Return height and width of the canvas, or of whatever else has both.

    Args:
        image_size: Side of a square canvas, or height and width.
        name: What it is called where it is given.

    Raises:
        ValueError: It is neither, or too small.

    Example::

        >>> canvas_size(96), canvas_size([192, 256])
        ((96, 96), (192, 256))
    """
    sides = tuple(image_size) if isinstance(image_size, Iterable) else (image_size, image_size)
    if isinstance(image_size, str) or len(sides) != 2:
        raise ValueError(f"`{name}` must be height and width, or one number for both; got {image_size!r}.")
    for side in sides:
        check_number(name, side, whole=True, least=MIN_SIDE)
    return int(sides[0]), int(sides[1])


def fit_size(size: tuple[int, int], bound: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of an image of `size` that is scaled until it just fits into `bound`.

    Example::

        >>> fit_size((480, 640), (192, 320)), fit_size((2, 1000), (192, 256))
        ((192, 256), (1, 256))
    """
    scale = min(bound[0] / size[0], bound[1] / size[1])
    height, width = (min(limit, max(1, round(scale * side))) for side, limit in zip(size, bound, strict=True))
    return height, width


def scale_boxes(boxes: Tensor, size: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Return boxes (n, 4), left, top, right and bottom, of an image that is scaled from `size` to `target`.

    Example::

        >>> scale_boxes(torch.tensor([[0.0, 10.0, 20.0, 30.0]]), (60, 40), (30, 80)).tolist()
        [[0.0, 5.0, 40.0, 15.0]]
    """
    down, across = target[0] / size[0], target[1] / size[1]
    return boxes * torch.tensor([across, down, across, down], dtype=boxes.dtype)
