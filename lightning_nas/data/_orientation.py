"""Photos that their EXIF orientation turns or mirrors: whether what was drawn on them was drawn on them as stored."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import ImageFile

__all__ = ["Orientation", "decided", "orientation_of", "similar"]

logger = logging.getLogger(__name__)

TAG = 0x0112
# Where a PNG has its orientation: chunks of EXIF, what ImageMagick writes in place of one, and XMP.
MARKS = (b"eXIf", b"Raw profile type exif", b"tiff:Orientation")


@dataclass(frozen=True)
class Orientation:
    """Stored size of an image file, and its EXIF orientation.

    Attributes:
        stored: Height and width of the stored pixels.
        turn: EXIF's number, 1 to 8: 1 for none, 2 to 4 keep the sides, 5 to 8 swap them.
    """

    stored: tuple[int, int]
    turn: int

    @property
    def upright(self) -> tuple[int, int]:
        """Height and width once it is turned."""
        height, width = self.stored
        return (width, height) if self.turn >= 5 else (height, width)

    def told_by(self, size: tuple[int, int] | None) -> bool | None:
        """Return whether annotations of this size are of the pixels as stored, None where it does not tell.

        Args:
            size: Height and width of what was annotated, in pixels or to scale; None where nobody says it.
        """
        if self.turn == 1:
            return False
        if self.turn < 5 or size is None:
            return None
        as_stored, as_seen = similar(size, self.stored), similar(size, self.upright)
        return None if as_stored == as_seen else as_stored


def similar(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Return whether two sizes have the same proportions, up to the rounding to whole pixels.

    Example::

        >>> similar((240, 320), (480, 641)), similar((240, 320), (640, 480))
        (True, False)
    """
    return abs(one[1] * other[0] - one[0] * other[1]) <= max(other)


def orientation_of(file: ImageFile.ImageFile) -> Orientation:
    """Return the orientation of an image file that is open, if possible without decoding it.

    Args:
        file: What `PIL.Image.open` gave for a path.
    """
    stored = file.height, file.width
    if file.format == "PNG" and "exif" not in file.info:
        # It may stand behind the pixels, where PIL finds it once they are decoded.
        content = Path(os.fsdecode(file.filename)).read_bytes()
        if not any(mark in content for mark in MARKS):
            return Orientation(stored, 1)
    turn = file.getexif().get(TAG, 1)
    return Orientation(stored, turn if turn in range(1, 9) else 1)


def decided(
    paths: Sequence[Path], orientations: Sequence[Orientation], told: Sequence[bool | None], what: str
) -> list[bool]:
    """Return for each image whether its annotations are of the pixels as stored.

    One tool draws all annotations of a set: where the size of an annotation does not tell, the turned images decide
    whose does. Where there are none, annotations are of the images as they are seen, with a warning.

    Args:
        paths: The images.
        orientations: How each is stored.
        told: What the size of the annotations tells of each, None for nothing.
        what: Of what messages speak.

    Example::

        >>> turned, mirrored = Orientation((60, 80), turn=6), Orientation((60, 80), turn=2)
        >>> decided([Path("a.jpg"), Path("b.jpg")], [turned, mirrored], [True, None], "set")
        [True, True]
    """
    open_ones = [path for path, one in zip(paths, told, strict=True) if one is None]
    evidence = [one for place, one in zip(orientations, told, strict=True) if one is not None and place.turn != 1]
    if open_ones and not evidence:
        logger.warning(
            "%s: the EXIF orientation of %d of %d images turns or mirrors them, such as '%s'; what is annotated is "
            "taken to be of the images as they are seen. HINT: if it is of the stored pixels, remove the orientation "
            "from the files.",
            what,
            len(open_ones),
            len(paths),
            open_ones[0],
        )
    most = 2 * sum(evidence) > len(evidence)
    return [most if one is None else one for one in told]
