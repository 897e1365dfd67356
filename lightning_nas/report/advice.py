"""Advice as tables: plain text for a terminal, and a page."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from lightning_nas.report.page import page, table
from lightning_nas.report.text import plain_table

__all__ = ["AdviceTable", "advice_page", "advice_text"]

_MOST_COLUMNS = 120


@dataclass(frozen=True)
class AdviceTable:
    """A table of advice.

    Attributes:
        title: What it says.
        head: Names of the columns.
        rows: The cells.
        note: A sentence below; empty for none.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def advice_text(title: str, tables: Sequence[AdviceTable], notes: Sequence[str] = ()) -> str:
    """Return tables as plain text.

    Args:
        title: The first line.
        tables: The tables; those without rows are left out.
        notes: Sentences below them.

    Example::

        >>> print(advice_text("Advice", [AdviceTable("Fuse", ("saves", "where"), (("1 ms", "stem"),))]))
        Advice
        <BLANKLINE>
        Fuse
        saves  where
        1 ms   stem
    """
    parts = [title]
    for one in tables:
        if one.rows:
            lines = [one.title, *map(_cut, plain_table(one.head, one.rows).splitlines())]
            parts.append("\n".join([*lines, *textwrap.wrap(one.note, _MOST_COLUMNS)]))
    return "\n\n".join([*parts, *(textwrap.fill(note, _MOST_COLUMNS) for note in notes)])


def advice_page(title: str, subtitle: str, tables: Sequence[AdviceTable]) -> str:
    """Return tables as a page.

    Args:
        title: Its heading.
        subtitle: A line below.
        tables: The tables; those without rows are left out.
    """
    sections = (
        f"<h2>{escape(one.title)}</h2>{table(one.head, one.rows, 'dense')}"
        + (f'<p class="dim">{escape(one.note)}</p>' if one.note else "")
        for one in tables
        if one.rows
    )
    return page(title, subtitle, sections)


def _cut(line: str) -> str:
    return line if len(line) <= _MOST_COLUMNS else f"{line[: _MOST_COLUMNS - 3]}..."
