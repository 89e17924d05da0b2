"""The live view as a table for a terminal: which columns and rows fit, and how wide they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment

from ..html_tables import format_cell
from .row_cells import COLUMNS, COMPACT_HEADERS, RowText, rest_text, row_text, total_text
from .stream_row import Row

_LEFT = frozenset(("stream", "ceiling", "status"))
# Columns with a shorter form; those that lose least come first. The last two become one.
_COMPACT_ORDER = (
    frozenset(("in_flight", "quarantined")),
    frozenset(("records", "rate", "slices", "eta")),
    frozenset(("ceiling", "status")),
)
# The first is left out first.
_DROP_ORDER = ("pages", "in_flight", "slices", "quarantined", "retries", "done", "eta", "rate")
# Wide enough for most values, so that columns rarely move.
_MIN_WIDTHS = {"records": 9, "rate": 9, "in_flight": 9, "eta": 16, "ceiling": 14}
_MIN_COMPACT_WIDTHS = {"records": 7, "rate": 6, "eta": 13}
_MIN_STATUS_CHARS, _MIN_COMPACT_STATUS_CHARS = 30, 18
_MIN_NAME_CHARS = 10
_MIN_WIDTH_OF_WIDE_GAPS = 100
_MAX_NAME_SHARE = 4
_UNBOUNDED = 100_000
_MIN_ROWS = 4


class ProgressTable:
    """The rows at one moment, as a renderable of rich.

    It is as wide as the console, and without `height` as high as necessary. With `is_unbounded` nothing is cut or left
    out, so that lines may be longer than the console is wide.
    """

    def __init__(
        self, rows: Mapping[str, Row], now: float, wall: float, height: int | None = None, is_unbounded: bool = False
    ) -> None:
        self._rows, self._now, self._wall = rows, now, wall
        self._height = height
        self._is_unbounded = is_unbounded

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for number, (text, status, style) in enumerate(self.lines(options.max_width)):
            yield Segment(_encodable(text, options), console.get_style("bold") if not number else None)
            if status:
                yield Segment(_encodable(status, options), console.get_style(style) if style else None)
            yield Segment.line()

    def lines(self, width: int = _UNBOUNDED) -> Iterator[tuple[str, str, str]]:
        """Each line in two parts, of which the second has a style: the header, the rows, the total."""
        if not self._rows:
            return
        width = _UNBOUNDED if self._is_unbounded else width
        shown, rest = self._shown_rows()
        texts = [row_text(name, row, self._now, self._wall) for name, row in shown.items()]
        if len(self._rows) > 1:
            texts.append(total_text(self._rows, self._now))
        lines = Layout(texts, width).lines()
        if rest:
            # The total stays the last line.
            lines.insert(-1, (_cut_end(rest_text(rest, self._now), width), "", ""))
        yield from lines

    def _shown_rows(self) -> tuple[dict[str, Row], dict[str, Row]]:
        rows = dict(self._rows)
        if self._height is None or len(rows) + 3 <= self._height:
            return rows, {}
        # Header, rest, total, and the line of the cursor.
        count = max(_MIN_ROWS, self._height - 4)
        ranked = sorted(rows.items(), key=lambda item: _rank(item[1], self._now))
        names = {name for name, _ in ranked[:count]}
        # In their order, so that rows move little.
        return (
            {name: row for name, row in rows.items() if name in names},
            {name: row for name, row in rows.items() if name not in names},
        )


class Layout:
    """The columns that fit into `width`, and the lines that they make."""

    def __init__(self, texts: Sequence[RowText], width: int) -> None:
        self._texts, self._width = texts, width
        self._compact: frozenset[str] = frozenset()
        self._widths = self._measure()
        for columns in _COMPACT_ORDER:
            if self._missing() <= 0:
                break
            self._compact |= columns
            self._widths = self._measure()
        if self._missing() > 0:
            self._drop_columns()
        self._fit_name()

    @property
    def _gap(self) -> str:
        return " " if self._is_compact and self._width < _MIN_WIDTH_OF_WIDE_GAPS else "  "

    @property
    def _is_compact(self) -> bool:
        """Whether one column has both what limits a stream and its status."""
        return "status" in self._compact

    def lines(self) -> list[tuple[str, str, str]]:
        """The header and the rows, in two parts each: the figures; the status and its style."""
        lines = [self._line({name: self._header(name) for name in self._widths}, "bold")]
        lines += [self._line(self._cells(text), text.style) for text in self._texts]
        return lines

    def _cells(self, text: RowText) -> dict[str, str]:
        compact = {name: cell for name, cell in text.compact.items() if name in self._compact}
        cells = text.cells | compact
        return {name: format_cell(cells.get(name)) for name in COLUMNS}

    def _header(self, name: str) -> str:
        return (COMPACT_HEADERS if name in self._compact else COLUMNS)[name]

    def _measure(self) -> dict[str, int]:
        """The width of each column that has a value, in its order."""
        rows = [self._cells(text) for text in self._texts]
        widths: dict[str, int] = {}
        for name in COLUMNS:
            widest = max(cell_len(row[name]) for row in rows)
            if widest or name == "stream":
                minimum = _MIN_COMPACT_WIDTHS if name in self._compact else _MIN_WIDTHS
                widths[name] = max(widest, cell_len(self._header(name)), minimum.get(name, 0))
        return widths

    def _drop_columns(self) -> None:
        """Keep the columns that fit, the most important ones first."""
        all_widths = self._widths = self._measure()
        self._widths = {name: width for name, width in all_widths.items() if name not in _DROP_ORDER}
        for column in reversed([name for name in _DROP_ORDER if name in all_widths]):
            before = self._widths
            self._widths = {name: width for name, width in all_widths.items() if name in before or name == column}
            if self._missing() > 0:
                self._widths = before

    def _missing(self) -> int:
        """By how much the columns are too wide, if names and statuses are cut as far as they may be."""
        return self._sum(self._max_name_chars(), self._min_status_chars()) - self._width

    def _sum(self, name_width: int, status_width: int) -> int:
        fixed = sum(width for name, width in self._widths.items() if name not in ("stream", "status"))
        name_width = min(self._widths["stream"], name_width)
        status_width = min(self._widths.get("status", 0), status_width)
        return fixed + name_width + status_width + len(self._gap) * (len(self._widths) - 1)

    def _max_name_chars(self) -> int:
        return max(_MIN_NAME_CHARS, self._width // (_MAX_NAME_SHARE + self._is_compact))

    def _min_status_chars(self) -> int:
        return _MIN_COMPACT_STATUS_CHARS if self._is_compact else _MIN_STATUS_CHARS

    def _fit_name(self) -> None:
        """Give the names what the statuses leave of the width, and the statuses the rest."""
        spare = self._width - self._sum(self._max_name_chars(), self._widths.get("status", 0))
        name_width = min(self._widths["stream"], self._max_name_chars() + max(0, spare))
        self._widths["stream"] = max(1, name_width)
        rest = self._width - self._sum(name_width, 0)
        if "status" in self._widths:
            self._widths["status"] = max(0, min(self._widths["status"], rest))

    def _line(self, cells: Mapping[str, str], style: str) -> tuple[str, str, str]:
        parts = [self._padded(name, cells[name], width) for name, width in self._widths.items() if name != "status"]
        figures = self._gap.join(parts)
        status = _cut_end(cells.get("status", ""), self._widths.get("status", 0))
        if not status:
            return _cut_end(figures.rstrip(), self._width), "", ""
        figures += self._gap
        if cell_len(figures) >= self._width:
            return _cut_end(figures.rstrip(), self._width), "", ""
        return figures, status, style

    @staticmethod
    def _padded(name: str, text: str, width: int) -> str:
        text = _cut_middle(text, width)
        padding = " " * (width - cell_len(text))
        return text + padding if name in _LEFT else padding + text


def _rank(row: Row, now: float) -> int:
    """The order in which rows are chosen if there are too many: those that move, those that wait, failed ones."""
    if not row.is_finished:
        return 1 if row.current_wait(now) is not None else 0
    return 3 if row.outcome.status == "done" else 2


def _encodable(text: str, options: ConsoleOptions) -> str:
    """The text with question marks for what the terminal cannot show: otherwise rich raises UnicodeEncodeError."""
    return text.encode(options.encoding, "replace").decode(options.encoding) if options.ascii_only else text


def _cut_end(text: str, width: int) -> str:
    if cell_len(text) <= width:
        return text
    return "" if width < 1 else chop_cells(text, width - 1)[0] + "…" if width > 1 else "…"


def _cut_middle(text: str, width: int) -> str:
    """The text in at most `width` cells: its begin and its end, which tell names apart."""
    if cell_len(text) <= width:
        return text
    if width < 3:
        return _cut_end(text, width)
    end = chop_cells(text[::-1], (width - 1) // 2)[0][::-1]
    return chop_cells(text, width - 1 - cell_len(end))[0] + "…" + end
