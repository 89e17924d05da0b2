"""What do the requests of a stream wait for, and until when?"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from ..clock import Clock
from ..events import Audience, Waiting

_NEWS = 1.0  # seconds; a wait that ends so much later than the one that was told is told as well


class Waits:
    """The waits of one stream's requests in one reading, by reason."""

    def __init__(self, stream_name: str, audience: Audience, clock: Clock) -> None:
        self._stream_name, self._audience, self._clock = stream_name, audience, clock
        self._counts: dict[str, int] = {}
        self._ends: dict[str, float] = {}

    @contextmanager
    def on(self, reason: str, seconds: float) -> Generator[None]:
        """One request more waits inside, for about so long."""
        until = self._clock.monotonic() + seconds
        self._counts[reason] = self._counts.get(reason, 0) + 1
        self._ends[reason] = max(until, self._ends.get(reason, 0.0))
        try:
            yield
        finally:
            self._counts[reason] -= 1

    @contextmanager
    def told(self, reason: str, seconds: float) -> Generator[None]:
        """The same, for a wait that many share: it is told to who listens, once."""
        if self._clock.monotonic() + seconds > self._ends.get(reason, 0.0) + _NEWS:
            self._audience.tell(Waiting(self._stream_name, reason, seconds))
        with self.on(reason, seconds):
            yield

    def __str__(self) -> str:
        """What is waited for at this moment; empty where nothing is."""
        now = self._clock.monotonic()
        return ", ".join(
            f"{count} {_verb(count)} for {reason}, {max(0.0, self._ends[reason] - now):.1f} s more"
            for reason, count in self._counts.items()
            if count
        )


def _verb(count: int) -> str:
    return "request waits" if count == 1 else "requests wait"
