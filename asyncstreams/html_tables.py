"""HTML tables of reports and of the live view, for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TypeAlias

from .visible_text import escape_controls

Cell: TypeAlias = str | int | float | None
"""A text, or a number, which is aligned to the right; None is an empty cell."""
# Notebooks align all cells to the right, and typeset what is between dollar signs.
_TABLE = '<table class="tex2jax_ignore mathjax_ignore">'
_LEFT, _RIGHT = "text-align: left", "text-align: right"


def html_table(header: Sequence[str], rows: Iterable[Sequence[Cell]], caption: str = "") -> str:
    """A table as HTML in which all texts are escaped. Columns that are empty in all rows are left out.

    `caption` is a paragraph above the table; line feeds in texts stay.
    """
    table = [tuple(row) for row in rows]
    shown = [index for index in range(len(header)) if any(row[index] not in (None, "") for row in table)]
    aligned = {
        index: _RIGHT if all(isinstance(row[index], int | float | None) for row in table) else _LEFT for index in shown
    }
    lines = [f"<p>{html_text(caption)}</p>"] if caption else []
    lines.append(_TABLE)
    heads = "".join(f'<th style="{aligned[index]}">{html_text(header[index])}</th>' for index in shown)
    lines.append(f"<thead><tr>{heads}</tr></thead>")
    lines.append("<tbody>")
    for row in table:
        cells = "".join(f'<td style="{aligned[index]}">{html_text(format_cell(row[index]))}</td>' for index in shown)
        lines.append(f"<tr>{cells}</tr>")
    lines.append("</tbody></table>")
    return "\n".join(lines)


def html_text(text: str) -> str:
    """A text as HTML, with line breaks: neither markup nor control characters of it are obeyed."""
    return escape(escape_controls(text, keep_lines=True)).replace("\n", "<br>")


def format_cell(cell: Cell) -> str:
    """The text of a cell: numbers with separators of thousands, fractions with one digit."""
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell
    return f"{cell:,}" if isinstance(cell, int) else f"{cell:,.1f}"
