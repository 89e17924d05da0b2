"""The live view on a terminal: a thread that draws the table, and log lines that appear above it."""

from __future__ import annotations

import io
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, TextIO, cast

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

_MIN_FRAME_INTERVAL_S = 1 / 8
_IDLE_FRAME_INTERVAL_S = 1.0
"""Without events, only the remaining seconds of waits change."""


class TerminalView:
    """Draws what `get_table` returns below all other output of the terminal, at most 8 times a second.

    Between `start` and `stop`, lines that are written to stdout and stderr, if they are terminals, appear above the
    table; so do those of log handlers that were created before.
    """

    def __init__(self, console: Console, get_table: Callable[[], RenderableType]) -> None:
        self._console = console
        self._live = Live(
            console=console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            get_renderable=get_table,
            vertical_overflow="crop",
        )
        self._output = RedirectedOutput(console)
        self._changed, self._stopped = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._draw, name="asyncstreams-progress", daemon=True)

    @property
    def height(self) -> int:
        """Lines of the terminal."""
        return self._console.height

    def start(self) -> None:
        self._live.start()
        self._output.start()
        self._thread.start()

    def update(self) -> None:
        """Note that the table has changed."""
        if not self._changed.is_set():
            self._changed.set()

    def stop(self) -> None:
        """Draw the table once more and leave it there."""
        self._stopped.set()
        self._changed.set()
        self._thread.join()
        try:
            with suppress(OSError):  # the terminal is gone
                self._output.flush()
                self._live.stop()
        finally:
            self._output.stop()

    def _draw(self) -> None:
        with suppress(OSError):
            while not self._stopped.wait(_MIN_FRAME_INTERVAL_S):
                self._changed.wait(_IDLE_FRAME_INTERVAL_S)
                self._changed.clear()
                if not self._stopped.is_set():
                    self._live.refresh()


class RedirectedOutput:
    """Redirects stdout, stderr and the log handlers that write to them, if they are terminals, to lines above a table.

    Handlers that were created before hold the stream itself. A stream that is a file or a pipe stays as it is.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._streams: dict[str, LinesAbove] = {}
        self._handlers: list[tuple[logging.StreamHandler[Any], LinesAbove]] = []

    def start(self) -> None:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if isinstance(stream, LinesAbove) or stream is None or not stream.isatty():
                continue
            self._streams[name] = lines = LinesAbove(self._console, stream)
            setattr(sys, name, lines)
            for handler in _stream_handlers():
                if handler.stream is stream:
                    handler.setStream(cast(Any, lines))
                    self._handlers.append((handler, lines))

    def flush(self) -> None:
        """Show lines that are not complete."""
        for lines in self._streams.values():
            lines.close_line()

    def stop(self) -> None:
        for handler, lines in self._handlers:
            if handler.stream is cast(Any, lines):
                handler.setStream(lines.rich_proxied_file)
        for name, lines in self._streams.items():
            lines.detach_console()
            if getattr(sys, name) is lines:
                setattr(sys, name, lines.rich_proxied_file)
        self._handlers.clear()
        self._streams.clear()


class LinesAbove(io.TextIOBase):
    """A text stream whose lines appear above the table of a console, and after it in the stream itself.

    A line appears when it is complete. rich writes its own output to `rich_proxied_file`.
    """

    def __init__(self, console: Console, file: TextIO) -> None:
        self._console: Console | None = console
        self._begun = ""
        self.rich_proxied_file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.rich_proxied_file.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self.rich_proxied_file.errors

    def write(self, text: str, /) -> int:
        if self._console is None:
            return self.rich_proxied_file.write(text)
        complete, newline, begun = text.rpartition("\n")
        if newline:
            lines, self._begun = self._begun + complete, begun
            self._print(lines)
        else:
            self._begun += text
        return len(text)

    def flush(self) -> None:
        self.rich_proxied_file.flush()

    def isatty(self) -> bool:
        return self.rich_proxied_file.isatty()

    def fileno(self) -> int:
        return self.rich_proxied_file.fileno()

    def writable(self) -> bool:
        return True

    def close_line(self) -> None:
        """Show a line that is not complete."""
        if self._begun:
            lines, self._begun = self._begun, ""
            self._print(lines)

    def detach_console(self) -> None:
        """From now on, write to the stream itself: handlers that were created meanwhile may hold this object."""
        self._console = None

    def _print(self, lines: str) -> None:
        # The colours of the lines stay, and the terminal wraps them itself.
        assert self._console is not None
        self._console.print(Text.from_ansi(lines), soft_wrap=True, highlight=False)


def _stream_handlers() -> Iterator[logging.StreamHandler[Any]]:
    """The stream handlers of all loggers."""
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    for logger in loggers:
        if isinstance(logger, logging.Logger):
            for handler in logger.handlers:
                if isinstance(handler, logging.StreamHandler):
                    yield handler
