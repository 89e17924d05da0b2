"""Source of time and sleep, replaceable in tests."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """A source of time: SystemClock by default, `asyncstreams.testing.VirtualClock` in tests."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start; never decreases."""
        ...

    def wall(self) -> float:
        """Seconds since the Unix epoch."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Suspend the current task for `seconds`; 0 or less yields to other tasks once."""
        ...


class SystemClock:
    """The clock of the operating system and the event loop."""

    monotonic = staticmethod(time.monotonic)
    """`time.monotonic()`."""
    wall = staticmethod(time.time)
    """`time.time()`."""

    async def sleep(self, seconds: float) -> None:
        """`asyncio.sleep(seconds)`."""
        await asyncio.sleep(seconds)

    def __repr__(self) -> str:
        return "SystemClock()"
