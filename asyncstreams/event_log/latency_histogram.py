"""Distribution of times, in a fixed number of buckets."""

from __future__ import annotations

import math
from collections.abc import Iterable

from .run_record import LatencySummary

_MIN_S = 1e-4
_GROWTH = 1.1  # from one bucket to the next: percentiles are accurate to 5 %
_SCALE = 1 / math.log(_GROWTH)
_MAX_BUCKET = 200  # more than five hours


class LatencyHistogram:
    """Times in buckets that grow by 10 % each, from 0.1 ms on; shorter ones count as 0."""

    __slots__ = ("_buckets", "_count", "_max", "_total")

    def __init__(self) -> None:
        self._count = 0
        self._total = self._max = 0.0
        self._buckets: dict[int, int] = {}

    def add(self, seconds: float) -> None:
        """Count one time."""
        self._count += 1
        if seconds < _MIN_S:
            return
        self._total += seconds
        if seconds > self._max:
            self._max = seconds
        bucket = min(int(math.log(seconds / _MIN_S) * _SCALE), _MAX_BUCKET)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1

    def summary(self) -> LatencySummary:
        """The count, the sum, percentiles by nearest rank, and the maximum."""
        p50, p90, p99 = (self._percentile(share) for share in (0.5, 0.9, 0.99))
        return LatencySummary(self._count, self._total, p50, p90, p99, self._max)

    @classmethod
    def merge(cls, parts: Iterable[LatencyHistogram]) -> LatencyHistogram:
        """One histogram of all times."""
        merged = cls()
        for part in parts:
            merged._count += part._count
            merged._total += part._total
            merged._max = max(merged._max, part._max)
            for bucket, count in part._buckets.items():
                merged._buckets[bucket] = merged._buckets.get(bucket, 0) + count
        return merged

    def _percentile(self, share: float) -> float:
        rank = math.ceil(share * self._count)
        seen = self._count - sum(self._buckets.values())
        if rank <= seen:
            return 0.0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if rank <= seen:
                return min(_MIN_S * math.exp((bucket + 0.5) / _SCALE), self._max)
        return self._max
