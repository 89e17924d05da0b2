"""Timeouts of attempts and streamed bodies, with one shared timer per event loop."""

from __future__ import annotations

import asyncio
import math
from array import array
from collections.abc import AsyncIterator
from types import TracebackType

from ..errors import StallTimeout
from ..models import Timeouts

_RATE_WINDOW_S = 30.0
_MIN_ANSWERS = 50  # before a limit follows from them, and between two updates
_KEPT_ANSWERS = 1_000
_PERCENTILE, _FACTOR, _MIN_FIRST_BYTE_S = 0.99, 5.0, 1.0


class EarlyTimeout(StallTimeout):
    """The first try of a page had no response within a limit that follows from earlier responses."""


class AnswerTimes:
    """Times to the first byte of one stream's responses, and the limit of first tries that follows from them.

    The limit is five times the 99th percentile (nearest rank) of the last 1,000 times, and at least 1 s. It is infinite
    before 50 responses. `early_timeouts` counts the attempts that it ended.
    """

    __slots__ = ("_count", "_seconds", "early_timeouts", "limit")

    def __init__(self) -> None:
        self.limit = math.inf
        self.early_timeouts = 0
        self._seconds = array("d")
        self._count = 0

    def count_early_timeout(self) -> None:
        """Count an attempt that the limit ended."""
        self.early_timeouts += 1

    def record(self, seconds: float) -> None:
        """Record the time to the first byte of a successful response."""
        if self._count < _KEPT_ANSWERS:
            self._seconds.append(seconds)
        else:
            self._seconds[self._count % _KEPT_ANSWERS] = seconds
        self._count += 1
        if self._count % _MIN_ANSWERS == 0:
            rank = math.ceil(_PERCENTILE * len(self._seconds))
            self.limit = max(_MIN_FIRST_BYTE_S, _FACTOR * sorted(self._seconds)[rank - 1])


class Deadlines:
    """One timer for all attempts in an event loop.

    A timer per attempt costs more than an occasional check of all attempts. Moving a timer with each piece
    of a body costs more than reading the piece. So one timer fires at the nearest deadline, and checks all
    attempts.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._timeouts: dict[AttemptTimeout, None] = {}  # ordered, so that cancellation order is deterministic
        self._handle: asyncio.TimerHandle | None = None
        self._fires_at = math.inf

    def add(self, timeout: AttemptTimeout, check_at: float) -> None:
        """Add an attempt, to be checked at `check_at` on the loop's clock, or earlier."""
        self._timeouts[timeout] = None
        if check_at < self._fires_at:
            self._schedule(check_at)

    def remove(self, timeout: AttemptTimeout) -> None:
        self._timeouts.pop(timeout, None)

    def stop(self) -> None:
        """Cancel the timer."""
        if self._handle is not None:
            self._handle.cancel()
        self._handle, self._fires_at = None, math.inf

    def _schedule(self, at: float) -> None:
        self.stop()
        self._handle, self._fires_at = self.loop.call_at(at, self._check_all), at

    def _check_all(self) -> None:
        now = self.loop.time()
        self._handle, self._fires_at = None, math.inf
        at = min([timeout.cancel_if_expired(now) for timeout in self._timeouts], default=math.inf)
        if at < math.inf:
            self._schedule(at)


class Activity:
    """Counts what moves: attempts that start, responses that begin, and pieces of bodies."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def count_piece(self, size: int) -> None:
        """Count a piece of a body, of any size."""
        self.count += 1


class RateWindow:
    """Bytes of a body and the seconds that they took, compared with `min_rate` every 30 s."""

    __slots__ = ("_bytes", "_limits", "_seconds")

    def __init__(self, limits: Timeouts) -> None:
        self._limits = limits
        self._bytes, self._seconds = 0, 0.0

    def add(self, count: int, seconds: float) -> None:
        """Count bytes. Raises StallTimeout below `min_rate`."""
        self._bytes += count
        self._seconds += seconds
        if self._seconds >= _RATE_WINDOW_S:
            if self._bytes < self._limits.min_rate * self._seconds:
                problem = f"sent fewer than {self._limits.min_rate:g} bytes/s for {_RATE_WINDOW_S:g} s"
                raise _stall_error("min_rate", problem)
            self._bytes, self._seconds = 0, 0.0


class AttemptTimeout:
    """An `asyncio.timeout` whose deadline moves by plain assignment.

    When a limit runs out, the `with` block raises StallTimeout, which names the limit. `first_byte` is a shorter limit
    for the first byte, in seconds, whose end raises EarlyTimeout.
    """

    __slots__ = (
        "_activity",
        "_cancelling",
        "_deadlines",
        "_expired",
        "_first_byte",
        "_limits",
        "_max_silence",
        "_moved_at",
        "_phase",
        "_rate",
        "_task",
        "_total_deadline",
    )

    def __init__(
        self,
        limits: Timeouts,
        deadlines: Deadlines,
        *,
        limit_total: bool = True,
        activity: Activity | None = None,
        first_byte: float = math.inf,
    ) -> None:
        self._limits = limits
        self._first_byte = min(limits.first_byte, first_byte)
        self._activity = Activity() if activity is None else activity
        self._activity.count += 1
        self._deadlines = deadlines
        self._moved_at = now = deadlines.loop.time()
        self._total_deadline = now + limits.total if limit_total else math.inf
        self._phase = "first_byte"
        self._max_silence = limits.connect + self._first_byte
        self._rate: RateWindow | None = None
        self._expired = False

    def __enter__(self) -> AttemptTimeout:
        task = asyncio.current_task()
        assert task is not None, "an AttemptTimeout cancels the task that uses it"
        self._task = task
        self._cancelling = task.cancelling()
        self._deadlines.add(self, self._next_check_at(self._moved_at))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._deadlines.remove(self)
        # A concurrent cancellation from elsewhere propagates: then more cancellations are pending than at entry.
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise self._to_error() from None

    def start_request(self) -> None:
        """Start the `first_byte` limit, once the transport is connected.

        If a transport never calls this, the limit is `connect` plus `first_byte` from the start of the attempt.
        """
        self._moved_at = self._deadlines.loop.time()
        self._max_silence = self._first_byte

    def start_body(self) -> float:
        """Start the limits on the body, after the headers have arrived; returns the seconds until they did."""
        asked_at, self._moved_at = self._moved_at, self._deadlines.loop.time()
        self._phase = "read"
        self._activity.count += 1
        self._max_silence = self._limits.read
        return self._moved_at - asked_at

    def add_bytes(self, count: int) -> None:
        """Count bytes of the body. Raises StallTimeout below `min_rate`."""
        moved_at, self._moved_at = self._moved_at, self._deadlines.loop.time()
        self._activity.count += 1
        if self._rate is None:
            self._rate = RateWindow(self._limits)
        self._rate.add(count, self._moved_at - moved_at)

    def cancel_if_expired(self, now: float) -> float:
        """Cancel the attempt if a limit has run out; return the time of the next check."""
        if self._expired:
            return math.inf
        if now < min(self._moved_at + self._max_silence, self._total_deadline):
            return self._next_check_at(now)
        self._expired = True
        self._task.cancel()
        return math.inf

    def _next_check_at(self, now: float) -> float:
        # At most the shortest limit from now: no deadline set in the meantime can be earlier than that.
        shortest = min(self._limits.read, self._first_byte)
        return min(self._moved_at + self._max_silence, self._total_deadline, now + shortest)

    def _to_error(self) -> StallTimeout:
        limits = self._limits
        if self._deadlines.loop.time() >= self._total_deadline:
            return _stall_error("total", f"did not complete its response within {limits.total:g} s")
        if self._phase == "first_byte" and self._first_byte < limits.first_byte:
            return EarlyTimeout(f"sent no response within {self._first_byte:.1f} s, far longer than others took")
        if self._phase == "first_byte":
            return _stall_error("first_byte", f"sent no response within {limits.first_byte:g} s")
        return _read_stall(limits)


class TimedStream:
    """The pieces of a streamed body: each within `read` seconds, and on average above `min_rate`.

    A streamed body may take hours, so only the time spent waiting for the server is measured.
    """

    def __init__(self, pieces: AsyncIterator[bytes], limits: Timeouts) -> None:
        self._pieces = pieces
        self._limits = limits
        self._rate = RateWindow(limits)

    def __aiter__(self) -> TimedStream:
        return self

    async def __anext__(self) -> bytes:
        now = asyncio.get_running_loop().time
        started_at = now()
        try:
            async with asyncio.timeout(self._limits.read):
                piece = await anext(self._pieces)
        except TimeoutError:
            raise _read_stall(self._limits) from None
        self._rate.add(len(piece), now() - started_at)
        return piece

    async def aclose(self) -> None:
        """Close the source of the pieces."""
        aclose = getattr(self._pieces, "aclose", None)
        if aclose is not None:
            await aclose()


def _read_stall(limits: Timeouts) -> StallTimeout:
    return _stall_error("read", f"sent nothing for {limits.read:g} s within the body")


def _stall_error(setting: str, problem: str) -> StallTimeout:
    return StallTimeout(problem, hint=f"if the API is that slow, set timeouts = Timeouts({setting}=...)")
