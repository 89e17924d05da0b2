"""One declared limit: a strict log of a sliding window, or even spacing of requests."""

from __future__ import annotations

import asyncio
from collections import deque

from ..models import RateLimit

_STEPS_PER_WINDOW = 4096
# Added to the window, since network latency differs from one request to the next.
_MARGIN_FRACTION, _MAX_MARGIN_S = 0.02, 0.05
_BURST_S = 0.02  # of the rate that may pass at once, so that late timers cost no throughput


class SlidingWindowLog:
    """A strict limit: no span of `limit.per` seconds contains more than `limit.limit` units.

    Requests within 1/4096 of the window share one entry with the time of the last of them. So a
    million requests a day need little memory, and the limit is never exceeded.
    """

    def __init__(self, limit: RateLimit) -> None:
        self.limit = limit
        self._entries: deque[list[float]] = deque()
        self._used = 0.0
        # Evenly spaced requests do not arrive in the next window in numbers.
        self._has_response = limit.smooth
        margin = 0.0 if limit.smooth else min(_MAX_MARGIN_S, _MARGIN_FRACTION * limit.per)
        self._per = limit.per + margin
        self._step = limit.per / _STEPS_PER_WINDOW

    def available_at(self, cost: float, now: float) -> float:
        """When a request of `cost` units may be sent: `now` or later.

        A request that costs more than the whole limit is sent when the window is empty.
        """
        self._expire(now)
        capacity = max(self.limit.limit, cost)
        if self._used + cost <= capacity:
            return now
        used, last = self._used, now
        for last, units, _ in self._entries:  # noqa: B007  # the last entry, if rounding errors leave a remainder
            used -= units
            if used + cost <= capacity:
                break
        return max(now, last + self._per)

    def available_after(self, units: float, cost: float, now: float) -> float:
        """When a request of `cost` may be sent if others of `units` in total go before it."""
        windows, rest = divmod(units, self.limit.limit)
        return self.available_at(rest + cost, now) + windows * self._per

    def record_request(self, cost: float, now: float) -> None:
        """Record that a request of `cost` units was sent."""
        self._used += cost
        if self._entries and now - self._entries[-1][2] < self._step:
            last = self._entries[-1]
            last[0], last[1] = now, last[1] + cost
        else:
            self._entries.append([now, cost, now])

    def record_response(self, now: float) -> None:
        """Record a response; at the first one, earlier requests count from now.

        They had to connect first, so the server may have received them as late as this.
        """
        if not self._has_response and self._entries:
            self._has_response = True
            self._entries = deque([[now, self._used, now]])

    def _expire(self, now: float) -> None:
        while self._entries and self._entries[0][0] + self._per <= now:
            self._used -= self._entries.popleft()[1]
        if not self._entries:
            self._used = 0.0  # discards rounding errors


class SmoothLimiter:
    """Admits units at an even rate, one request after the other."""

    def __init__(self, limit: RateLimit) -> None:
        from aiolimiter import AsyncLimiter

        rate = limit.limit / limit.per
        self._burst = max(1.0, rate * _BURST_S)
        self._limiter = AsyncLimiter(self._burst, self._burst / rate)
        self._lock = asyncio.Lock()

    async def acquire(self, cost: float) -> None:
        """Wait until a request of `cost` units may be sent."""
        async with self._lock:
            while cost > 0:
                # AsyncLimiter refuses to acquire more than its burst at once.
                units = min(cost, self._burst)
                await self._limiter.acquire(units)
                cost -= units
