"""Folders of train, val and test data, whichever of their usual names they have."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from lightning_nas.data._splits import Split
from lightning_nas.data._walk import is_left_over

__all__ = ["folder_names", "named_splits", "spelled_splits", "split_of"]

SPELLINGS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validate", "validation", "dev", "devel", "development"),
    "test": ("test", "tests", "testing", "eval", "evaluation", "holdout"),
}
# "train_images2017" and "TrainSet" are "train".
FILLERS = ("set", "split", "data", "dataset", "image", "images", "img", "imgs", "folder")


def folder_names(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, in order, without what systems leave."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not is_left_over(entry.name))


def split_of(name: str) -> Split | None:
    """Return the split that a folder's name means, in any case; None where it means none.

    Example::

        >>> split_of("Training"), split_of("valid"), split_of("TEST_images"), split_of("train2017"), split_of("cat")
        ('train', 'val', 'test', 'train', None)
    """
    divided = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)  # "TrainData"
    words = [word for word in re.split(r"[\W\d_]+", divided.casefold()) if word and word not in FILLERS]
    if len(words) != 1:
        return None
    (word,) = words
    for split, spellings in SPELLINGS.items():
        if word.removesuffix("set") in spellings or word in spellings:
            return split
    return None


def spelled_splits(root: Path, names: Iterable[str]) -> dict[Split, str]:
    """Return which of the folders of `root` is which split; those that mean none are left out.

    Args:
        root: Where the folders are, for messages.
        names: Their names.

    Raises:
        ValueError: Two mean the same split.
    """
    found: dict[Split, str] = {}
    for name in names:
        split = split_of(name)
        if split is None:
            continue
        if split in found:
            raise ValueError(
                f"'{root}' must have one folder a split; '{found[split]}' and '{name}' both mean {split}. HINT: join"
                " them, or move one of them elsewhere."
            )
        found[split] = name
    return found


def named_splits(root: Path, names: Sequence[str]) -> dict[Split, str]:
    """Return the folder of each split among folders of `root`; nothing where none of the names means a split.

    Args:
        root: Where the folders are, for messages.
        names: Names of those that count.

    Raises:
        ValueError: Some of the names mean a split and others do not, two mean the same one, or `train` or `val` is
            missing.
    """
    found = spelled_splits(root, names)
    others = [name for name in names if name not in found.values()]
    if found and others:
        raise ValueError(
            f"'{root}' must hold either splits or classes; by name {_listed(found.values())} would be splits, and"
            f" {_listed(others)} not. HINT: train/, val/ and test/ hold one folder a class each; what is no split"
            f" goes elsewhere, and a class that is called like a split needs another name."
        )
    if found and (missing := [split for split in ("train", "val") if split not in found]):
        meant = ", ".join(f"'{name}' as {split}" for split, name in found.items())
        raise ValueError(
            f"'{root}' must have the folders train and val; it lacks {' and '.join(missing)} (read: {meant})."
        )
    return found


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(f"'{name}'" for name in names[:3]) + more
