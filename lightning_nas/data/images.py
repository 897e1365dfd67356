"""Images for a recipe: the user's folder where one is given, embedded digits otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .digits import DigitsDataModule
from .image_folder import ImageFolderDataModule

__all__ = ["image_data"]


def image_data(
    root: str | Path | None = None, min_crop_area: float = 0.6, **options: Any
) -> ImageFolderDataModule | DigitsDataModule:
    """Return the datamodule of the image folder `root`, or of embedded digit scenes where it is None.

    Args:
        root: Folder in the layout of `ImageFolderDataModule`, or None.
        min_crop_area: Smallest training crop of the folder's images as a share of their area. Digit scenes have a crop
            of their own, since half a digit is none.
        **options: Arguments that both take: `image_size`, `batch_size`, `num_workers` and `seed`.

    Example::

        >>> image_data(image_size=48).num_classes
        10
    """
    if root is None:
        return DigitsDataModule(**options)
    return ImageFolderDataModule(root, min_crop_area=min_crop_area, **options)
