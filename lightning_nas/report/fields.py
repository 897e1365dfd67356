"""`Fields`: an object of a recorded JSON file whose fields are checked as they are read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lightning_nas.io.reading import read_json, shown

__all__ = ["Fields"]

# Beyond, sums and quotients are no numbers any more.
_MOST = 1e100


class Fields:
    """An object of a recorded file; its methods return one field each, or raise a ValueError.

    Messages name the file, the field and the value.

    Args:
        file: The file, for messages.
        content: The object; what is none has no fields.
        owner: What the object is within the file, such as ``subnet``; nothing for the file as a whole.

    Example::

        >>> Fields("result.json", {"seed": "0"}).whole("seed")
        Traceback (most recent call last):
        ValueError: 'result.json' must have a whole number as its seed; got '0'.
        >>> Fields("result.json", {"latency_ms": None}, "subnet").number("latency_ms")
        Traceback (most recent call last):
        ValueError: 'result.json' must give a number as 'latency_ms' of 'subnet'; got None.
    """

    def __init__(self, file: str | Path, content: object, owner: str = "") -> None:
        self.file, self.owner = file, owner
        self._content: dict[str, object] = content if isinstance(content, dict) else {}
        self._files: dict[str, str | Path] = dict.fromkeys(self._content, file)

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    @classmethod
    def read(cls, file: Path) -> Fields:
        """Return the fields of the object in a JSON file.

        Args:
            file: The file. Numbers in it may be ``NaN``.

        Raises:
            ValueError: It is no JSON, or no object.
        """
        content = read_json(file, finite=False)
        if not isinstance(content, dict):
            raise ValueError(f"'{file}' must hold an object; got {type(content).__name__}.")
        return cls(file, content)

    def under(self, other: Fields) -> Fields:
        """Return the fields of both; where both have a field, that of `other` counts."""
        both = Fields(other.file, {**self._content, **other._content}, other.owner)
        both._files = {**self._files, **other._files}
        return both

    def has(self, name: str) -> bool:
        """Return whether a field is there, and neither null nor empty nor zero."""
        return bool(self._content.get(name))

    def number(self, name: str) -> float:
        """Return a number, whole or not."""
        value = _number(self._content.get(name))
        if value is None:
            raise self._error(name, "a number")
        return value

    def number_or_none(self, name: str) -> float | None:
        """Return a number, or None where the field is null or missing."""
        value = self._content.get(name)
        found = _number(value)
        if value is not None and found is None:
            raise self._error(name, "a number or null")
        return found

    def whole(self, name: str) -> int:
        """Return a whole number."""
        value = self._content.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or _number(value) is None:
            raise self._error(name, "a whole number")
        return value

    def whole_or_none(self, name: str) -> int | None:
        """Return a whole number, or None where the field is null or missing."""
        return None if self._content.get(name) is None else self.whole(name)

    def text(self, name: str) -> str:
        """Return a text."""
        value = self._content.get(name)
        if not isinstance(value, str):
            raise self._error(name, "text")
        return value

    def text_or_none(self, name: str) -> str | None:
        """Return a text, or None where the field is null, empty or missing."""
        return self.text(name) if self.has(name) else None

    def flag(self, name: str, default: bool) -> bool:
        """Return true or false; `default` where the field is missing."""
        value = self._content.get(name, default)
        if not isinstance(value, bool):
            raise self._error(name, "true or false")
        return value

    def nested(self, name: str) -> Fields:
        """Return an object; what is none has no fields."""
        return Fields(self._files.get(name, self.file), self._content.get(name), name)

    def nested_or_none(self, name: str) -> Fields | None:
        """Return an object, or None where the field is null, empty or missing."""
        return self.required_nested(name) if self.has(name) else None

    def required_nested(self, name: str) -> Fields:
        """Return an object, which may be empty."""
        if not isinstance(self._content.get(name), dict):
            raise self._error(name, "an object")
        return self.nested(name)

    def plain(self, name: str) -> object:
        """Return a field as it is; None where it is missing."""
        return self._content.get(name)

    def listed(self, name: str, wanted: str) -> Fields:
        """Return the items of a list as fields that are named after their positions, such as ``blocks[0]``.

        Args:
            name: Name of the field.
            wanted: What it must be, for the message, such as ``a list of whole numbers``.
        """
        found = self._content.get(name)
        if not isinstance(found, list):
            raise self._error(name, wanted)
        file = self._files.get(name, self.file)
        return Fields(file, {f"{name}[{place}]": item for place, item in enumerate(found)}, self.owner or name)

    def _error(self, name: str, wanted: str) -> ValueError:
        file, found = self._files.get(name, self.file), shown(self._content.get(name))
        if self.owner:
            return ValueError(f"'{file}' must give {wanted} as {name!r} of {self.owner!r}; got {found}.")
        verb = "give" if " or null" in wanted else "have"
        return ValueError(f"'{file}' must {verb} {wanted} as its {name}; got {found}.")


def _number(value: object) -> float | None:
    """Return a value where it is a number that can be computed with, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) <= _MOST else None
