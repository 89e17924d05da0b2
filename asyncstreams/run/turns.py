"""Which page is decoded next, so that few decoded pages are alive at once?"""

from __future__ import annotations

import asyncio
from collections import deque

from anyio.lowlevel import RunVar


class Turns:
    """Lets one page be decoded in each pass of an event loop, whatever reading it belongs to.

    Whoever takes pages runs in the pass after the one that decoded them. A hundred answers that
    come together would else be a hundred pages in memory, each too cold for the processor's caches,
    where a loop by hand has one: at twice the CPU.
    """

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        """Wait for the caller's turn, which ends with this pass of the loop; first come, first served."""
        loop = asyncio.get_running_loop()
        if not self._is_taken:
            self._is_taken = True
            loop.call_soon(self._pass_on, loop)
            return
        waiter = loop.create_future()
        self._waiting.append(waiter)
        await waiter

    def _pass_on(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                loop.call_soon(self._pass_on, loop)
                return
        self._is_taken = False


_TURNS: RunVar[Turns] = RunVar("asyncstreams.turns")


def turns() -> Turns:
    """Those of the running event loop, which all its readings share."""
    found = _TURNS.get(None)
    if found is None:
        found = Turns()
        _TURNS.set(found)
    return found
