"""Virtual clock: waits take no real time and end in the right order, without monkeypatching."""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Callable, Mapping
from typing import Any, cast
from weakref import WeakSet

import anyio.to_thread

_ROUNDING_MARGIN_S = 1e-9
_RESOLUTION_S = 1e-6
_MAX_BUSY_TURNS = 250  # iterations of the event loop


class VirtualClock:
    """A clock whose time advances only while all tasks wait; it then jumps to the end of the next wait.

    Pass it as `clock=` to streams and authenticators. The first use in an event loop makes the time of
    that loop virtual too, so `asyncio.sleep` in a mock and every timeout follow it. Time does not
    advance while a thread works, for example while a file is written.

    Do not use it with real sockets: a server in another process does not know this time, so timeouts
    expire at once. It requires asyncio's own selector event loop and one clock for each loop; otherwise
    the first use raises RuntimeError.

    `monotonic()` starts at 0. `wall()` starts at `start`, in seconds since 1970 (default:
    2026-01-01T00:00:00Z).
    """

    def __init__(self, start: float = 1_767_225_600.0) -> None:
        self._start = start
        self._now = 0.0
        self._loops: WeakSet[asyncio.AbstractEventLoop] = WeakSet()

    def monotonic(self) -> float:
        """Virtual seconds since the clock was created."""
        self._attach()
        return self._now

    def wall(self) -> float:
        """Virtual time in seconds since 1970."""
        self._attach()
        return self._start + self._now

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds` of virtual time."""
        self._attach()
        await asyncio.sleep(seconds)

    def advance(self, seconds: float) -> None:
        """Advance the time by `seconds` without a wait."""
        self._now += seconds

    def _attach(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        if loop in self._loops:
            return
        inner = getattr(loop, "_selector", None)
        if not isinstance(inner, selectors.BaseSelector) or isinstance(inner, _AutoAdvanceSelector):
            raise RuntimeError(
                "VirtualClock: it requires asyncio's selector event loop, and only one clock for each loop"
            )
        # Start at the current time of the loop, so that timers that are already set keep their distance. The offset
        # is a whole number, so that later sums round the same way in each run and timers fire in the same order.
        offset = math.floor(loop.time() - self._now)
        cast(Any, loop)._selector = _AutoAdvanceSelector(inner, self.advance, _busy_thread_counter(loop))
        cast(Any, loop).time = lambda: self._now + offset
        # With the default resolution, rounding would keep timers from firing after half a year of virtual time.
        cast(Any, loop)._clock_resolution = _RESOLUTION_S
        self._loops.add(loop)

    def __repr__(self) -> str:
        return f"<VirtualClock at {self._now:g} s>"


def _busy_thread_counter(loop: asyncio.AbstractEventLoop) -> Callable[[], int]:
    """A function that counts the busy threads of the running loop: those of anyio and of its executors."""
    try:
        limiter = anyio.to_thread.current_default_thread_limiter()
    except RuntimeError:  # in a callback of the loop, anyio finds no current task
        limiter = None
    in_executors: set[asyncio.Future[Any]] = set()
    run_in_executor = loop.run_in_executor

    def run_in_executor_counted(executor: Any, work: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        future = run_in_executor(executor, work, *arguments)
        in_executors.add(future)
        future.add_done_callback(in_executors.discard)
        return future

    cast(Any, loop).run_in_executor = run_in_executor_counted
    return lambda: len(in_executors) + (limiter.borrowed_tokens if limiter is not None else 0)


class _AutoAdvanceSelector(selectors.BaseSelector):
    """Wraps the selector of the loop; advances the clock instead of blocking until the next timer."""

    def __init__(
        self, inner: selectors.BaseSelector, advance: Callable[[float], None], threads_at_work: Callable[[], int]
    ) -> None:
        self._inner = inner
        self._advance = advance
        self._count_busy_threads = threads_at_work
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            self._turns += 1
            if self._turns % _MAX_BUSY_TURNS == 0:
                # Real time always advances. Without this, a wait that rounding turns into 0 would repeat forever.
                self._advance(_RESOLUTION_S)
            return self._inner.select(timeout)
        # A thread that finishes wakes the loop.
        ready = self._inner.select(None if self._count_busy_threads() else 0)
        if not ready:
            # The margin makes up for rounding, so that the timer is due.
            self._advance(timeout + _ROUNDING_MARGIN_S)
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
