"""Locks between processes: a lock names its holder, and the system releases it when the holder dies."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from lightning.pytorch.utilities import rank_zero_only

from lightning_nas.io.writing import UnwritableError, write_text

__all__ = ["InUseError", "alone"]

log = logging.getLogger(__name__)

_PATIENCE_SECONDS = 3.0


class InUseError(ValueError):
    """Another process holds the lock."""


@contextmanager
def alone(lock: Path, what: str, is_waiting: bool = False) -> Iterator[None]:
    """Hold a lock while the body runs.

    Args:
        lock: File of the lock; beside it stands for others who holds it.
        what: What is worked on, for messages.
        is_waiting: Whether to wait until nobody else works on it; it is said after a few seconds, and of whom.

    Raises:
        InUseError: Another process works on it, and this one does not wait.
        UnwritableError: Its folder cannot be written.
    """
    if getattr(rank_zero_only, "rank", 0):
        # Lightning started this process for the training of the one that holds the lock.
        yield
        return
    held = FileLock(lock)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            held.acquire(timeout=_PATIENCE_SECONDS if is_waiting else 0)
        except Timeout:
            if not is_waiting:
                raise InUseError(
                    f"{what} is in use by {_holder(lock)}. HINT: wait until that has ended, or stop it."
                ) from None
            log.warning("Waiting for %s, which is in use by %s", what, _holder(lock))
            held.acquire(poll_interval=0.5)
    except OSError as error:
        raise UnwritableError(lock, error, 0) from error
    try:
        _say_who(lock)
        yield
    finally:
        # Before the lock is released, or this would remove the name of the next holder.
        _holder_file(lock).unlink(missing_ok=True)
        held.release()


def _say_who(lock: Path) -> None:
    found = {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
    write_text(_holder_file(lock), json.dumps(found))


def _holder(lock: Path) -> str:
    try:
        found = json.loads(_holder_file(lock).read_text(encoding="utf-8"))
        return "process {process} on {host} since {since} ({command})".format(**found)
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"  # which has not said so yet


def _holder_file(lock: Path) -> Path:
    return lock.with_name(f"{lock.name}.json")
