"""Meaning of the ids in masks: classes, or pixels that are ignored; implausible ones are refused."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import SupportsInt

import numpy as np
from numpy.typing import NDArray

from lightning_nas.data._splits import Split
from lightning_nas.io.reading import parse_json

__all__ = ["IGNORE", "Labels", "check_ignored", "check_labels", "found_labels", "label_settings", "named_labels"]

logger = logging.getLogger(__name__)

IGNORE = 255
"""Label of the pixels that count for nothing; also their id where nothing else is said."""

FORM = '{"ignore_index": 255, "classes": [{"id": 0, "name": "sky"}, ...]}'


@dataclass(frozen=True)
class Labels:
    """Meaning of the ids in masks.

    Attributes:
        names: Names of the classes.
        classes: Which class each id is.
        ignored: The ids of the pixels that count for nothing.

    Example::

        >>> Labels(("pet", "background"), {1: 0, 2: 1}, ignored=(3,)).table()[:5].tolist()
        [255, 0, 1, 255, 255]
    """

    names: tuple[str, ...]
    classes: Mapping[int, int] = field(default_factory=dict)
    ignored: tuple[int, ...] = (IGNORE,)

    def table(self) -> NDArray[np.uint8]:
        """Return the label of every id, shape (256,)."""
        table = np.full(256, IGNORE, dtype=np.uint8)
        for number, label in self.classes.items():
            table[number] = label
        return table

    def shares(self, counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], float]:
        """Return how many pixels each class has, and the share of all pixels that count for nothing.

        Args:
            counts: How many pixels of each id there are, shape (256,).
        """
        of_classes = np.zeros(len(self.names), dtype=np.int64)
        np.add.at(of_classes, list(self.classes.values()), counts[list(self.classes)])
        return of_classes, float(counts[list(self.ignored)].sum() / max(1, counts.sum()))


def named_labels(names: Mapping[int, str], ignored: Sequence[int] | None = None) -> Labels:
    """Return the classes in the order of their ids; ids of one name are one class.

    Args:
        names: Name of the class that each id is.
        ignored: Ids of pixels that count for nothing; None for 255, unless that is a class.

    Raises:
        ValueError: An id is no whole number from 0 to 255, or both a class and ignored.

    Example::

        >>> named_labels({0: "background", 255: "pet", 7: "pet"})
        Labels(names=('background', 'pet'), classes={0: 0, 7: 1, 255: 1}, ignored=())
    """
    left_out = tuple(sorted(set(ignored))) if ignored is not None else (() if IGNORE in names else (IGNORE,))
    _check_ids([*names, *left_out])
    if both := [number for number in left_out if number in names]:
        raise ValueError(f"An id must be a class or ignored, not both; {both[0]} is '{names[both[0]]}' and ignored.")
    ordered = dict(sorted(names.items()))
    classes = tuple(dict.fromkeys(ordered.values()))
    return Labels(classes, {number: classes.index(name) for number, name in ordered.items()}, left_out)


def found_labels(root: Path, counts: Mapping[Split, NDArray[np.int64]], ignored: Sequence[int] | None) -> Labels:
    """Return a class for each id in the masks that is not ignored, named as its id.

    Args:
        root: Folder of the data set, for messages.
        counts: How many pixels of each id each mask of a split has, shape (masks, 256).
        ignored: Ids of pixels that count for nothing; None for 255.

    Raises:
        ValueError: There are less than two, or ids between them are missing.
    """
    left_out = (IGNORE,) if ignored is None else tuple(ignored)
    there = np.flatnonzero(np.sum([part.sum(axis=0) for part in counts.values()], axis=0)).tolist()
    ids = [number for number in there if number not in left_out]
    if len(ids) > 1 and ids == list(range(ids[0], ids[-1] + 1)):
        return named_labels({number: str(number) for number in ids}, left_out)
    unused = f", of which {_spans(omitted)} count for nothing" if (omitted := sorted(set(there) - set(ids))) else ""
    what = "with no id missing between them" if len(ids) > 1 else "of at least two classes"
    example = ", ".join(f"{number}: NAME" for number in there[:3]) + (", ..." if len(there) > 3 else "")
    raise ValueError(
        f"Masks whose classes are not named must have ids {what}; those of '{root}' have {_spans(there)}{unused}. "
        f"HINT: say what they mean, by `classes={{{example}}}` and `ignored=[...]`, or in labels.json."
    )


def label_settings(
    file: Path, classes: Mapping[int, str] | None = None, ignored: int | Sequence[int] | None = None
) -> tuple[dict[int, str] | None, tuple[int, ...] | None]:
    """Return the names of the classes by id and the ignored ids, None for what nobody says.

    Args:
        file: ``labels.json``, which need not exist.
        classes: Names by id, which count more than the file's.
        ignored: Ids, or one, which count more than the file's.

    Raises:
        ValueError: The file or a setting is of another form, or an id of the file is both a class and ignored.
    """
    names, left_out = _read(file) if file.is_file() else (None, None)
    if classes is not None:
        names = _checked_names(classes)
        left_out = None if left_out is None else tuple(number for number in left_out if number not in names)
    if ignored is not None:
        left_out = (ignored,) if isinstance(ignored, int) else tuple(ignored)
        _check_ids(left_out)
        if names is not None and classes is None:
            names = {number: name for number, name in names.items() if number not in left_out}
    return names, left_out


def check_labels(split: str, masks: Sequence[Path], counts: NDArray[np.int64], labels: Labels) -> None:
    """Compare what the masks of a split hold with what it may mean, and warn of what is there in vain.

    Args:
        split: Name of the split, for messages.
        masks: Files of the masks.
        counts: How many pixels of each id each mask has, shape (masks, 256).
        labels: What the ids mean.

    Raises:
        ValueError: A mask has an id that means nothing, no mask has a labelled pixel, or all labelled pixels are of one
            class: then nothing can be learned of them, and every network that gives that class is perfect.
    """
    known = [*labels.classes, *labels.ignored]
    for mask, row in zip(masks, counts, strict=True):
        if strange := sorted(set(np.flatnonzero(row).tolist()) - set(known)):
            nothing = f", and {_spans(sorted(labels.ignored))} for pixels that are ignored" if labels.ignored else ""
            raise ValueError(
                f"'{mask}' has the label ids {', '.join(map(str, strange))}; known are "
                f"{_spans(sorted(labels.classes))}{nothing}. HINT: `classes={{ID: NAME, ...}}` and `ignored=[...]`, or "
                "labels.json, say what ids mean."
            )
    labelled = counts[:, list(labels.classes)].any(axis=1)
    if not labelled.any():
        raise ValueError(f"No mask of {split} has a labelled pixel, such as '{masks[0]}'.")
    of_classes, share = labels.shares(counts.sum(axis=0))
    if np.count_nonzero(of_classes) == 1:
        raise ValueError(
            f"All labelled pixels of the masks of {split} are '{labels.names[int(of_classes.argmax())]}'; "
            f"{_percent(share)} of all pixels count for nothing, those of id "
            f"{_spans(sorted(labels.ignored)) or 'none'}. "
            "HINT: an id becomes a class by `classes={ID: NAME, ...}`, or in labels.json."
        )
    if not labelled.all():
        what = f"{np.count_nonzero(~labelled)} of {len(masks)} masks of {split}"
        logger.warning("%s have no labelled pixel, such as '%s'; they are kept.", what, masks[int(labelled.argmin())])
    if missing := [name for name, count in zip(labels.names, of_classes, strict=True) if count == 0]:
        logger.warning("No mask of %s has a pixel of %s.", split, ", ".join(missing))


def check_ignored(root: Path, counts: Mapping[Split, NDArray[np.int64]], labels: Labels) -> None:
    """Refuse classes of one's own that no mask has while training pixels are ignored: likely those are that class.

    Args:
        root: Folder of the data set, for messages.
        counts: How many pixels of each id each mask of a split has, shape (masks, 256).
        labels: What the ids mean.

    Raises:
        ValueError: There is such a class.
    """
    of_classes, _ = labels.shares(np.sum([part.sum(axis=0) for part in counts.values()], axis=0))
    _, share = labels.shares(counts["train"].sum(axis=0))
    missing = [name for name, count in zip(labels.names, of_classes, strict=True) if count == 0]
    if missing and share:
        ids = _spans(sorted(labels.ignored))
        raise ValueError(
            f"'{root}': no mask has a pixel of {', '.join(missing)}, but {_percent(share)} of the training masks' "
            f"pixels have the id {ids}, which counts for nothing. HINT: if that is {missing[0]}, say so by `classes` "
            "or in labels.json; if not, leave out the classes that there are none of."
        )


def _read(path: Path) -> tuple[dict[int, str], tuple[int, ...] | None]:
    """Return the names by id, and the ignored ids if the file has them."""
    try:
        content = parse_json(path.read_bytes(), "it")
        numbers = [_whole(entry["id"]) for entry in content["classes"]]
        names = dict(zip(numbers, (str(entry["name"]) for entry in content["classes"]), strict=True))
        ignored = content.get("ignore_index", IGNORE)
        left_out = () if ignored is None else tuple(map(_whole, ignored if isinstance(ignored, list) else [ignored]))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ValueError(f"'{path}' must be of the form {FORM}; reading it failed: {error!r}.") from error
    found = left_out if "ignore_index" in content else None
    try:
        named_labels(names, found)
    except ValueError as error:
        raise ValueError(f"'{path}': {error}") from error
    if len(names) < len(numbers):
        raise ValueError(f"'{path}' must give each class an id of its own; it has {_spans(sorted(numbers))}.")
    return names, found


def _checked_names(classes: Mapping[int, str]) -> dict[int, str]:
    try:
        return {_whole(number): str(name) for number, name in classes.items()}
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"`classes` must give names by ids, such as {{0: background, 255: pet}}; got {classes}."
        ) from error


def _whole(number: object) -> int:
    """Return an id, which JSON and YAML may spell as text or as 3.0, as a whole number."""
    if isinstance(number, bool) or not isinstance(number, str | SupportsInt):
        raise TypeError(f"an id must be a whole number; got {number!r}")
    found = int(number)
    if not isinstance(number, str) and found != number:
        raise ValueError(f"an id must be a whole number; got {number!r}")
    return found


def _check_ids(numbers: Iterable[object]) -> None:
    for number in numbers:
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= 255:
            raise ValueError(
                f"The ids of classes and of what is ignored are whole numbers and must be 0 to 255; got {number}."
            )


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _spans(numbers: Sequence[int]) -> str:
    """Write numbers briefly.

    Example::

        >>> _spans([0, 1, 2, 5]), _spans([0, 1, 2])
        ('0, 1, 2, 5', '0 to 2')
    """
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))
