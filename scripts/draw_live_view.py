"""The picture of the live view in the documentation, drawn from scripted events.

`python scripts/draw_live_view.py` writes docs/images/live-view.svg; with a width as argument, it prints the table.
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

from asyncstreams import Slice, StreamUnavailable
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


def sample(stream: str, ceiling: Ceiling, second: int) -> ProgressSampled:
    done, known, expected = 0, None, None
    in_flight, waiting, max_rate = 2, 0, None
    if stream == "events":
        known, expected, in_flight, max_rate = 1, 120_000, 8, 41.0
    elif stream == "orders":
        done, known, in_flight, waiting, max_rate = second // 3, 64, 6, 11, 25.0
    return ProgressSampled(
        stream, 0.5, 0, 0, done, 1, known, expected, in_flight, waiting, "", 0.0, (ceiling,), max_rate, ""
    )


def events_of_second(second: int) -> list[Event]:
    """What happens in one second of the run."""
    events: list[Event] = []
    for name, records in (("events", 800), ("orders", 300), ("reviews", 1_000)):
        events.append(PageRead(name, Slice(), second, records, int(name == "orders" and second % 20 == 3)))
    if second < 34:
        events.append(PageRead("customers", Slice(), second, 500, 0))
    if second == 34:
        events.append(StreamFinished("customers"))
    if second % 3 == 0:
        events += [SliceStarted("orders", Slice()), SliceFinished("orders", Slice())]
    if second in (13, 41):
        events.append(RetryScheduled("reviews", "answered 503 Service Unavailable", 0.4, 1))
    events += [
        sample("events", Ceiling.FOUND_LIMIT, second),
        sample("orders", Ceiling.REPORTED_QUOTA, second),
        sample("reviews", Ceiling.DISK, second),
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
    progress(StreamFinished("payouts", StreamUnavailable("answered 403 Forbidden", status=403)))
    for second in range(SECONDS):
        for event in events_of_second(second):
            progress(event)
        clock.advance(1)
    progress(WaitStarted("events", "the API's pause to end", 20))
    console = Console(file=io.StringIO(), width=width, record=True, force_terminal=True, legacy_windows=False)
    console.print(progress.table())
    return console


def to_svg(console: Console) -> str:
    """The output of a console as SVG. Its font is that of the reader: rich would load one from the network."""
    svg = console.export_svg(title="python sync.py", theme=MONOKAI, unique_id="live-view")
    svg = re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    return svg.replace("Fira Code", "ui-monospace")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(draw(int(sys.argv[1])).export_text())
    else:
        IMAGE.write_text(to_svg(draw()), encoding="utf-8")
