"""Weighted fair queue of waiting requests."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from operator import attrgetter
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class QueueEntry(Generic[T]):
    """One stream's waiters, in order; `start_tag` is the service it has received, divided by its weight."""

    __slots__ = ("__weakref__", "start_tag", "waiting", "weight")

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.start_tag = 0.0
        self.waiting: deque[asyncio.Future[T]] = deque()


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

    def push(self, entry: E, *, first: bool = False) -> asyncio.Future[Any]:
        """Add a waiter, whose future the caller of `pop` sets; `first`: before the others of its entry."""
        if entry not in self.entries:
            entry.start_tag = max(entry.start_tag, self._virtual_time)
            self.entries[entry] = None
        waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        (entry.waiting.appendleft if first else entry.waiting.append)(waiter)
        return waiter

    def pop(self, entry: E) -> asyncio.Future[Any] | None:
        """Remove and charge the first waiter of an entry that is not done; None if there is none."""
        while entry.waiting:
            waiter = entry.waiting.popleft()
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
        """Charge an entry for a request that did not wait."""
        self._virtual_time = entry.start_tag = max(entry.start_tag, self._virtual_time)
        entry.start_tag += 1 / entry.weight

    def remove(self, entry: E, waiter: asyncio.Future[Any]) -> None:
        """Remove a waiter; no error if it is not in the queue."""
        with suppress(ValueError):
            entry.waiting.remove(waiter)
        self._drop_if_empty(entry)

    def _drop_if_empty(self, entry: E) -> None:
        if not entry.waiting:
            self.entries.pop(entry, None)


_START_TAG = attrgetter("start_tag")
