"""Current waits of the requests of a stream, with reasons and ends."""

from __future__ import annotations

import logging
import math
from collections.abc import Generator
from contextlib import contextmanager

from ..clock import Clock
from ..events import EventEmitter, WaitStarted

# Another wait is announced only if it ends later than the last announced one by its own length, within
# these bounds: a rate limit causes many short waits.
_MIN_EXTENSION_S, _MAX_EXTENSION_S = 1.0, 10.0
_MIN_LOGGED_S = 5.0
_log = logging.getLogger("asyncstreams")


class WaitTracker:
    """The waits of one stream's requests in one session, by reason."""

    def __init__(self, stream_name: str, events: EventEmitter, clock: Clock) -> None:
        self._stream_name, self._events, self._clock = stream_name, events, clock
        self._counts: dict[str, int] = {}
        self._ends: dict[str, float] = {}
        self._announced_until: dict[str, float] = {}

    @contextmanager
    def track(self, reason: str, seconds: float) -> Generator[None]:
        """Count a request as waiting inside the block, for about `seconds`; infinity if the end is unknown."""
        until = self._clock.monotonic() + seconds
        self._counts[reason] = self._counts.get(reason, 0) + 1
        # A known end replaces an unknown one.
        previous = self._ends.get(reason, 0.0)
        self._ends[reason] = until if previous == math.inf else max(until, previous)
        try:
            yield
        finally:
            self._counts[reason] -= 1

    @contextmanager
    def announce(self, reason: str, seconds: float) -> Generator[None]:
        """Count a request as waiting, and emit WaitStarted once per wait: many requests may share it.

        A wait of more than 5 s is logged, too.
        """
        now = self._clock.monotonic()
        extension = max(_MIN_EXTENSION_S, min(seconds, _MAX_EXTENSION_S))
        if now + seconds > self._announced_until.get(reason, -math.inf) + extension:
            self._announced_until[reason] = now + seconds
            self._events.emit(WaitStarted(self._stream_name, reason, seconds))
            if seconds > _MIN_LOGGED_S:
                duration = "" if seconds == math.inf else f", about {seconds:.1f} s"
                _log.info("%s: waits for %s%s", self._stream_name, reason, duration)
        with self.track(reason, seconds):
            yield

    def __str__(self) -> str:
        """The current waits with their reasons; empty if there are none."""
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
