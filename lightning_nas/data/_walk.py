"""Files below a folder that belong to a data set: links are followed, files of systems and editors are left out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["files_below", "is_left_over"]

# What macOS packs beside the files of an archive, and what Synology's file server makes.
LEFT_OVER = ("__MACOSX", "@eaDir")


def is_left_over(name: str) -> bool:
    """Return whether a file or folder of this name is of no data set: hidden, or left by a system.

    Example::

        >>> [is_left_over(name) for name in ("._cat.jpg", ".ipynb_checkpoints", "__MACOSX", "cat.jpg")]
        [True, True, True, False]
    """
    return name.startswith(".") or name in LEFT_OVER


def files_below(folder: Path, extensions: Sequence[str]) -> list[Path]:
    """Return the sorted files with one of the endings in a folder and below, those of linked folders too.

    A folder that links lead to several times, or that is above its link, is read once.

    Args:
        folder: Where to look.
        extensions: Lower-case endings with their dot; files may have them in upper case.
    """
    found: list[Path] = []
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        # A walk goes into what is left here.
        folders[:] = sorted(name for name in folders if not is_left_over(name))
        found += [
            Path(place, name)
            for name in names
            if os.path.splitext(name)[1].lower() in extensions and not is_left_over(name)
        ]
    return sorted(found)
