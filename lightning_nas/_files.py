"""Files that are there whole or not at all, and where what can be made again is kept."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

__all__ = ["cache_folder", "write_text", "write_weights"]


def cache_folder() -> Path:
    """Return the folder of the user's for what can be made again, which may not be there yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lightning_nas"


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, making its folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def write_weights(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write tensors by name to `path` as safetensors, atomically, making its folder if needed.

    Raises:
        ValueError: What is to be written is not all tensors.
    """
    if others := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"Only tensors can be saved; the state_dict also holds {', '.join(others)}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    # Copies, since two names may share one tensor, which the format does not take.
    save_file({name: value.detach().cpu().contiguous().clone() for name, value in state.items()}, part)
    part.replace(path)
