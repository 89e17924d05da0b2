"""How much may be on the wire at once, where nobody told?"""

from __future__ import annotations

import math
from collections import deque

_FIRST = 4.0
_OVERLOADED, _SLOWER = 0.7, 0.85
_ALPHA = 0.1
_ENOUGH, _GUARD = 1.2, 1.5  # times the quickest that it has been
_IGNORED = 0.02  # seconds of that
_WARM = 5  # answers, before an average means something
_BUCKET, _KEPT = 10.0, 60.0  # seconds: the quickest of the last minute
_LEAST_BETWEEN_CUTS = 0.5


class Concurrency:
    """A limit that doubles each round trip until it meets resistance, then seeks it (AIMD).

    Slow start; +1 for each round trip while the limit is used up and the first byte takes less than
    1.2 times as long as it has; x0.85 above 1.5 times, x0.7 for overload. A limit that is not used up
    does not grow: it would mean nothing.
    """

    def __init__(self) -> None:
        self.limit = _FIRST
        self._slow_start = True
        self._cut_at = -math.inf
        self._ceiling = math.inf  # of a slow start after an outage
        self._is_enough = False
        self._latencies: dict[str, _Latency] = {}

    def succeeded(self, in_flight: int) -> None:
        """An answer came while so many were on the wire, with it."""
        if in_flight < math.floor(self.limit) or (self._is_enough and not self._slow_start):
            return
        self.limit += 1.0 if self._slow_start else 1.0 / self.limit
        if self.limit >= self._ceiling:
            self._slow_start, self._ceiling = False, math.inf

    def took(self, label: str, seconds: float, sent_at: float, now: float) -> None:
        """An endpoint's first byte came after so many seconds, our own slowness left out."""
        latency = self._latencies.get(label)
        if latency is None:
            latency = self._latencies[label] = _Latency()
        latency.took(seconds, now)
        # What was sent before the last cut tells of the time before it.
        self._is_enough = latency.is_above(_ENOUGH, _IGNORED / 2)
        if sent_at > self._cut_at and latency.is_above(_GUARD, _IGNORED):
            self._cut(_SLOWER, latency.average, now)

    def overloaded(self, sent_at: float, now: float) -> None:
        """The server said that it is too much, or did not answer in time."""
        if sent_at > self._cut_at:
            self._cut(_OVERLOADED, 0.0, now)

    def reopened(self) -> None:
        """After an outage: one at a time, doubling up to half of what was before."""
        self._ceiling = max(1.0, self.limit / 2)
        self.limit, self._slow_start = 1.0, True

    def _cut(self, factor: float, round_trip: float, now: float) -> None:
        if now - self._cut_at < max(_LEAST_BETWEEN_CUTS, round_trip):
            return
        self.limit = max(1.0, self.limit * factor)
        self._slow_start, self._ceiling = False, math.inf
        self._cut_at = now


class _Latency:
    """How long an endpoint takes on average, and how long it took on average when it was quickest."""

    def __init__(self) -> None:
        self.average = 0.0
        self._count = 0
        self._buckets: deque[list[float]] = deque()

    def took(self, seconds: float, now: float) -> None:
        self._count += 1
        weight = max(_ALPHA, 1 / self._count)
        self.average += weight * (seconds - self.average)
        if self._count < _WARM:
            return
        if not self._buckets or now - self._buckets[-1][0] >= _BUCKET:
            self._buckets.append([now, self.average])
            while self._buckets[0][0] <= now - _KEPT:
                self._buckets.popleft()
        elif self.average < self._buckets[-1][1]:
            self._buckets[-1][1] = self.average

    def is_above(self, factor: float, least: float) -> bool:
        if not self._buckets:
            return False
        quickest = min([average for _, average in self._buckets])
        return self.average > factor * quickest and self.average - quickest > least
