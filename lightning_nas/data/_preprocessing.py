"""Preprocessing of an image before the network, which whoever deploys the network has to repeat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lightning_nas.data._batches import IMAGENET_MEAN, IMAGENET_STD
from lightning_nas.data._letterbox import GREY

__all__ = ["Preprocessing"]

FITS = {
    "stretch": "resized to the image size, proportions not kept",
    "letterbox": "scaled, proportions kept, until it just fits into the image size; `fill` on its right or below it",
}


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of an image into the input of a network.

    Attributes:
        image_size: Height and width of the input in pixels.
        fit: How an image of another size is fitted into it.
    """

    image_size: tuple[int, int]
    fit: Literal["stretch", "letterbox"] = "stretch"

    def to_dict(self) -> dict[str, object]:
        """Return the preprocessing as data for JSON, with its steps in words, in their order.

        Example::

            >>> described = Preprocessing((96, 128)).to_dict()
            >>> described["image_size"], described["mean"], described["std"], described["channels"]
            ([96, 128], [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], 'RGB')
        """
        return {
            "image_size": list(self.image_size),
            "channels": "RGB",
            "mean": list(IMAGENET_MEAN),
            "std": list(IMAGENET_STD),
            "fit": self.fit,
            "interpolation": "bilinear, antialiased",
            **({"fill": list(GREY)} if self.fit == "letterbox" else {}),
            "steps": [
                "turned as its EXIF orientation says",
                "to 8-bit RGB; transparent pixels are white",
                FITS[self.fit],
                "divided by 255, then `mean` taken off and divided by `std`, a channel each",
                "channels first: (batch, 3, height, width), float32",
            ],
        }
