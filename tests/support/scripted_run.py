"""A run whose events a test sends itself, and the table that shows them."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from rich.console import Console

from asyncstreams import Slice
from asyncstreams.events import Ceiling, Event, Listener, PageRead, ProgressSampled
from asyncstreams.progress import Progress
from asyncstreams.testing import VirtualClock

SAMPLE = ProgressSampled("", 0.5, 0, 0, 0, 1, None, None, 0, 0, "", 0.0, (), None, "")


class ScriptedRun:
    """A source whose events the test sends, with a Progress and a clock."""

    def __init__(self, console: Console | None = None) -> None:
        self.clock = VirtualClock()
        self.console = console or terminal()
        self.progress = Progress(self, console=self.console, clock=self.clock)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        return lambda: None

    def send(self, *events: Event, seconds: float = 0.0) -> None:
        for event in events:
            self.progress(event)
        self.clock.advance(seconds)

    def lines(self, width: int = 200) -> list[str]:
        """The lines of the current table on a terminal of this width."""
        console = terminal(width)
        console.print(self.progress.table())
        return printed(console).splitlines()


def terminal(width: int = 200, height: int = 40) -> Console:
    """A terminal that shows no colours, and keeps its output."""
    return Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def page_read(stream: str, records: int, quarantined: int = 0) -> PageRead:
    return PageRead(stream, Slice(), 0, records, quarantined)


def sample(stream: str, *ceilings: Ceiling, **fields: Any) -> ProgressSampled:
    """A sample with these fields; the others say that nothing is known or happens."""
    known = {name: getattr(SAMPLE, name) for name in ProgressSampled.__dataclass_fields__}
    return ProgressSampled(**known | fields | {"stream": stream, "ceilings": ceilings})
