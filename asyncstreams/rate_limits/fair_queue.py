"""Weighted fair queue: of requests, of slices that wait for a slot, of pages that wait for the consumer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from operator import attrgetter
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class QueueEntry(Generic[T]):
    """One stream's waiters, in order; `start_tag` is the service it has received, divided by its weight.

    Those in `later` are served when none is in `waiting`.
    """

    __slots__ = ("__weakref__", "later", "start_tag", "waiting", "weight")

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.start_tag = 0.0
        self.waiting: deque[asyncio.Future[T]] = deque()
        self.later: deque[asyncio.Future[T]] = deque()

    @property
    def is_ready(self) -> bool:
        """Whether the entry may be served now. A subclass may have conditions."""
        return True


E = TypeVar("E", bound=QueueEntry[Any])


class FairQueue(Generic[E]):
    """Start-time fair queueing (Goyal et al., 1996): the entry with the lowest start tag is served next.

    An entry that was idle returns at the current virtual time: it neither catches up on what it missed
    nor is charged for it.
    """

    def __init__(self) -> None:
        self.entries: dict[E, None] = {}
        """Entries with at least one waiter."""
        self._virtual_time = 0.0

    def __len__(self) -> int:
        return sum(len(entry.waiting) for entry in self.entries)

    def ahead_of(self, entry: E) -> float:
        """Approximate number of waiters that would be served before another one of this entry."""
        return len(entry.waiting) * sum(other.weight for other in self.entries) / entry.weight

    def __iter__(self) -> Iterator[E]:
        """Entries with waiters, the next one first."""
        return iter(sorted(self.entries, key=_START_TAG) if len(self.entries) > 1 else tuple(self.entries))

    def first_ready(self) -> E | None:
        """The entry that is served next: that with the lowest start tag among those that are ready."""
        found: E | None = None
        for entry in self.entries:
            if (found is None or entry.start_tag < found.start_tag) and entry.is_ready:
                found = entry
        return found

    def push(self, entry: E, *, first: bool = False, later: bool = False) -> asyncio.Future[Any]:
        """Add a waiter, whose future the caller of `pop` sets.

        `first`: before the others of its entry; `later`: after them, also after those that come later.
        """
        if entry not in self.entries:
            entry.start_tag = max(entry.start_tag, self._virtual_time)
            self.entries[entry] = None
        waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        waiting = entry.later if later else entry.waiting
        (waiting.appendleft if first else waiting.append)(waiter)
        return waiter

    def pop(self, entry: E) -> asyncio.Future[Any] | None:
        """Remove and charge the first waiter of an entry that is not done; None if there is none."""
        while waiting := entry.waiting or entry.later:
            waiter = waiting.popleft()
            if not waiter.done():
                self._virtual_time = max(self._virtual_time, entry.start_tag)
                entry.start_tag += 1 / entry.weight
                self._drop_if_empty(entry)
                return waiter
        self._drop_if_empty(entry)
        return None

    def dismiss(self, entry: E) -> None:
        """Remove all waiters of an entry, with None as their result."""
        while entry.waiting:
            waiter = entry.waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
        self._drop_if_empty(entry)

    def charge(self, entry: E) -> None:
        """Charge an entry for service without waiting."""
        if not self.entries:
            # No entry is waiting. One that comes later starts at this virtual time, without credit for the past.
            self._virtual_time = entry.start_tag = max(entry.start_tag, self._virtual_time)
        entry.start_tag += 1 / entry.weight

    def refund(self, entry: E) -> None:
        """Undo the charge of an entry for service that it did not use."""
        entry.start_tag -= 1 / entry.weight

    def remove(self, entry: E, waiter: asyncio.Future[Any]) -> None:
        """Remove a waiter; no error if it is not in the queue."""
        for waiting in (entry.waiting, entry.later):
            with suppress(ValueError):
                waiting.remove(waiter)
        self._drop_if_empty(entry)

    def _drop_if_empty(self, entry: E) -> None:
        if not (entry.waiting or entry.later):
            self.entries.pop(entry, None)


_START_TAG = attrgetter("start_tag")
