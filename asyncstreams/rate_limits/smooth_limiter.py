"""How are requests spaced evenly, where a declared limit asks for that?"""

from __future__ import annotations

import asyncio

from aiolimiter import AsyncLimiter

from ..models import RateLimit

_BURST = 0.02  # seconds of the rate that may pass at once, so that late timers cost nothing


class SmoothLimiter:
    """Lets units pass at an even rate, one request after the other."""

    def __init__(self, limit: RateLimit) -> None:
        rate = limit.limit / limit.per
        self._burst = max(1.0, rate * _BURST)
        self._limiter = AsyncLimiter(self._burst, self._burst / rate)
        self._turn = asyncio.Lock()

    async def wait(self, cost: float) -> None:
        """Wait for the turn of a request of so many units."""
        async with self._turn:
            while cost > 0:
                # The limiter knows nothing that is dearer than what may pass at once.
                units = min(cost, self._burst)
                await self._limiter.acquire(units)
                cost -= units
