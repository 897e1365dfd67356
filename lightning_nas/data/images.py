"""Images for a recipe: the user's folder where one is given, embedded digits otherwise."""

from __future__ import annotations

from pathlib import Path

from lightning_nas.data.batch_augment import BatchAugmentation
from lightning_nas.data.digits import DigitsDataModule
from lightning_nas.data.image_folder import LOADING, ImageFolderDataModule
from lightning_nas.data.loading import loading_of

__all__ = ["image_data"]


def image_data(
    root: str | Path | None = None,
    min_crop_area: float = 0.6,
    extra_test_root: str | Path | None = None,
    image_size: int | None = None,
    **loading: int,
) -> ImageFolderDataModule | DigitsDataModule:
    """Return the datamodule of the image folder `root`, or of embedded digit scenes where it is None.

    Args:
        root: Folder in the layout of `ImageFolderDataModule`, or None.
        min_crop_area: Smallest training crop of the folder's images as a share of their area. Digit scenes have a crop
            of their own, since half a digit is none.
        extra_test_root: Folder of further test images of the same classes.
        image_size: Height and width in pixels; None for 96, and for 48 of digit scenes.
        **loading: Values of `Loading`: `batch_size`, `num_workers` and `seed`.

    Raises:
        ValueError: There is nothing that the further test images would add to, or see the datamodules.

    Example::

        >>> image_data(image_size=48).num_classes
        10
    """
    given = loading_of(loading, LOADING)
    if root is not None:
        augment = BatchAugmentation(min_crop_area)
        return ImageFolderDataModule(root, 96 if image_size is None else image_size, extra_test_root, augment, given)
    if extra_test_root is not None:
        raise ValueError(f"`extra_test_root` adds to the images of `root`; none is given beside {extra_test_root}.")
    size = 48 if image_size is None else image_size
    return DigitsDataModule(size, given.batch_size, given.num_workers, given.seed)
