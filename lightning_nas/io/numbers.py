"""Checks of a user's numbers: whole or finite, and within a range; the message names the argument."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import cast

__all__ = ["MOST_SEED", "check_number", "check_numbers", "check_seed"]

MOST_SEED = 2**32 - 1
"""What NumPy's and Lightning's seeds end at."""

# What counts in 64 bits, as PyTorch does, fails far from here for more than that.
_MOST_WHOLE = 2**63 - 1


def check_number(
    name: str,
    value: object,
    *,
    whole: bool = False,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    of: str = "",
) -> None:
    """Raise a ValueError unless a value is a finite number within a range.

    Scalars of NumPy and PyTorch are numbers as Python's own are; truth values are none.

    Args:
        name: What it is called where the user gives it.
        value: What the user gave.
        whole: Whether it must be a whole number.
        least: The least that it can be.
        most: The most that it can be.
        above: What it has to be greater than.
        below: What it has to be less than.
        of: Whose it is, where its name does not say that.

    Raises:
        ValueError: It is not valid; the message says what would be.

    Example::

        >>> check_number("lr", 0.1, above=0)
        >>> check_number("lr", float("nan"), above=0)
        Traceback (most recent call last):
        ValueError: `lr` must be a finite number above 0; got nan.
        >>> check_number("every", 0, whole=True, least=1)
        Traceback (most recent call last):
        ValueError: `every` must be at least 1; got 0.
    """
    plain, rule = _plain(value), _range(least, most, above, below)
    said = f"`{name}` of {of}" if of else f"`{name}`"
    number = _number(plain, whole)
    if number is None:
        kind = "whole number" if whole else "finite number"
        raise ValueError(f"{said} must be a {kind} {rule}".rstrip() + f"; got {plain!r}.")
    if (
        (least is not None and number < least)
        or (most is not None and number > most)
        or (above is not None and number <= above)
        or (below is not None and number >= below)
    ):
        raise ValueError(f"{said} must be {rule}; got {number!r}.")
    if whole and abs(number) > _MOST_WHOLE:
        raise ValueError(f"{said} must be at most {_MOST_WHOLE}; got {number!r}.")


def check_numbers(
    name: str,
    values: object,
    *,
    whole: bool = False,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> None:
    """Raise a ValueError unless a value is a list of numbers that `check_number` accepts.

    Args:
        name: What the list is called where the user gives it.
        values: What the user gave.
        whole: Whether its numbers must be whole.
        least: The least that they can be.
        most: The most that they can be.
        above: What they have to be greater than.
        below: What they have to be less than.

    Raises:
        ValueError: It is no list, or one of its numbers is not valid; the message names it by its place.

    Example::

        >>> check_numbers("kernels", (3, 5), whole=True, least=1)
        >>> check_numbers("kernels", 3, whole=True, least=1)
        Traceback (most recent call last):
        ValueError: `kernels` must be a list of numbers; got 3.
        >>> check_numbers("kernels", (3, 0), whole=True, least=1)
        Traceback (most recent call last):
        ValueError: `kernels[1]` must be at least 1; got 0.
    """
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"`{name}` must be a list of numbers; got {values!r}.")
    for place, value in enumerate(values):
        check_number(f"{name}[{place}]", value, whole=whole, least=least, most=most, above=above, below=below)


def check_seed(seed: object) -> None:
    """Raise a ValueError unless a value can seed every random generator in use."""
    check_number("seed", seed, whole=True, least=0, most=MOST_SEED)


def _plain(value: object) -> object:
    """Return scalars of NumPy and PyTorch as Python's own, and anything else as it is."""
    # Only of those without a dimension: an array of one value is a list, and no number.
    item = getattr(value, "item", None) if getattr(value, "ndim", None) == 0 else None
    return value if item is None else item()


def _number(value: object, whole: bool) -> float | None:
    """Return a value where it is a finite number of the kind that is asked for."""
    if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
        return None
    number = cast(float, value)
    try:
        return number if math.isfinite(number) else None
    except OverflowError:  # a whole number beyond all floats
        return number if whole else None


def _range(least: float | None, most: float | None, above: float | None, below: float | None) -> str:
    if least is not None and most is not None:
        return f"between {least} and {most}"
    bounds = {"at least": least, "above": above, "at most": most, "below": below}
    return " and ".join(f"{words} {bound}" for words, bound in bounds.items() if bound is not None)
