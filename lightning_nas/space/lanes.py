"""What a space is aligned to: anything that knows a parallelism factor."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

__all__ = ["HasLanes"]


@runtime_checkable
class HasLanes(Protocol):
    """What a space is curated for: a device, its estimator, or anything that knows its parallelism factor."""

    @property
    def lanes(self) -> int:
        """Channels that the device processes together."""
        ...
