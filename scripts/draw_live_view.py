"""The picture of the live view in the documentation, drawn from scripted events: `python scripts/draw_live_view.py`."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

from asyncstreams import Slice
from asyncstreams.events import (
    Ceiling,
    Event,
    PageRead,
    ProgressSampled,
    RetryScheduled,
    SliceFinished,
    SliceStarted,
    StreamFinished,
    StreamStarted,
    WaitStarted,
)
from asyncstreams.progress import Progress
from asyncstreams.testing import VirtualClock

IMAGE = Path(__file__).parent.parent / "docs" / "images" / "live-view.svg"
WIDTH = 158
SECONDS = 60
NAMES = ("customers", "events", "orders", "reviews", "payouts")


def sample(
    stream: str,
    ceilings: tuple[Ceiling, ...],
    *,
    done: int = 0,
    known: int | None = 1,
    records: int = 0,
    expected: int | None = None,
    in_flight: int = 8,
    waiting: int = 0,
    max_rate: float | None = None,
) -> ProgressSampled:
    open_slices = 1 if known == 1 else 8
    return ProgressSampled(
        stream, 0.5, 0, records, done, open_slices, known, expected, in_flight, waiting, "", 0.0, ceilings, max_rate, ""
    )


def events_of_second(second: int) -> list[Event]:
    """What happens in one second of the run."""
    pages: list[Event] = [PageRead(name, Slice(), second, 100 + second % 3, second % 20 == 0) for name in NAMES[1:4]]
    events = pages * 8
    if second < 34:
        events += [PageRead("customers", Slice(), second, 250, 0)] * 2
    if second == 34:
        events.append(StreamFinished("customers"))
    if second % 3 == 0:
        events += [SliceStarted("orders", Slice()), SliceFinished("orders", Slice())]
    if second in (13, 41):
        events.append(RetryScheduled("reviews", "answered 503 Service Unavailable", 0.4, 1))
    quota, limit = Ceiling.REPORTED_QUOTA, Ceiling.FOUND_LIMIT
    events += [
        sample("events", (limit,), records=800 * second, expected=120_000, max_rate=41.0),
        sample("orders", (quota,), done=second // 3, known=64, in_flight=6, waiting=11, max_rate=25.0),
        sample("reviews", (Ceiling.CONSUMER, Ceiling.DISK), known=None, in_flight=2),
    ]
    return events


class Script:
    """A source whose events the script sends."""

    def subscribe(self, listener: object) -> object:
        return lambda: None


def draw(width: int = WIDTH) -> Console:
    clock = VirtualClock()
    progress = Progress(Script(), console=Console(file=io.StringIO()), clock=clock)  # type: ignore[arg-type]
    for name in NAMES:
        progress(StreamStarted(name))
    progress(StreamFinished("payouts", PermissionError()))
    for second in range(SECONDS):
        for event in events_of_second(second):
            progress(event)
        clock.advance(1)
    progress(WaitStarted("events", "the API's pause to end", 20))
    console = Console(file=io.StringIO(), width=width, record=True, force_terminal=True, legacy_windows=False)
    console.print(progress.table())
    return console


if __name__ == "__main__":
    console = draw(int(sys.argv[1]) if len(sys.argv) > 1 else WIDTH)
    if len(sys.argv) > 1:
        print(console.export_text())
    else:
        IMAGE.write_text(console.export_svg(title="python sync.py", theme=MONOKAI), encoding="utf-8")
