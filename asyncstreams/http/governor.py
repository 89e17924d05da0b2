"""May this be sent now: one gate for everything that draws on the same quota."""

from __future__ import annotations

from random import Random
from types import TracebackType

from ..clock import Clock

_LONGEST_SPREAD = 1.0
_SPREAD_SHARE = 0.1


class Governor:
    """The gate of one quota key, closed while the server wants to be left alone.

    `repr` tells its state: open, or for how much longer it is closed, and how much is on the wire.
    """

    def __init__(self, clock: Clock, random: Random) -> None:
        self._clock = clock
        self._random = random
        self._opens_at = 0.0
        self._spread = 0.0
        self._on_the_wire = 0

    def close_for(self, seconds: float) -> None:
        """Let nothing pass for that long; a longer closure that stands already stays."""
        opens_at = self._clock.monotonic() + seconds
        if opens_at > self._opens_at:
            self._opens_at = opens_at
            # Those who wait do not all come back in the same instant.
            self._spread = min(_LONGEST_SPREAD, seconds * _SPREAD_SHARE)

    @property
    def closed_for(self) -> float:
        """Seconds until the gate opens; 0 where it is open."""
        return max(0.0, self._opens_at - self._clock.monotonic()) if self._opens_at else 0.0

    async def opened(self) -> None:
        """Wait until the gate is open; it may have closed again while we waited."""
        while (wait := self._opens_at - self._clock.monotonic()) > 0:
            await self._clock.sleep(wait + self._random.uniform(0.0, self._spread))
        self._opens_at = 0.0

    async def __aenter__(self) -> None:
        """Take a ticket: held only while a request is on the wire."""
        if self._opens_at:
            await self.opened()
        self._on_the_wire += 1

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._on_the_wire -= 1

    def __repr__(self) -> str:
        wait = self.closed_for
        gate = f"closed for {wait:.1f} s" if wait else "open"
        return f"<Governor {gate}, {self._on_the_wire} on the wire>"
