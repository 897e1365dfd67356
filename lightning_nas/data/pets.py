"""The trimaps of the Oxford-IIIT pets, in torchvision's layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchvision.datasets import OxfordIIITPet

from lightning_nas.data._labels import Labels
from lightning_nas.data._mask_data import MaskFilesData
from lightning_nas.data._mask_files import Pair
from lightning_nas.data.digits import Split

__all__ = ["PetsDataModule"]

# The ids of the trimaps are 1, 2 and 3.
LABELS = Labels(("pet", "background", "border"), {1: 0, 2: 1, 3: 2})
VAL_EVERY = 5


class PetsDataModule(MaskFilesData):
    """Cats and dogs (Parkhi et al. 2012) as torchvision's `OxfordIIITPet` lays them out: pet, background and border.

    Of the ``trainval`` images, in their order, every fifth one is for validation.

    Args:
        root: Folder that holds ``oxford-iiit-pet``.
        download: Whether to download what is missing, 0.8 GB.
        border_ignored: Whether pixels of the border, which may be of either, count for nothing rather than as a class.
        image_size: Height and width that images and masks are resized to, in pixels; one number for both.
        **options: Those of `MaskFilesData`.

    Raises:
        ValueError: A setting is out of range, the data is not there, or a file cannot be used.
    """

    def __init__(
        self,
        root: str | Path,
        download: bool = False,
        border_ignored: bool = False,
        image_size: int | Sequence[int] = (192, 192),
        **options: Any,
    ) -> None:
        folder = Path(root).expanduser()
        try:
            OxfordIIITPet(folder, "trainval", "segmentation", download=download)
            trainval, test = (_pairs(folder / "oxford-iiit-pet", part) for part in ("trainval", "test"))
        except (RuntimeError, OSError, ValueError, LookupError) as error:
            raise ValueError(f"There are no pets in '{folder}': {error}. HINT: download=true loads them.") from error
        train = [pair for number, pair in enumerate(trainval) if number % VAL_EVERY]
        files: dict[Split, list[Pair]] = {"train": train, "val": trainval[::VAL_EVERY], "test": test}
        labels = Labels(LABELS.names[:2], {1: 0, 2: 1}, ignored=(3,)) if border_ignored else LABELS
        super().__init__(folder, files, labels, image_size, **options)


def _pairs(folder: Path, part: str) -> list[Pair]:
    lines = (folder / "annotations" / f"{part}.txt").read_text(encoding="utf-8").splitlines()
    names = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    return [Pair(folder / "images" / f"{name}.jpg", folder / "annotations/trimaps" / f"{name}.png") for name in names]
