"""Is the server still answering: all limits of one attempt under one timer."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from types import TracebackType

from ..errors import StallTimeout
from ..models import Timeouts

_RATE_WINDOW = 30.0


class Deadlines:
    """The one timer of all attempts in an event loop.

    Setting a timer for each attempt costs more than looking at all of them now and then, and moving
    it with each piece of a body more than reading the piece. So this one sleeps until the nearest
    deadline, and when it wakes looks at all.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._watches: dict[AttemptTimeout, None] = {}  # in their order, so that the same is cancelled first each time
        self._handle: asyncio.TimerHandle | None = None
        self._rings_at = math.inf

    def add(self, watch: AttemptTimeout, at: float) -> None:
        """Look after a watch, for the first time at that time or before."""
        self._watches[watch] = None
        if at < self._rings_at:
            self._set(at)

    def remove(self, watch: AttemptTimeout) -> None:
        self._watches.pop(watch, None)

    def stop(self) -> None:
        """Nobody is looked after any more."""
        if self._handle is not None:
            self._handle.cancel()
        self._handle, self._rings_at = None, math.inf

    def _set(self, at: float) -> None:
        self.stop()
        self._handle, self._rings_at = self.loop.call_at(at, self._ring), at

    def _ring(self) -> None:
        now = self.loop.time()
        self._handle, self._rings_at = None, math.inf
        at = min([watch.look(now) for watch in self._watches], default=math.inf)
        if at < math.inf:
            self._set(at)


class AttemptTimeout:
    """What `asyncio.timeout` does, with a deadline that moves by plain assignment.

    StallTimeout leaves the `with`, naming the limit that ran out.
    """

    __slots__ = (
        "_alarm",
        "_begun",
        "_bytes",
        "_cancelling",
        "_deadline",
        "_end",
        "_expired",
        "_limits",
        "_loop",
        "_phase",
        "_since",
        "_task",
    )

    def __init__(self, limits: Timeouts, alarm: Deadlines, *, whole: bool = True) -> None:
        self._limits = limits
        self._alarm, self._loop = alarm, alarm.loop
        self._begun = now = alarm.loop.time()
        self._end = now + limits.total if whole else math.inf
        self._phase = "first_byte"
        self._deadline = now + limits.connect + limits.first_byte
        self._since = math.inf
        self._bytes = 0
        self._expired = False

    def __enter__(self) -> AttemptTimeout:
        task = asyncio.current_task()
        assert task is not None, "a Watch cancels the task that it is used in"
        self._task = task
        self._cancelling = task.cancelling()
        self._alarm.add(self, self._next_look(self._begun))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._alarm.remove(self)
        # A cancellation from elsewhere that came as well goes on: then more are under way than were.
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise self._stalled() from None

    def connected(self) -> None:
        """The connection stands. A transport that does not say so has `connect` seconds more."""
        self._deadline = self._loop.time() + self._limits.first_byte

    def body_begins(self) -> None:
        """The headers are here; from now on the limits between pieces hold."""
        self._since = self._loop.time()
        self._phase = "read"
        self._deadline = self._since + self._limits.read

    def received(self, count: int) -> None:
        """A piece of the body has come. Raises StallTimeout when they come too slowly."""
        now = self._loop.time()
        self._deadline = now + self._limits.read
        self._bytes += count
        if now - self._since >= _RATE_WINDOW:
            if self._bytes < self._limits.min_rate * (now - self._since):
                raise _too_slow(self._limits)
            self._since, self._bytes = now, 0

    def look(self, now: float) -> float:
        """Cancel the attempt, if a limit has run out; when to look again."""
        if self._expired:
            return math.inf
        if now < min(self._deadline, self._end):
            return self._next_look(now)
        self._expired = True
        self._task.cancel()
        return math.inf

    def _next_look(self, now: float) -> float:
        # Never later than the shortest limit: a deadline that is set later cannot be earlier.
        return min(self._deadline, self._end, now + min(self._limits.read, self._limits.first_byte))

    def _stalled(self) -> StallTimeout:
        limits = self._limits
        if self._loop.time() >= self._end:
            return _stall("total", f"did not finish its answer within {limits.total:g} s")
        if self._phase == "first_byte":
            return _stall("first_byte", f"sent no answer within {limits.first_byte:g} s")
        return _silent(limits)


class TimedStream:
    """The pieces of a streamed body: each within `read` seconds, all together above `min_rate`.

    A body that is parsed while it arrives may take hours: only waiting for it is measured.
    """

    def __init__(self, pieces: AsyncIterator[bytes], limits: Timeouts) -> None:
        self._pieces = pieces
        self._limits = limits
        self._waited = 0.0
        self._bytes = 0

    def __aiter__(self) -> TimedStream:
        return self

    async def __anext__(self) -> bytes:
        now = asyncio.get_running_loop().time
        begun = now()
        try:
            async with asyncio.timeout(self._limits.read):
                piece = await anext(self._pieces)
        except TimeoutError:
            raise _silent(self._limits) from None
        self._waited += now() - begun
        self._bytes += len(piece)
        if self._waited >= _RATE_WINDOW:
            if self._bytes < self._limits.min_rate * self._waited:
                raise _too_slow(self._limits)
            self._waited, self._bytes = 0.0, 0
        return piece

    async def aclose(self) -> None:
        """Close what the pieces come from."""
        aclose = getattr(self._pieces, "aclose", None)
        if aclose is not None:
            await aclose()


def _silent(limits: Timeouts) -> StallTimeout:
    return _stall("read", f"stopped in mid-body for {limits.read:g} s")


def _too_slow(limits: Timeouts) -> StallTimeout:
    return _stall("min_rate", f"sent fewer than {limits.min_rate:g} bytes/s for {_RATE_WINDOW:g} s")


def _stall(setting: str, told: str) -> StallTimeout:
    return StallTimeout(told, hint=f"if the API is known to be that slow: timeouts = Timeouts({setting}=...)")
