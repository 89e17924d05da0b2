"""Extractions started by scripts and by the command line: progress, logs, failures as text, and exit codes."""

from __future__ import annotations

import asyncio
import logging
import sys
import traceback
from collections.abc import Collection, Generator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from enum import IntEnum
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn, TypedDict, Unpack

from .destinations.base import Destination, Sink
from .errors import AsyncStreamsError, ConfigError, HostUnavailable, PartialFailure, ThresholdMissed
from .event_log.run_record import RunOrigin
from .execution.report import RunReport
from .execution.scheduler import OnError
from .extraction.run_scope import RangeBound
from .source import PerStream, Source
from .state.state_file import State
from .visible_text import escape_controls

_PACKAGE = str(Path(__file__).parent)
_LOG_FORMAT = "%(asctime)s %(levelname)-7s %(message)s"
_log = logging.getLogger("asyncstreams")


class ExitCode(IntEnum):
    """The exit codes of `asyncstreams.main` and of the command line."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    PARTIAL = 3
    HOST_UNAVAILABLE = 4
    THRESHOLD_MISSED = 5
    INTERRUPTED = 130
    CLOSED_PIPE = 141
    TERMINATED = 143


class DeadlineReached(Exception):
    """The time of a run is over. What was committed stays, and the next run resumes."""


class ExtractArguments(TypedDict, total=False):
    """The arguments of `Source.extract`, which documents them."""

    limit: int | None
    slices: PerStream
    since: RangeBound
    until: RangeBound
    refresh: Collection[str]
    state: State | None
    on_error: OnError
    require: Sequence[str]
    event_log: bool | RunOrigin


def run(
    source: Source | type[Source],
    /,
    *names: str,
    to: Destination | Sink,
    quiet: bool = False,
    **arguments: Unpack[ExtractArguments],
) -> RunReport:
    """Extract a Source from a script: `asyncstreams.run(Shop, to=JsonLines("out/"))`.

    It shows the progress on stderr: as a live table on a terminal if rich is installed, otherwise as log lines, unless
    the program handles the logger "asyncstreams" itself. `quiet` shows nothing. A class is created without a
    configuration. The other arguments, and the errors raised, are those of `Source.extract`.

    SIGTERM raises SystemExit(143), and Ctrl-C KeyboardInterrupt, after the run has committed what it holds. Raises
    ConfigError within a running event loop: use `await source.extract(...)` there.
    """
    if _is_in_event_loop():
        raise ConfigError(
            "asyncstreams.run: an event loop is running",
            hint="in async code and notebooks use `await source.extract(...)`",
        )
    created = _create(source)
    with nullcontext() if quiet else shown_progress(created):
        return asyncio.run(created.extract(*names, to=to, **arguments))


def main(
    source: Source | type[Source],
    /,
    *names: str,
    to: Destination | Sink,
    quiet: bool = False,
    **arguments: Unpack[ExtractArguments],
) -> NoReturn:
    """Extract a Source as a program of its own: `if __name__ == "__main__": asyncstreams.main(Shop, to=...)`.

    Like `run`, but it writes the report or what failed to stderr, and ends the process with an exit code: 0 done,
    1 failed, 2 usage or configuration, 3 partial, 4 host unavailable, 5 threshold missed, 130 Ctrl-C, 143 SIGTERM.
    With `quiet` only failures are written.
    """
    error: BaseException | None = None
    report: RunReport | None = None
    try:
        report = run(source, *names, to=to, quiet=quiet, **arguments)
    except (Exception, KeyboardInterrupt, SystemExit) as raised:
        error, report = raised, getattr(raised, "report", None)
    lines = [] if error is None else failure_lines(error)
    if report is not None and not (quiet and error is None):
        lines += summary_lines(report, error)
    with suppress(OSError):  # a closed stderr must not hide the outcome
        print("\n".join(map(escape_controls, lines)), file=sys.stderr, flush=True, end="\n" if lines else "")
    sys.exit(exit_code_of(error))


def exit_code_of(error: BaseException | None) -> int:
    """The exit code for the outcome of a run: an exception, or None for a run that is complete."""
    match error:
        case None:
            return ExitCode.DONE
        case SystemExit(code=code):
            return code if isinstance(code, int) else ExitCode.DONE if code is None else ExitCode.FAILED
        case KeyboardInterrupt():
            return ExitCode.INTERRUPTED
        case BrokenPipeError():
            return ExitCode.CLOSED_PIPE
        case PartialFailure() | DeadlineReached():
            return ExitCode.PARTIAL
        case ThresholdMissed():
            return ExitCode.THRESHOLD_MISSED
        case HostUnavailable():
            return ExitCode.HOST_UNAVAILABLE
        case ConfigError():
            return ExitCode.USAGE
        case ImportError() if _is_missing_extra(error):
            return ExitCode.USAGE
        case _:
            return ExitCode.FAILED


def failure_lines(error: BaseException) -> list[str]:
    """What failed, where, and the hint. The texts may contain control characters."""
    match error:
        case KeyboardInterrupt():
            return ["stopped by Ctrl-C"]
        case SystemExit(code=ExitCode.TERMINATED):
            return ["stopped by SIGTERM"]
        case SystemExit():
            return [f"ended with exit code {error.code}"]
        case AsyncStreamsError():
            return f"error: {error}".splitlines()
        case DeadlineReached():
            return [str(error)]
        case ImportError() if _is_missing_extra(error):
            return [f"error: {error}"]
        case OSError(strerror=str(problem)):
            return [f"error: {f'{error.filename}: ' if error.filename else ''}{problem}"]
        case _:
            text = f"error: {type(error).__name__}: {error}".splitlines()
            return [*text, f"  at: {where}"] if (where := _author_frame(error)) else text


def summary_lines(report: RunReport, error: BaseException | None = None) -> list[str]:
    """The report of a run as lines; without the missed thresholds if the error of the run names them."""
    lines = str(report).splitlines()
    if report.record is None or not isinstance(error, ThresholdMissed):
        return lines
    missed = {str(entry) for entry in report.record.thresholds if entry.is_met is False}
    return [line for line in lines if line not in missed]


@contextmanager
def shown_progress(source: Source) -> Generator[None]:
    """A block whose runs are shown on stderr: as a live table on a terminal if rich is installed, or as log lines.

    Beside the table only warnings are logged. No log is added if the program handles the logger itself.
    """
    is_live = sys.stderr.isatty() and find_spec("rich") is not None
    with ExitStack() as stack:
        if not _log.hasHandlers():
            stack.enter_context(handled_log(_StderrLog(), logging.WARNING if is_live else logging.INFO))
        if is_live:
            # Imported here, because the extra may be missing.
            console = import_module("rich.console").Console(stderr=True)
            stack.enter_context(import_module(".progress", __package__).Progress(source, console=console))
        yield


@contextmanager
def handled_log(handler: logging.Handler, level: int) -> Generator[None]:
    """A block in which a handler writes the log of this package, from a level on, in place of the root's handlers."""
    previous, propagated = _log.level, _log.propagate
    _log.addHandler(handler)
    _log.setLevel(level)
    _log.propagate = False
    try:
        yield
    finally:
        _log.removeHandler(handler)
        _log.setLevel(previous)
        _log.propagate = propagated


class _StderrLog(logging.Handler):
    """Log lines for people on stderr, which a live table may replace meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter(_LOG_FORMAT))

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line; control characters of names and messages are shown as escapes."""
        try:
            print("\n".join(map(escape_controls, self.format(record).split("\n"))), file=sys.stderr)
        except Exception:  # as other handlers do: logging must not end the run
            self.handleError(record)


def _is_in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _create(source: object) -> Source:
    given: object = source
    if isinstance(source, Source):
        return source
    if isinstance(source, type) and issubclass(source, Source):
        return source()
    raise ConfigError(
        f"asyncstreams.run: {type(given).__name__} is not a Source", hint="pass a Source, or a class of one"
    )


def _is_missing_extra(error: ImportError) -> bool:
    """Whether an error of this package names the extra to install."""
    return "pip install" in str(error) and "asyncstreams[" in str(error)


def _author_frame(error: BaseException) -> str:
    """The last line of code outside of this package that an exception came through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_PACKAGE) and frame.filename[:1] != "<"]
    return f"{own[-1].filename}, line {own[-1].lineno}" if own else ""
