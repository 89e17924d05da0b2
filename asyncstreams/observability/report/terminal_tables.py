"""The report of a recorded run as tables for the terminal (rich)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ...event_log.run_record import RunRecord
from ...visible_text import escape_controls
from .data_tables import (
    OUTCOME_TONES,
    ReportCell,
    ReportTable,
    Tone,
    ceiling_table,
    failure_table,
    latency_table,
    run_figures,
    setting_table,
    slowest_slices,
    stream_latency_table,
    stream_table,
    threshold_table,
    wait_table,
)
from .wording import (
    RunCalendar,
    describe_command,
    describe_outcome,
    describe_verdict,
    format_count,
    format_rate,
    format_seconds,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

_NARROW_CHARS = 110
_MAX_ROWS = 40
_MAX_NAME_CHARS, _MIN_TEXT_CHARS = 20, 10  # what a narrow terminal leaves of a column
_MIN_LINE_CHARS, _MAX_LINE_CHARS = 10, 100
_BARS = " ▁▂▃▄▅▆▇█"
_STYLES = {"good": "green", "warn": "yellow", "bad": "red", "muted": "dim", "": ""}


def print_tables(record: RunRecord, console: Console) -> None:
    """Print the report of a run: missed thresholds, verdict, figures, and tables as far as the width allows.

    Tables have at most 40 rows. Whatever is left out is said. Control characters and markup in texts of the record are
    shown, never obeyed. `console` is a rich Console, which the extra `cli` or `progress` installs.
    """
    printer = _Printer(console)
    printer.print_summary(record)
    printer.print_timeline(record)
    for table in _tables(record):
        printer.print_table(table)
    console.print()
    printer.print_line("Next run", "bold")
    printer.print_line(describe_command(record))
    if record.command:
        printer.print_line(record.command, "cyan", is_whole=True)


def _tables(record: RunRecord) -> Iterator[ReportTable]:
    if any(entry.is_met is not False for entry in record.thresholds):
        yield threshold_table(record)
    yield stream_table(record)
    yield from _stream_texts(record)
    yield ceiling_table(record)
    yield latency_table(record.latencies)
    if len(record.streams) > 1:
        yield stream_latency_table(record)
    yield slowest_slices(record)
    yield failure_table(record)
    yield wait_table(record)
    yield setting_table(record)


def _stream_texts(record: RunRecord) -> Iterator[ReportTable]:
    """Errors, limits and notes of streams, if there are any."""
    stream_names = stream_table(record).columns[:1]
    rows = [
        (ReportCell(stream.name), ReportCell(text, tone))
        for stream in record.streams
        for text, tone in _texts_of(stream.error, stream.limits, stream.notes)
    ]
    if rows:
        yield ReportTable("Errors, limits and notes", (*stream_names, replace(stream_names[0], title="Text")), rows)


def _texts_of(error: str, limits: str, notes: Sequence[str]) -> Iterator[tuple[str, Tone]]:
    if error:
        yield error, "bad"
    if limits:
        yield f"limits: {limits}", ""
    for note in notes:
        yield note, "muted"


class _Printer:
    """Prints texts of a record to a console, in its encoding."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._encoding = console.encoding
        self._has_unicode = console.encoding.lower().startswith("utf")

    def print_line(self, text: str, style: str = "", *, is_whole: bool = False) -> None:
        """Print a text; `is_whole` leaves it to the terminal to wrap it, so that it can be copied."""
        self._console.print(self._text(text, style), soft_wrap=is_whole)

    def print_summary(self, record: RunRecord) -> None:
        """What the run was, missed thresholds, the verdict and the figures."""
        calendar = RunCalendar(record)
        self.print_line(
            f"Run {record.id} of {record.source} into {record.destination or 'an unknown destination'}", "bold"
        )
        took = f"{format_seconds(record.seconds)}{' so far' if record.outcome == 'running' else ''}"
        self.print_line(f"Began {calendar.began}, took {took}", "dim")
        for entry in record.thresholds:
            if entry.is_met is False:
                self.print_line(str(entry), "bold red")
        self.print_line(describe_verdict(record), "bold")
        self.print_line(describe_outcome(record), _STYLES[OUTCOME_TONES[record.outcome]])
        if record.error:
            self.print_line(record.error, "red")
        self._console.print()
        figures = [
            (ReportCell(f.name), ReportCell(f.value, f.tone), ReportCell(f.note, "muted")) for f in run_figures(record)
        ]
        self._console.print(self._grid(figures))

    def print_timeline(self, record: RunRecord) -> None:
        """Counts over time as lines of bars; a terminal without Unicode has none."""
        series = record.series
        size = max(len(series.requests), len(series.records), len(series.in_flight))
        if not size or not self._has_unicode:
            return
        width = max(_MIN_LINE_CHARS, min(_MAX_LINE_CHARS, self._console.width - 48))
        interval = series.interval if series.interval > 0 else 1.0
        named = [("requests", series.requests), ("refused", series.refused), ("records", series.records)]
        per_second = [(name, [count / interval for count in counts]) for name, counts in named]
        rows = [
            _bar_row(name, rates, width, f"at most {format_rate(max(rates))} a second")
            for name, rates in per_second
            if any(rates)
        ]
        if any(series.in_flight):
            most = f"at most {format_count(max(series.in_flight))} at once"
            rows.append(_bar_row("in flight", series.in_flight, width, most))
        if rows:
            self._console.print()
            self.print_line(f"Over time, from 0 to {format_seconds(max(record.seconds, size * interval))}", "bold")
            self._console.print(self._grid(rows))

    def print_table(self, table: ReportTable) -> None:
        """A table with its title and notes, or the sentence that says why it is empty."""
        self._console.print()
        self.print_line(table.title, "bold")
        if not table.rows:
            self.print_line(table.empty, "dim")
            return
        numbers = self._shown_columns(table)
        grid = self._new_table()
        for n in numbers:
            column = table.columns[n]
            longest = max(len(row[n].text) for row in table.rows)
            grid.add_column(
                self._text(column.title),
                justify="right" if column.is_number else "left",
                overflow="fold",
                no_wrap=column.is_number,
                min_width=min(longest, _MAX_NAME_CHARS if column.is_name else _MIN_TEXT_CHARS),
            )
        for row in table.rows[:_MAX_ROWS]:
            grid.add_row(*(self._text(row[n].text, _STYLES[row[n].tone]) for n in numbers))
        self._console.print(grid)
        for note in [*table.notes, *self._left_out(table, numbers)]:
            self.print_line(note, "dim")

    def _shown_columns(self, table: ReportTable) -> list[int]:
        is_narrow = self._console.width < _NARROW_CHARS
        return [n for n, column in enumerate(table.columns) if not (is_narrow and column.is_minor)]

    def _left_out(self, table: ReportTable, shown: Sequence[int]) -> Iterator[str]:
        if len(table.rows) > _MAX_ROWS:
            yield f"{len(table.rows) - _MAX_ROWS:,} rows are left out; the HTML report and --json have them."
        hidden = [column.title for n, column in enumerate(table.columns) if n not in shown]
        if hidden:
            yield f"A terminal of {_NARROW_CHARS} columns also shows: {', '.join(hidden)}."

    def _grid(self, rows: Sequence[tuple[ReportCell, ...]]) -> Table:
        grid = self._new_table(show_header=False)
        for row in rows:
            grid.add_row(*(self._text(cell.text, _STYLES[cell.tone]) for cell in row))
        return grid

    def _new_table(self, *, show_header: bool = True) -> Table:
        from rich.table import Table

        return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", show_header=show_header)

    def _text(self, text: str, style: str = "") -> Text:
        """A text without markup and control characters, in characters that the console can encode."""
        from rich.text import Text

        shown = escape_controls(text)
        if not self._has_unicode:
            shown = shown.replace("—", "-").encode(self._encoding, "backslashreplace").decode(self._encoding)
        return Text(shown, style=style, overflow="fold")


def _bar_row(name: str, values: Sequence[float], width: int, note: str) -> tuple[ReportCell, ...]:
    """A row of bars, each for the largest of consecutive values."""
    width = min(width, len(values))
    groups = [values[n * len(values) // width : (n + 1) * len(values) // width] for n in range(width)]
    top = max(values)
    bars = "".join(_bar(max(group) / top) for group in groups)
    return ReportCell(name), ReportCell(bars), ReportCell(note, "muted")


def _bar(share: float) -> str:
    """A bar for a share of the largest value; only nothing at all has none."""
    return _BARS[min(len(_BARS) - 1, math.ceil(share * (len(_BARS) - 1)))] if share > 0 else _BARS[0]
