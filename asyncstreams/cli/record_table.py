"""Records as a table that fits the width of a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rich.cells import cell_len

from ..visible_text import escape_controls
from .stdout_tables import Cell, StyledText, shortened, to_json_text

_MAX_CELL_CHARS = 40
_SEPARATOR_CHARS = 2


class RecordTable(NamedTuple):
    """The columns that fit, their cells, and the names of the other columns."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    left_out: Sequence[str]


def record_table(records: Sequence[Mapping[str, Any]], first: Iterable[str], width: int) -> RecordTable:
    """The records with as many columns as fit, in order of appearance; those named in `first` come before the others.

    Objects and arrays are JSON; a cell has at most 40 characters. At least one column is shown.
    """
    found = dict.fromkeys(str(name) for record in records for name in record)
    names = [*(name for name in dict.fromkeys(first) if name in found), *found]
    cells = {name: [_cell(record, name) for record in records] for name in dict.fromkeys(names)}
    shown: list[str] = []
    used = 0
    for name, column in cells.items():
        used += max(cell_len(_heading(name)), *(cell_len(cell.text) for cell in column)) + _SEPARATOR_CHARS
        if shown and used - _SEPARATOR_CHARS > width:
            break
        shown.append(name)
    rows = [[cells[name][number] for name in shown] for number in range(len(records))]
    return RecordTable([_heading(name) for name in shown], rows, [name for name in cells if name not in shown])


def _heading(name: str) -> str:
    return shortened(escape_controls(name), _MAX_CELL_CHARS)


def _cell(record: Mapping[str, Any], name: str) -> StyledText:
    """A value as one line of text; empty if the record does not have it."""
    if name not in record:
        return StyledText("")
    value = record[name]
    text = value if isinstance(value, str) else to_json_text(value, indent=None)
    return StyledText(shortened(escape_controls(text), _MAX_CELL_CHARS), "dim" if value is None else "")
