"""Differences between settings, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

__all__ = ["difference_text"]

_MAX_NAMED = 4


def difference_text(known: Mapping[str, object], wanted: Mapping[str, object]) -> str:
    """Return a text that names each setting that differs, with its old and its new value; empty if none does.

    Example::

        >>> difference_text({"seed": 0, "task": {"lr": 0.1}}, {"seed": 0, "task": {"lr": 0.2}})
        '`task.lr` was 0.1, here it is 0.2'
    """
    found = list(_differing(known, wanted))
    more = f"; and {len(found) - _MAX_NAMED} more" if len(found) > _MAX_NAMED else ""
    return "; ".join(found[:_MAX_NAMED]) + more


def _differing(known: Mapping[str, object], wanted: Mapping[str, object], path: str = "") -> Iterator[str]:
    for key in dict.fromkeys([*wanted, *known]):
        was, here = known.get(key), wanted.get(key)
        if isinstance(was, dict) and isinstance(here, dict):
            yield from _differing(was, here, f"{path}{key}.")
        elif was != here:
            yield f"`{path}{key}` was {was!r}, here it is {here!r}"
