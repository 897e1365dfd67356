"""Atomic file writes: readers see the old file or the new one, never a part."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from lightning_nas.io.processes import host_name, is_dead
from lightning_nas.io.units import bytes_text

__all__ = [
    "UnwritableError",
    "appending",
    "cache_folder",
    "remove_parts",
    "write_bytes",
    "write_text",
    "write_weights",
]

_PART = ".part"
# A full disk, a used up quota, and a file beyond what its file system takes.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UnwritableError(OSError):
    """A file cannot be written; the message names it, the room that it takes and the room that there is.

    Args:
        path: The file.
        error: What the system said.
        num_bytes: Room that the file takes.
    """

    def __init__(self, path: Path, error: OSError, num_bytes: int) -> None:
        self.path = path
        text = f"{str(path)!r} cannot be written: {error.strerror or error}."
        if error.errno in _NO_ROOM:
            needed = bytes_text(num_bytes, decimals=1)
            text += f" It takes {needed}{_free_text(path)}. HINT: make room, and repeat the command."
        super().__init__(text)
        self.errno = error.errno
        self.needs_room = error.errno in _NO_ROOM


def cache_folder() -> Path:
    """Return the user's cache folder; it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lightning_nas"


def write_bytes(path: Path, data: bytes | memoryview, keep: Path | None = None) -> None:
    """Write `data` to `path`, making its folder if needed: whoever stops this at any moment leaves what was there.

    Args:
        path: The file. What is written stands beside it until it is whole, so no other disk has to have room.
        data: Its content.
        keep: Where to move what was there before; by default it is replaced.

    Raises:
        UnwritableError: There is no room, or no right to write there.
    """
    # Named after the process, so that two that write the same file never share one; see `remove_parts`.
    part = path.with_name(f"{path.name}.{_host_digest()}-{os.getpid()}{_PART}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                # A machine that loses its power may else have the name and not the content.
                os.fsync(file.fileno())
            if keep is not None and path.exists():
                os.replace(path, keep)
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UnwritableError(path, error, len(data)) from error


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as `write_bytes` does, in UTF-8."""
    write_bytes(path, text.encode())


def write_weights(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write tensors by name to `path` as safetensors, as `write_bytes` does.

    Raises:
        ValueError: What is to be written is not all tensors.
        UnwritableError: There is no room, or no right to write there.
    """
    if others := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"Only tensors can be saved; the state_dict also holds {', '.join(others)}.")
    # Copies, since two names may share one tensor, which the format does not take.
    write_bytes(path, save({name: value.detach().cpu().contiguous().clone() for name, value in state.items()}))


@contextmanager
def appending(path: Path) -> Iterator[Callable[[str], None]]:
    """Yield a function that appends whole lines to a file: each is written completely or not at all.

    Args:
        path: The file; it is made if needed, and its folder.

    Raises:
        UnwritableError: There is no room, or no right to write there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without a buffer, so that what was half written is in the file and can be cut off again.
        file = path.open("ab", buffering=0)
    except OSError as error:
        raise UnwritableError(path, error, 0) from error

    def append(text: str) -> None:
        size, left = os.fstat(file.fileno()).st_size, memoryview(text.encode())
        num_bytes = len(left)
        try:
            while left:
                left = left[file.write(left) :]
        except BaseException as error:
            os.ftruncate(file.fileno(), size)
            if isinstance(error, OSError):
                raise UnwritableError(path, error, num_bytes) from error
            raise

    with file:
        yield append


def remove_parts(folder: Path, others_write: bool = False) -> None:
    """Remove the temporary files of processes that were killed while they wrote to a folder.

    Args:
        folder: The folder.
        others_write: Whether other processes may be writing there now. What is theirs stays then, and what is of
            other machines, of whose processes nothing is known.
    """
    for part in folder.glob(f"*{_PART}"):
        host, _, pid = part.name.removesuffix(_PART).rpartition(".")[2].partition("-")
        if not others_write or (host == _host_digest() and pid.isdigit() and is_dead(int(pid))):
            part.unlink(missing_ok=True)


def _host_digest() -> str:
    return hashlib.sha256(host_name().encode()).hexdigest()[:8]


def _free_text(path: Path) -> str:
    folder = next((folder for folder in path.absolute().parents if folder.exists()), None)
    return "" if folder is None else f", {bytes_text(shutil.disk_usage(folder).free, decimals=1)} are free"
