"""Do refusals teach how fast an API may be asked, and is it asked at once where none came?"""

from __future__ import annotations

import heapq

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncstreams.rate_limits.adaptive_rate import AdaptiveRate

LATENCY = 0.0731
SLOW = pytest.param(5, 50, 1, marks=pytest.mark.xfail(strict=True, reason="one in fifteen is refused"))
often = settings(max_examples=200, deadline=None)
rates, sizes, lengths = st.floats(1, 500), st.integers(0, 200), st.floats(0.1, 20)


class Bucket:
    """A server that refuses what its tokens do not allow, and orders a pause; and one that asks it."""

    def __init__(self, rate: float, size: float, pause: float, tokens: float | None = None) -> None:
        self.rate, self.size, self.pause, self.pace = rate, size, pause, AdaptiveRate()
        self.sent = self.admitted = self.refused = 0
        self._tokens = size if tokens is None else tokens
        self.now = self._filled = self._opens = 0.0
        self._answers: list[tuple[float, int, float, bool]] = []

    def ask_until(self, end: float, at_once: int = 32) -> None:
        """Ask as fast as the pace allows, with no more than so many on the wire."""
        while True:
            soonest = max(self.now, self._opens, self.pace.available_at(self.now))
            is_full = len(self._answers) >= at_once
            if self._answers and (is_full or self._answers[0][0] <= soonest):
                self._answer()
            elif soonest >= end:
                return
            else:
                self.now = soonest
                self._send()

    def _send(self) -> None:
        self._tokens = min(self.size, self._tokens + self.rate * (self.now - self._filled))
        self._filled = self.now
        is_admitted = self._tokens >= 1
        self._tokens -= is_admitted
        number = self.pace.record_request(self.now)
        self.sent += 1
        heapq.heappush(self._answers, (self.now + LATENCY, number, self.now, is_admitted))

    def _answer(self) -> None:
        self.now, number, sent_at, is_admitted = heapq.heappop(self._answers)
        if is_admitted:
            self.admitted += 1
            self.pace.record_success(self.now, is_limiting=self.pace.available_at(self.now) > self.now)
        else:
            self.refused += 1
            self.pace.record_refusal(sent_at, number)
            self._opens = max(self._opens, self.now + self.pause)


def segment(pace: AdaptiveRate, begins: float, seconds: float, admitted: int) -> int:
    """So many that were admitted, and after so many seconds one that was refused; its number."""
    for _ in range(admitted):
        pace.record_request(begins)
    number = pace.record_request(begins + seconds)
    pace.record_refusal(begins + seconds, number)
    return number


def rate_of(pace: AdaptiveRate) -> float:
    assert pace.rate is not None
    return pace.rate


def learnt(*segments: tuple[float, int], pause: float = 100.0) -> AdaptiveRate:
    pace, now = AdaptiveRate(), 0.0
    for seconds, admitted in segments:
        segment(pace, now, seconds, admitted)
        now += seconds + pause
    pace.record_request(now)
    return pace


@often
@given(gaps=st.lists(st.just(0.0) | st.floats(0, 100), max_size=50))
def test_without_a_refusal_nobody_waits(gaps: list[float]) -> None:
    pace, now = AdaptiveRate(), 0.0

    for gap in gaps:
        now += gap
        assert pace.available_at(now) == now
        pace.record_request(now)
        pace.record_success(now, is_limiting=True)

    assert pace.rate is None


@often
@given(rate=rates, size=sizes, seconds=lengths, more=st.floats(1.6, 10), order=st.sampled_from([1, -1]))
def test_two_segments_of_different_length_tell_the_rate_of_a_bucket(
    rate: float, size: int, seconds: float, more: float, order: int
) -> None:
    seconds += 100 / rate
    both = [seconds, seconds * more][::order]

    pace = learnt(*((one, round(size + rate * one)) for one in both), pause=0.001 + size / rate)

    assert 0.94 * rate < rate_of(pace) < 1.02 * rate


@often
@given(rate=rates, size=sizes, seconds=lengths, pause=st.floats(0.1, 10))
def test_one_segment_tells_what_lies_between_its_rate_with_the_pause_and_without(
    rate: float, size: int, seconds: float, pause: float
) -> None:
    admitted = round(size + rate * seconds) + 1

    pace = learnt((seconds, admitted), pause=pause)

    assert min(10.0, admitted / (seconds + pause) * 0.999) < rate_of(pace)
    assert rate_of(pace) < max(10.001, 1.001 * admitted / seconds)


@pytest.mark.parametrize(
    ("rate", "size", "pause"), [(200, 50, 1), (50, 50, 1), (200, 200, 0.3), (20, 200, 1), (200, 10, 1), SLOW]
)
def test_an_api_that_is_asked_for_minutes_is_asked_as_fast_as_it_allows(rate: float, size: float, pause: float) -> None:
    bucket = Bucket(rate, size, pause)
    bucket.ask_until(60)
    before, refused = bucket.sent, bucket.refused

    bucket.ask_until(180)

    assert bucket.sent - before == pytest.approx(120 * rate, rel=0.08)
    assert bucket.refused - refused < 0.02 * (bucket.sent - before)


@pytest.mark.parametrize(("rate", "size", "pause"), [(20, 10, 5), (20, 1, 1), (5, 1, 5)])
def test_a_small_bucket_with_a_long_pause_is_asked_as_fast_as_it_allows(rate: float, size: float, pause: float) -> None:
    bucket = Bucket(rate, size, pause)
    bucket.ask_until(60)

    assert bucket.pace.rate == pytest.approx(rate, rel=0.3)


def test_an_api_whose_first_answer_is_a_refusal_is_asked_as_fast_as_it_allows_soon_after() -> None:
    bucket = Bucket(10, 10, pause=1, tokens=0.0)

    bucket.ask_until(60)

    assert bucket.admitted > 300


def test_answers_that_take_longer_than_the_pause_are_counted_too() -> None:
    pace = AdaptiveRate()
    segment(pace, 0.0, 0.1, 9)

    pace.record_request(0.5)
    for _ in range(9):
        pace.record_success(1.0, is_limiting=False)

    assert pace.rate is None or pace.rate > 9


@often
@given(rate=st.floats(0.1, 500), late=st.floats(0, 60))
def test_where_a_rate_is_known_requests_keep_their_distance_and_a_late_one_is_hardly_made_up_for(
    rate: float, late: float
) -> None:
    pace = AdaptiveRate()
    pace.rate = rate
    pace.record_request(100.0)
    assert pace.available_at(100.0) == pytest.approx(100 + 1 / rate, abs=0.021)

    now, passed = 100 + 1 / rate + late, 0
    while pace.available_at(now) <= now:
        pace.record_request(now)
        passed += 1

    assert passed <= 2 + 0.02 * rate


def test_a_storm_of_refusals_counts_as_one() -> None:
    storm, one = AdaptiveRate(), AdaptiveRate()
    for pace, refusals in ((storm, 50), (one, 0)):
        number = segment(pace, 0.0, 2.0, 40)
        for begins in (3.0, 4.0):
            for _ in range(refusals):
                pace.record_refusal(2.0, number)
            pace.record_request(begins)

    assert storm.rate == one.rate is not None


def test_a_segment_ends_with_the_first_request_that_was_refused_whichever_is_answered_first() -> None:
    in_order, crossed = AdaptiveRate(), AdaptiveRate()
    for pace, order in ((in_order, 1), (crossed, -1)):
        for _ in range(40):
            pace.record_request(0.0)
        for sent_at, number in [(at, pace.record_request(at)) for at in (2.0, 2.5)][::order]:
            pace.record_refusal(sent_at, number)
        pace.record_request(10.0)

    assert in_order.rate == crossed.rate is not None


def test_refused_from_the_first_request_on_halves_the_rate_and_once_for_a_storm() -> None:
    pace = AdaptiveRate()
    segment(pace, 0.0, 2.0, 40)
    number = pace.record_request(102.0)
    before = rate_of(pace)

    for begins in (201.0, 202.0):
        for _ in range(30):
            pace.record_refusal(102.0, number)
        pace.record_request(begins)

    assert pace.rate == max(2.0, before / 2)


def test_a_rate_never_falls_below_one_a_minute() -> None:
    pace = learnt((2.0, 40))

    for begins in range(200, 300):
        segment(pace, float(begins), 0.0, 0)

    assert rate_of(pace) == pytest.approx(1 / 60)


MEASURED = 208.0


def measured() -> AdaptiveRate:
    return learnt((2.0, 40), (6.0, 80))


def raises(pace: AdaptiveRate, begins: float, seconds: int, *, is_bound: bool) -> list[float]:
    """By what factor the rate grows in each second in which it does."""
    factors: list[float] = []
    for second in range(seconds):
        before = rate_of(pace)
        pace.record_success(begins + second, is_limiting=is_bound)
        if pace.rate != before:
            factors.append(rate_of(pace) / before)
    return factors


def test_a_rate_that_binds_is_raised_every_10_seconds_by_more_each_time() -> None:
    pace = measured()

    assert raises(pace, MEASURED, 10, is_bound=True) == []
    assert raises(pace, MEASURED + 10, 70, is_bound=True) == pytest.approx([1.01, 1.02, 1.04, 1.08, 1.16, 1.25, 1.25])


def test_a_rate_that_binds_nobody_is_not_raised() -> None:
    pace = measured()

    assert raises(pace, MEASURED, 295, is_bound=False) == []
    assert raises(pace, MEASURED + 295, 5, is_bound=True) == []


def test_a_refusal_makes_the_steps_small_again() -> None:
    pace = measured()
    raises(pace, MEASURED, 60, is_bound=True)

    segment(pace, MEASURED, 60.0, 620)
    pace.record_request(MEASURED + 61)

    assert raises(pace, MEASURED + 61, 21, is_bound=True) == pytest.approx([1.01, 1.02])


def test_between_a_refusal_and_the_next_request_nothing_is_raised() -> None:
    pace = measured()
    pace.record_refusal(MEASURED + 3, pace.record_request(MEASURED + 3))

    assert raises(pace, MEASURED + 4, 60, is_bound=True) == []


def test_a_limit_that_was_lifted_is_found_out() -> None:
    bucket = Bucket(20, 20, pause=1)
    bucket.ask_until(60)
    bucket.rate = bucket.size = 100

    bucket.ask_until(130)

    assert rate_of(bucket.pace) > 35


def test_the_refusal_that_follows_on_a_lifted_limit_tells_what_it_is_now() -> None:
    bucket = Bucket(20, 20, pause=1)
    bucket.ask_until(60)
    before, end = bucket.refused, 60
    bucket.rate = bucket.size = 100

    while bucket.refused == before:
        bucket.ask_until(end := end + 1)
    bucket.ask_until(end + 2)

    assert bucket.pace.rate == pytest.approx(100, rel=0.25)
