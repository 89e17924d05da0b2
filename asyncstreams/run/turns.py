"""Which pages are decoded next, so that few decoded pages are alive at once?"""

from __future__ import annotations

import asyncio
from collections import deque

from anyio.lowlevel import RunVar

_BYTES = 16 * 1024  # in one pass, unless one page has more
_PAGES = 4


class Turns:
    """Lets one page be decoded in each pass of an event loop, or a few small ones, whatever reading they belong to.

    Whoever takes pages runs in the pass after the one that decoded them. A hundred answers that
    come together would else be a hundred pages in memory, each too cold for the processor's caches,
    where a loop by hand has one: at twice the CPU. A pass costs too, though: as much as a small page.
    """

    def __init__(self) -> None:
        self._left = _BYTES
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    async def take(self, size: int) -> None:
        """Wait for the turn of a page of so many bytes, which ends with this pass; first come, first served."""
        loop = asyncio.get_running_loop()
        size = max(size, _BYTES // _PAGES)
        if not self._waiting and self._has_room(size):
            if self._left == _BYTES:
                loop.call_soon(self._pass_on, loop)
            self._left -= size
            return
        waiter = loop.create_future()
        self._waiting.append((waiter, size))
        await waiter

    def _has_room(self, size: int) -> bool:
        return self._left == _BYTES or self._left >= size

    def _pass_on(self, loop: asyncio.AbstractEventLoop) -> None:
        self._left = _BYTES
        while self._waiting and self._has_room(self._waiting[0][1]):
            waiter, size = self._waiting.popleft()
            if not waiter.done():
                self._left -= size
                waiter.set_result(None)
        if self._left < _BYTES:
            loop.call_soon(self._pass_on, loop)


_TURNS: RunVar[Turns] = RunVar("asyncstreams.turns")


def turns() -> Turns:
    """Those of the running event loop, which all its readings share."""
    found = _TURNS.get(None)
    if found is None:
        found = Turns()
        _TURNS.set(found)
    return found
