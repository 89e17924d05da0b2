"""Estimates of the live view: the recent rate of records, and the time that remains."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

Basis: TypeAlias = Literal["slices", "records"]
"""What an estimate counts: finished slices of all, or records of the total that the API reports."""
_RATE_TIME_S = 5.0
_MIN_SPAN_S = 0.5
_MAX_HOLD_S, _HOLD_DECAY = 10.0, 0.9
_MIN_SLICES_DONE = 3
_MIN_REMAINING_TIME_S = 10.0
_MAX_CHANGE_PER_S = 0.3
_MAX_CHANGE = 20.0
_SMOOTHING_TIME_S = 4.0
_NEW_TOTAL_SHARE = 0.1
_MAX_SECONDS = 100 * 86400.0


class DecayingRate:
    """Units per second, with weights that halve in about 0.7 * `time` seconds; times are monotonic seconds."""

    __slots__ = ("_at", "_hold", "_span", "_units")

    def __init__(self, now: float) -> None:
        self._at, self._span, self._units = now, 0.0, 0.0
        self._hold = 0.0

    def add(self, now: float, units: float, time: float = _RATE_TIME_S) -> None:
        """Count units that arrived since the previous call, evenly."""
        span, self._units = self._decayed(now, time)
        elapsed = now - self._at
        # Those that arrived at the begin of a long interval weigh less.
        self._units += units * (span - self._span * math.exp(-elapsed / time)) / elapsed if elapsed > 0 else units
        self._span, self._at = span, max(self._at, now)
        self._hold = max(min(elapsed, _MAX_HOLD_S), self._hold * _HOLD_DECAY)

    def per_second(self, now: float, time: float = _RATE_TIME_S) -> float:
        """The rate; of the time since the start if that is short, and of at least half a second.

        It does not fall before the next units are late.
        """
        span, units = self._decayed(max(self._at, now - self._hold), time)
        return units / max(span, _MIN_SPAN_S)

    def _decayed(self, now: float, time: float) -> tuple[float, float]:
        decay = math.exp(min(0.0, self._at - now) / time)
        return self._span * decay + time * (1 - decay), self._units * decay


class Completion:
    """How much of a stream is done, and the seconds that remain, smoothed.

    The remaining time counts down, and changes by at most 30 % in a second. Another basis, and a total that differs by
    more than 10 %, may change it at once, since the former estimate was about something else. Times are monotonic
    seconds. `records` counts the records of the current run, also those in quarantine.
    """

    __slots__ = ("_at", "_began_at", "_done", "_rate", "_seconds", "_total", "basis", "records")

    def __init__(self, now: float) -> None:
        self.basis: Basis | None = None
        self.records = 0
        self._began_at = self._at = now
        self._done, self._total = 0, 0
        self._rate = DecayingRate(now)
        self._seconds: float | None = None

    @property
    def fraction(self) -> float | None:
        """The part that is done, from 0 to 1; None without a known total."""
        done = self.records if self.basis == "records" else self._done
        return None if self.basis is None or self._total <= 0 else min(1.0, done / self._total)

    def observe(self, now: float, basis: Basis, done: int, total: int, max_rate: float = math.inf) -> None:
        """Note that `done` of `total` units are done; both are at least 0.

        The limits allow `max_rate` units a second, above 0: a burst at the begin of a quota is no forecast.
        """
        if basis != self.basis:
            self._rate, self._done, self._seconds = DecayingRate(self._began_at), 0, None
        # A longer past has a longer weight, so that the estimate does not explode during a pause.
        time = max(_MIN_REMAINING_TIME_S, (now - self._began_at) / 2)
        self._rate.add(now, max(0, done - self._done), time)
        target = self._target(min(self._rate.per_second(now, time), max_rate), basis, done, total)
        is_same = basis == self.basis and abs(total - self._total) <= _NEW_TOTAL_SHARE * self._total
        self._seconds = self._smoothed(now, target) if is_same else target
        self.basis, self._at, self._done, self._total = basis, max(self._at, now), done, total

    def seconds(self, now: float) -> float | None:
        """The estimated seconds that remain, at least 0; None if unknown, or if they are more than 100 days."""
        if self._seconds is None or self._seconds > _MAX_SECONDS:
            return None
        return max(0.0, self._seconds - max(0.0, now - self._at))

    @staticmethod
    def _target(rate: float, basis: Basis, done: int, total: int) -> float | None:
        if basis == "slices" and done < min(_MIN_SLICES_DONE, total):
            return None
        if done >= total:
            return 0.0
        return (total - done) / rate if rate > 0 else None

    def _smoothed(self, now: float, target: float | None) -> float | None:
        before = self.seconds(now)
        if before is None or target is None:
            return target
        elapsed = max(0.0, now - self._at)
        # Relative changes: 10 s more matter for a minute, and not for an hour.
        change = math.log((target + 1) / (before + 1)) * (1 - math.exp(-elapsed / _SMOOTHING_TIME_S))
        bound = min(_MAX_CHANGE_PER_S * elapsed, _MAX_CHANGE)
        return (before + 1) * math.exp(max(-bound, min(bound, change))) - 1
