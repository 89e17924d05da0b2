"""The bounded queue between the slices of a run and its consumer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from anyio.lowlevel import RunVar

from ..models import Page
from ..rate_limits.fair_queue import FairQueue, QueueEntry
from ..state.stream_state import StreamState
from .slots import Slot


class PageQueue:
    """A buffer of pages, bounded in number and in bytes; an async iterator for one consumer.

    A page larger than the byte bound passes when the buffer is empty. Waiting producers are admitted by `FairQueue`
    over the streams, and in FIFO order within a stream. A stream with few slices therefore gets its share of a slow
    consumer too.
    """

    def __init__(self, max_pages: int, max_bytes: int) -> None:
        self._max_pages = max_pages
        self._max_bytes = max_bytes
        self._decode_gate = decode_gate()
        self._pages: deque[tuple[Page, int, Callable[[Page], None]]] = deque()
        self._bytes = 0
        self._queue: FairQueue[PageQueueSender] = FairQueue()
        self._consumer: asyncio.Future[None] | None = None
        self._closed = False
        self._error: BaseException | None = None

    def add_sender(self, weight: float = 1.0) -> PageQueueSender:
        """A sender for the pages of one stream."""
        return PageQueueSender(self, weight)

    async def put(self, sender: PageQueueSender, page: Page, size: int, on_delivered: Callable[[Page], None]) -> None:
        was_granted = sender.granted > 0
        sender.granted -= was_granted
        if self.is_full:
            if was_granted:
                self._queue.refund(sender)
            await self._wait_for_turn(sender)
        elif not was_granted:
            self._queue.charge(sender)
        self._pages.append((page, size, on_delivered))
        self._bytes += size
        if self._consumer is not None and not self._consumer.done():
            self._consumer.set_result(None)

    async def wait_for_capacity(self, sender: PageQueueSender) -> None:
        if not self._decode_gate.try_enter():
            await self._decode_gate.wait_for_turn()
        if self._queue.entries or self.is_full:
            await self._wait_for_turn(sender)
        else:
            self._queue.charge(sender)
        sender.granted += 1

    async def _wait_for_turn(self, sender: PageQueueSender) -> None:
        waiter = self._queue.push(sender)
        try:
            await waiter
            while self.is_full:  # another producer was faster: wait again, with the same start tag
                self._queue.refund(sender)
                waiter = self._queue.push(sender, first=True)
                await waiter
            # This producer may not put anything after all, and must not hold up the others.
            self._wake_producer()
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._queue.refund(sender)
                self._wake_producer()
            else:
                self._queue.remove(sender, waiter)
            raise

    def close(self, error: BaseException | None = None) -> None:
        """Accept no more pages. The consumer gets the buffered pages, then `error`."""
        self._closed = True
        self._error = error
        if self._consumer is not None and not self._consumer.done():
            self._consumer.set_result(None)

    def __aiter__(self) -> PageQueue:
        return self

    async def __anext__(self) -> Page:
        while not self._pages:
            if self._closed:
                # Raise it once: an exhausted iterator stays exhausted.
                error, self._error = self._error, None
                raise StopAsyncIteration if error is None else error
            self._consumer = asyncio.get_running_loop().create_future()
            try:
                await self._consumer
            finally:
                self._consumer = None
        page, size, on_delivered = self._pages.popleft()
        self._bytes -= size
        self._wake_producer()
        on_delivered(page)
        return page

    @property
    def is_waited_for(self) -> bool:
        """Whether the consumer waits for a page."""
        return self._consumer is not None

    @property
    def is_full(self) -> bool:
        return bool(self._pages) and (len(self._pages) >= self._max_pages or self._bytes >= self._max_bytes)

    def _wake_producer(self) -> None:
        while (sender := self._queue.first_ready()) is not None:
            if (waiter := self._queue.pop(sender)) is not None:
                waiter.set_result(None)
                return


class PageQueueSender(QueueEntry[None]):
    """Puts the pages of one stream into the queue."""

    replays_delivered = False
    """Whether pages that an earlier run delivered are needed again."""
    children_state: StreamState | None = None
    """State that advances when pages are built, not when they are acknowledged: it is kept by child streams."""

    def __init__(self, page_queue: PageQueue, weight: float) -> None:
        super().__init__(weight)
        self._page_queue = page_queue
        self.granted = 0

    def put(self, page: Page, size: int, on_delivered: Callable[[Page], None]) -> Awaitable[None]:
        """Queue a page of `size` bytes, waiting for capacity. The consumer's `anext` calls `on_delivered`."""
        return self._page_queue.put(self, page, size, on_delivered)

    async def put_already_delivered(self, page: Page) -> None:
        """Drop a page that an earlier run delivered: the consumer does not need it."""

    @property
    def has_demand(self) -> bool:
        """Whether another page is wanted. A record limit is checked elsewhere."""
        return True

    async def wait_for_demand(self, slot: Slot) -> None:
        """Return at once: a consumer always wants the next page."""

    def wait_for_capacity(self) -> Awaitable[None]:
        """Wait until the queue has capacity for a page and its turn to be decoded has come.

        A page that is put without another await in between finds that capacity.
        """
        return self._page_queue.wait_for_capacity(self)


class DecodeGate:
    """Admits one page decode in each iteration of an event loop, across all runs.

    The consumer runs in the iteration after the decode. Without the gate, a hundred responses that arrive
    together become a hundred decoded pages, too many for the processor's caches. That costs twice the CPU
    of a hand-written loop, which holds one page at a time.
    """

    def __init__(self) -> None:
        self._is_occupied = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    def try_enter(self) -> bool:
        """Whether it is the caller's turn, which ends with this iteration of the loop; if not, it has to wait."""
        if self._is_occupied:
            return False
        self._is_occupied = True
        loop = asyncio.get_running_loop()
        loop.call_soon(self._wake_next, loop)
        return True

    async def wait_for_turn(self) -> None:
        """Wait for the caller's turn, in FIFO order, after `try_enter`."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        await waiter

    def _wake_next(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                loop.call_soon(self._wake_next, loop)
                return
        self._is_occupied = False


_DECODE_GATE: RunVar[DecodeGate] = RunVar("asyncstreams.decode_gate")


def decode_gate() -> DecodeGate:
    """The gate of the running event loop, shared by all its runs."""
    gate = _DECODE_GATE.get(None)
    if gate is None:
        gate = DecodeGate()
        _DECODE_GATE.set(gate)
    return gate
