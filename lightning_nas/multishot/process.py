"""Identity of the process that trains a trial, to detect dead workers."""

from __future__ import annotations

import os
import uuid
from dataclasses import asdict, dataclass

from lightning_nas.io.processes import host_name, is_dead
from lightning_nas.io.reading import only, shown, whole

__all__ = ["Owner"]


@dataclass(frozen=True)
class Owner:
    """A process that trains a trial.

    Attributes:
        host: Name of its machine, and of its own numbering of processes where there are several.
        pid: Its number there.
        token: What no other has, since numbers are given again.

    Example::

        >>> here = Owner.here()
        >>> here.knows_dead(here), here.knows_dead(Owner("elsewhere", 1, ""))
        (False, False)
    """

    host: str
    pid: int
    token: str

    @classmethod
    def here(cls) -> Owner:
        """Return this process, with a new token each time."""
        return cls(host_name(), os.getpid(), uuid.uuid4().hex)

    def to_dict(self) -> dict[str, str | int]:
        """Return the fields as builtins."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: object) -> Owner:
        """Read what `to_dict` returned.

        Raises:
            ValueError: It is something else: no process is looked for by what anybody may have written.
        """
        found = only(data, ("host", "pid", "token"), "The owner of a trial")
        texts = [found.get(name) for name in ("host", "token")]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(f"The owner of a trial must have a `host` and a `token`; got {shown(data)}.")
        return cls(str(texts[0]), whole(found.get("pid"), "pid", 2**31 - 1), str(texts[1]))

    def knows_dead(self, other: Owner) -> bool:
        """Return whether another process ran on this machine and has ended; False for processes of other machines."""
        return other.host == self.host and is_dead(other.pid)
