"""HTML for notebooks: small, with nothing loaded from elsewhere, and in the colours of the page that it is on."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MOST_ROWS: Final = 50
"""Of a table; the rest is counted."""

_CELL: Final = "text-align:right;padding:0.1em 0.7em"


def block(*parts: str) -> str:
    """These pieces of HTML, one below the other."""
    return f'<div style="font-size:90%">{"".join(parts)}</div>'


def line(text: str) -> str:
    """A line of text."""
    return f'<div style="margin:0.3em 0">{escape(text)}</div>'


def table(heads: Sequence[str], rows: Sequence[Iterable[object]]) -> str:
    """A table of values, each shown as `str` gives it."""
    head = "".join(f'<th style="{_CELL}">{escape(each)}</th>' for each in heads)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows[:MOST_ROWS])
    more = f"and {len(rows) - MOST_ROWS:,} more" if len(rows) > MOST_ROWS else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{line(more) if more else ''}"


def _cell(value: object) -> str:
    return f'<td style="{_CELL}">{escape(str(value))}</td>'
