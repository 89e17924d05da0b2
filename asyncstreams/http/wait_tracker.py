"""What do the requests of a stream wait for, and until when?"""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager

from ..clock import Clock
from ..events import EventEmitter, WaitStarted

# A wait that ends so many seconds later than the one that was told is told as well: a rate makes each wait anew.
_NEWS, _SELDOM = 1.0, 10.0


class WaitTracker:
    """The waits of one stream's requests in one reading, by reason."""

    def __init__(self, stream_name: str, audience: EventEmitter, clock: Clock) -> None:
        self._stream_name, self._audience, self._clock = stream_name, audience, clock
        self._counts: dict[str, int] = {}
        self._ends: dict[str, float] = {}
        self._told: dict[str, float] = {}

    @contextmanager
    def on(self, reason: str, seconds: float) -> Generator[None]:
        """One request more waits inside, for about so long; infinity: nobody knows how long."""
        until = self._clock.monotonic() + seconds
        self._counts[reason] = self._counts.get(reason, 0) + 1
        # An end that nobody knows gives way to one that is known.
        before = self._ends.get(reason, 0.0)
        self._ends[reason] = until if before == math.inf else max(until, before)
        try:
            yield
        finally:
            self._counts[reason] -= 1

    @contextmanager
    def told(self, reason: str, seconds: float) -> Generator[None]:
        """The same, for a wait that many share: it is told to who listens, once in the time that it takes."""
        now = self._clock.monotonic()
        if now + seconds > self._told.get(reason, -math.inf) + max(_NEWS, min(seconds, _SELDOM)):
            self._told[reason] = now + seconds
            self._audience.emit(WaitStarted(self._stream_name, reason, seconds))
        with self.on(reason, seconds):
            yield

    def __str__(self) -> str:
        """What is waited for at this moment; empty where nothing is."""
        now = self._clock.monotonic()
        return ", ".join(
            f"{count} {_verb(count)} for {reason}{_until(self._ends[reason] - now)}"
            for reason, count in self._counts.items()
            if count
        )


def _until(seconds: float) -> str:
    return "" if seconds == math.inf else f", {max(0.0, seconds):.1f} s more"


def _verb(count: int) -> str:
    return "request waits" if count == 1 else "requests wait"
