"""Measurement of the event loop's own delay."""

from __future__ import annotations

import asyncio

_INTERVAL_S = 0.05


class LoopLag:
    """How late the event loop runs its timers; this delay must not be counted as server latency.

    Measures twenty times a second while `sample` is called, and stops soon after the last call.
    `seconds` is the larger of the last two delays.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._last_delay = 0.0
        self._is_in_use = False
        self._due_at = 0.0
        self._handle: asyncio.TimerHandle | None = None

    def sample(self) -> float:
        """Return the delay in seconds and keep the measurement running."""
        self._is_in_use = True
        if self._handle is None:
            self._schedule()
        return self.seconds

    def stop(self) -> None:
        """Cancel the measurement; `sample` starts it again."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _schedule(self) -> None:
        loop = asyncio.get_running_loop()
        self._due_at = loop.time() + _INTERVAL_S
        self._handle = loop.call_at(self._due_at, self._measure, loop)

    def _measure(self, loop: asyncio.AbstractEventLoop) -> None:
        delay = max(0.0, loop.time() - self._due_at)
        self.seconds, self._last_delay = max(delay, self._last_delay), delay
        self._handle = None
        if self._is_in_use:
            self._is_in_use = False
            self._schedule()
        else:
            self.seconds = self._last_delay = 0.0
