"""How much may be on the wire at once, where nobody told?"""

from __future__ import annotations

import math
from collections import deque

_FIRST = 4.0
_OVERLOADED, _SLOWER = 0.7, 0.85
_ENOUGH, _GUARD = math.log(1.2), math.log(1.5)  # times the quickest that it has been
_IGNORED = 0.02  # seconds of that
_MOST_WEIGHT, _LEAST_WEIGHT = 0.1, 0.02  # of one answer in the average, which is that of a round trip
_SLOW = 0.02  # the same for how much answers vary
_SPREAD = 1.128  # E|x - y| / sigma of two normal values: von Neumann's estimate, which a drift does not blur
_DOUBT = 2.5  # standard errors of an average
_OUTLIER = math.log(3), 3.0  # no answer counts for more: of a logarithm, and standard deviations
_INSTANT = 1e-6  # seconds: less is our clock's doubt
_WARM = 5  # answers, before an average means something
_BUCKET, _KEPT = 10.0, 60.0  # seconds: the quickest of the last minute
_LEAST_BETWEEN_CUTS = 0.5


class ConcurrencyLimit:
    """A limit that doubles each round trip until it meets resistance, then seeks it (AIMD).

    Slow start; +1 for each round trip while the limit is used up and the first byte takes less than
    1.2 times as long as it has; x0.85 above 1.5 times, x0.7 for overload. A limit that is not used up
    does not grow: it would mean nothing. Where answers vary by themselves, whatever the load, what is
    compared are the bounds within which the averages are known.
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
        weight = 1 / self.limit
        latency.took(seconds, now, _MOST_WEIGHT if weight > _MOST_WEIGHT else max(_LEAST_WEIGHT, weight))
        # What was sent before the last cut tells of the time before it.
        self._is_enough = latency.is_above(_ENOUGH, _IGNORED / 2)
        if self._is_enough and sent_at > self._cut_at and latency.is_above(_GUARD, _IGNORED):
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
    """How long an endpoint takes on average, and how long it took on average when it was quickest.

    Averages are geometric, and outliers cut off: one answer in a hundred that takes a hundred times
    as long is no load.
    """

    def __init__(self) -> None:
        self._level = self._last = self._spread = self._doubt = 0.0  # of logarithms
        self._count = 0
        self._buckets: deque[list[float]] = deque()
        self._quickest = math.inf

    @property
    def average(self) -> float:
        return math.exp(self._level)

    def took(self, seconds: float, now: float, weight: float) -> None:
        level = math.log(seconds if seconds > _INSTANT else _INSTANT)
        if self._count:
            most = max(_OUTLIER[0], _OUTLIER[1] * self._spread)
            if not -most <= level - self._level <= most:
                level = self._level + math.copysign(most, level - self._level)
            step = abs(level - self._last) / _SPREAD
            self._spread += max(_SLOW, 1 / self._count) * (step - self._spread)
        self._count += 1
        self._last = level
        weight = max(weight, 1 / self._count)
        self._level += weight * (level - self._level)
        if self._count >= _WARM:
            self._doubt = _DOUBT * self._spread * math.sqrt(weight / (2 - weight))
            self._keep(self._level + self._doubt, now)

    def _keep(self, at_most: float, now: float) -> None:
        if not self._buckets or now - self._buckets[-1][0] >= _BUCKET:
            self._buckets.append([now, at_most])
            while self._buckets[0][0] <= now - _KEPT:
                self._buckets.popleft()
            self._quickest = min([level for _, level in self._buckets])
        elif at_most < self._buckets[-1][1]:
            self._buckets[-1][1] = at_most
            self._quickest = min(self._quickest, at_most)

    def is_above(self, factor: float, least: float) -> bool:
        """Whether it takes so much longer than it has: by the logarithm of a factor, and so many seconds."""
        at_least = self._level - self._doubt
        return at_least > self._quickest + factor and math.exp(at_least) - math.exp(self._quickest) > least
