"""Request rate learned from refusals."""

from __future__ import annotations

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulation import examples

from asyncstreams.rate_limits.adaptive_rate import AdaptiveRate

LATENCY = 0.0731
often = examples(full=200, short=40)
rates, sizes, lengths = st.floats(1, 500), st.integers(0, 200), st.floats(0.1, 20)


class Bucket:
    """A token-bucket server that orders a pause with each refusal, and its client."""

    def __init__(self, rate: float, size: float, pause: float, tokens: float | None = None) -> None:
        self.rate, self.size, self.pause, self.adaptive_rate = rate, size, pause, AdaptiveRate()
        self.sent = self.admitted = self.refused = 0
        self._tokens = size if tokens is None else tokens
        self.now = self._refilled_at = self._resumes_at = 0.0
        self._responses: list[tuple[float, int, float, bool]] = []

    def send_until(self, end: float, max_in_flight: int = 32) -> None:
        """Send as fast as the rate allows, with at most `max_in_flight` requests in flight."""
        while True:
            earliest = max(self.now, self._resumes_at, self.adaptive_rate.available_at(self.now))
            is_full = len(self._responses) >= max_in_flight
            if self._responses and (is_full or self._responses[0][0] <= earliest):
                self._receive()
            elif earliest >= end:
                return
            else:
                self.now = earliest
                self._send()

    def _send(self) -> None:
        self._tokens = min(self.size, self._tokens + self.rate * (self.now - self._refilled_at))
        self._refilled_at = self.now
        is_admitted = self._tokens >= 1
        self._tokens -= is_admitted
        number = self.adaptive_rate.record_request(self.now)
        self.sent += 1
        heapq.heappush(self._responses, (self.now + LATENCY, number, self.now, is_admitted))

    def _receive(self) -> None:
        self.now, number, sent_at, is_admitted = heapq.heappop(self._responses)
        if is_admitted:
            self.admitted += 1
            self.adaptive_rate.record_success(
                self.now, is_limiting=self.adaptive_rate.available_at(self.now) > self.now
            )
        else:
            self.refused += 1
            self.adaptive_rate.record_refusal(sent_at, number)
            self._resumes_at = max(self._resumes_at, self.now + self.pause)


def add_segment(adaptive_rate: AdaptiveRate, started_at: float, seconds: float, admitted: int) -> int:
    """Record `admitted` requests, and a refusal after `seconds`. Returns the number of the refused one."""
    for _ in range(admitted):
        adaptive_rate.record_request(started_at)
    number = adaptive_rate.record_request(started_at + seconds)
    adaptive_rate.record_refusal(started_at + seconds, number)
    return number


def rate_of(adaptive_rate: AdaptiveRate) -> float:
    assert adaptive_rate.rate is not None
    return adaptive_rate.rate


def learn(*segments: tuple[float, int], pause: float = 100.0) -> AdaptiveRate:
    adaptive_rate, now = AdaptiveRate(), 0.0
    for seconds, admitted in segments:
        add_segment(adaptive_rate, now, seconds, admitted)
        now += seconds + pause
    adaptive_rate.record_request(now)
    return adaptive_rate


@often
@given(gaps=st.lists(st.just(0.0) | st.floats(0, 100), max_size=50))
def test_no_wait_without_a_refusal(gaps: list[float]) -> None:
    adaptive_rate, now = AdaptiveRate(), 0.0

    for gap in gaps:
        now += gap
        assert adaptive_rate.available_at(now) == now
        adaptive_rate.record_request(now)
        adaptive_rate.record_success(now, is_limiting=True)

    assert adaptive_rate.rate is None


@often
@given(rate=rates, size=sizes, seconds=lengths, more=st.floats(1.6, 10), order=st.sampled_from([1, -1]))
def test_rate_from_two_segments_of_different_length(
    rate: float, size: int, seconds: float, more: float, order: int
) -> None:
    seconds += 100 / rate
    both = [seconds, seconds * more][::order]

    adaptive_rate = learn(*((length, round(size + rate * length)) for length in both), pause=0.001 + size / rate)

    assert 0.94 * rate < rate_of(adaptive_rate) < 1.02 * rate


@often
@given(rate=rates, size=sizes, seconds=lengths, pause=st.floats(0.1, 10))
def test_guess_from_one_segment_is_within_its_bounds(rate: float, size: int, seconds: float, pause: float) -> None:
    admitted = round(size + rate * seconds) + 1

    adaptive_rate = learn((seconds, admitted), pause=pause)

    assert min(10.0, admitted / (seconds + pause) * 0.999) < rate_of(adaptive_rate)
    assert rate_of(adaptive_rate) < max(10.001, 1.001 * admitted / seconds)


@pytest.mark.parametrize(
    ("rate", "size", "pause"), [(200, 50, 1), (50, 50, 1), (200, 200, 0.3), (20, 200, 1), (200, 10, 1), (5, 50, 1)]
)
def test_long_run_reaches_the_allowed_rate(rate: float, size: float, pause: float) -> None:
    bucket = Bucket(rate, size, pause)
    bucket.send_until(60)
    before, refused = bucket.sent, bucket.refused

    bucket.send_until(180)

    assert bucket.sent - before == pytest.approx(120 * rate, rel=0.08)
    assert bucket.refused - refused < 0.02 * (bucket.sent - before)


@pytest.mark.parametrize(("rate", "size", "pause"), [(20, 10, 5), (20, 1, 1), (5, 1, 5)])
def test_small_bucket_with_long_pause_reaches_the_rate(rate: float, size: float, pause: float) -> None:
    bucket = Bucket(rate, size, pause)
    bucket.send_until(60)

    assert bucket.adaptive_rate.rate == pytest.approx(rate, rel=0.3)


def test_initial_refusal_does_not_keep_the_rate_low() -> None:
    bucket = Bucket(10, 10, pause=1, tokens=0.0)

    bucket.send_until(60)

    assert bucket.admitted > 300


def test_responses_after_the_pause_are_counted() -> None:
    adaptive_rate = AdaptiveRate()
    add_segment(adaptive_rate, 0.0, 0.1, 9)

    adaptive_rate.record_request(0.5)
    for _ in range(9):
        adaptive_rate.record_success(1.0, is_limiting=False)

    assert adaptive_rate.rate is None or adaptive_rate.rate > 9


@often
@given(rate=st.floats(0.1, 500), late=st.floats(0, 60))
def test_known_rate_spaces_requests_with_little_catch_up(rate: float, late: float) -> None:
    adaptive_rate = AdaptiveRate()
    adaptive_rate.rate = rate
    adaptive_rate.record_request(100.0)
    assert adaptive_rate.available_at(100.0) == pytest.approx(100 + 1 / rate, abs=0.021)

    now, passed = 100 + 1 / rate + late, 0
    while adaptive_rate.available_at(now) <= now:
        adaptive_rate.record_request(now)
        passed += 1

    assert passed <= 2 + 0.02 * rate


def test_simultaneous_refusals_count_as_one() -> None:
    storm, single = AdaptiveRate(), AdaptiveRate()
    for adaptive_rate, refusals in ((storm, 50), (single, 0)):
        number = add_segment(adaptive_rate, 0.0, 2.0, 40)
        for started_at in (3.0, 4.0):
            for _ in range(refusals):
                adaptive_rate.record_refusal(2.0, number)
            adaptive_rate.record_request(started_at)

    assert storm.rate == single.rate is not None


def test_segment_ends_at_the_earliest_refused_request() -> None:
    in_order, crossed = AdaptiveRate(), AdaptiveRate()
    for adaptive_rate, order in ((in_order, 1), (crossed, -1)):
        for _ in range(40):
            adaptive_rate.record_request(0.0)
        for sent_at, number in [(at, adaptive_rate.record_request(at)) for at in (2.0, 2.5)][::order]:
            adaptive_rate.record_refusal(sent_at, number)
        adaptive_rate.record_request(10.0)

    assert in_order.rate == crossed.rate is not None


def test_refusal_of_the_first_request_halves_the_rate_once() -> None:
    adaptive_rate = AdaptiveRate()
    add_segment(adaptive_rate, 0.0, 2.0, 40)
    number = adaptive_rate.record_request(102.0)
    before = rate_of(adaptive_rate)

    for started_at in (201.0, 202.0):
        for _ in range(30):
            adaptive_rate.record_refusal(102.0, number)
        adaptive_rate.record_request(started_at)

    assert adaptive_rate.rate == max(2.0, before / 2)


def test_rate_is_at_least_one_a_minute() -> None:
    adaptive_rate = learn((2.0, 40))

    for started_at in range(200, 300):
        add_segment(adaptive_rate, float(started_at), 0.0, 0)

    assert rate_of(adaptive_rate) == pytest.approx(1 / 60)


MEASURED = 208.0


def make_measured_rate() -> AdaptiveRate:
    return learn((2.0, 40), (6.0, 80))


def raise_factors(adaptive_rate: AdaptiveRate, started_at: float, seconds: int, *, is_limiting: bool) -> list[float]:
    """Factors by which the rate grows, for each second in which it does."""
    factors: list[float] = []
    for second in range(seconds):
        before = rate_of(adaptive_rate)
        adaptive_rate.record_success(started_at + second, is_limiting=is_limiting)
        if adaptive_rate.rate != before:
            factors.append(rate_of(adaptive_rate) / before)
    return factors


def test_limiting_rate_is_raised_in_growing_steps() -> None:
    adaptive_rate = make_measured_rate()

    assert raise_factors(adaptive_rate, MEASURED, 10, is_limiting=True) == []
    assert raise_factors(adaptive_rate, MEASURED + 10, 70, is_limiting=True) == pytest.approx(
        [1.01, 1.02, 1.04, 1.08, 1.16, 1.25, 1.25]
    )


def test_unused_rate_is_not_raised() -> None:
    adaptive_rate = make_measured_rate()

    assert raise_factors(adaptive_rate, MEASURED, 295, is_limiting=False) == []
    assert raise_factors(adaptive_rate, MEASURED + 295, 5, is_limiting=True) == []


def test_refusal_resets_the_step_size() -> None:
    adaptive_rate = make_measured_rate()
    raise_factors(adaptive_rate, MEASURED, 60, is_limiting=True)

    add_segment(adaptive_rate, MEASURED, 60.0, 620)
    adaptive_rate.record_request(MEASURED + 61)

    assert raise_factors(adaptive_rate, MEASURED + 61, 21, is_limiting=True) == pytest.approx([1.01, 1.02])


def test_rate_is_not_raised_right_after_a_refusal() -> None:
    adaptive_rate = make_measured_rate()
    adaptive_rate.record_refusal(MEASURED + 3, adaptive_rate.record_request(MEASURED + 3))

    assert raise_factors(adaptive_rate, MEASURED + 4, 60, is_limiting=True) == []


def test_lifted_limit_is_discovered() -> None:
    bucket = Bucket(20, 20, pause=1)
    bucket.send_until(60)
    bucket.rate = bucket.size = 100

    bucket.send_until(130)

    assert rate_of(bucket.adaptive_rate) > 35


def test_refusal_after_a_lifted_limit_measures_the_new_one() -> None:
    bucket = Bucket(20, 20, pause=1)
    bucket.send_until(60)
    before, end = bucket.refused, 60
    bucket.rate = bucket.size = 100

    while bucket.refused == before:
        bucket.send_until(end := end + 1)
    bucket.send_until(end + 2)

    assert bucket.adaptive_rate.rate == pytest.approx(100, rel=0.25)


def test_refill_between_refusals_is_the_rate_of_a_small_bucket() -> None:
    bucket = Bucket(4, 8, pause=0.6)

    bucket.send_until(2, max_in_flight=4)

    assert rate_of(bucket.adaptive_rate) == pytest.approx(4, rel=0.3)


def test_refill_of_a_bucket_that_overflows_is_not_used() -> None:
    bucket = Bucket(200, 10, pause=1)

    bucket.send_until(30)

    assert rate_of(bucket.adaptive_rate) == pytest.approx(200, rel=0.1)


def test_long_ordered_pauses_are_not_taken_for_a_slow_rate() -> None:
    adaptive_rate, now = AdaptiveRate(), 0.0

    for _ in range(12):
        add_segment(adaptive_rate, now, 0.1, 3)
        now += 900.0
    adaptive_rate.record_request(now)

    assert rate_of(adaptive_rate) >= 2


def test_overflow_while_concurrency_grows_is_accounted_for() -> None:
    bucket = Bucket(200, 50, pause=0.6)
    for in_flight in (1, 2, 4, 8, 16):
        bucket.send_until(bucket.now + LATENCY, max_in_flight=in_flight)

    bucket.send_until(5, max_in_flight=32)

    assert bucket.refused > 1
    assert rate_of(bucket.adaptive_rate) == pytest.approx(200, rel=0.03)


def test_part_of_the_burst_is_sent_once_the_rate_is_known() -> None:
    adaptive_rate = learn((0.2, 90), (2.0, 450))

    burst = 0
    while adaptive_rate.available_at(202.2) == 202.2:
        adaptive_rate.record_request(202.2)
        burst += 1

    assert 25 <= burst <= 50


@pytest.mark.parametrize("reported", [0.5, 40.0])
def test_reported_rate_holds_from_the_first_refusal_on(reported: float) -> None:
    adaptive_rate = AdaptiveRate()
    adaptive_rate.reported = reported
    assert adaptive_rate.rate is None

    add_segment(adaptive_rate, 0.0, 1.0, 100)
    adaptive_rate.record_request(2.0)

    assert rate_of(adaptive_rate) == reported
    assert raise_factors(adaptive_rate, 3.0, 60, is_limiting=True) == []


def test_refusal_below_the_reported_rate_lowers_it() -> None:
    adaptive_rate = AdaptiveRate()
    adaptive_rate.reported = 40.0
    add_segment(adaptive_rate, 0.0, 1.0, 100)
    add_segment(adaptive_rate, 2.0, 5.0, 50)

    adaptive_rate.record_request(8.0)

    assert rate_of(adaptive_rate) < 20
