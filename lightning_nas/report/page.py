"""The frame of a report: one page without scripts or anything to fetch, in the reader's light or dark theme."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["figures", "page", "table", "terms"]

STYLE = """
:root { --ink:#1c2430; --dim:#5d6878; --rule:#d5dae1; --page:#ffffff; --ground:#eef1f5; --good:#17734f; --bad:#b3202f;
  color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --ink:#e6eaf0; --dim:#9aa6b6; --rule:#3a4452; --page:#141a22;
  --ground:#0c1016; --good:#5bcb9d; --bad:#f2717d; } }
* { box-sizing:border-box; } body { margin:0; background:var(--ground); color:var(--ink);
  font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'Liberation Sans','DejaVu Sans',sans-serif; }
main { max-width:1120px; margin:0 auto; padding:32px 20px 48px; }
h1 { font-size:22px; margin:0; } h2 { font-size:16px; margin:0 0 12px; } p { margin:4px 0 0; }
.dim { color:var(--dim); }
section { background:var(--page); border:1px solid var(--rule); border-radius:10px; padding:20px; margin-top:16px;
  overflow-x:auto; }
.figures { display:flex; flex-wrap:wrap; gap:14px 44px; } .figure b { display:block; font-size:26px; line-height:1.25;
  font-weight:650; font-variant-numeric:tabular-nums; } .figure span { color:var(--dim); font-size:13px; }
.good { color:var(--good); } .bad { color:var(--bad); }
table { border-collapse:collapse; width:100%; font-variant-numeric:tabular-nums; }
th, td { text-align:right; padding:7px 12px; border-bottom:1px solid var(--rule); white-space:nowrap; }
th:first-child, td:first-child { text-align:left; padding-left:0; } tr:last-child td { border-bottom:none; }
th { color:var(--dim); font-weight:600; font-size:13px; }
table.dense { font-size:12.5px; } table.dense th { font-size:11.5px; vertical-align:bottom; }
table.dense th, table.dense td { padding:5px 7px; white-space:normal; }
table.dense th:nth-child(-n+2), table.dense td:nth-child(-n+2) { text-align:left; }
table.dense th:first-child, table.dense td:first-child { padding-left:0; }
main:has(table.dense) { max-width:1400px; } main:has(table.dense) section > svg { width:100%; height:auto; }
dl { display:grid; grid-template-columns:max-content 1fr; gap:6px 24px; margin:0; } dt { color:var(--dim); }
dd { margin:0; overflow-wrap:anywhere; }
.charts { display:grid; grid-template-columns:repeat(auto-fill,minmax(380px,1fr)); gap:12px; }
.charts svg { width:100%; height:auto; } section > svg { display:block; max-width:none; }
"""


def page(title: str, subtitle: str, sections: Iterable[str]) -> str:
    """Return the whole page.

    Args:
        title: Its heading, as text.
        subtitle: A line below, as text.
        sections: HTML of each box; empty ones are left out.
    """
    body = "".join(f"<section>{section}</section>\n" for section in sections if section)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}</style></head>\n<body><main><h1>{escape(title)}</h1>"
        f'<p class="dim">{escape(subtitle)}</p>\n{body}</main></body></html>\n'
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], css: str = "") -> str:
    """Return a table of text; the class ``dense`` is for many columns.

    Example::

        >>> table(["a"], [["<"]])
        '<table><tr><th>a</th></tr><tr><td>&lt;</td></tr></table>'
    """
    top = "<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"
    lines = ("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    look = f' class="{css}"' if css else ""
    return f"<table{look}>{top}{''.join(lines)}</table>"


def figures(items: Iterable[tuple[str, str, str]]) -> str:
    """Return the figures of a headline: each a value, its name and a class of its colour, ``good``, ``bad`` or none."""
    boxes = (
        f'<div class="figure {css}"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
        for value, name, css in items
    )
    return f'<div class="figures">{"".join(boxes)}</div>'


def terms(items: Iterable[tuple[str, str]]) -> str:
    """Return a list of names and what they are."""
    lines = (f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in items)
    return f"<dl>{''.join(lines)}</dl>"
