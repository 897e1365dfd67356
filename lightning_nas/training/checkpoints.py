"""Checkpoints that survive a full disk, a killed process and a torn file."""

from __future__ import annotations

import io
import logging
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from lightning_nas.io.writing import UnwritableError, write_bytes

__all__ = ["CheckpointFile", "CheckpointState", "WholeCheckpointIO"]

log = logging.getLogger(__name__)

CheckpointState: TypeAlias = dict[str, Any]
"""What a checkpoint holds of a training or of one of its callbacks; who loads it takes the fields that it wrote."""


@dataclass(frozen=True)
class CheckpointFile:
    """The state of one training: the newest, and the one before it.

    Attributes:
        path: File of the newest.
    """

    path: Path

    @property
    def before(self) -> Path:
        """File of the previous state."""
        return self.path.with_suffix(f".previous{self.path.suffix}")

    @property
    def exists(self) -> bool:
        """Whether there is a state, readable or not."""
        return self.path.exists() or self.before.exists()

    def readable(self) -> Path | None:
        """Return the newest file that can be read, or None, and warn of each that cannot.

        Where that is the state before, it takes the place of the newest.

        Raises:
            OSError: The system refuses to read it, which says nothing about what it holds.
        """
        found = {path: _damage(path) for path in (self.path, self.before) if path.exists()}
        torn = " and ".join(f"{str(path)!r} ({reason})" for path, reason in found.items() if reason)
        whole = [path for path, reason in found.items() if not reason]
        if not whole:
            if torn:
                log.warning("%s cannot be read, and there is no other state: this training begins anew.", torn)
            return None
        if whole[0] == self.before:
            if torn:
                log.warning("%s cannot be read: this training goes on from the state before.", torn)
            # One process renames for all; before any training there are no ranks.
            if not getattr(rank_zero_only, "rank", 0):
                os.replace(self.before, self.path)
        return self.path

    def load(self) -> CheckpointState | None:
        """Return the newest state that can be read, or None."""
        path = self.readable()
        try:
            return None if path is None else _read(path)
        except OSError:
            raise
        except Exception as error:
            raise ValueError(f"{str(path)!r} cannot be read ({type(error).__name__}). HINT: remove it.") from error

    def remove(self) -> None:
        """Remove the newest state and the previous one."""
        for path in (self.path, self.before):
            path.unlink(missing_ok=True)


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically, and keeps the previous one.

    Lightning's own writes to the folder of temporary files, which may be smaller than a checkpoint or on another disk,
    from where it is copied over the good one.
    """

    @override
    def save_checkpoint(
        self, checkpoint: CheckpointState, path: str | os.PathLike[str], storage_options: object = None
    ) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        file = CheckpointFile(Path(path))
        try:
            write_bytes(file.path, buffer.getbuffer(), keep=file.before)
        except UnwritableError as error:
            # There is no room for three: the newest one is enough to go on.
            if not (error.needs_room and file.before.exists() and file.path.exists()):
                raise
            file.before.unlink()
            write_bytes(file.path, buffer.getbuffer(), keep=file.before)


def _read(path: Path) -> CheckpointState:
    # From an open file, as Lightning does: by its name, PyTorch reads it in another way.
    with path.open("rb") as file:
        return torch.load(file, map_location="cpu", weights_only=True)


def _damage(path: Path) -> str:
    """Return what is wrong with a checkpoint, or an empty text.

    Raises:
        OSError: The system does not let it be read.
    """
    try:
        # Its checksums tell, which PyTorch does not look at.
        with zipfile.ZipFile(path) as archive:
            if (bad := archive.testzip()) is not None:
                return f"{bad} has another checksum"
            # PyTorch stores parts as they are, so that a list which says otherwise is wrong.
            if any(part.compress_size != part.file_size or part.compress_type for part in archive.infolist()):
                return "its list of parts is damaged"
        found = _read(path)
    # What the system refuses to read may be whole, and must not be replaced by a training that begins anew.
    except OSError:
        raise
    except Exception as error:  # a damaged file raises nearly anything
        return type(error).__name__
    is_lightning = isinstance(found, dict) and {"state_dict", "callbacks", "pytorch-lightning_version"} <= found.keys()
    return "" if is_lightning else "it is no checkpoint of Lightning's"
