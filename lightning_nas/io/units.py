"""Figures with their units, as people read them."""

from __future__ import annotations

__all__ = ["bytes_text", "count_text", "counted"]


def bytes_text(count: float, decimals: int | None = None) -> str:
    """Return a number of bytes in binary units.

    Args:
        count: The number.
        decimals: Number of decimals of KiB and more; by default two, of KiB three digits in all.

    Example::

        >>> bytes_text(900), bytes_text(262144), bytes_text(3 * 2**20), bytes_text(5 * 2**30)
        ('900 B', '256 KiB', '3.00 MiB', '5.00 GiB')
        >>> bytes_text(2048, decimals=1)
        '2.0 KiB'
    """
    if count < 1024:
        return f"{count:.0f} B"
    fixed = f".{2 if decimals is None else decimals}f"
    if count < 999.5 * 1024:
        return f"{count / 1024:{'.3g' if decimals is None else fixed}} KiB"
    return f"{count / 2**20:{fixed}} MiB" if count < 2**30 else f"{count / 2**30:{fixed}} GiB"


def count_text(count: float) -> str:
    """Return a large count with a decimal unit.

    Args:
        count: The count.

    Example::

        >>> count_text(314_000_000)
        '314 M'
    """
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.0f}"


def counted(count: int, noun: str) -> str:
    """Return a count with its noun in the singular or in the plural.

    Args:
        count: The count.
        noun: The noun in the singular, whose plural ends with an s.

    Example::

        >>> counted(1, "step"), counted(0, "step"), counted(2, "step")
        ('1 step', '0 steps', '2 steps')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
