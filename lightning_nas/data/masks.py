"""Semantic segmentation from a folder of images and a folder of masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from lightning_nas.data._base import SplitDataModule
from lightning_nas.data._labels import Labels, check_ignored, found_labels, label_settings, named_labels
from lightning_nas.data._letterbox import canvas_size
from lightning_nas.data._mask_data import AUGMENT, MaskSizes, mask_files
from lightning_nas.data._mask_files import Pair
from lightning_nas.data._split_folders import folder_names, spelled_splits
from lightning_nas.data._walk import files_below
from lightning_nas.data.batch_augment import BatchAugmentation
from lightning_nas.data.digit_masks import DigitMasksDataModule
from lightning_nas.data.digits import Split
from lightning_nas.data.loading import Loading, loading_of

__all__ = ["MaskFolderDataModule", "mask_data"]

LOADING, DIGITS = Loading(), Loading(batch_size=32)


class MaskFolderDataModule(SplitDataModule[tuple[Tensor, Tensor]]):
    """Images and masks in the layout ``root/images/{train,val,test}/NAME.jpg`` and ``root/masks/.../NAME.png``.

    Masks are grey or have a palette; a pixel's value is an id. What ids mean is said by `classes` and `ignored`, or by
    ``root/labels.json``, ``{"ignore_index": 255, "classes": [{"id": 0, "name": "sky"}, ...]}``, whose ``ignore_index``
    may be a list, or null. Without either each id is a class, and 255 counts for nothing. Splits may be spelled in
    other usual ways, such as ``training`` and ``validation``. Without ``test`` folders the images of ``val`` are the
    test images too, with a warning.

    All masks are checked when this is made, and all files opened once before the training. Masks without a labelled
    pixel are kept, and classes that no mask of a split holds are no mistake: a warning tells of both. It is a mistake
    where all labelled pixels of a split are of one class, and where pixels are ignored while a class has none in any
    mask. A mask of another size than its image is resized to the nearest pixel where the proportions agree.

    Args:
        root: Folder of the data set.
        image_size: Height and width that images and masks are resized to, in pixels; one number for both.
        classes: Names of the classes by id, such as ``{0: "background", 255: "pet"}``, in place of those of
            ``labels.json``. Classes are in the order of their ids, of which some may be left out; ids of one name are
            one class.
        ignored: The id, or the ids, of pixels that count for nothing, in place of what ``labels.json`` says; its
            classes of these ids are left out. By default that is 255, unless it is a class.
        mask_size: Those of the masks for validation and test, where networks for several image sizes are compared;
            None for `image_size`.
        augment: What is done to training images and their masks, or None.
        loading: How batches are made of them.

    Raises:
        ValueError: A setting is out of range, the folder is not in the layout above, or a file cannot be used; the
            message names it.
    """

    def __init__(
        self,
        root: str | Path,
        image_size: int | Sequence[int] = (192, 256),
        classes: Mapping[int, str] | None = None,
        ignored: int | Sequence[int] | None = None,
        mask_size: int | Sequence[int] | None = None,
        augment: BatchAugmentation | None = AUGMENT,
        loading: Loading = LOADING,
    ) -> None:
        sizes = MaskSizes.of(image_size, mask_size)
        self.mask_size = sizes.masks
        self.root = folder = Path(root).expanduser()
        files = _scan(folder)
        meaning = partial(_meaning, folder, *label_settings(folder / "labels.json", classes, ignored))
        super().__init__(mask_files(folder, files, meaning, sizes, augment, loading), loading)


def mask_data(
    root: str | Path | None = None,
    image_size: int | Sequence[int] | None = None,
    min_crop_area: float = 0.5,
    mask_size: int | Sequence[int] | None = None,
    classes: Mapping[int, str] | None = None,
    ignored: int | Sequence[int] | None = None,
    **loading: int,
) -> MaskFolderDataModule | DigitMasksDataModule:
    """Return the datamodule of the images and masks in `root`, or of embedded digit scenes where it is None.

    Args:
        root: Folder in the layout of `MaskFolderDataModule`, or None.
        image_size: Height and width in pixels, or one number for both; None for 192 and 256, and for 64 of digit
            scenes, which are square.
        min_crop_area: Smallest training crop of the folder's images as a share of their area. Digit scenes have a crop
            of their own.
        mask_size: Height and width of the folder's masks for validation and test, where networks for several image
            sizes are compared; None for `image_size`.
        classes: Names of the folder's classes by id, see `MaskFolderDataModule`.
        ignored: The ids of the folder's masks that count for nothing, see `MaskFolderDataModule`.
        **loading: Values of `Loading`: `batch_size`, `num_workers`, `seed` and `cache_limit_bytes`.

    Raises:
        ValueError: A setting is out of range, or the folder cannot be used.

    Example::

        >>> data = mask_data()
        >>> data.num_classes, data.input_size
        (11, (3, 64, 64))
    """
    if root is not None:
        size = (192, 256) if image_size is None else image_size
        augment, given = BatchAugmentation(min_crop_area), loading_of(loading, LOADING)
        return MaskFolderDataModule(root, size, classes, ignored, mask_size, augment, given)
    for name, value in (("mask_size", mask_size), ("classes", classes), ("ignored", ignored)):
        if value is not None:
            raise ValueError(f"`{name}` is of the masks in `root`, which is not given; got {value}.")
    height, width = canvas_size(64 if image_size is None else image_size)
    if height != width:
        raise ValueError(f"Digit scenes are square; got `image_size` {height}x{width}. HINT: `data.root` is not set.")
    given = loading_of(loading, DIGITS)
    return DigitMasksDataModule(height, given.batch_size, given.num_workers, given.seed)


def _scan(root: Path) -> dict[Split, tuple[Pair, ...]]:
    images, masks = (_split_folders(root / name) for name in ("images", "masks"))
    for name, folders in (("images", images), ("masks", masks)):
        for split in ("train", "val"):
            if split not in folders:
                raise ValueError(
                    f"'{root}' must have the folders images/ and masks/ with train/ and val/ in each; "
                    f"it lacks {name}/{split}."
                )
    if ("test" in images) != ("test" in masks):
        raise ValueError(f"'{root}' must have images/test and masks/test, or neither; it has one of them.")
    splits: tuple[Split, ...] = ("train", "val", "test")
    return {split: _pairs(images[split], masks[split]) for split in splits if split in images}


def _split_folders(folder: Path) -> dict[Split, Path]:
    """Return the folder of each split."""
    if not folder.is_dir():
        return {}
    return {split: folder / name for split, name in spelled_splits(folder, folder_names(folder)).items()}


def _pairs(images: Path, masks: Path) -> tuple[Pair, ...]:
    found_images, found_masks = _by_name(images, IMG_EXTENSIONS), _by_name(masks, (".png",))
    for name, path in found_images.items():
        if name not in found_masks:
            raise ValueError(f"Image '{path}' has no mask: there is no '{masks / name}.png'.")
    for name, path in found_masks.items():
        if name not in found_images:
            raise ValueError(f"Mask '{path}' has no image: there is no '{images / name}.jpg', nor another image.")
    if not found_images:
        raise ValueError(f"A split needs images ({', '.join(IMG_EXTENSIONS)}); '{images}' has none.")
    return tuple(Pair(path, found_masks[name]) for name, path in found_images.items())


def _by_name(folder: Path, extensions: Sequence[str]) -> dict[str, Path]:
    """Return the files in a folder by their names without the ending, in order."""
    found: dict[str, Path] = {}
    for path in files_below(folder, extensions):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise ValueError(f"'{found[name]}' and '{path}' are two images of one name, and there is one mask.")
        found[name] = path
    return found


def _meaning(
    root: Path,
    names: dict[int, str] | None,
    ignored: tuple[int, ...] | None,
    counts: Mapping[Split, NDArray[np.int64]],
) -> Labels:
    labels = found_labels(root, counts, ignored) if names is None else named_labels(names, ignored)
    check_ignored(root, counts, labels)
    return labels
