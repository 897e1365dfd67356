"""Identity of this process, and whether another one is still running."""

from __future__ import annotations

import os
import platform
from pathlib import Path

__all__ = ["host_name", "is_dead"]

# Containers may share the name of their host, but number their processes apart.
_NAMESPACE = Path("/proc/self/ns/pid")


def host_name() -> str:
    """Return the name of this machine, with its process namespace where it has several."""
    try:
        namespace = str(_NAMESPACE.stat().st_ino)
    except OSError:
        namespace = ""
    return f"{platform.node()} {namespace}".strip()


def is_dead(pid: int) -> bool:
    """Return whether a process of this machine has ended."""
    try:
        # Signal 0 is not sent: the system says only whether there is such a process.
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # it belongs to somebody else
    return False
