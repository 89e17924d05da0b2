"""Adaptive limit on the number of requests in flight."""

from __future__ import annotations

import math
from collections import deque

_INITIAL_LIMIT = 4.0
_OVERLOAD_FACTOR, _LATENCY_FACTOR = 0.7, 0.85
# Latency, as a multiple of the quickest of the last minute (as logarithms): the limit stops growing, is cut.
_GROWTH_STOP, _CUT_THRESHOLD = math.log(1.2), math.log(1.5)
_MIN_INCREASE_S = 0.02  # a smaller increase is no congestion; half of it does not stop the growth
_MAX_WEIGHT, _MIN_WEIGHT = 0.1, 0.02  # of one response in the average, which spans about a round trip
_MIN_DEVIATION_WEIGHT = 0.02  # the same for the deviation
_MEAN_DIFFERENCE = 1.128  # E|x - y| / sigma of two normal values: von Neumann's estimator, insensitive to drift
_CONFIDENCE_SE = 2.5  # standard errors of an average
_MAX_OUTLIER_LOG, _MAX_OUTLIER_SD = math.log(3), 3.0  # outliers are clamped to the larger of the two
_MIN_LATENCY_S = 1e-6  # below the resolution of the clock
_MIN_SAMPLES = 5  # before an average is used
_BUCKET_S, _BASELINE_S = 10.0, 60.0  # the quickest average of the last minute
_MIN_CUT_INTERVAL_S = 0.5


class ConcurrencyLimit:
    """A limit on requests in flight that follows latency: slow start, then AIMD, as TCP does it.

    The limit doubles each round trip until the first sign of congestion. Then it grows by 1 each round
    trip, as long as it is used up and the time to the first byte is below 1.2 times the quickest of
    the last minute. Above 1.5 times it is multiplied by 0.85, on overload by 0.7. An unused limit does
    not grow, since nothing is known about it. For latencies that vary independently of load, the
    comparison uses the confidence bounds of the averages.
    """

    def __init__(self) -> None:
        self.limit = _INITIAL_LIMIT
        self._in_slow_start = True
        self._cut_at = -math.inf
        self._ceiling = math.inf  # of a slow start after an outage
        self._is_congested = False
        self._latencies: dict[str, LatencyBaseline] = {}

    def record_success(self, in_flight: int) -> None:
        """Grow the limit for a response, if `in_flight` requests, including its own, used it up."""
        if in_flight < math.floor(self.limit) or (self._is_congested and not self._in_slow_start):
            return
        self.limit += 1.0 if self._in_slow_start else 1.0 / self.limit
        if self.limit >= self._ceiling:
            self._in_slow_start, self._ceiling = False, math.inf

    def record_latency(self, label: str, seconds: float, sent_at: float, now: float) -> None:
        """Record the time to the first byte of an endpoint, without the event loop's own delay."""
        latency = self._latencies.get(label)
        if latency is None:
            latency = self._latencies[label] = LatencyBaseline()
        weight = 1 / self.limit
        latency.record(seconds, now, _MAX_WEIGHT if weight > _MAX_WEIGHT else max(_MIN_WEIGHT, weight))
        # Requests sent before the last cut measure the latency before it.
        self._is_congested = latency.is_above(_GROWTH_STOP, _MIN_INCREASE_S / 2)
        if self._is_congested and sent_at > self._cut_at and latency.is_above(_CUT_THRESHOLD, _MIN_INCREASE_S):
            self._cut(_LATENCY_FACTOR, latency.average, now)

    def record_overload(self, sent_at: float, now: float) -> None:
        """Cut the limit because the server reported overload or did not respond in time."""
        if sent_at > self._cut_at:
            self._cut(_OVERLOAD_FACTOR, 0.0, now)

    def restart(self) -> None:
        """Start over after an outage: one request, doubling up to half of the former limit."""
        self._ceiling = max(1.0, self.limit / 2)
        self.limit, self._in_slow_start = 1.0, True

    def _cut(self, factor: float, round_trip: float, now: float) -> None:
        if now - self._cut_at < max(_MIN_CUT_INTERVAL_S, round_trip):
            return
        self.limit = max(1.0, self.limit * factor)
        self._in_slow_start, self._ceiling = False, math.inf
        self._cut_at = now


class LatencyBaseline:
    """Average latency of one endpoint, and its quickest average of the last minute.

    Averages are geometric and outliers are clamped: one response in a hundred that takes a hundred
    times as long is no sign of load.
    """

    def __init__(self) -> None:
        self._level = self._last = self._deviation = self._margin = 0.0  # of logarithms
        self._count = 0
        self._buckets: deque[list[float]] = deque()
        self._quickest = math.inf

    @property
    def average(self) -> float:
        return math.exp(self._level)

    def record(self, seconds: float, now: float, weight: float) -> None:
        level = math.log(seconds if seconds > _MIN_LATENCY_S else _MIN_LATENCY_S)
        if self._count:
            max_step = max(_MAX_OUTLIER_LOG, _MAX_OUTLIER_SD * self._deviation)
            if not -max_step <= level - self._level <= max_step:
                level = self._level + math.copysign(max_step, level - self._level)
            step = abs(level - self._last) / _MEAN_DIFFERENCE
            self._deviation += max(_MIN_DEVIATION_WEIGHT, 1 / self._count) * (step - self._deviation)
        self._count += 1
        self._last = level
        weight = max(weight, 1 / self._count)
        self._level += weight * (level - self._level)
        if self._count >= _MIN_SAMPLES:
            self._margin = _CONFIDENCE_SE * self._deviation * math.sqrt(weight / (2 - weight))
            self._update_quickest(self._level + self._margin, now)

    def _update_quickest(self, upper_bound: float, now: float) -> None:
        if not self._buckets or now - self._buckets[-1][0] >= _BUCKET_S:
            self._buckets.append([now, upper_bound])
            while self._buckets[0][0] <= now - _BASELINE_S:
                self._buckets.popleft()
            self._quickest = min([level for _, level in self._buckets])
        elif upper_bound < self._buckets[-1][1]:
            self._buckets[-1][1] = upper_bound
            self._quickest = min(self._quickest, upper_bound)

    def is_above(self, log_factor: float, min_increase: float) -> bool:
        """Whether the latency exceeds its quickest by exp(`log_factor`) and by `min_increase` seconds."""
        lower_bound = self._level - self._margin
        return (
            lower_bound > self._quickest + log_factor
            and math.exp(lower_bound) - math.exp(self._quickest) > min_increase
        )
