"""Counts over the time of a run, in a bounded number of intervals."""

from __future__ import annotations

from collections.abc import Callable

from .run_record import TimeSeries

_MAX_INTERVALS = 600
_MAX_STATUSES = 20
_OTHER_STATUSES = "other"


class SeriesBuilder:
    """Builds a TimeSeries. Its interval starts with one second, and doubles whenever there are 600 of them."""

    def __init__(self) -> None:
        self._interval = 1.0
        self._requests: list[int] = []
        self._refused: list[int] = []
        self._failed: list[int] = []
        self._records: list[int] = []
        self._size: list[int] = []
        self._in_flight: list[int] = []
        self._max_rate: list[float | None] = []
        self._statuses: dict[str, list[int]] = {}

    def add_request(self, at: float, status: str, size: int, *, is_refused: bool, has_failed: bool) -> None:
        """Count a request that finished `at` seconds after the begin of the run."""
        index = self._index_of(at)
        self._requests[index] += 1
        self._size[index] += size
        if is_refused:
            self._refused[index] += 1
        elif has_failed:
            self._failed[index] += 1
        counts = self._statuses.get(status)
        if counts is None:
            if len(self._statuses) >= _MAX_STATUSES:
                status = _OTHER_STATUSES
            counts = self._statuses.setdefault(status, [0] * len(self._requests))
        counts[index] += 1

    def add_records(self, at: float, count: int) -> None:
        """Count records of a page that was read."""
        self._records[self._index_of(at)] += count

    def observe(self, at: float, in_flight: int, max_rate: float | None) -> None:
        """Note the requests in flight of all streams, and the rate that the limits allow."""
        index = self._index_of(at)
        self._in_flight[index] = max(self._in_flight[index], in_flight)
        if max_rate is not None:
            self._max_rate[index] = max_rate

    def build(self) -> TimeSeries:
        return TimeSeries(
            self._interval,
            tuple(self._requests),
            tuple(self._refused),
            tuple(self._failed),
            tuple(self._records),
            tuple(self._size),
            tuple(self._in_flight),
            tuple(self._max_rate),
            {status: tuple(counts) for status, counts in self._statuses.items()},
        )

    def _index_of(self, at: float) -> int:
        index = int(at / self._interval)
        if index < len(self._requests):
            return max(0, index)
        while index >= _MAX_INTERVALS:
            self._halve()
            index = int(at / self._interval)
        missing = index + 1 - len(self._requests)
        for counts in self._counts():
            counts.extend([0] * missing)
        self._max_rate.extend([self._max_rate[-1] if self._max_rate else None] * missing)
        return index

    def _halve(self) -> None:
        """Join each two intervals."""
        self._interval *= 2
        for counts in self._counts():
            join: Callable[[list[int]], int] = max if counts is self._in_flight else sum
            counts[:] = [join(counts[n : n + 2]) for n in range(0, len(counts), 2)]
        self._max_rate = [_last_known(self._max_rate[n : n + 2]) for n in range(0, len(self._max_rate), 2)]

    def _counts(self) -> list[list[int]]:
        own = [self._requests, self._refused, self._failed, self._records, self._size, self._in_flight]
        return [*own, *self._statuses.values()]


def _last_known(rates: list[float | None]) -> float | None:
    return next((rate for rate in reversed(rates) if rate is not None), None)
