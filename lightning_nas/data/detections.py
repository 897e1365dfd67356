"""Objects to detect for a recipe: the user's COCO folder where one is given, embedded digits otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_nas.data._boxed_images import LOADING
from lightning_nas.data._letterbox import canvas_size
from lightning_nas.data.coco import CocoDataModule
from lightning_nas.data.detection_augment import DetectionAugmentation
from lightning_nas.data.digit_detection import DigitDetectionDataModule
from lightning_nas.data.loading import loading_of

__all__ = ["detection_data"]

DIGITS_SIZE = 96
COCO_SIZE = (192, 256)


def detection_data(
    root: str | Path | None = None,
    image_size: int | Sequence[int] | None = None,
    extra_roots: Sequence[str | Path] = (),
    extra_test: bool = False,
    flip: bool = True,
    **loading: int,
) -> CocoDataModule | DigitDetectionDataModule:
    """Return the datamodule of the COCO folder `root`, or of embedded digit scenes where it is None.

    Args:
        root: Folder in the layout of `CocoDataModule`, or None.
        image_size: Height and width, one number for both, or None: 192 x 256, and 96 x 96 for digits, which are square.
        extra_roots: Folders with more training images, beside `root`.
        extra_test: Whether their images of ``val`` are test images too.
        flip: Whether to mirror half of the folder's training images; digits are never mirrored.
        **loading: Values of `Loading`: `batch_size`, `num_workers`, `seed` and `cache_limit_bytes`.

    Raises:
        ValueError: A setting is out of range, needs `root`, or `root` is not in that layout.

    Example::

        >>> detection_data().input_size
        (3, 96, 96)
    """
    given = loading_of(loading, LOADING)
    if root is not None:
        size = COCO_SIZE if image_size is None else image_size
        augment = DetectionAugmentation(flip=flip)
        return CocoDataModule(root, size, extra_roots, extra_test, augment, given)
    if extra_roots or extra_test:
        raise ValueError(
            f"`extra_roots` and `extra_test` add to the images of `root`, which is not given; got {extra_roots} and "
            f"{extra_test}."
        )
    height, width = canvas_size(DIGITS_SIZE if image_size is None else image_size)
    if height != width:
        raise ValueError(f"`image_size` of the embedded digit scenes must be square; got {image_size}.")
    return DigitDetectionDataModule(height, given.batch_size, given.num_workers, given.seed)
