"""What lies between the slices that produce pages and the consumer that takes them: not much."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from operator import attrgetter

from anyio.lowlevel import RunVar

from ..models import Page
from ..state.stream_state import StreamState
from .slots import Slot


class PageQueue:
    """A buffer of pages, bounded in number and in bytes; an async iterator for one consumer.

    A page that is larger than the bound passes when the buffer is empty. Producers that wait are
    let on by lane, the one that has had least by weight first (as in `places`), and within a lane
    in their order: a stream of few slices has its share of a slow consumer too.
    """

    def __init__(self, most_pages: int, most_bytes: int) -> None:
        self._most_pages = most_pages
        self._most_bytes = most_bytes
        self._turns = turns()
        self._pages: deque[tuple[Page, int, Callable[[Page], None]]] = deque()
        self._bytes = 0
        self._waiting: dict[PageQueueSender, None] = {}
        self._now = 0.0
        self._consumer: asyncio.Future[None] | None = None
        self._closed = False
        self._error: BaseException | None = None

    def lane(self, weight: float = 1.0) -> PageQueueSender:
        """The way in for the pages of one stream."""
        return PageQueueSender(self, weight)

    async def put(self, lane: PageQueueSender, page: Page, size: int, handed: Callable[[Page], None]) -> None:
        paid = lane.granted > 0
        lane.granted -= paid
        if self.is_full:
            lane.due -= paid / lane.weight
            await self._let_on(lane)
        elif not paid:
            self._charge(lane)
        self._pages.append((page, size, handed))
        self._bytes += size
        if self._consumer is not None and not self._consumer.done():
            self._consumer.set_result(None)

    async def room(self, lane: PageQueueSender) -> None:
        await self._turns.take()
        if self._waiting or self.is_full:
            await self._let_on(lane)
        else:
            self._charge(lane)
        lane.granted += 1

    def _charge(self, lane: PageQueueSender) -> None:
        """One more page of a stream, that need not wait."""
        if not self._waiting:
            self._now = lane.due = max(lane.due, self._now)
        lane.due += 1 / lane.weight

    async def _let_on(self, lane: PageQueueSender) -> None:
        if lane not in self._waiting:
            lane.due = max(lane.due, self._now)
        waiter = self._queue(lane)
        try:
            await waiter
            while self.is_full:  # somebody was faster: next time, then, and as early as it was to be now
                lane.due -= 1 / lane.weight
                waiter = self._queue(lane, first=True)
                await waiter
            # Whoever is let on may yet put nothing, and must not keep the others.
            self._wake_producer()
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                lane.due -= 1 / lane.weight
                self._wake_producer()
            else:
                self._forget(lane, waiter)
            raise

    def _queue(self, lane: PageQueueSender, *, first: bool = False) -> asyncio.Future[None]:
        """Somebody waits; `first`: before all others of the stream."""
        waiter = asyncio.get_running_loop().create_future()
        (lane.waiting.appendleft if first else lane.waiting.append)(waiter)
        self._waiting[lane] = None
        return waiter

    def _forget(self, lane: PageQueueSender, waiter: asyncio.Future[None]) -> None:
        with suppress(ValueError):  # it may have been passed over already
            lane.waiting.remove(waiter)
        if not lane.waiting:
            self._waiting.pop(lane, None)

    def close(self, error: BaseException | None = None) -> None:
        """Nothing more comes; the consumer gets what is here, and then `error`."""
        self._closed = True
        self._error = error
        if self._consumer is not None and not self._consumer.done():
            self._consumer.set_result(None)

    def __aiter__(self) -> PageQueue:
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
        while self._waiting:
            lane = min(self._waiting, key=_DUE)
            waiter = lane.waiting.popleft()
            if not lane.waiting:
                del self._waiting[lane]
            if not waiter.done():
                self._now = max(self._now, lane.due)
                lane.due += 1 / lane.weight
                waiter.set_result(None)
                return


class PageQueueSender:
    """The way of one stream's pages into the delivery."""

    wants_known = False
    """Whether pages that were handed over in an earlier run are of use."""
    carried: StreamState | None = None
    """What moves with pages as they are made, and not as they are acknowledged."""

    def __init__(self, delivery: PageQueue, weight: float) -> None:
        self._delivery = delivery
        self.weight = weight
        self.due = 0.0
        self.granted = 0
        self.waiting: deque[asyncio.Future[None]] = deque()

    async def put(self, page: Page, size: int, handed: Callable[[Page], None]) -> None:
        """Hand a page of `size` bytes over; wait while there is no room. `handed` is called when it is taken."""
        await self._delivery.put(self, page, size, handed)

    async def put_known(self, page: Page) -> None:
        """A page that was handed over in an earlier run: nobody waits for it here."""

    @property
    def is_wanted(self) -> bool:
        """Whether another page is; `limit` is looked after elsewhere."""
        return True

    async def next_may_come(self, place: Slot) -> None:
        """Nothing keeps the next page of a slice but its turn."""

    async def room(self) -> None:
        """Wait until a page may be decoded: there is room for it, and it is its turn.

        Whoever then puts it without waiting for anything else finds the room.
        """
        await self._delivery.room(self)


_DUE = attrgetter("due")


class DecodeGate:
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


_TURNS: RunVar[DecodeGate] = RunVar("asyncstreams.turns")


def turns() -> DecodeGate:
    """Those of the running event loop, which all its readings share."""
    found = _TURNS.get(None)
    if found is None:
        found = DecodeGate()
        _TURNS.set(found)
    return found
