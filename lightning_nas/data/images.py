"""Images for a recipe: the user's folder where one is given, embedded digits otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_nas.data.digits import DigitsDataModule
from lightning_nas.data.image_folder import ImageFolderDataModule

__all__ = ["image_data"]


def image_data(
    root: str | Path | None = None,
    min_crop_area: float = 0.6,
    extra_test_root: str | Path | None = None,
    **options: Any,
) -> ImageFolderDataModule | DigitsDataModule:
    """Return the datamodule of the image folder `root`, or of embedded digit scenes where it is None.

    Args:
        root: Folder in the layout of `ImageFolderDataModule`, or None.
        min_crop_area: Smallest training crop of the folder's images as a share of their area. Digit scenes have a crop
            of their own, since half a digit is none.
        extra_test_root: Folder of further test images of the same classes.
        **options: Arguments that both take: `image_size`, `batch_size`, `num_workers` and `seed`.

    Raises:
        ValueError: There is nothing that the further test images would add to, or see the datamodules.

    Example::

        >>> image_data(image_size=48).num_classes
        10
    """
    if root is None:
        if extra_test_root is not None:
            raise ValueError(f"`extra_test_root` adds to the images of `root`; none is given beside {extra_test_root}.")
        return DigitsDataModule(**options)
    return ImageFolderDataModule(root, min_crop_area=min_crop_area, extra_test_root=extra_test_root, **options)
