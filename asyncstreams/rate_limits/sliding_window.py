"""How many more requests does a declared limit let pass now?"""

from __future__ import annotations

from collections import deque

from ..models import RateLimit

_STEPS = 4096
# Of the window, and seconds at most: what the way to the server takes longer for one request than for another.
_MARGIN, _LARGEST_MARGIN = 0.02, 0.05


class SlidingWindowLog:
    """A strict window: in no span of `limit.per` seconds do more than `limit.n` units pass.

    Requests within 1/4096 of the window count as one entry, as late as the last of them, so that a
    million a day is kept in little memory, and never too generously.
    """

    def __init__(self, limit: RateLimit) -> None:
        self.limit = limit
        self._entries: deque[list[float]] = deque()
        self._used = 0.0
        # Spaced requests do not run into the next window many at a time.
        self._is_heard = limit.smooth
        margin = 0.0 if limit.smooth else min(_LARGEST_MARGIN, _MARGIN * limit.per)
        self._per = limit.per + margin
        self._step = limit.per / _STEPS

    def free_at(self, cost: float, now: float) -> float:
        """When a request of so many units may pass: `now`, or a later moment.

        One that is dearer than the whole limit passes when nothing else is in the window.
        """
        self._forget(now)
        room = max(self.limit.limit, cost)
        if self._used + cost <= room:
            return now
        used, last = self._used, now
        for last, units, _ in self._entries:  # noqa: B007  # the last one, where fractions leave something over
            used -= units
            if used + cost <= room:
                break
        return max(now, last + self._per)

    def free_after(self, units: float, cost: float, now: float) -> float:
        """When a request of `cost` may pass, if others of so many units go before it."""
        windows, rest = divmod(units, self.limit.limit)
        return self.free_at(rest + cost, now) + windows * self._per

    def passed(self, cost: float, now: float) -> None:
        """A request of so many units has been let go."""
        self._used += cost
        if self._entries and now - self._entries[-1][2] < self._step:
            last = self._entries[-1]
            last[0], last[1] = now, last[1] + cost
        else:
            self._entries.append([now, cost, now])

    def answered(self, now: float) -> None:
        """An answer has come; what went before the first one had to connect, and may have arrived as late as that."""
        if not self._is_heard and self._entries:
            self._is_heard = True
            self._entries = deque([[now, self._used, now]])

    def _forget(self, now: float) -> None:
        while self._entries and self._entries[0][0] + self._per <= now:
            self._used -= self._entries.popleft()[1]
        if not self._entries:
            self._used = 0.0  # what sums of fractions leave over
