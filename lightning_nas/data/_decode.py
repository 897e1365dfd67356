"""Reading images from files, whatever their mode and orientation, with one clear error for each that is unreadable."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

__all__ = ["DECODE_THREADS", "UnreadableImageError", "open_image", "rgb"]

# Enough to hide the reads; PIL decodes and resizes outside Python's lock.
DECODE_THREADS = 4


class UnreadableImageError(ValueError):
    """A file is missing, damaged or no image."""


@contextmanager
def open_image(path: Path) -> Iterator[ImageFile.ImageFile]:
    """Open an image; what fails inside the ``with`` fails because of the file.

    Raises:
        UnreadableImageError: The file is missing, damaged or no image.
    """
    try:
        with Image.open(path) as file:
            yield file
    except Exception as error:  # decoders raise what they like: struct.error, EOFError, KeyError
        reason = _reason(error)
        raise UnreadableImageError(f"'{path}' must be a readable image; reading it failed: {reason}.") from error


def _reason(error: Exception) -> str:
    """Return in words why reading a file failed, without its path, which is said beside it."""
    if isinstance(error, UnidentifiedImageError):
        return "it is no image"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def rgb(image: Image.Image) -> Image.Image:
    """Return the image in RGB; transparent pixels become white and 16-bit grey is scaled to 8 bits.

    Example::

        >>> rgb(Image.new("RGBA", (1, 1), (10, 20, 30, 0))).getpixel((0, 0))
        (255, 255, 255)
    """
    if image.mode.startswith("I"):
        # PIL clips 16-bit grey to white instead of scaling it.
        return Image.fromarray((np.asarray(image).astype(np.float32) / 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        # What lies under a transparent pixel is arbitrary, often black or noise.
        canvas = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(canvas, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")
