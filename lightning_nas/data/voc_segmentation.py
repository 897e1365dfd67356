"""Pascal VOC's semantic segmentation, in torchvision's layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from torchvision.datasets import VOCSegmentation

from lightning_nas.data._base import SplitDataModule
from lightning_nas.data._labels import named_labels
from lightning_nas.data._mask_data import AUGMENT, MaskSizes, mask_files
from lightning_nas.data._mask_files import Pair
from lightning_nas.data.batch_augment import BatchAugmentation
from lightning_nas.data.digits import Split
from lightning_nas.data.loading import Loading, loading_of

__all__ = ["VOCSegmentationDataModule", "voc_segmentation_data"]

LOADING = Loading()

NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


class VOCSegmentationDataModule(SplitDataModule[tuple[Tensor, Tensor]]):
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
        mask_size: Those of the masks for validation and test, where networks for several image sizes are compared;
            None for `image_size`.
        augment: What is done to training images and their masks, or None.
        loading: How batches are made of them.

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
        mask_size: int | Sequence[int] | None = None,
        augment: BatchAugmentation | None = AUGMENT,
        loading: Loading = LOADING,
    ) -> None:
        sizes = MaskSizes.of(image_size, mask_size)
        self.mask_size = sizes.masks
        self.root = folder = Path(root).expanduser()
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
        super().__init__(mask_files(folder, files, labels, sizes, augment, loading), loading)


def voc_segmentation_data(
    root: str | Path,
    year: str | int = "2012",
    download: bool = False,
    class_names: Sequence[str] | None = None,
    image_size: int | Sequence[int] = (256, 256),
    mask_size: int | Sequence[int] | None = None,
    min_crop_area: float = 0.5,
    **loading: int,
) -> VOCSegmentationDataModule:
    """Return the datamodule of Pascal VOC's masks for a recipe, whose settings are flat.

    Args:
        root: Folder that holds ``VOCdevkit``.
        year: 2007 to 2012.
        download: Whether to download what is missing.
        class_names: Names of the ids 0, 1, 2 and so on, the background first; None for Pascal VOC's.
        image_size: Height and width in pixels, or one number for both.
        mask_size: Those of the masks for validation and test; None for `image_size`.
        min_crop_area: Smallest training crop as a share of the image's area; 1 crops nothing.
        **loading: Values of `Loading`: `batch_size`, `num_workers`, `seed` and `cache_limit_bytes`.

    Raises:
        ValueError: A setting is out of range, or see `VOCSegmentationDataModule`.
    """
    augment, given = BatchAugmentation(min_crop_area), loading_of(loading, LOADING)
    return VOCSegmentationDataModule(root, year, download, image_size, class_names, mask_size, augment, given)
