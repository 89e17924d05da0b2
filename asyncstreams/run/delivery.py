"""What lies between the slices that produce pages and the consumer that takes them: not much."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from ..model import Page
from .turns import turns


class Delivery:
    """A buffer of pages, bounded in number and in bytes; an async iterator for one consumer.

    A page that is larger than the bound passes when the buffer is empty. Producers that wait are
    let on in their order.
    """

    def __init__(self, most_pages: int, most_bytes: int) -> None:
        self._most_pages = most_pages
        self._most_bytes = most_bytes
        self._turns = turns()
        self._pages: deque[tuple[Page, int, Callable[[Page], None]]] = deque()
        self._bytes = 0
        self._producers: deque[asyncio.Future[None]] = deque()
        self._consumer: asyncio.Future[None] | None = None
        self._closed = False
        self._error: BaseException | None = None

    async def put(self, page: Page, size: int, handed: Callable[[Page], None]) -> None:
        """Hand a page of `size` bytes over; wait while there is no room. `handed` is called when it is taken."""
        while self.is_full:
            await self._let_on()
        self._pages.append((page, size, handed))
        self._bytes += size
        if self._consumer is not None and not self._consumer.done():
            self._consumer.set_result(None)

    async def room(self) -> None:
        """Wait until a page may be decoded: there is room for it, and it is its turn.

        Whoever then puts it without waiting for anything else finds the room.
        """
        await self._turns.take()
        if self.is_full or self._producers:
            await self._let_on()

    async def _let_on(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._producers.append(waiter)
        try:
            await waiter
            while self.is_full:  # somebody was faster: next time, then
                waiter = asyncio.get_running_loop().create_future()
                self._producers.appendleft(waiter)
                await waiter
            # Whoever is let on may yet put nothing, and must not keep the others.
            self._wake_producer()
        except asyncio.CancelledError:
            with suppress(ValueError):
                self._producers.remove(waiter)
            if waiter.done() and not waiter.cancelled():
                self._wake_producer()
            raise

    def close(self, error: BaseException | None = None) -> None:
        """Nothing more comes; the consumer gets what is here, and then `error`."""
        self._closed = True
        self._error = error
        if self._consumer is not None and not self._consumer.done():
            self._consumer.set_result(None)

    def __aiter__(self) -> Delivery:
        return self

    async def __anext__(self) -> Page:
        while not self._pages:
            if self._closed:
                # Once: an iterator that has ended stays ended.
                error, self._error = self._error, None
                raise StopAsyncIteration if error is None else error
            self._consumer = asyncio.get_running_loop().create_future()
            try:
                await self._consumer
            finally:
                self._consumer = None
        page, size, handed = self._pages.popleft()
        self._bytes -= size
        self._wake_producer()
        handed(page)
        return page

    @property
    def is_full(self) -> bool:
        return bool(self._pages) and (len(self._pages) >= self._most_pages or self._bytes >= self._most_bytes)

    def _wake_producer(self) -> None:
        while self._producers:
            waiter = self._producers.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
