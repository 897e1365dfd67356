"""Reading images from files, whatever their mode and orientation, with one clear error for each that is unreadable."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["DECODE_THREADS", "open_image", "rgb"]

# Enough to hide the reads; PIL decodes and resizes outside Python's lock.
DECODE_THREADS = 4


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Open an image; what fails inside the ``with`` fails because of the file.

    Raises:
        ValueError: The file is missing, damaged or no image.
    """
    try:
        with Image.open(path) as file:
            yield file
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"'{path}' must be a readable image; reading it failed: {error}.") from error


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
