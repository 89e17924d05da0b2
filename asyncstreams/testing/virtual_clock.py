"""How do waits pass at once, in the right order, without anything being patched?"""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Callable, Mapping
from typing import Any, cast
from weakref import WeakSet

import anyio.to_thread

_ASLEEP = 1e-9
_RESOLUTION = 1e-6
_BUSY = 250  # turns of the loop


class VirtualClock:
    """A Clock whose time moves only while everybody waits, and then at once to the next waiter's moment.

    The first use in an event loop makes that loop's own time virtual too, so that
    `asyncio.sleep` in a mock, and every timeout, keep step. What works in a thread, such as a file
    that is written, is waited for. It is not for real sockets: a server in another process does not
    know this time. `wall()` begins at `start`, in seconds of the epoch.
    """

    def __init__(self, start: float = 1_767_225_600.0) -> None:
        self._start = start
        self._now = 0.0
        self._loops: WeakSet[asyncio.AbstractEventLoop] = WeakSet()

    def monotonic(self) -> float:
        """Seconds that have passed so far."""
        self._attach()
        return self._now

    def wall(self) -> float:
        self._attach()
        return self._start + self._now

    async def sleep(self, seconds: float) -> None:
        self._attach()
        await asyncio.sleep(seconds)

    def advance(self, seconds: float) -> None:
        """Let time pass without anybody waiting."""
        self._now += seconds

    def _attach(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        if loop in self._loops:
            return
        inner = getattr(loop, "_selector", None)
        if not isinstance(inner, selectors.BaseSelector) or isinstance(inner, _LeapingSelector):
            raise RuntimeError("VirtualClock needs asyncio's own selector loop, and one clock for each loop")
        # Begin where the loop is, so that timers which are set already keep their distance. A whole number: what
        # is rounded away of later sums is the same in each run then, and so is what comes first.
        offset = math.floor(loop.time() - self._now)
        cast(Any, loop)._selector = _LeapingSelector(inner, self.advance, _threads_at_work(loop))
        cast(Any, loop).time = lambda: self._now + offset
        # Beyond half a year the loop's own resolution would be lost to rounding, and timers never due.
        cast(Any, loop)._clock_resolution = _RESOLUTION
        self._loops.add(loop)

    def __repr__(self) -> str:
        return f"<VirtualClock at {self._now:g} s>"


def _threads_at_work(loop: asyncio.AbstractEventLoop) -> Callable[[], int]:
    """How many threads work for the running loop, anyio's and those of its executors."""
    try:
        limiter = anyio.to_thread.current_default_thread_limiter()
    except RuntimeError:  # in a callback, anyio does not know whose loop it is
        limiter = None
    in_executors: set[asyncio.Future[Any]] = set()
    run_in_executor = loop.run_in_executor

    def counted(executor: Any, work: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        future = run_in_executor(executor, work, *arguments)
        in_executors.add(future)
        future.add_done_callback(in_executors.discard)
        return future

    cast(Any, loop).run_in_executor = counted
    return lambda: len(in_executors) + (limiter.borrowed_tokens if limiter is not None else 0)


class _LeapingSelector(selectors.BaseSelector):
    """The loop's selector, which lets time pass instead of blocking until the next timer."""

    def __init__(
        self, inner: selectors.BaseSelector, advance: Callable[[float], None], threads_at_work: Callable[[], int]
    ) -> None:
        self._inner = inner
        self._advance = advance
        self._threads_at_work = threads_at_work
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            self._turns += 1
            if self._turns % _BUSY == 0:
                # Real time never stands still: a wait that rounding makes 0 would be due for ever.
                self._advance(_RESOLUTION)
            return self._inner.select(timeout)
        # A thread that is done wakes the loop.
        ready = self._inner.select(None if self._threads_at_work() else 0)
        if not ready:
            # A hair more than asked, for what rounding takes away: the timer must be due.
            self._advance(timeout + _ASLEEP)
        return ready

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._inner.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._inner.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._inner.modify(fileobj, events, data)

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        return self._inner.get_key(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._inner.get_map()

    def close(self) -> None:
        self._inner.close()
