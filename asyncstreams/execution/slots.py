"""Concurrency slots of a run, shared fairly between its streams."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from ..rate_limits.fair_queue import FairQueue, QueueEntry

_MAX_LEAD_REQUESTS = 2  # a stream yields its slot when it is further ahead of a waiting one
_OPEN_SLICES_PER_SLOT = 4  # waiting slices have released their slots


class SlotPool:
    """A fixed number of slots for the slices of all streams of a run.

    Slots are granted by `FairQueue`: a stream is charged for each request. Requests are counted rather than pages,
    because a page would be counted too late, after a burst of other requests. `total` bounds the slots. At most four
    slices per slot are open, plus each stream's share of the slots: long slices that were open before leave a new
    stream its share.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.queue: FairQueue[StreamSlots] = FairQueue()
        self._free = total
        self._open_slices = self._needed = 0
        self._weights = 0.0

    def add_stream(self, weight: float = 1.0, max_slots: int | None = None) -> StreamSlots:
        """Register a stream, which holds at most `max_slots` at once, until its `close()`."""
        self._weights += weight
        return StreamSlots(self, weight, self.total if max_slots is None else min(max_slots, self.total))

    def remove_stream(self, slots: StreamSlots) -> None:
        """Unregister a finished stream: the shares of the others grow."""
        self._weights -= slots.weight
        self._assign_free_slots()

    def may_open(self, slots: StreamSlots) -> bool:
        return (
            self._open_slices < self.total * _OPEN_SLICES_PER_SLOT
            or not slots.open_slices
            or slots.open_slices * self._weights < self.total * slots.weight
        )

    def count_open(self, slots: StreamSlots, change: int) -> None:
        """Count a slice that starts (1) or ends (-1)."""
        self._open_slices += change
        slots.open_slices += change
        self._needed += change
        slots.needed += change
        if change < 0:
            self._assign_free_slots()

    def count_needed(self, slots: StreamSlots, change: int) -> None:
        """Count the slots that open slices and pages fetched ahead need, also while they have released them."""
        self._needed += change
        slots.needed += change

    def has_free_slot(self) -> bool:
        return self._free > 0

    def has_idle_slot(self) -> bool:
        """Whether a slot is free that no slice waits for, and that none has only released for a moment."""
        return self._free > 0 and self._needed < self.total and self.queue.first_ready() is None

    def mark_acquired(self, slots: StreamSlots) -> None:
        """Take a free slot without waiting."""
        self._take(slots)
        self.queue.charge(slots)

    def mark_released(self, slots: StreamSlots) -> None:
        self._free += 1
        slots.held -= 1
        self._assign_free_slots()

    def must_yield(self, slots: StreamSlots) -> bool:
        """Whether a waiting stream is more than `_MAX_LEAD_REQUESTS` behind this one."""
        if not self.queue.entries:
            return False
        return any(
            other is not slots
            and other.is_ready
            and other.start_tag + _MAX_LEAD_REQUESTS / other.weight < slots.start_tag
            for other in self.queue.entries
        )

    def _take(self, slots: StreamSlots) -> None:
        self._free -= 1
        slots.held += 1

    def _assign_free_slots(self) -> None:
        while self._free > 0 and (slots := self.queue.first_ready()) is not None:
            if (waiter := self.queue.pop(slots)) is not None:
                self._take(slots)
                waiter.set_result(None)


class StreamSlots(QueueEntry[None]):
    """The slots of one stream: slices already open come before new ones."""

    __slots__ = ("_pool", "held", "max_slots", "needed", "open_slices")

    def __init__(self, pool: SlotPool, weight: float, available: int) -> None:
        super().__init__(weight)
        self._pool = pool
        self.max_slots = available
        self.held = self.open_slices = self.needed = 0

    def new_slot(self) -> Slot:
        """A slot that is not acquired yet."""
        return Slot(self)

    async def acquire(self, *, new: bool) -> None:
        """Wait for a slot; `new`: for a slice that is about to start."""
        pool = self._pool
        if pool.has_free_slot() and self.held < self.max_slots and (not new or pool.may_open(self)):
            pool.mark_acquired(self)
            return
        waiter = pool.queue.push(self, later=new)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                pool.mark_released(self)
            pool.queue.remove(self, waiter)
            raise

    def acquire_idle(self) -> bool:
        """Take a slot that no slice of any stream needs; whether there was one."""
        pool = self._pool
        if not pool.has_idle_slot() or self.needed >= self.max_slots:
            return False
        pool.mark_acquired(self)
        return True

    def count_needed(self, change: int) -> None:
        """Count a slot that a page fetched ahead needs; -1 also while its slice waits for it, and needs none."""
        self._pool.count_needed(self, change)

    def release(self) -> None:
        self._pool.mark_released(self)

    def count_open(self, change: int) -> None:
        self._pool.count_open(self, change)

    @property
    def are_used_up(self) -> bool:
        """Whether no further slot can be acquired, because of the stream's own limit or that of the run."""
        return self.held >= self.max_slots or not self._pool.has_free_slot()

    def close(self) -> None:
        """Unregister the stream, whose slices have released their slots."""
        self._pool.remove_stream(self)

    def charge(self) -> None:
        """Count one request of the stream."""
        self._pool.queue.charge(self)

    def refund(self) -> None:
        """Undo the charge of a slot that was released before any request."""
        self._pool.queue.refund(self)

    def must_yield(self) -> bool:
        return self._pool.must_yield(self)

    @property
    def is_ready(self) -> bool:
        """Whether a slice is waiting that can take a slot."""
        return self.held < self.max_slots and (bool(self.waiting) or (bool(self.later) and self._pool.may_open(self)))


class Slot:
    """The slot of one slice, released while the slice waits for anything but a response.

    Acquiring it charges the stream one request; each later request is charged when it is sent. A slot that is
    released before its first request is refunded.
    """

    def __init__(self, slots: StreamSlots) -> None:
        self._slots = slots
        self._held = False
        self._is_charged = False

    async def acquire(self, *, new: bool = False) -> None:
        await self._slots.acquire(new=new)
        self._held = self._is_charged = True

    def acquire_idle(self) -> bool:
        """Acquire the slot if it is free and no slice waits for one; whether it was."""
        self._held = self._is_charged = self._slots.acquire_idle()
        return self._held

    async def ensure_acquired(self) -> None:
        """Acquire the slot unless it is held already."""
        if not self._held:
            await self.acquire()

    def charge_request(self) -> None:
        """Charge a request that is about to be sent."""
        if not self._is_charged:
            self._slots.charge()
        self._is_charged = False

    def release(self) -> None:
        """Release the slot if it is held."""
        if self._held:
            self._held = False
            if self._is_charged:
                self._slots.refund()
                self._is_charged = False
            self._slots.release()

    @asynccontextmanager
    async def released(self) -> AsyncGenerator[None]:
        """Release the slot inside the block, then acquire it again."""
        held = self._held
        self.release()
        yield
        if held:
            await self.acquire()

    async def yield_to_others(self) -> None:
        """Before the next page, hand the slot to a stream that is behind."""
        if self._held and self._slots.must_yield():
            self.release()
            await self.acquire()


_MIN_RESERVED_FDS = 64
_SPARE_FDS = 32  # beyond those already open, for files and sockets outside this package
_log = logging.getLogger("asyncstreams")


def cap_to_fd_limit(concurrency: int) -> int:
    """`concurrency`, capped by the limit on open files: each slot may need its own connection."""
    available = _fd_limit() - max(_MIN_RESERVED_FDS, _open_fd_count() + _SPARE_FDS)
    if concurrency <= available:
        return concurrency
    allowed = max(1, available)
    _log.warning(
        "max_concurrency is reduced to %d from %d: the limit on open files is too low (raise ulimit -n)",
        allowed,
        concurrency,
    )
    return allowed


def _fd_limit() -> int:
    if sys.platform == "win32":
        return 1 << 20
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft


def _open_fd_count() -> int:
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:  # missing on some systems
        return 0
