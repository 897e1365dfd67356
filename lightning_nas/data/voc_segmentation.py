"""Pascal VOC's semantic segmentation, in torchvision's layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchvision.datasets import VOCSegmentation

from lightning_nas.data._labels import named_labels
from lightning_nas.data._mask_data import MaskFilesData
from lightning_nas.data._mask_files import Pair
from lightning_nas.data.digits import Split

__all__ = ["VOCSegmentationDataModule"]

NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


class VOCSegmentationDataModule(MaskFilesData):
    """Pascal VOC (Everingham et al. 2010) as torchvision's `VOCSegmentation` lays it out: 20 classes and background.

    Labels of the test images are not public: of the validation images, in their order, every second one is a test
    image instead. Borders of objects, 255, count for nothing.

    Args:
        root: Folder that holds ``VOCdevkit``.
        year: 2007 to 2012.
        download: Whether to download what is missing, 2 GB.
        image_size: Height and width that images and masks are resized to, in pixels; one number for both.
        class_names: Names of the ids 0, 1, 2 and so on, the background first, of masks with other classes in this
            layout; None for Pascal VOC's.
        **options: Those of `MaskFilesData`.

    Raises:
        ValueError: A setting is out of range, the data is not there, or a file cannot be used.
    """

    def __init__(
        self,
        root: str | Path,
        year: str | int = "2012",
        download: bool = False,
        image_size: int | Sequence[int] = (256, 256),
        class_names: Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        folder = Path(root).expanduser()
        try:
            parts = [
                VOCSegmentation(folder, str(year), part, download and part == "train") for part in ("train", "val")
            ]
        except (RuntimeError, OSError) as error:
            raise ValueError(
                f"There is no VOC {year} for segmentation in '{folder}': {error}. HINT: download=true loads it."
            ) from error
        train, val = ([Pair(Path(i), Path(m)) for i, m in zip(p.images, p.masks, strict=True)] for p in parts)
        labels = named_labels(dict(enumerate(class_names or NAMES)))
        files: dict[Split, list[Pair]] = {"train": train, "val": val[::2], "test": val[1::2]}
        super().__init__(folder, files, labels, image_size, **options)
