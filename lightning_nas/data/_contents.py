"""What a data set holds, in words: its classes, and how many images each split has of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightning_nas.data._splits import Split

__all__ = ["SplitContents", "contents_text"]

MAX_CLASSES = 30


@dataclass(frozen=True)
class SplitContents:
    """How many images a split has.

    Attributes:
        num_images: All of them.
        num_of_class: Those that show each class, in the order of the classes.
    """

    num_images: int
    num_of_class: tuple[int, ...]


def contents_text(name: str, class_names: Sequence[str], splits: Mapping[Split, SplitContents]) -> str:
    """Return a table of classes and splits.

    Args:
        name: Name of the data set.
        class_names: Names of the classes, in the order of their indices.
        splits: What each split holds; empty where that is not known.

    Example::

        >>> print(contents_text("pets", ["cat", "dog"], {"train": SplitContents(5, (2, 3))}))
        Data 'pets', 2 classes; images of each in
                train
        0 cat       2
        1 dog       3
        all         5
    """
    shown, hidden = class_names[:MAX_CLASSES], len(class_names) - MAX_CLASSES
    more = [f"and {hidden} more"] if hidden > 0 else []
    if not splits:
        return f"Data '{name}', {len(class_names)} classes: {', '.join([*shown, *more])}"
    labels = [f"{index} {class_name}" for index, class_name in enumerate(shown)]
    width = max(map(len, [*labels, "all"]))
    rows = [
        "".join([f"{label:<{width}}", *(f"{split.num_of_class[index]:>8}" for split in splits.values())])
        for index, label in enumerate(labels)
    ]
    total = "".join([f"{'all':<{width}}", *(f"{split.num_images:>8}" for split in splits.values())])
    head = "".join([" " * width, *(f"{split:>8}" for split in splits)])
    return "\n".join([f"Data '{name}', {len(class_names)} classes; images of each in", head, *rows, *more, total])
