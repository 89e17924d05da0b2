"""Who is next of those who wait for the same thing: the stream that has had least by its weight?"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from operator import attrgetter
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class QueueEntry(Generic[T]):
    """Those of one stream, in their order; `due` is what it has had, by weight."""

    __slots__ = ("__weakref__", "due", "waiting", "weight")

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.due = 0.0
        self.waiting: deque[asyncio.Future[T]] = deque()


L = TypeVar("L", bound=QueueEntry[Any])


class FairQueue(Generic[L]):
    """Lanes of waiters (start-time fair queueing, Goyal et al., 1996).

    Whoever did not wait comes back at the virtual time: it neither makes up for what it missed nor
    is charged for it.
    """

    def __init__(self) -> None:
        self.lanes: dict[L, None] = {}
        """Those in which somebody waits."""
        self._now = 0.0

    def __len__(self) -> int:
        return sum(len(lane.waiting) for lane in self.lanes)

    def ahead_of(self, lane: L) -> float:
        """How many would go before one more of this lane, about."""
        return len(lane.waiting) * sum(other.weight for other in self.lanes) / lane.weight

    def __iter__(self) -> Iterator[L]:
        """The lanes in which somebody waits, the next one first."""
        return iter(sorted(self.lanes, key=_DUE) if len(self.lanes) > 1 else tuple(self.lanes))

    def push(self, lane: L, *, first: bool = False) -> asyncio.Future[Any]:
        """One more waits, for a future that whoever pops it sets; `first`: before the others of its lane."""
        if lane not in self.lanes:
            lane.due = max(lane.due, self._now)
            self.lanes[lane] = None
        waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        (lane.waiting.appendleft if first else lane.waiting.append)(waiter)
        return waiter

    def pop(self, lane: L) -> asyncio.Future[Any] | None:
        """The first of a lane, which has its turn; None where nobody there wants it any more."""
        while lane.waiting:
            waiter = lane.waiting.popleft()
            if not waiter.done():
                self._now = max(self._now, lane.due)
                lane.due += 1 / lane.weight
                self._tidy(lane)
                return waiter
        self._tidy(lane)
        return None

    def send_away(self, lane: L) -> None:
        """All of a lane wait no more, and are told None."""
        while lane.waiting:
            waiter = lane.waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
        self._tidy(lane)

    def passed(self, lane: L) -> None:
        """One of a lane went without waiting."""
        self._now = lane.due = max(lane.due, self._now)
        lane.due += 1 / lane.weight

    def forget(self, lane: L, waiter: asyncio.Future[Any]) -> None:
        """It waits no more."""
        with suppress(ValueError):
            lane.waiting.remove(waiter)
        self._tidy(lane)

    def _tidy(self, lane: L) -> None:
        if not lane.waiting:
            self.lanes.pop(lane, None)


_DUE = attrgetter("due")
