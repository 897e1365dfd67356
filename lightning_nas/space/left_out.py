"""`LeftOut`: a part of a network that is not searched."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LeftOut"]


@dataclass(frozen=True)
class LeftOut:
    """A part of a network that is not searched.

    Attributes:
        path: The module.
        what: ``width``, ``block`` or ``skip``.
        reason: Why.
    """

    path: str
    what: str
    reason: str
