"""Errors of malformed files of spaces and architectures, in one place."""

from __future__ import annotations

from typing import Any

__all__ = ["FORMAT", "reading"]

FORMAT = 1
"""Of the JSON files; one of another format is refused."""


class reading:
    """Turn the errors of a malformed file into one ValueError that says what was read."""

    def __init__(self, what: str, data: Any) -> None:
        self.what = what
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise ValueError(f"This is no {what} of format {FORMAT}; its format is {found!r}.")

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KeyError):
            raise ValueError(f"The {self.what} lacks the field {error}.") from error
        if isinstance(error, TypeError):
            raise ValueError(f"The {self.what} has a field of the wrong form: {error}.") from error
