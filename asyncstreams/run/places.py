"""Who may work now: at most so many slices at once, shared fairly between streams."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

_QUANTUM = 2  # pages that a slice may be ahead of a stream that waits, before it gives way
_OPEN = 4  # slices that are begun, for each place: those that wait have given theirs back


class Places:
    """So many places for the slices of all streams of a run.

    A stream's due is counted in pages by weight (start-time fair queueing, Goyal et al., 1996): of
    those that wait, the one that has had least is next. `total` bounds the places, and four times
    as many slices are open at most, however long they wait.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = total
        self._open = 0
        self._waiting: dict[Share, None] = {}
        self._now = 0.0

    def share(self, weight: float = 1.0, most: int | None = None) -> Share:
        """What one stream holds of the places; never more than `most` at once."""
        return Share(self, weight, self.total if most is None else min(most, self.total))

    def may_open(self) -> bool:
        return self._open < self.total * _OPEN

    def opened(self, change: int) -> None:
        """A slice begins, 1, or ends, -1."""
        self._open += change
        if change < 0:
            self._hand_over()

    def has_free(self) -> bool:
        return self._free > 0

    def taken(self, share: Share) -> None:
        self._free -= 1
        if not share.held:
            # Whoever was idle comes back as if it had had as much as the one that was served last.
            share.due = max(share.due, self._now)
        share.held += 1

    def given(self, share: Share) -> None:
        self._free += 1
        share.held -= 1
        self._hand_over()

    def served(self, share: Share) -> None:
        """One more page of a stream."""
        share.due += 1 / share.weight

    def waits(self, share: Share) -> None:
        if share not in self._waiting:
            if not share.held:
                share.due = max(share.due, self._now)
            self._waiting[share] = None

    def owes(self, share: Share) -> bool:
        """Whether another stream waits that has had less."""
        if not self._waiting:
            return False
        return any(
            other is not share and other.is_ready() and other.due + _QUANTUM / other.weight < share.due
            for other in self._waiting
        )

    def _hand_over(self) -> None:
        while self._free > 0:
            ready = [share for share in self._waiting if share.is_ready()]
            if not ready:
                return
            share = min(ready, key=lambda share: share.due)
            self._now = max(self._now, share.due)
            if share.wake():
                self.taken(share)
            if not share.is_waiting():
                del self._waiting[share]


class Share:
    """The places of one stream: slices that were begun come before new ones."""

    def __init__(self, places: Places, weight: float, most: int) -> None:
        self._places = places
        self.weight = weight
        self.most = most
        self.held = 0
        self.due = 0.0
        self._begun: deque[asyncio.Future[None]] = deque()
        self._new: deque[asyncio.Future[None]] = deque()

    def place(self) -> Place:
        """A place that is not taken yet."""
        return Place(self)

    async def take(self, *, new: bool) -> None:
        """Wait for a place; `new`: for a slice that is to begin."""
        places = self._places
        if places.has_free() and self.held < self.most and (not new or places.may_open()):
            places.taken(self)
            return
        queue = self._new if new else self._begun
        waiter = asyncio.get_running_loop().create_future()
        queue.append(waiter)
        places.waits(self)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                places.given(self)
            with suppress(ValueError):  # whoever woke us may have taken it out
                queue.remove(waiter)
            raise

    def give(self) -> None:
        self._places.given(self)

    def opened(self, change: int) -> None:
        self._places.opened(change)

    def served(self) -> None:
        self._places.served(self)

    def owes(self) -> bool:
        return self._places.owes(self)

    def is_waiting(self) -> bool:
        return bool(self._begun or self._new)

    def is_ready(self) -> bool:
        """Whether somebody waits who could have a place."""
        return self.held < self.most and (bool(self._begun) or (bool(self._new) and self._places.may_open()))

    def wake(self) -> bool:
        """Give a place to whoever is next; false where nobody wants it any more."""
        queue = self._begun or self._new
        waiter = queue.popleft()
        if waiter.done():
            return False
        waiter.set_result(None)
        return True


class Place:
    """One slice's place: given back while it waits for anything but an answer."""

    def __init__(self, share: Share) -> None:
        self._share = share
        self._held = False

    async def take(self, *, new: bool = False) -> None:
        await self._share.take(new=new)
        self._held = True

    async def ensure(self) -> None:
        """Take it, unless it is held already."""
        if not self._held:
            await self.take()

    def give(self) -> None:
        """Give it back, if it is held."""
        if self._held:
            self._held = False
            self._share.give()

    @asynccontextmanager
    async def away(self) -> AsyncGenerator[None]:
        """Others may work meanwhile; it is taken again at the end."""
        held = self._held
        self.give()
        yield
        if held:
            await self.take()

    async def page_served(self) -> None:
        """A page was handed over: let a stream that has had less go first."""
        self._share.served()
        if self._held and self._share.owes():
            self.give()
            await self.take()
