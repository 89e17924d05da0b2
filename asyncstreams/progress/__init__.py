"""A live view of a run, for terminals and notebooks (extra `progress`)."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Protocol, Self

from ..clock import Clock, SystemClock
from ..events import Event, Listener
from ..html_tables import html_table

try:
    from rich.console import Console
except ImportError as error:  # pragma: no cover  # an extra
    raise ImportError('the progress table requires rich: pip install "asyncstreams[progress]"') from error

from .notebook_view import HtmlTable, NotebookView, is_in_notebook
from .row_cells import COLUMNS, row_text, total_text
from .stream_row import Row
from .terminal_table import ProgressTable
from .terminal_view import LinesAbove, TerminalView

__all__ = ["EventSource", "Progress", "Row"]


class EventSource(Protocol):
    """Anything that emits events of its runs: a stream or a Source."""

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Send all events to the listener until the returned function is called."""
        ...


class Progress:
    """Shows what each stream does that is read inside the `with` block: one row a stream, and their total.

        with Progress(source):
            await source.read()

    On a terminal the table is drawn at most 8 times a second, by a thread, below all other output; log lines appear
    above it. In a notebook it is an output of the cell that updates twice a second. Elsewhere it is printed once, at
    the end, with all columns.

    `source` is a stream or a Source. `rows` maps stream names to rows. `console` is a rich Console (default: stderr, or
    the notebook).
    """

    def __init__(self, source: EventSource, *, console: Console | None = None, clock: Clock | None = None) -> None:
        self.rows: dict[str, Row] = {}
        self._source = source
        self._clock = clock or SystemClock()
        self._is_final = False
        self._unsubscribe: Callable[[], None] | None = None
        self._console = console
        self._view: TerminalView | NotebookView | None = None

    def __enter__(self) -> Self:
        self._is_final = False
        self._view = self._new_view()
        self._unsubscribe = self._source.subscribe(self)
        if self._view is not None:
            self._view.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
        self._is_final = True
        if self._view is not None:
            self._view.stop()
        elif self._console is not None:
            self._console.print(self.table(), soft_wrap=True)
        elif self.rows and sys.stderr is not None:
            with suppress(OSError):  # a reader that has closed the pipe does not fail the run
                print(self._text(), file=sys.stderr)

    def __call__(self, event: Event) -> None:
        """Update the row of a stream from an event."""
        now = self._clock.monotonic()
        row = self.rows.get(event.stream)
        if row is None:
            row = Row(now)
            # Copied rather than changed: another thread may be drawing the rows.
            self.rows = {**self.rows, event.stream: row}
        row.apply(event, now)
        if self._view is not None:
            self._view.update()

    def table(self) -> ProgressTable:
        """The current rows as a renderable of rich, as wide as its console."""
        height = None if self._is_final or not isinstance(self._view, TerminalView) else self._view.height
        is_unbounded = self._is_final and self._view is None
        return ProgressTable(self.rows, self._clock.monotonic(), self._clock.wall(), height, is_unbounded)

    def _new_view(self) -> TerminalView | NotebookView | None:
        """The view for this process; None if the table is printed once."""
        if is_in_notebook() and (self._console is None or self._console.is_jupyter):
            return NotebookView(self._html)
        console = self._console or Console(stderr=True)
        if not console.is_interactive:
            return None
        # Without a console of the caller, FORCE_COLOR makes no file a terminal, and a table inside of the block of
        # another one is printed above that.
        is_free = isinstance(sys.stderr, io.TextIOBase) and not isinstance(sys.stderr, LinesAbove)
        if self._console is None and not (is_free and console.file.isatty()):
            return None
        return TerminalView(console, self.table)

    def _text(self) -> str:
        return "\n".join(figures + status for figures, status, _ in self.table().lines())

    def _html(self) -> HtmlTable:
        now, wall = self._clock.monotonic(), self._clock.wall()
        texts = [row_text(name, row, now, wall) for name, row in self.rows.items()]
        if len(texts) > 1:
            texts.append(total_text(self.rows, now))
        html = html_table([*COLUMNS.values()], [[text.cells.get(name) for name in COLUMNS] for text in texts])
        return HtmlTable(html if texts else "", self._text())
