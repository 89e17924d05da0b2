"""Request rate learned from refusals."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

_MIN_SAFETY_FACTOR, _MAX_SAFETY_FACTOR = 0.97, 0.99  # of the rate that was measured
_SAFETY_PER_S = 0.1  # by which the factor grows with the seconds in which the bucket fills
_MAX_SEGMENTS = 3
_MIN_LENGTH_SPREAD = 0.15  # by which the lengths of segments must differ for a slope to be meaningful
_MIN_EVIDENCE_REQUESTS = 8  # by which the admitted requests must differ
_FIT_ROUNDS, _FIT_STEPS = 40, 200
_SPENT_BURST = 0.8  # of what the bucket holds after the pause, sent at once when the rate is known
_MAX_REFILL = 0.8  # of a bucket during a pause, beyond which it may have overflowed
_MAX_OVERFLOW = 1.1  # demand of a segment relative to its requests, beyond which the bucket overflowed in it
_RAISE_INTERVAL_S = 10.0  # without a refusal, before the rate is raised
_FIRST_STEP, _MAX_STEP = 0.01, 0.25
_GUESS_RAISE_INTERVAL_S, _GUESS_STEP = 1.0, 0.5  # the same for a rate that is a guess
_MIN_FIRST_GUESS = 10.0  # requests a second, if only a few requests are known
_MIN_SEGMENT_S = 0.02  # a shorter segment counts as this long
_MAX_CATCH_UP_S = 0.02  # by which a late timer may be made up for
_MIN_RATE, _MIN_GUESS = 1 / 60, 2.0  # requests a second; slower limits are left to the pauses after refusals
_FALL_FACTOR = 0.7  # a measured rate that falls below this share of the former one may recover
_FIRST_RETURN_S, _MAX_RETURN_S = 5.0, 320.0  # until the former rate is tried again
_PROBATION_S = 3.0  # without a refusal, after which the former rate is considered valid again


class _Step(NamedTuple):
    """A period at one rate, and the number of requests sent in it."""

    seconds: float
    sent: int


class _Segment(NamedTuple):
    """The time from the first request after a refusal to the next refusal; all its requests were admitted."""

    steps: Sequence[_Step]
    cycle: float
    """Seconds until the next segment begins, including the pause."""
    rate: float
    """The rate at which the refusal came."""
    pause: float
    """Seconds since the refusal before it; infinity for the first segment."""

    @property
    def seconds(self) -> float:
        return max(_MIN_SEGMENT_S, sum(step.seconds for step in self.steps))

    @property
    def admitted(self) -> int:
        return sum(step.sent for step in self.steps)

    def demand(self, rate: float) -> float:
        """Requests that it would have admitted if every step had used up `rate`: a full bucket overflows."""
        return self.admitted + sum(max(0.0, rate * step.seconds - step.sent) for step in self.steps[:-1])


class _OpenSegment:
    """The requests since the last refusal, up to the first one that is refused."""

    def __init__(self) -> None:
        self.refused: tuple[float, int] | None = None
        """Time and number of the first refused request; None before a refusal."""
        self.refused_at = -math.inf  # that of the segment before
        self._sent = 0
        self._marks: list[tuple[float, int]] = []  # start time and first request number of each step
        self._next_mark = 0

    def add_request(self, now: float, *, is_free: bool) -> int:
        """Add a request and return its number; `is_free`: no rate holds."""
        if not self._marks:
            self._marks.append((now, self._sent))
            self._next_mark = self._sent + 1
        elif is_free and self._sent >= self._next_mark:
            # Until concurrency has grown, the bucket overflows: the steps show how much.
            self._marks.append((now, self._sent))
            self._next_mark = 2 * self._sent - self._marks[0][1]
        self._sent += 1
        return self._sent - 1

    def add_refusal(self, sent_at: float, number: int) -> None:
        if self._marks and number >= self._marks[0][1] and (self.refused is None or number < self.refused[1]):
            self.refused = sent_at, number

    def begin_step(self, now: float) -> None:
        self._marks.append((now, self._sent))

    def finish(self, refused: tuple[float, int], now: float, max_rate: float) -> _Segment:
        """The segment that `refused` ends, while the next one begins."""
        marks = [mark for mark in self._marks if mark[1] <= refused[1] and mark[0] <= refused[0]] + [refused]
        steps = [_Step(end - begin, beyond - first) for (begin, first), (end, beyond) in pairwise(marks)]
        started_at, refused_at = marks[0][0], self.refused_at
        self._marks, self.refused, self.refused_at = [], None, refused[0]
        return _Segment(steps, max(_MIN_SEGMENT_S, now - started_at), max_rate, started_at - refused_at)


class _FormerRate:
    """The rate before a fall, which is tried again after 5 s, 10 s, 20 s ..., since the fall may be temporary."""

    def __init__(self) -> None:
        self._rate: float | None = None
        self._fallen_rate: float | None = None  # while the former rate is tried
        self._try_at, self._interval_s = math.inf, _FIRST_RETURN_S

    @property
    def is_on_trial(self) -> bool:
        return self._fallen_rate is not None

    def is_due(self, now: float) -> bool:
        return self._rate is not None and now >= self._try_at

    def record_fall(self, rate: float) -> None:
        self._rate = rate

    def postpone(self, now: float) -> None:
        self._try_at = now + self._interval_s

    def begin_trial(self, fallen_rate: float) -> float:
        """The former rate, to be tried now."""
        assert self._rate is not None
        self._fallen_rate = fallen_rate
        return self._rate

    def accept(self) -> None:
        """The former rate is valid again."""
        self._rate = self._fallen_rate = None
        self._interval_s = _FIRST_RETURN_S

    def reject(self) -> float:
        """The rate that holds again, since the former one is not valid yet."""
        assert self._fallen_rate is not None
        rate, self._fallen_rate = self._fallen_rate, None
        self._interval_s = min(_MAX_RETURN_S, 2 * self._interval_s)
        return rate

    def cancel_trial(self) -> None:
        self._fallen_rate = None


class AdaptiveRate:
    """A request rate learned from refusals; without refusals, requests are not delayed.

    A token bucket of size B and rate r admits B + r * d requests in a segment of d seconds, as long as
    demand exceeds r. So r is the slope of the line through two segments of different length. With
    one segment, r lies between its admitted requests divided by its length with and without the
    pause that follows. The first guess is the geometric mean of the two; it is raised by half each
    second until the next refusal. A bucket that is not full again when a pause ends shows its rate from
    one refusal to the next. What a full one holds is sent at once when the rate is known. A measured
    rate is raised in steps that double, since the limit may have been lifted.
    """

    def __init__(self) -> None:
        self.rate: float | None = None
        self.reported: float | None = None
        """The rate that the server reports; it holds from the first refusal on, since a burst may be allowed before."""
        self._is_measured = False
        self._next_at = -math.inf
        self._open_segment = _OpenSegment()
        self._segments: deque[_Segment] = deque(maxlen=_MAX_SEGMENTS)
        self._is_bursting = False
        self._credit = 0.0  # requests of the burst that are sent without a delay
        self._raised_at = -math.inf
        self._step = _FIRST_STEP
        self._former = _FormerRate()

    def available_at(self, now: float) -> float:
        """When the next request may be sent."""
        return now if self.rate is None else max(now, self._next_at)

    def record_request(self, now: float) -> int:
        """Record that a request was sent. Returns its number, which `record_refusal` needs."""
        refused = self._open_segment.refused
        if refused is not None and now > refused[0]:
            self._learn(refused, now)
        self._is_bursting = self._credit >= 1
        if self._is_bursting:
            self._credit -= 1
        elif self.rate is not None:
            self._next_at = max(self._next_at, now - _MAX_CATCH_UP_S) + 1 / self.rate
        return self._open_segment.add_request(now, is_free=self.rate is None)

    def record_success(self, now: float, *, is_limiting: bool) -> None:
        """Record a response that is no refusal; `is_limiting`: other requests wait for this rate."""
        if self.rate is None or self._open_segment.refused is not None or self.rate == self.reported:
            return
        if self._former.is_on_trial:
            if now - self._raised_at >= _PROBATION_S:
                self._former.accept()
        elif self._former.is_due(now):
            if is_limiting:
                self._change_rate(self._former.begin_trial(self.rate), now)
        elif now - self._raised_at >= (_RAISE_INTERVAL_S if self._is_measured else _GUESS_RAISE_INTERVAL_S):
            faster = 1 + (self._step if self._is_measured else _GUESS_STEP)
            if is_limiting and self._is_measured:
                self._step = min(_MAX_STEP, 2 * self._step)
            self._change_rate(self.rate * faster if is_limiting else self.rate, now)

    def record_refusal(self, sent_at: float, request_number: int) -> None:
        """Record a refusal, which starts a pause; simultaneous refusals count as one."""
        self._open_segment.add_refusal(sent_at, request_number)

    def _change_rate(self, rate: float, now: float) -> None:
        if self.reported is not None:
            rate = min(rate, self.reported)
        if rate != self.rate:
            self._open_segment.begin_step(now)
        self.rate, self._raised_at = rate, now

    def _learn(self, refused: tuple[float, int], now: float) -> None:
        """Begin a new segment, and estimate the rate from the one that ended."""
        self._credit = 0.0
        before, was_measured = self.rate, self._is_measured
        max_rate = math.inf if before is None or self._is_bursting else before
        last = self._open_segment.finish(refused, now, max_rate)
        self._raised_at, self._step = now, _FIRST_STEP
        if self.reported is not None and (before is None or before > self.reported):
            self.rate, self._is_measured = self.reported, True
            self._former.cancel_trial()
            self._segments.clear()
        elif self._former.is_on_trial:
            self.rate = self._former.reject()
        elif last.admitted == 0 and before is not None:
            # Refused from its first request on: earlier measurements are no longer valid.
            self.rate, self._is_measured = max(min(before, _MIN_GUESS), before / 2), False
            self._segments.clear()
        else:
            self._segments.append(last)
            self.rate = self._estimate(last)
            if before is None and last.admitted < _MIN_EVIDENCE_REQUESTS:
                self.rate = max(self.rate, _MIN_FIRST_GUESS)
        if before is not None and was_measured and self.rate < _FALL_FACTOR * before:
            self._former.record_fall(before)
        self._former.postpone(now)

    def _estimate(self, last: _Segment) -> float:
        if (refill := _refill(self._segments)) is not None:
            self._is_measured = refill.is_exact
            return min(refill.rate, last.rate)
        slope = _slope(self._segments)
        self._is_measured = slope is not None
        lowest, highest = last.admitted / last.cycle, min(last.admitted / last.seconds, last.rate)
        if slope is None:
            return max(_MIN_GUESS, lowest, math.sqrt(lowest * highest))
        first, safety = self._segments[0], _MIN_SAFETY_FACTOR
        if first.pause == math.inf and slope > 0:
            # The first segment shows how much the bucket holds, which absorbs an error of the estimate.
            fill_s = max(0.0, first.demand(slope) / slope - first.seconds)
            safety = min(_MAX_SAFETY_FACTOR, safety + _SAFETY_PER_S * fill_s)
            self._credit = _SPENT_BURST * slope * min(fill_s, self._raised_at - self._open_segment.refused_at)
        return max(_MIN_RATE, lowest, safety * min(slope, last.rate))


class _Refill(NamedTuple):
    """The rate at which a bucket refilled, and whether enough requests show it."""

    rate: float
    is_exact: bool


def _refill(segments: Sequence[_Segment]) -> _Refill | None:
    """The requests admitted from one refusal to the next, by the seconds between them.

    This is exact for a bucket that was never full in between. None if it may have been, since what overflowed is
    unknown, and for rates that are left to the pauses.
    """
    admitted, seconds = 0, 0.0
    # A bucket that runs empty at some pace refills more slowly, and holds what it admitted beyond its refill.
    max_rate = min(segment.rate for segment in segments)
    min_size = max(segment.admitted - max_rate * segment.seconds for segment in segments)
    for segment in reversed(segments):
        if segment.pause == math.inf:
            break
        cycle = segment.pause + segment.seconds
        rate = segment.admitted / cycle
        was_full = rate * segment.pause > _MAX_REFILL * min_size
        if was_full or segment.demand(rate) > _MAX_OVERFLOW * segment.admitted:
            break
        admitted += segment.admitted
        seconds += cycle
    if not admitted or admitted < _MIN_GUESS * seconds:
        return None
    return _Refill(admitted / seconds, admitted >= _MIN_EVIDENCE_REQUESTS)


def _slope(segments: Sequence[_Segment]) -> float | None:
    """Least-squares slope of admitted requests over segment length; None if the segments are too similar."""
    lengths = [segment.seconds for segment in segments]
    admitted = [segment.admitted for segment in segments]
    count = len(lengths)
    mean_length = sum(lengths) / count
    if (
        max(lengths) - min(lengths) < _MIN_LENGTH_SPREAD * mean_length
        or max(admitted) - min(admitted) < _MIN_EVIDENCE_REQUESTS
    ):
        return None
    squares = sum((length - mean_length) ** 2 for length in lengths)
    rate = 0.0
    for _ in range(_FIT_ROUNDS):
        # The overflow depends on the rate and the rate on the overflow: iterate.
        demands = [segment.demand(rate) for segment in segments]
        mean_demand = sum(demands) / count
        pairs = zip(lengths, demands, strict=True)
        rate = sum((length - mean_length) * (demand - mean_demand) for length, demand in pairs) / squares

    def error(rate: float) -> float:
        """By how much the sizes differ that the segments show of the bucket at this rate."""
        sizes = [segment.demand(rate) - rate * segment.seconds for segment in segments]
        return max(sizes) - min(sizes)

    # The iteration ends too low if a step was just below the rate, which is lower than the pace that was refused.
    highest = segments[-1].rate
    steps = range(_FIT_STEPS // 2, _FIT_STEPS + 1) if highest < math.inf else ()
    return min([rate, *(highest * step / _FIT_STEPS for step in steps)], key=error)
