"""The trimaps of the Oxford-IIIT pets, in torchvision's layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from torchvision.datasets import OxfordIIITPet

from lightning_nas.data._base import SplitDataModule
from lightning_nas.data._labels import Labels
from lightning_nas.data._mask_data import AUGMENT, MaskSizes, mask_files
from lightning_nas.data._mask_files import Pair
from lightning_nas.data.batch_augment import BatchAugmentation
from lightning_nas.data.digits import Split
from lightning_nas.data.loading import Loading, loading_of

__all__ = ["PetsDataModule", "pets_data"]

# The ids of the trimaps are 1, 2 and 3.
LABELS = Labels(("pet", "background", "border"), {1: 0, 2: 1, 3: 2})
VAL_EVERY = 5
LOADING = Loading()


class PetsDataModule(SplitDataModule[tuple[Tensor, Tensor]]):
    """Cats and dogs (Parkhi et al. 2012) as torchvision's `OxfordIIITPet` lays them out: pet, background and border.

    Of the ``trainval`` images, in their order, every fifth one is for validation.

    Args:
        root: Folder that holds ``oxford-iiit-pet``.
        download: Whether to download what is missing, 0.8 GB.
        border_ignored: Whether pixels of the border, which may be of either, count for nothing rather than as a class.
        image_size: Height and width that images and masks are resized to, in pixels; one number for both.
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
        download: bool = False,
        border_ignored: bool = False,
        image_size: int | Sequence[int] = (192, 192),
        mask_size: int | Sequence[int] | None = None,
        augment: BatchAugmentation | None = AUGMENT,
        loading: Loading = LOADING,
    ) -> None:
        sizes = MaskSizes.of(image_size, mask_size)
        self.mask_size = sizes.masks
        self.root = folder = Path(root).expanduser()
        try:
            OxfordIIITPet(folder, "trainval", "segmentation", download=download)
            trainval, test = (_pairs(folder / "oxford-iiit-pet", part) for part in ("trainval", "test"))
        except (RuntimeError, OSError, ValueError, LookupError) as error:
            raise ValueError(f"There are no pets in '{folder}': {error}. HINT: download=true loads them.") from error
        train = [pair for number, pair in enumerate(trainval) if number % VAL_EVERY]
        files: dict[Split, list[Pair]] = {"train": train, "val": trainval[::VAL_EVERY], "test": test}
        labels = Labels(LABELS.names[:2], {1: 0, 2: 1}, ignored=(3,)) if border_ignored else LABELS
        super().__init__(mask_files(folder, files, labels, sizes, augment, loading), loading)


def pets_data(
    root: str | Path,
    download: bool = False,
    border_ignored: bool = False,
    image_size: int | Sequence[int] = (192, 192),
    mask_size: int | Sequence[int] | None = None,
    min_crop_area: float = 0.5,
    **loading: int,
) -> PetsDataModule:
    """Return the datamodule of the pets for a recipe, whose settings are flat.

    Args:
        root: Folder that holds ``oxford-iiit-pet``.
        download: Whether to download what is missing.
        border_ignored: Whether pixels of the border count for nothing.
        image_size: Height and width in pixels, or one number for both.
        mask_size: Those of the masks for validation and test; None for `image_size`.
        min_crop_area: Smallest training crop as a share of the image's area; 1 crops nothing.
        **loading: Values of `Loading`: `batch_size`, `num_workers`, `seed` and `cache_limit_bytes`.

    Raises:
        ValueError: A setting is out of range, or see `PetsDataModule`.
    """
    augment, given = BatchAugmentation(min_crop_area), loading_of(loading, LOADING)
    return PetsDataModule(root, download, border_ignored, image_size, mask_size, augment, given)


def _pairs(folder: Path, part: str) -> list[Pair]:
    lines = (folder / "annotations" / f"{part}.txt").read_text(encoding="utf-8").splitlines()
    names = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    return [Pair(folder / "images" / f"{name}.jpg", folder / "annotations/trimaps" / f"{name}.png") for name in names]
