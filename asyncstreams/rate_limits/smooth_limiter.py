"""Even spacing of requests under a smooth declared limit."""

from __future__ import annotations

import asyncio

from ..models import RateLimit

_BURST_S = 0.02  # of the rate that may pass at once, so that late timers cost no throughput


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
