"""Check of image files: each is opened once before anything is trained, and all bad ones are named together."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from PIL import ImageOps
from tqdm import tqdm

from lightning_nas.data._decode import DECODE_THREADS, UnreadableImageError, open_image, rgb
from lightning_nas.io.locks import alone
from lightning_nas.io.reading import read_json
from lightning_nas.io.writing import cache_folder, write_text

__all__ = ["Stamp", "check_files", "naming_all", "stamp_of"]

logger = logging.getLogger(__name__)

MAX_NAMED = 20
# To be raised when more is asked of a file: what was found good before is then opened again.
VERSION = 1
CHUNK = 16
SMALL = 64

Stamp = tuple[int, int]
"""Size in bytes and time of the last change in nanoseconds."""


def check_files(paths: Iterable[Path]) -> None:
    """Open and decode every image that was not found good before, on all cores, and name all that are not good.

    What was found good is kept in the user's cache by path, size and time of change: a second call costs a look at
    these. What is no image, is damaged or is cut off is opened again each time.

    Args:
        paths: Images of any kind, masks too.

    Raises:
        ValueError: Files are missing, damaged or no images.
    """
    stamps = {Path(os.path.abspath(path)): stamp_of(path) for path in dict.fromkeys(paths)}
    if not stamps:
        return
    folder = Path(os.path.commonpath([path.parent for path in stamps]))
    cache = _cache_file(folder)
    with _alone(cache, folder):
        known = _read(cache)
        names = {path: path.relative_to(folder).as_posix() for path in stamps}
        todo = [path for path, stamp in stamps.items() if stamp is None or known.get(names[path]) != stamp]
        if not todo:
            return
        good: dict[str, Stamp] = {}
        bad: list[str] = []
        try:
            for path, mistake in _opened(todo):
                stamp = stamps[path]
                if mistake is not None:
                    bad.append(mistake)
                elif stamp is not None:
                    good[names[path]] = stamp
        finally:
            # What is stopped goes on from here.
            _write(cache, folder, {**known, **good})
    if bad:
        raise ValueError(_text(bad, len(stamps)))


@contextmanager
def naming_all(paths: Iterable[Path]) -> Iterator[None]:
    """Name all unreadable images of a data set in the error of the first that is read within the context.

    Args:
        paths: All images of a data set.

    Raises:
        ValueError: A file is missing, damaged or no image.
    """
    try:
        yield
    except UnreadableImageError:
        check_files(paths)
        raise


def _opened(paths: Sequence[Path]) -> Iterator[tuple[Path, str | None]]:
    """Open files, and return for each what is wrong with it, or None."""
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    # Decoding is outside of Python's lock; more threads than cores hide the reads.
    pool = ThreadPoolExecutor(max(DECODE_THREADS, os.cpu_count() or 1))
    try:
        with tqdm(total=len(paths), desc="Opening every image file once", unit="file") as bar:
            for chunk, mistakes in zip(chunks, pool.map(_mistakes, chunks), strict=True):
                yield from zip(chunk, mistakes, strict=True)
                bar.update(len(chunk))
    finally:
        pool.shutdown(cancel_futures=True)


def _mistakes(paths: Sequence[Path]) -> list[str | None]:
    return [_mistake(path) for path in paths]


def _mistake(path: Path) -> str | None:
    try:
        with open_image(path) as file:
            # A small copy of a JPEG needs all of its bytes and half of the time.
            file.draft("RGB", (SMALL, SMALL))
            rgb(ImageOps.exif_transpose(file))
    except UnreadableImageError as error:
        return str(error)
    return None


def stamp_of(path: Path) -> Stamp | None:
    """Return size and time of change of a file, which tell whether it is the one that it was; None without a file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _cache_file(folder: Path) -> Path:
    key = hashlib.sha256(f"{VERSION} {folder}".encode()).hexdigest()[:16]
    return cache_folder() / "images" / f"{folder.name}-{key}.json"


def _alone(cache: Path, folder: Path) -> AbstractContextManager[None]:
    """Let one process of a machine open the files; the others find them opened."""
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        return nullcontext()
    if not os.access(cache.parent, os.W_OK):
        return nullcontext()
    return alone(cache.with_suffix(".lock"), f"the image files in '{folder}'", is_waiting=True)


def _read(cache: Path) -> dict[str, Stamp]:
    """Return what was found good; nothing where that is not known."""
    try:
        files = read_json(cache)["files"]
        return {str(name): (int(size), int(changed)) for name, (size, changed) in files.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return {}


def _write(cache: Path, folder: Path, files: Mapping[str, Stamp]) -> None:
    try:
        write_text(cache, json.dumps({"folder": str(folder), "files": files}))
    except OSError as error:
        logger.warning(
            "Which images are good could not be kept in '%s' (%s): the next run opens them again.", cache, error
        )


def _text(bad: Sequence[str], num_files: int) -> str:
    more = [f"and {len(bad) - MAX_NAMED} more."] if len(bad) > MAX_NAMED else []
    return "\n  ".join([f"{len(bad)} of {num_files} image files cannot be used:", *bad[:MAX_NAMED], *more])
