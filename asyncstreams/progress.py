"""A live table of the progress of a run, for the terminal (extra `progress`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, assert_never

from .clock import Clock, SystemClock
from .errors import AsyncStreamsError, StreamUnavailable
from .events import (
    Event,
    Listener,
    PageRead,
    ParentsDiscovered,
    ProgressSampled,
    RequestFinished,
    RetryScheduled,
    SliceFinished,
    SliceStarted,
    StreamFinished,
    StreamSkipped,
    StreamStarted,
    WaitStarted,
)

try:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text
except ImportError as error:  # pragma: no cover  # an extra
    raise ImportError('the progress table requires rich: pip install "asyncstreams[progress]"') from error

_FRAMES_PER_SECOND = 8


class EventSource(Protocol):
    """Anything that emits events of its runs: a stream or a Source."""

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Send all events to the listener until the returned function is called."""
        ...


@dataclass(slots=True)
class Row:
    """The progress of one stream; times are monotonic seconds, counters accumulate over all runs."""

    pages: int = 0
    records: int = 0
    quarantined: int = 0
    slices: int = 0
    parents: int | None = None
    retries: int = 0
    started_at: float = 0.0
    finished_at: float | None = None
    state: str = ""
    style: str = ""
    waiting_until: float = 0.0
    wait_reason: str = ""

    def seconds(self, now: float) -> float:
        """Seconds since the stream was first read, until it finished."""
        return (now if self.finished_at is None else self.finished_at) - self.started_at

    def status(self, now: float) -> tuple[str, str]:
        """The status text and its style."""
        if self.finished_at is None and now < self.waiting_until:
            return f"waiting {self.waiting_until - now:.1f} s: {self.wait_reason}", "yellow"
        return self.state, self.style


class Progress:
    """Shows one row per stream that is read inside the `with` block: pages, records, rate, retries, status.

    On a terminal the table is updated 8 times a second by a thread; otherwise it is printed once, at the end.

        with Progress(source):
            await source.read()

    `source` is a stream or a Source. `rows` maps stream names to rows. `console` is a rich Console (default: stdout).
    """

    def __init__(self, source: EventSource, *, console: Console | None = None, clock: Clock | None = None) -> None:
        self._source = source
        self._clock = clock or SystemClock()
        self.rows: dict[str, Row] = {}
        self._live = Live(console=console, refresh_per_second=_FRAMES_PER_SECOND, get_renderable=self.table)
        self._unsubscribe: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        self._unsubscribe = self._source.subscribe(self)
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        if not self._live.console.is_terminal:
            self._live.console.line()  # without a terminal, rich omits the final newline
        if self._unsubscribe is not None:
            self._unsubscribe()

    def __call__(self, event: Event) -> None:
        """Update the row of a stream from an event."""
        now = self._clock.monotonic()
        if event.stream not in self.rows:
            # Copied rather than changed: another thread may be drawing the rows.
            self.rows = {**self.rows, event.stream: Row(started_at=now)}
        row = self.rows[event.stream]
        match event:
            case StreamStarted():
                row.finished_at, row.state, row.style = None, "reading", ""
            case PageRead(records=records, quarantined=quarantined):
                row.pages += 1
                row.records += records
                row.quarantined += quarantined
                row.waiting_until = 0.0
            case RetryScheduled(reason=reason, delay=delay):
                row.retries += 1
                row.waiting_until, row.wait_reason = now + delay, reason
            case WaitStarted(reason=reason, seconds=seconds):
                row.waiting_until, row.wait_reason = now + seconds, reason
            case SliceStarted() | RequestFinished() | ProgressSampled():
                pass
            case SliceFinished(error=slice_failure):
                row.slices += slice_failure is None
            case ParentsDiscovered(count=count):
                row.parents = count
            case StreamSkipped(reason=reason):
                row.state, row.style = f"skipped: {reason}", "yellow"
            case StreamFinished(error=failure):
                row.finished_at = now
                row.state, row.style = _describe_end(failure)
            case _:
                assert_never(event)

    def table(self) -> Table:
        """The current rows as a rich Table."""
        now = self._clock.monotonic()
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0), expand=True)
        table.add_column("stream", no_wrap=True)
        for name in ("pages", "records", "records/s", "retries"):
            table.add_column(name, justify="right", no_wrap=True)
        quarantined = any(row.quarantined for row in self.rows.values())
        if quarantined:
            table.add_column("quarantined", justify="right", no_wrap=True)
        parents = any(row.parents is not None for row in self.rows.values())
        if parents:
            table.add_column("slices/parents", justify="right", no_wrap=True)
        table.add_column("", ratio=1)
        for name, row in self.rows.items():
            rate = row.records / seconds if (seconds := row.seconds(now)) > 0 else 0.0
            numbers = [f"{row.pages:,}", f"{row.records:,}", f"{rate:,.0f}", f"{row.retries:,}"]
            quarantined_cell = [f"{row.quarantined:,}"] if quarantined else []
            parents_cell = ["" if row.parents is None else f"{row.slices:,}/{row.parents:,}"] if parents else []
            table.add_row(Text(name), *numbers, *quarantined_cell, *parents_cell, Text(*row.status(now)))
        return table


def _describe_end(error: BaseException | None) -> tuple[str, str]:
    match error:
        case None:
            return "done", "green"
        case StreamUnavailable():
            return f"unavailable: {error.reason}", "yellow"
        case AsyncStreamsError():
            return f"failed: {error.message}", "red"
        case Exception():
            return f"failed: {type(error).__name__}", "red"
        case _:
            return "stopped early", ""
