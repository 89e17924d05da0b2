"""How far is a reading, as a table that lives in the terminal?"""

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
    raise ImportError('the progress table needs another package: pip install "asyncstreams[progress]"') from error

_FRAMES_PER_SECOND = 8


class EventSource(Protocol):
    """What tells of its readings: a stream, or a Source."""

    def subscribe(self, listener: Listener) -> Callable[[], None]: ...


@dataclass(slots=True)
class Row:
    """What is known of one stream; times are on the monotonic clock, numbers since the first reading."""

    pages: int = 0
    records: int = 0
    quarantined: int = 0
    slices: int = 0
    parents: int | None = None
    retries: int = 0
    began: float = 0.0
    ended: float | None = None
    state: str = ""
    style: str = ""
    waits_until: float = 0.0
    waits_for: str = ""

    def seconds(self, now: float) -> float:
        return (now if self.ended is None else self.ended) - self.began

    def told(self, now: float) -> tuple[str, str]:
        """Its state in words, with their style."""
        if self.ended is None and now < self.waits_until:
            return f"waits {self.waits_until - now:.1f} s: {self.waits_for}", "yellow"
        return self.state, self.style


class Progress:
    """A row for each stream of what is read inside the `with`: pages, records, pace, retries, why it waits.

    On a terminal it moves; elsewhere it is printed once, at the end. It costs nothing in between:
    frames are drawn by a thread. `with Progress(source): async with source.pages() as pages: ...`
    """

    def __init__(self, told: EventSource, *, console: Console | None = None, clock: Clock | None = None) -> None:
        self._told = told
        self._clock = clock or SystemClock()
        self.rows: dict[str, Row] = {}
        self._live = Live(console=console, refresh_per_second=_FRAMES_PER_SECOND, get_renderable=self.table)
        self._unsubscribe: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        self._unsubscribe = self._told.subscribe(self)
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        if not self._live.console.is_terminal:
            self._live.console.line()  # rich ends the table without one there
        if self._unsubscribe is not None:
            self._unsubscribe()

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        now = self._clock.monotonic()
        if event.stream not in self.rows:
            # Copied, not changed: another thread may be drawing the rows.
            self.rows = {**self.rows, event.stream: Row(began=now)}
        row = self.rows[event.stream]
        match event:
            case StreamStarted():
                row.ended, row.state, row.style = None, "reading", ""
            case PageRead(records=records, quarantined=quarantined):
                row.pages += 1
                row.records += records
                row.quarantined += quarantined
                row.waits_until = 0.0
            case RetryScheduled(reason=reason, delay=delay):
                row.retries += 1
                row.waits_until, row.waits_for = now + delay, reason
            case WaitStarted(reason=reason, seconds=seconds):
                row.waits_until, row.waits_for = now + seconds, reason
            case SliceStarted():
                pass
            case SliceFinished(error=slice_failure):
                row.slices += slice_failure is None
            case ParentsDiscovered(count=count):
                row.parents = count
            case StreamSkipped(reason=reason):
                row.state, row.style = f"skipped: {reason}", "yellow"
            case StreamFinished(error=failure):
                row.ended = now
                row.state, row.style = _end(failure)
            case _:
                assert_never(event)

    def table(self) -> Table:
        """The rows as they are now."""
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
            table.add_column("of parents", justify="right", no_wrap=True)
        table.add_column("", ratio=1)
        for name, row in self.rows.items():
            pace = row.records / seconds if (seconds := row.seconds(now)) > 0 else 0.0
            numbers = [f"{row.pages:,}", f"{row.records:,}", f"{pace:,.0f}", f"{row.retries:,}"]
            kept = [f"{row.quarantined:,}"] if quarantined else []
            of = ["" if row.parents is None else f"{row.slices:,}/{row.parents:,}"] if parents else []
            table.add_row(Text(name), *numbers, *kept, *of, Text(*row.told(now)))
        return table


def _end(error: BaseException | None) -> tuple[str, str]:
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
            return "left", ""
