"""Annotation files checked against their images: one message a split for each kind of mistake."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_nas.data._decode import DECODE_THREADS, open_image
from lightning_nas.data._file_check import naming_all
from lightning_nas.data._orientation import Orientation, decided, orientation_of
from lightning_nas.data._splits import Split
from lightning_nas.data.detection_batches import DetectionRecord

__all__ = ["AnnotatedImage", "AnnotatedSource", "checked_records", "checked_splits", "warn_of_unseen"]

logger = logging.getLogger(__name__)

NUM_EXAMPLES = 3
SIZE_TOLERANCE = 1
# Shares of an image are at most 1, and a corner and a width that are read for each other at most 2.
NORMALISED = 2
# Boxes that are corners and read as width and height reach out of their image where their middle is in its right or
# lower half; those of a set that is right may do so now and then.
MANY, MOSTLY = 0.25, 0.99


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and its objects as an annotation file has them.

    Attributes:
        path: The image's file.
        size: Height and width, or None where the annotations do not say it.
        boxes: Left, top, right and bottom of each object in pixels.
        labels: Class index of each object.
        crowds: Whether each is a region of many that are not told apart; nothing where none is.
        areas: Square pixels that each covers; nothing for those of the boxes.
    """

    path: Path
    size: tuple[int, int] | None
    boxes: tuple[tuple[float, float, float, float], ...]
    labels: tuple[int, ...]
    crowds: tuple[bool, ...] = ()
    areas: tuple[float, ...] = ()


@dataclass(frozen=True)
class AnnotatedSource:
    """The content of an annotation file.

    Attributes:
        file: The file.
        images: Its images.
        written: How the file has a box: by its right and bottom, or by its width and height.
    """

    file: Path
    images: tuple[AnnotatedImage, ...]
    written: Literal["xyxy", "xywh"] = "xyxy"


def checked_splits(splits: Mapping[Split, Sequence[AnnotatedSource]]) -> dict[Split, tuple[DetectionRecord, ...]]:
    """Return the records of each split, those of all its sources, as `checked_records` does.

    Args:
        splits: What the annotation files of each split say.

    Raises:
        ValueError: Image files are missing, or unreadable: all of these are named. Or no box is left in a file.
    """
    with naming_all(image.path for parts in splits.values() for part in parts for image in part.images):
        return {
            split: tuple(record for part in parts for record in checked_records(part.images, part.file, part.written))
            for split, parts in splits.items()
        }


def checked_records(
    images: Sequence[AnnotatedImage], source: Path, written: Literal["xyxy", "xywh"] = "xyxy"
) -> tuple[DetectionRecord, ...]:
    """Return the images with the boxes that they show, cut at the border.

    Boxes without area or wholly outside their image are dropped, and images of another size than annotated keep the
    annotated one as the scale of their boxes; each with one warning.

    Args:
        images: All images of a split.
        source: What messages name: the annotation file.
        written: How the file has a box: by its right and bottom, or by its width and height.

    Raises:
        ValueError: Image files are missing or unreadable, no box is left, or boxes are plainly not in pixels or written
            in another way.
    """
    sizes, stored = _sizes(images, source)
    _check_boxes(images, sizes, source, written)
    records, dropped = [], []
    for image, size, as_stored in zip(images, sizes, stored, strict=True):
        boxes = np.asarray(image.boxes, dtype=np.float64).reshape(-1, 4)
        height, width = size
        clipped = boxes.clip(0, (width, height, width, height))
        solid = np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
        shown = solid & np.all(clipped[:, 2:] > clipped[:, :2], axis=1)
        dropped += [(image.path.name, boxes[index], bool(solid[index])) for index in np.flatnonzero(~shown)]
        kept = torch.from_numpy(shown)
        labels = torch.tensor(image.labels, dtype=torch.int64)[kept]
        crowds = torch.tensor(image.crowds, dtype=torch.bool)[kept] if image.crowds else None
        areas = torch.tensor(image.areas, dtype=torch.float32)[kept] if image.areas else None
        found = torch.from_numpy(clipped[shown]).float()
        records.append(DetectionRecord(image.path, size, found, labels, crowds, areas, as_stored))
    if dropped:
        total = sum(len(image.boxes) for image in images)
        outside = sum(solid for _, _, solid in dropped)
        logger.warning(
            "'%s': %d of %d boxes are dropped, %d without area and %d wholly outside their image: %s.",
            source,
            len(dropped),
            total,
            len(dropped) - outside,
            outside,
            _examples([f"{_rounded(box)} of {name}" for name, box, _ in dropped]),
        )
    if all(record.is_crowd.all() for record in records):
        raise ValueError(f"'{source}' must have at least one box; none of its {len(images)} images has any.")
    return tuple(records)


def warn_of_unseen(records: Sequence[DetectionRecord], class_names: Sequence[str], source: Path) -> None:
    """Warn of classes that no training image shows.

    Args:
        records: The training images.
        class_names: Names of the classes, in the order of their indices.
        source: What the warning names: the annotation file.
    """
    seen = set(torch.cat([record.labels[~record.is_crowd] for record in records]).tolist())
    if unseen := [name for label, name in enumerate(class_names) if label not in seen]:
        logger.warning("'%s' has no box of %s: a detector cannot learn that.", source, _examples(unseen))


def _check_boxes(
    images: Sequence[AnnotatedImage],
    sizes: Sequence[tuple[int, int]],
    source: Path,
    written: Literal["xyxy", "xywh"],
) -> None:
    """Refuse boxes that are plainly shares of their images, or corners where width and height are expected.

    Args:
        images: All images of a split.
        sizes: Height and width of each.
        source: What messages name: the annotation file.
        written: How boxes were read.

    Raises:
        ValueError: All boxes end within two pixels; or nearly all would be valid as corners, while many reach out of
            their images as they were read.
    """
    boxes = np.array([box for image in images for box in image.boxes], dtype=np.float64).reshape(-1, 4)
    if not len(boxes):
        return
    names = [image.path.name for image in images for _ in image.boxes]
    as_written = np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]]) if written == "xywh" else boxes
    if boxes.max() <= NORMALISED:
        raise ValueError(
            f"'{source}' must have its boxes in pixels; all {len(boxes)} end within the first {NORMALISED} pixels, "
            f"such as {_rounded(as_written[0])} of {names[0]}. HINT: if they are shares of the image, multiply them by "
            "its width and height."
        )
    limits = np.array([size[::-1] for image, size in zip(images, sizes, strict=True) for _ in image.boxes])
    out = np.any(boxes[:, 2:] > limits + SIZE_TOLERANCE, axis=1)
    corners = np.all((as_written[:, 2:] > boxes[:, :2]) & (as_written[:, 2:] <= limits + SIZE_TOLERANCE), axis=1)
    if written == "xywh" and corners.mean() >= MOSTLY and out.mean() > MANY:
        first = int(out.argmax())
        raise ValueError(
            f"'{source}' must have boxes as left, top, width and height; {out.sum()} of {len(boxes)} reach out of "
            f"their images so, such as {_rounded(as_written[first])} of {names[first]}, and would not as left, top, "
            "right and bottom. HINT: subtract left from the third number, and top from the fourth."
        )


def _sizes(images: Sequence[AnnotatedImage], source: Path) -> tuple[list[tuple[int, int]], list[bool]]:
    """Return the size that each image's boxes refer to, and whether it is that of the pixels as stored."""
    # Unlike a path's own question, this one answers no for names that no file can have.
    missing = [image.path for image in images if not os.path.isfile(image.path)]
    if missing:
        raise ValueError(
            f"All images of '{source}' must exist; {len(missing)} of {len(images)} do not, first '{missing[0]}'."
        )
    with ThreadPoolExecutor(DECODE_THREADS) as pool:
        found = list(pool.map(_orientation, images))
    told = [one.told_by(image.size) for image, one in zip(images, found, strict=True)]
    stored = decided([image.path for image in images], found, told, f"'{source}'")
    sizes, differing = [], []
    for image, orientation, as_stored in zip(images, found, stored, strict=True):
        actual = orientation.stored if as_stored else orientation.upright
        sizes.append(image.size or actual)
        if max(abs(one - other) for one, other in zip(sizes[-1], actual, strict=True)) > SIZE_TOLERANCE:
            differing.append(f"{image.path.name} is {_sides(actual)}, not {_sides(sizes[-1])}")
    if differing:
        logger.warning(
            "'%s': %d of %d images have another size than annotated; boxes are scaled from the annotated one: %s.",
            source,
            len(differing),
            len(images),
            _examples(differing),
        )
    return sizes, stored


def _orientation(image: AnnotatedImage) -> Orientation:
    with open_image(image.path) as file:
        return orientation_of(file)


def _rounded(box: NDArray[np.float64]) -> list[float]:
    return [round(side, 2) for side in box.tolist()]


def _sides(size: tuple[int, int]) -> str:
    height, width = size
    return f"{width}x{height}"


def _examples(texts: Sequence[str]) -> str:
    more = len(texts) - NUM_EXAMPLES
    return ", ".join(texts[:NUM_EXAMPLES]) + (f" and {more} more" if more > 0 else "")
