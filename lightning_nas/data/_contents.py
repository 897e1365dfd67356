"""Number of images of a split and of each class in it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SplitContents"]


@dataclass(frozen=True)
class SplitContents:
    """Number of images of a split, in all and of each class.

    Attributes:
        num_images: All of them.
        num_of_class: Those that show each class, in the order of the classes.
    """

    num_images: int
    num_of_class: tuple[int, ...]
