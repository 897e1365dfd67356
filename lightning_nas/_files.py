"""Files that are there whole or not at all, and where what can be made again is kept."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder", "write_text"]


def cache_folder() -> Path:
    """Return the folder of the user's for what can be made again, which may not be there yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lightning_nas"


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, making its folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
