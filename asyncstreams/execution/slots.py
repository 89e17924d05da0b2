"""Who may work now: at most so many slices at once, shared fairly between streams."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

_QUANTUM = 2  # requests that a stream may be ahead of one that waits, before it gives way
_OPEN = 4  # slices that are begun, for each place: those that wait have given theirs back


class SlotPool:
    """So many places for the slices of all streams of a run.

    A stream's due is counted in requests by weight (start-time fair queueing, Goyal et al., 1996): of
    those that wait, the one that has had least is next. It rises with each request that is let go: a
    page would be too late, after a burst of others. `total` bounds the places. Four times as many
    slices are open at most, however long they wait, and beyond that each stream's share of the places:
    long slices of others, which were there before, leave a stream its share.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = total
        self._open = 0
        self._weights = 0.0
        self._waiting: dict[StreamSlots, None] = {}
        self._now = 0.0

    def share(self, weight: float = 1.0, most: int | None = None) -> StreamSlots:
        """What one stream holds of the places, until it leaves; never more than `most` at once."""
        self._weights += weight
        return StreamSlots(self, weight, self.total if most is None else min(most, self.total))

    def left(self, share: StreamSlots) -> None:
        """The stream has ended: the others' shares are larger."""
        self._weights -= share.weight
        self._hand_over()

    def may_open(self, share: StreamSlots) -> bool:
        return (
            self._open < self.total * _OPEN or not share.open or share.open * self._weights < self.total * share.weight
        )

    def opened(self, share: StreamSlots, change: int) -> None:
        """A slice begins, 1, or ends, -1."""
        self._open += change
        share.open += change
        if change < 0:
            self._hand_over()

    def has_free(self) -> bool:
        return self._free > 0

    def taken(self, share: StreamSlots) -> None:
        self._free -= 1
        share.held += 1
        self.charged(share)

    def given(self, share: StreamSlots) -> None:
        self._free += 1
        share.held -= 1
        self._hand_over()

    def charged(self, share: StreamSlots) -> None:
        """One more request of a stream."""
        if not self._waiting:
            # Nobody is kept from anything: who comes later has missed nothing.
            self._now = share.due = max(share.due, self._now)
        share.due += 1 / share.weight

    def waits(self, share: StreamSlots) -> None:
        if share not in self._waiting:
            # Whoever did not want more comes back as if it had had as much as the one that was served last.
            share.due = max(share.due, self._now)
            self._waiting[share] = None

    def owes(self, share: StreamSlots) -> bool:
        """Whether another stream waits that has had less."""
        if not self._waiting:
            return False
        return any(
            other is not share and other.is_ready() and other.due + _QUANTUM / other.weight < share.due
            for other in self._waiting
        )

    def _hand_over(self) -> None:
        while self._free > 0 and (share := self._next()) is not None:
            self._now = max(self._now, share.due)
            if share.wake():
                self.taken(share)
            if not share.is_waiting():
                del self._waiting[share]

    def _next(self) -> StreamSlots | None:
        """Of those that could have a place the one that has had least."""
        found: StreamSlots | None = None
        for share in self._waiting:
            if (found is None or share.due < found.due) and share.is_ready():
                found = share
        return found


class StreamSlots:
    """The places of one stream: slices that were begun come before new ones."""

    def __init__(self, places: SlotPool, weight: float, most: int) -> None:
        self._places = places
        self.weight = weight
        self.most = most
        self.held = self.open = 0
        self.due = 0.0
        self._begun: deque[asyncio.Future[None]] = deque()
        self._new: deque[asyncio.Future[None]] = deque()

    def place(self) -> Slot:
        """A place that is not taken yet."""
        return Slot(self)

    async def take(self, *, new: bool) -> None:
        """Wait for a place; `new`: for a slice that is to begin."""
        places = self._places
        if places.has_free() and self.held < self.most and (not new or places.may_open(self)):
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
        self._places.opened(self, change)

    def leave(self) -> None:
        """The stream has ended; its slices have given their places back."""
        self._places.left(self)

    def charge(self) -> None:
        self._places.charged(self)

    def refund(self) -> None:
        """A place was given back before anything was asked for."""
        self.due -= 1 / self.weight

    def owes(self) -> bool:
        return self._places.owes(self)

    def is_waiting(self) -> bool:
        return bool(self._begun or self._new)

    def is_ready(self) -> bool:
        """Whether somebody waits who could have a place."""
        return self.held < self.most and (bool(self._begun) or (bool(self._new) and self._places.may_open(self)))

    def wake(self) -> bool:
        """Give a place to whoever is next; false where nobody wants it any more."""
        queue = self._begun or self._new
        waiter = queue.popleft()
        if waiter.done():
            return False
        waiter.set_result(None)
        return True


class Slot:
    """One slice's place: given back while it waits for anything but an answer.

    It is paid for when it is taken, for one request, and again for each request after that. What is
    given back before the request went is refunded: whoever waits in vain has had nothing.
    """

    def __init__(self, share: StreamSlots) -> None:
        self._share = share
        self._held = False
        self._is_paid = False

    async def take(self, *, new: bool = False) -> None:
        await self._share.take(new=new)
        self._held = self._is_paid = True

    async def ensure(self) -> None:
        """Take it, unless it is held already."""
        if not self._held:
            await self.take()

    def sent(self) -> None:
        """A request goes."""
        if not self._is_paid:
            self._share.charge()
        self._is_paid = False

    def give(self) -> None:
        """Give it back, if it is held."""
        if self._held:
            self._held = False
            if self._is_paid:
                self._share.refund()
                self._is_paid = False
            self._share.give()

    @asynccontextmanager
    async def away(self) -> AsyncGenerator[None]:
        """Others may work meanwhile; it is taken again at the end."""
        held = self._held
        self.give()
        yield
        if held:
            await self.take()

    async def give_way(self) -> None:
        """Before another page: let a stream that has had less go first."""
        if self._held and self._share.owes():
            self.give()
            await self.take()


_RESERVED = 64
_SPARE = 32  # beside what is open already: files of the user's, sockets of others
_log = logging.getLogger("asyncstreams")


def within_descriptors(concurrency: int) -> int:
    """As many of these as the limit of open files leaves room for: each may need a connection of its own."""
    most = _descriptors() - max(_RESERVED, _open_already() + _SPARE)
    if concurrency <= most:
        return concurrency
    allowed = max(1, most)
    _log.warning(
        "max_concurrency is %d here, not %d: this process may open few files (ulimit -n)", allowed, concurrency
    )
    return allowed


def _descriptors() -> int:
    if sys.platform == "win32":
        return 1 << 20
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft


def _open_already() -> int:
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:  # not every system has it
        return 0
