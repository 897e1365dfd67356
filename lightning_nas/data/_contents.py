"""Number of images of a split and of each class in it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SplitContents"]


@dataclass(frozen=True)
class SplitContents:
    """How many images a split has.

    Attributes:
        num_images: All of them.
        num_of_class: Those that show each class, in the order of the classes.
    """

    num_images: int
    num_of_class: tuple[int, ...]
