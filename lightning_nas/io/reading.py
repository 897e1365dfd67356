"""Reading of files that others wrote: parsed as data, and every fault reported in one sentence."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

__all__ = [
    "FORMAT",
    "JsonObject",
    "listed",
    "number",
    "only",
    "parse_json",
    "read_json",
    "reading",
    "shown",
    "text",
    "truth",
    "whole",
]

JsonObject: TypeAlias = dict[str, Any]
"""An object of parsed JSON whose fields are not checked yet: who reads it checks them, see `reading`."""

FORMAT = 2
"""Of the JSON files of spaces and architectures; one of another format is refused."""

_WRONG_FORM = (TypeError, AttributeError, IndexError, OverflowError, RecursionError)
_MAX_SHOWN = 120
# Lists of millions and of any depth are cut before they are written out.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = _MAX_SHOWN


def read_json(path: Path, finite: bool = True) -> Any:
    """Return the content of a JSON file in UTF-8.

    Args:
        path: The file.
        finite: Whether ``NaN`` and ``Infinity`` are refused, which Python writes and JSON does not know.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no JSON, or nested too deep; the message names the file.
    """
    try:
        # Editors of Windows put a mark in front of UTF-8, which JSON does not know.
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"'{path}' must be JSON; it is no text in UTF-8: {error}.") from error
    return parse_json(text, f"'{path}'", finite)


def parse_json(text: str | bytes, name: str, finite: bool = True) -> Any:
    """Return the content of JSON text.

    Args:
        text: The text.
        name: What it is, for messages.
        finite: Whether ``NaN`` and ``Infinity`` are refused.

    Raises:
        ValueError: It is no JSON, or nested too deep; the message begins with the name.

    Example::

        >>> parse_json('{"width": NaN}', "The space")
        Traceback (most recent call last):
        ValueError: The space must be JSON; NaN is no number.
    """
    try:
        return json.loads(text, parse_constant=_refuse if finite else None)
    except RecursionError as error:
        raise ValueError(f"{name} must be JSON; it is nested too deep.") from error
    except ValueError as error:  # of the syntax, of the encoding, of a number of thousands of digits
        raise ValueError(f"{name} must be JSON; {str(error).rstrip('.')}.") from error


class reading:
    """Turn the errors of a malformed file into one ValueError that says what was read."""

    def __init__(self, what: str, data: object) -> None:
        self.what = what
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise ValueError(f"This is no {what} of format {FORMAT}; its format is {shown(found)}.")

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KeyError):
            raise ValueError(f"The {self.what} lacks the field {error}.") from error
        if isinstance(error, _WRONG_FORM):
            raise ValueError(f"The {self.what} has a field of the wrong form: {error}.") from error


def whole(value: object, name: str, most: int, least: int = 1) -> int:
    """Return a whole number of a file, within limits.

    Args:
        value: What the file has.
        name: What it is, for messages.
        most: The largest that is valid.
        least: The smallest.

    Raises:
        ValueError: It is no whole number, or beyond the limits.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"`{name}` must be a whole number from {least} to {most}; got {shown(value)}.")
    return value


def number(value: object, name: str, most: float, least: float = 0.0) -> float:
    """Return a number of a file, whole or not, within limits; see `whole`."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"`{name}` must be a number from {least:g} to {most:g}; got {shown(value)}.")
    return value  # whole ones stay whole


def listed(value: object, name: str, most: int) -> list[Any]:
    """Return a list of a file that is not longer than `most`; its items are not checked yet."""
    if not isinstance(value, list) or len(value) > most:
        raise ValueError(f"`{name}` must be a list of at most {most}; got {shown(value)}.")
    return value


def text(value: object, name: str, most: int = 200) -> str:
    """Return text of a file that has at most so many characters.

    Raises:
        ValueError: It is no text, or longer.
    """
    if not isinstance(value, str) or len(value) > most:
        raise ValueError(f"`{name}` must be text of at most {most} characters; got {shown(value)}.")
    return value


def truth(value: object, name: str) -> bool:
    """Return a truth value of a file.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(value, bool):
        raise ValueError(f"`{name}` must be true or false; got {shown(value)}.")
    return value


def only(data: object, names: Iterable[str], what: str) -> JsonObject:
    """Return an object of a file, after checking that it has no unknown field.

    Raises:
        ValueError: It is no object, or has another field.
    """
    if not isinstance(data, dict):
        raise ValueError(f"{what} must be an object; got {shown(data)}.")
    if unknown := [name for name in data if name not in names]:
        raise ValueError(f"{what} has the field {shown(unknown[0])}; known are {', '.join(names)}.")
    return data


def shown(value: object) -> str:
    """Return the text of a value for an error message, shortened if it is long."""
    try:
        text = _SHORT.repr(value)
    except ValueError:  # an integer of thousands of digits has no text
        text = f"a {type(value).__name__}"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")
