"""The log of this package on the stderr of a command, and the live view in its place."""

from __future__ import annotations

import logging
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime

from ..launch import handled_log, shown_progress
from ..source import Source
from .failures import CommandOutput


class CommandLog(logging.Handler):
    """Writes log records to the stderr of a command; without `has_times` only level and message."""

    def __init__(self, output: CommandOutput, *, has_times: bool) -> None:
        super().__init__()
        self._output, self._has_times = output, has_times

    def emit(self, record: logging.LogRecord) -> None:
        """Show one record, with the traceback that it may have."""
        try:
            message = self.format(record)
            if self._output.as_json:
                self._output.note(message, record.levelno)
            elif self._has_times:
                time = datetime.fromtimestamp(record.created, UTC).astimezone().isoformat(timespec="seconds")
                self._output.note(f"{time} {record.levelname:7} {message}", record.levelno)
            else:
                self._output.note(f"{record.levelname.lower()}: {message}", record.levelno)
        except Exception:  # as other handlers do: logging must not end the run
            self.handleError(record)


@contextmanager
def shown_run(source: Source, output: CommandOutput, *, uses_stdout: bool) -> Generator[None]:
    """A block whose runs are shown on stderr: as a live view on a terminal, elsewhere as log lines.

    `uses_stdout`: the records go to stdout. If that is the same terminal, a live view would be torn apart.
    """
    is_shared = uses_stdout and sys.stdout is not None and sys.stdout.isatty()
    is_live = sys.stderr.isatty() and not (is_shared or output.quiet or output.as_json or output.debug)
    level = logging.DEBUG if output.debug else logging.INFO
    if is_live or (is_shared and not output.debug):
        level = logging.WARNING
    with ExitStack() as stack:
        stack.enter_context(handled_log(CommandLog(output, has_times=not (is_live or is_shared)), level))
        if is_live:
            stack.enter_context(shown_progress(source))
        yield
