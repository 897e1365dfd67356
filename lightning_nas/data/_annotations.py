"""What annotation files say, checked against the images: one message a split for each kind of mistake."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ._decode import DECODE_THREADS, open_image, upright_size
from ._file_check import naming_all
from ._splits import Split
from .detection_batches import DetectionRecord

__all__ = ["AnnotatedImage", "AnnotatedSource", "checked_records", "checked_splits", "warn_of_unseen"]

logger = logging.getLogger(__name__)

NUM_EXAMPLES = 3
SIZE_TOLERANCE = 1


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and its objects as an annotation file has them.

    Attributes:
        path: The image's file.
        size: Height and width, or None where the annotations do not say it.
        boxes: Left, top, right and bottom of each object in pixels.
        labels: Class index of each object.
    """

    path: Path
    size: tuple[int, int] | None
    boxes: tuple[tuple[float, float, float, float], ...]
    labels: tuple[int, ...]


@dataclass(frozen=True)
class AnnotatedSource:
    """What an annotation file says.

    Attributes:
        file: The file.
        images: Its images.
    """

    file: Path
    images: tuple[AnnotatedImage, ...]


def checked_splits(splits: Mapping[Split, Sequence[AnnotatedSource]]) -> dict[Split, tuple[DetectionRecord, ...]]:
    """Return the records of each split, those of all its sources, as `checked_records` does.

    Args:
        splits: What the annotation files of each split say.

    Raises:
        ValueError: Image files are missing, or unreadable: all of these are named. Or no box is left in a file.
    """
    with naming_all(image.path for parts in splits.values() for part in parts for image in part.images):
        return {
            split: tuple(record for part in parts for record in checked_records(part.images, part.file))
            for split, parts in splits.items()
        }


def checked_records(images: Sequence[AnnotatedImage], source: Path) -> tuple[DetectionRecord, ...]:
    """Return the images with the boxes that they show, cut at the border.

    Boxes without area or wholly outside their image are dropped, and images of another size than annotated keep the
    annotated one as the scale of their boxes; each with one warning.

    Args:
        images: All images of a split.
        source: What messages name: the annotation file.

    Raises:
        ValueError: Image files are missing or unreadable, or no box is left.
    """
    sizes = _sizes(images, source)
    records, dropped = [], []
    for image, size in zip(images, sizes, strict=True):
        boxes = np.asarray(image.boxes, dtype=np.float64).reshape(-1, 4)
        height, width = size
        clipped = boxes.clip(0, (width, height, width, height))
        solid = np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
        shown = solid & np.all(clipped[:, 2:] > clipped[:, :2], axis=1)
        dropped += [(image.path.name, boxes[index], bool(solid[index])) for index in np.flatnonzero(~shown)]
        labels = torch.tensor(image.labels, dtype=torch.int64)[torch.from_numpy(shown)]
        records.append(DetectionRecord(image.path, size, torch.from_numpy(clipped[shown]).float(), labels))
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
            _examples([f"{[round(side, 2) for side in box.tolist()]} of {name}" for name, box, _ in dropped]),
        )
    if not any(len(record.boxes) for record in records):
        raise ValueError(f"'{source}' must have at least one box; none of its {len(images)} images has any.")
    return tuple(records)


def warn_of_unseen(records: Sequence[DetectionRecord], class_names: Sequence[str], source: Path) -> None:
    """Warn of classes that no training image shows."""
    seen = set(torch.cat([record.labels for record in records]).tolist())
    if unseen := [name for label, name in enumerate(class_names) if label not in seen]:
        logger.warning("'%s' has no box of %s: a detector cannot learn that.", source, _examples(unseen))


def _sizes(images: Sequence[AnnotatedImage], source: Path) -> list[tuple[int, int]]:
    """Return the size that each image's boxes refer to."""
    missing = [image.path for image in images if not image.path.is_file()]
    if missing:
        raise ValueError(
            f"All images of '{source}' must exist; {len(missing)} of {len(images)} do not, first '{missing[0]}'."
        )
    with ThreadPoolExecutor(DECODE_THREADS) as pool:
        found = list(pool.map(_file_size, images))
    sizes, differing = [], []
    for image, actual in zip(images, found, strict=True):
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
    return sizes


def _file_size(image: AnnotatedImage) -> tuple[int, int]:
    """Return the annotated size where it is the file's, turned or not; else that of the turned file."""
    with open_image(image.path) as file:
        stored = file.height, file.width
        # The orientation of a PNG may stand behind its pixels, hence only where it is needed.
        return stored if image.size == stored else upright_size(file)


def _sides(size: tuple[int, int]) -> str:
    height, width = size
    return f"{width}x{height}"


def _examples(texts: Sequence[str]) -> str:
    more = len(texts) - NUM_EXAMPLES
    return ", ".join(texts[:NUM_EXAMPLES]) + (f" and {more} more" if more > 0 else "")
