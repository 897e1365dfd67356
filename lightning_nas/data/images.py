"""Images for a recipe: the user's folder where one is given, embedded digits otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .digits import DigitsDataModule
from .image_folder import ImageFolderDataModule

__all__ = ["image_data"]


def image_data(root: str | Path | None = None, **options: Any) -> ImageFolderDataModule | DigitsDataModule:
    """Return the datamodule of the image folder `root`, or of embedded digit scenes where it is None.

    Args:
        root: Folder in the layout of `ImageFolderDataModule`, or None.
        **options: Arguments that both take: `image_size`, `batch_size`, `num_workers` and `seed`.

    Example::

        >>> image_data(image_size=48).num_classes
        10
    """
    if root is None:
        return DigitsDataModule(**options)
    return ImageFolderDataModule(root, **options)
