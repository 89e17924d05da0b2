"""What commands print on stdout: tables and JSON, without secrets and control characters."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, NamedTuple, TypeAlias

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .._json import as_array, as_object
from .failures import CommandOutput, discard_stdout, stdout_error


class StyledText(NamedTuple):
    """A text with a style of rich, such as "red"; the style shows on a terminal only."""

    text: str
    style: str = ""


Cell: TypeAlias = str | StyledText


class TablePrinter:
    """Prints on stdout: for people as tables, for machines as JSON. `console` is that of rich, for other tables."""

    def __init__(self, output: CommandOutput) -> None:
        self._output = output
        self.console = Console(file=sys.stdout, markup=False, emoji=False, highlight=False)
        if (reconfigure := getattr(sys.stdout, "reconfigure", None)) is not None:
            reconfigure(errors="backslashreplace")  # an encoding may lack a character of an API

    @property
    def width(self) -> int:
        """The columns of the terminal; without one those of the variable COLUMNS, or 80."""
        return self.console.width

    def line(self, text: str = "") -> None:
        """Print a text."""
        self._write(f"{self._output.shown(text)}\n")

    def title(self, text: str) -> None:
        """Print the title of the table that follows."""
        self._print_rich(Text(self._output.shown(text), "bold"))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Print a table with a line of headings; without a terminal, lines are as long as their values."""
        texts = [[StyledText(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
        shown = [[StyledText(self._output.shown(cell.text), cell.style) for cell in row] for row in texts]
        headings = list(map(self._output.shown, columns))
        if not self.console.is_terminal:
            self._write(_plain_table([headings, *([cell.text for cell in row] for row in shown)]))
            return
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for heading in headings:
            table.add_column(Text(heading), overflow="fold")
        for row in shown:
            table.add_row(*(Text(cell.text, cell.style) for cell in row))
        self._print_rich(table)

    def json(self, value: Any) -> None:
        """Print a value as JSON; characters that a terminal may obey are escaped."""
        self._write(f"{to_json_text(self._without_secrets(value))}\n")

    def text(self, text: str) -> None:
        """Print a text for machines as it is, apart from secrets."""
        self._write(self._output.secrets.mask(text))

    def _without_secrets(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._output.secrets.mask(value)
        if (fields := as_object(value)) is not None:
            return {self._without_secrets(str(name)): self._without_secrets(inner) for name, inner in fields.items()}
        items = as_array(value)
        return value if items is None else list(map(self._without_secrets, items))

    def _print_rich(self, renderable: Text | Table) -> None:
        with self.console.capture() as capture:
            self.console.print(renderable)
        self._write(capture.get())

    def _write(self, text: str) -> None:
        try:
            sys.stdout.write(text)
        except BrokenPipeError:
            raise
        except OSError as error:
            discard_stdout()
            raise stdout_error(error) from error


def to_json_text(value: Any, *, indent: int | None = 2) -> str:
    """The JSON text of a value; what JSON does not have, such as a date, is its text."""
    text = json.dumps(_finite(value), indent=indent, ensure_ascii=False, default=str)
    if text.isascii() and "\x7f" not in text:
        return text
    # Outside of strings the text is ASCII.
    return "".join([char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text])


def shortened(text: str, max_chars: int) -> str:
    """The text, cut with an ellipsis if it is longer."""
    return text if len(text) <= max_chars else f"{text[: max_chars - 1]}…"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if (fields := as_object(value)) is not None:
        return {name: _finite(inner) for name, inner in fields.items()}
    return [_finite(item) for item in items] if (items := as_array(value)) is not None else value


def _plain_table(rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width; a value of several lines goes on below itself."""
    split = [[cell.split("\n") for cell in row] for row in rows]
    widths = [max(cell_len(line) for row in split for line in row[column]) for column in range(len(rows[0]))]
    lines: list[str] = []
    for row in split:
        for parts in zip_longest(*row, fillvalue=""):
            padded = [part + " " * (width - cell_len(part)) for part, width in zip(parts, widths, strict=True)]
            lines.append("  ".join(padded).rstrip())
    return "".join(f"{line}\n" for line in lines)
