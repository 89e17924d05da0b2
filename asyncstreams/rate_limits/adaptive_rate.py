"""How fast may it be asked, where nobody told but refusals came?"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

_SAFETY = 0.97  # of the rate that was measured
_KEPT = 3
_SPREAD = 0.15  # by which the lengths of segments must differ for a line through them to mean something
_EVIDENCE = 8  # requests by which what they admitted must differ
_ROUNDS = 40
_PERIOD = 10.0  # seconds without a refusal, after which it may be a little faster
_FIRST_STEP, _LARGEST_STEP = 0.01, 0.25
_GUESSED_PERIOD, _GUESSED_STEP = 1.0, 0.5  # the same for a rate that is a guess
_FIRST_GUESS = 10.0  # a second at least, where a few requests are all that is known
_SHORTEST = 0.02  # seconds; what is shorter is counted as that long
_CATCH_UP = 0.02  # seconds that a late timer may be made up for
_SLOWEST, _SLOWEST_GUESS = 1 / 60, 2.0  # what is slower is left to the pauses after refusals
_FELL = 0.7  # of a rate that was measured: what is less may be for a while only
_FIRST_RETURN, _LONGEST_RETURN = 5.0, 320.0  # seconds until the former rate is tried again
_PROVEN = 3.0  # seconds without a refusal, in which a former rate has proved to hold again


class _Step(NamedTuple):
    """Some seconds at one pace, and how many requests went in them."""

    seconds: float
    sent: int


class _Segment(NamedTuple):
    """From the first request after a refusal to the next refusal: all that went in it was admitted."""

    steps: Sequence[_Step]
    cycle: float
    """Seconds to the beginning of the next one: with the pause."""
    pace: float
    """At which it was refused."""

    @property
    def seconds(self) -> float:
        return max(_SHORTEST, sum(step.seconds for step in self.steps))

    @property
    def admitted(self) -> int:
        return sum(step.sent for step in self.steps)

    def wanted(self, rate: float) -> float:
        """What it would have admitted, had it never been asked for less than that: a full bucket overflows."""
        return self.admitted + sum(max(0.0, rate * step.seconds - step.sent) for step in self.steps[:-1])


class AdaptiveRate:
    """Learns a rate from refusals; without any, all goes at once.

    A token bucket of size B and rate r admits B + r * d in a segment of d seconds, as long as it is
    asked for more than r. So two segments of different length tell r as the slope of the line
    through them. Where there are none it lies between what a segment admitted with the pause before
    the next one and without: the guess is their geometric mean, raised by half each second until
    the next refusal. A rate that was measured is raised in steps that double, since the limit may
    have been lifted. One that fell is tried again after 5 s, 10 s, 20 s ..., since the fall may be
    over.
    """

    def __init__(self) -> None:
        self.rate: float | None = None
        self._is_measured = False
        self._next = -math.inf
        self._segments: deque[_Segment] = deque(maxlen=_KEPT)
        self._sent = 0
        # Where the steps of this segment begin, and with which request.
        self._marks: list[tuple[float, int]] = []
        self._refused: tuple[float, int] | None = None
        self._raised_at = -math.inf
        self._step = _FIRST_STEP
        self._former: float | None = None
        self._returned_from: float | None = None
        self._return_at, self._return_after = math.inf, _FIRST_RETURN

    def free_at(self, now: float) -> float:
        """When the next request may pass."""
        return now if self.rate is None else max(now, self._next)

    def passed(self, now: float) -> int:
        """A request was let go; its number is to be told if it is refused."""
        if self._refused is not None and now > self._refused[0]:
            self._learn(self._refused, now)
        if not self._marks:
            self._marks.append((now, self._sent))
        if self.rate is not None:
            self._next = max(self._next, now - _CATCH_UP) + 1 / self.rate
        self._sent += 1
        return self._sent - 1

    def succeeded(self, now: float, *, is_bound: bool) -> None:
        """A request was answered, and not refused; `is_bound`: others wait because of the pace."""
        if self.rate is None or self._refused is not None:
            return
        if self._returned_from is not None:
            if now - self._raised_at >= _PROVEN:
                self._former = self._returned_from = None
                self._return_after = _FIRST_RETURN
        elif self._former is not None and now >= self._return_at:
            if is_bound:
                self._returned_from = self.rate
                self._go_at(self._former, now)
        elif now - self._raised_at >= (_PERIOD if self._is_measured else _GUESSED_PERIOD):
            faster = 1 + (self._step if self._is_measured else _GUESSED_STEP)
            if is_bound and self._is_measured:
                self._step = min(_LARGEST_STEP, 2 * self._step)
            self._go_at(self.rate * faster if is_bound else self.rate, now)

    def refused(self, sent_at: float, number: int) -> None:
        """A request was refused, and the gate closes; many at once are one refusal."""
        if self._marks and number >= self._marks[0][1] and (self._refused is None or number < self._refused[1]):
            self._refused = sent_at, number

    def _go_at(self, rate: float, now: float) -> None:
        if rate != self.rate:
            self._marks.append((now, self._sent))
        self.rate, self._raised_at = rate, now

    def _learn(self, refused: tuple[float, int], now: float) -> None:
        """A new segment begins: what does the one before tell?"""
        marks = [mark for mark in self._marks if mark[1] <= refused[1] and mark[0] <= refused[0]] + [refused]
        steps = [_Step(end - begin, beyond - first) for (begin, first), (end, beyond) in pairwise(marks)]
        begun = marks[0][0]
        before, was_measured = self.rate, self._is_measured
        last = _Segment(steps, max(_SHORTEST, now - begun), math.inf if before is None else before)
        self._marks, self._refused = [], None
        self._raised_at, self._step = now, _FIRST_STEP
        if self._returned_from is not None:
            # The former rate does not hold yet.
            self.rate, self._returned_from = self._returned_from, None
            self._return_after = min(_LONGEST_RETURN, 2 * self._return_after)
        elif last.admitted == 0 and before is not None:
            # Refused from its first request on: what was known holds no more.
            self.rate, self._is_measured = max(min(before, _SLOWEST_GUESS), before / 2), False
            self._segments.clear()
        else:
            self._segments.append(last)
            self.rate = self._estimate(last)
            if before is None and last.admitted < _EVIDENCE:
                self.rate = max(self.rate, _FIRST_GUESS)
        if before is not None and was_measured and self.rate < _FELL * before:
            self._former = before
        self._return_at = now + self._return_after

    def _estimate(self, last: _Segment) -> float:
        slope = _slope(self._segments)
        self._is_measured = slope is not None
        lowest, highest = last.admitted / last.cycle, min(last.admitted / last.seconds, last.pace)
        rate = math.sqrt(lowest * highest) if slope is None else _SAFETY * min(slope, last.pace)
        return max(_SLOWEST_GUESS if slope is None else _SLOWEST, lowest, rate)


def _slope(segments: Sequence[_Segment]) -> float | None:
    """The rate of the line through what segments of different length admitted; None where they do not tell."""
    lengths = [segment.seconds for segment in segments]
    admitted = [segment.admitted for segment in segments]
    count = len(lengths)
    middle = sum(lengths) / count
    if max(lengths) - min(lengths) < _SPREAD * middle or max(admitted) - min(admitted) < _EVIDENCE:
        return None
    over = sum((length - middle) ** 2 for length in lengths)
    rate = 0.0
    for _ in range(_ROUNDS):
        # What overflowed follows from the rate, and the rate from what overflowed.
        wanted = [segment.wanted(rate) for segment in segments]
        mean = sum(wanted) / count
        rate = sum((one - middle) * (two - mean) for one, two in zip(lengths, wanted, strict=True)) / over
    return rate
