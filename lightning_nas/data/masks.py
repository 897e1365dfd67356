"""Semantic segmentation from a folder of images and a folder of masks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchvision.datasets.folder import IMG_EXTENSIONS

from ._mask_data import MaskFilesData, checked_size
from ._mask_files import IGNORE, Labels, Pair
from .digit_masks import DigitMasksDataModule
from .digits import Split

__all__ = ["MaskFolderDataModule", "mask_data"]


class MaskFolderDataModule(MaskFilesData):
    """Images and masks in the layout ``root/images/{train,val,test}/NAME.jpg`` and ``root/masks/.../NAME.png``.

    Masks are grey or have a palette; a pixel's value is its class, and 255 counts for nothing. ``root/labels.json``
    may name the classes, ``{"ignore_index": 255, "classes": [{"id": 0, "name": "sky"}, ...]}``; without it there are as
    many as the masks ask for. Without ``test`` folders the images of ``val`` are the test images too, with a warning.

    Everything is checked when this is made. Masks without a labelled pixel are kept, and classes that no mask of a
    split holds are no mistake: a warning tells of both. A mask of another size than its image is resized to the nearest
    pixel where the proportions agree.

    Args:
        root: Folder of the data set.
        image_size: Height and width that images and masks are resized to, in pixels; one number for both.
        **options: Those of `MaskFilesData`: `batch_size`, `num_workers`, `seed`, `min_crop_area`, `flip`,
            `color_jitter`, `cache_limit_bytes` and `mask_size`.

    Raises:
        ValueError: A setting is out of range, the folder is not in the layout above, or a file cannot be used; the
            message names it.
    """

    def __init__(self, root: str | Path, image_size: int | Sequence[int] = (192, 256), **options: Any) -> None:
        folder = Path(root).expanduser()
        super().__init__(folder, _scan(folder), _read_labels(folder / "labels.json"), image_size, **options)


def mask_data(
    root: str | Path | None = None,
    image_size: int | Sequence[int] | None = None,
    min_crop_area: float = 0.5,
    mask_size: int | Sequence[int] | None = None,
    **options: Any,
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
        **options: Arguments that both take: `batch_size`, `num_workers` and `seed`.

    Raises:
        ValueError: A setting is out of range, or the folder cannot be used.

    Example::

        >>> data = mask_data()
        >>> data.num_classes, data.input_size
        (11, (3, 64, 64))
    """
    if root is not None:
        size = (192, 256) if image_size is None else image_size
        return MaskFolderDataModule(root, size, min_crop_area=min_crop_area, mask_size=mask_size, **options)
    if mask_size is not None:
        raise ValueError(f"`mask_size` is of the masks in `root`, which is not given; got {mask_size}.")
    height, width = checked_size(64 if image_size is None else image_size)
    if height != width:
        raise ValueError(f"Digit scenes are square; got `image_size` {height}x{width}. HINT: `data.root` is not set.")
    return DigitMasksDataModule(image_size=height, **options)


def _scan(root: Path) -> dict[Split, tuple[Pair, ...]]:
    for name in ("images", "masks"):
        for split in ("train", "val"):
            if not (root / name / split).is_dir():
                raise ValueError(
                    f"'{root}' must have the folders images/ and masks/ with train/ and val/ in each; "
                    f"it lacks {name}/{split}."
                )
    if (root / "images" / "test").is_dir() != (root / "masks" / "test").is_dir():
        raise ValueError(f"'{root}' must have images/test and masks/test, or neither; it has one of them.")
    splits: tuple[Split, ...] = ("train", "val", "test")
    return {
        split: _pairs(root / "images" / split, root / "masks" / split)
        for split in splits
        if (root / "images" / split).is_dir()
    }


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
    for path in sorted(folder.rglob("*")):
        # macOS leaves "._x.png" beside "x.png".
        if path.suffix.lower() in extensions and not path.name.startswith("."):
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name in found:
                raise ValueError(f"'{found[name]}' and '{path}' are two images of one name, and there is one mask.")
            found[name] = path
    return found


def _read_labels(path: Path) -> Labels | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = {int(entry["id"]): str(entry["name"]) for entry in content["classes"]}
        num_listed, ignored = len(content["classes"]), int(content.get("ignore_index", IGNORE))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        form = '{"ignore_index": 255, "classes": [{"id": 0, "name": "sky"}, ...]}'
        raise ValueError(f"'{path}' must be of the form {form}; reading it failed: {error!r}.") from error
    if sorted(names) != list(range(num_listed)) or ignored in names or not 0 <= ignored <= IGNORE:
        raise ValueError(
            f"'{path}' must number its classes 0, 1, 2 and so on, and ignore another id up to {IGNORE}; "
            f"it has {', '.join(map(str, sorted(names))) or 'none'}, and ignores {ignored}."
        )
    return Labels(tuple(names[number] for number in sorted(names)), {number: number for number in names}, ignored)
