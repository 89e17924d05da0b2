"""Sliding-window log of a declared limit."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulation import examples

from asyncstreams import RateLimit
from asyncstreams.rate_limits.sliding_window import SlidingWindowLog

often = examples(full=300, short=60)
MARGIN = 1.021
quarters = st.integers(1, 80).map(lambda count: count / 4)
limits = st.builds(
    RateLimit, st.integers(1, 40).map(lambda count: count / 2), st.sampled_from([0.02, 1.0, 7.5, 3600.0])
)
gaps = st.just(0.0) | st.floats(0, 0.001) | st.floats(0, 0.4) | st.floats(0, 3)
"""Time between arrivals, in windows."""
arrivals = st.lists(st.tuples(gaps, st.just(1.0) | quarters), max_size=60)


def send_all(
    log: SlidingWindowLog, arrivals: list[tuple[float, float]], began: float = 1000.0
) -> list[tuple[float, float]]:
    """Send each request as early as the log allows. Returns time and cost of each."""
    sent: list[tuple[float, float]] = []
    now = began
    for gap, cost in arrivals:
        now += gap * log.limit.per
        now = log.available_at(cost, now)
        log.record_request(cost, now)
        sent.append((now, cost))
    return sent


@often
@given(limit=limits, arrivals=arrivals)
def test_no_window_exceeds_the_limit(limit: RateLimit, arrivals: list[tuple[float, float]]) -> None:
    sent = send_all(SlidingWindowLog(limit), arrivals)

    for first, (started_at, _) in enumerate(sent):
        window = [cost for at, cost in sent[first:] if at <= started_at + limit.per]
        assert sum(window) <= limit.limit or len(window) == 1


def test_requests_before_the_first_response_count_from_it() -> None:
    log = SlidingWindowLog(RateLimit(2, per=1))
    log.record_request(1, 0.0)
    log.record_request(1, 0.1)
    log.record_response(0.4)
    log.record_response(0.7)  # the connections are established

    assert log.available_at(1, 1.1) == pytest.approx(1.42)
    log.record_request(1, 1.42)
    log.record_request(1, 1.5)
    log.record_response(1.9)
    assert log.available_at(1, 2.0) == pytest.approx(2.44)


def test_smooth_requests_ignore_the_first_response() -> None:
    log = SlidingWindowLog(RateLimit(2, per=1, smooth=True))
    log.record_request(1, 0.0)
    log.record_request(1, 0.5)
    log.record_response(0.8)

    assert log.available_at(1, 1.0) == 1.0


@often
@given(limit=limits, arrivals=arrivals, cost=quarters, later=gaps)
def test_wait_is_between_0_and_one_window(
    limit: RateLimit, arrivals: list[tuple[float, float]], cost: float, later: float
) -> None:
    log = SlidingWindowLog(limit)
    sent = send_all(log, arrivals)
    now = (sent[-1][0] if sent else 0.0) + later * limit.per

    available_at = log.available_at(cost, now)

    assert now <= available_at <= now + MARGIN * limit.per


@often
@given(limit=limits, arrivals=arrivals, cost=quarters)
def test_request_may_go_once_it_has_waited(limit: RateLimit, arrivals: list[tuple[float, float]], cost: float) -> None:
    log = SlidingWindowLog(limit)
    sent = send_all(log, arrivals)

    available_at = log.available_at(cost, sent[-1][0] if sent else 0.0)

    assert log.available_at(cost, available_at) == available_at


@often
@given(limit=limits, arrivals=arrivals, cost=quarters)
def test_available_at_is_repeatable(limit: RateLimit, arrivals: list[tuple[float, float]], cost: float) -> None:
    log = SlidingWindowLog(limit)
    sent = send_all(log, arrivals)
    now = sent[-1][0] if sent else 0.0

    assert log.available_at(cost, now) == log.available_at(cost, now)


@often
@given(limit=limits, arrivals=arrivals)
def test_request_goes_as_soon_as_the_window_has_capacity(limit: RateLimit, arrivals: list[tuple[float, float]]) -> None:
    log = SlidingWindowLog(limit)
    now, sent = 1000.0, list[tuple[float, float]]()

    for gap, cost in arrivals:
        now += gap * limit.per
        available_at = log.available_at(cost, now)
        if available_at > now:
            # A thousandth of a window earlier there was no capacity.
            early = [units for at, units in sent if at > available_at - limit.per * MARGIN]
            assert early
            assert sum(early) + cost > limit.limit
        now = available_at
        log.record_request(cost, now)
        sent.append((now, cost))


def test_exactly_the_limit_may_go_at_once() -> None:
    log = SlidingWindowLog(RateLimit(5, per=2))

    for _ in range(5):
        assert log.available_at(1, 10.0) == 10.0
        log.record_request(1, 10.0)

    assert 12.0 < log.available_at(1, 10.0) <= 10 + 2 * MARGIN


def test_capacity_returns_in_the_order_of_use() -> None:
    log = SlidingWindowLog(RateLimit(3, per=1))
    for now in (0.0, 0.25, 0.5):
        log.record_request(1, now)

    assert [log.available_at(cost, 0.6) for cost in (1, 2, 3)] == pytest.approx([1.02, 1.27, 1.52], abs=0.001)


def test_request_above_the_limit_waits_for_empty_window() -> None:
    log = SlidingWindowLog(RateLimit(10, per=1))
    log.record_request(1, 0.0)

    sent_at = log.available_at(25, 0.5)
    log.record_request(25, sent_at)

    assert sent_at == pytest.approx(1.02, abs=0.001)
    assert log.available_at(1, sent_at) == pytest.approx(2.04, abs=0.002)
    assert log.available_at(25, sent_at) == pytest.approx(2.04, abs=0.002)


def test_request_above_the_limit_goes_in_an_empty_window() -> None:
    assert SlidingWindowLog(RateLimit(10, per=1)).available_at(25, 3.0) == 3.0


def test_window_has_a_margin_for_network_latency() -> None:
    log = SlidingWindowLog(RateLimit(1, per=1000))
    log.record_request(1, 0.0)

    assert 1000.04 < log.available_at(1, 0.0) <= 1001


def test_merged_entry_has_the_time_of_its_last_request() -> None:
    log = SlidingWindowLog(RateLimit(2, per=4096))
    log.record_request(1, 0.0)
    log.record_request(1, 0.9)
    separate = SlidingWindowLog(log.limit)
    separate.record_request(2, 0.9)

    assert log.available_at(1, 1.0) == separate.available_at(1, 1.0)


def test_merged_entries_are_bounded_in_time() -> None:
    log = SlidingWindowLog(RateLimit(10_000, per=4096))
    for count in range(10_000):
        log.record_request(1, count * 0.4)

    assert log.available_at(1, 4000.0) < 4096 + 6


def test_million_requests_a_day_need_little_memory() -> None:
    log = SlidingWindowLog(RateLimit(125_000, per=86_400 / 8))
    tracemalloc.start()
    began = tracemalloc.get_traced_memory()[0]

    for count in range(125_000):
        log.record_request(1, count * 86_400 / 1e6)

    used = tracemalloc.get_traced_memory()[0] - began
    tracemalloc.stop()
    assert used < 1_500_000
    assert log.available_at(1, 10_000.0) > 10_000


def test_expired_entries_are_released() -> None:
    log = SlidingWindowLog(RateLimit(1000, per=1))
    tracemalloc.start()
    send_all(log, [(0.0004, 1.0)] * 5000)
    began = tracemalloc.get_traced_memory()[0]

    send_all(log, [(0.0004, 1.0)] * 20_000, began=2000.0)

    used = tracemalloc.get_traced_memory()[0] - began
    tracemalloc.stop()
    assert used < 100_000


@pytest.mark.parametrize("before", [[0.1, 0.1, 0.1, 0.3], [0.2, 0.2, 0.7]])
def test_rounding_errors_do_not_affect_an_idle_log(before: list[float]) -> None:
    log = SlidingWindowLog(RateLimit(1, per=1))
    send_all(log, [(0.01, cost) for cost in before])

    assert log.available_at(1, 1e6) == 1e6


@pytest.mark.parametrize(
    ("n", "before", "cost"), [(1, [0.1, 0.1, 0.1, 0.3], 1), (0.3, [0.1, 0.1, 0.1], 0.3), (1, [0.2, 0.2, 0.7], 1)]
)
def test_rounding_errors_delay_by_at_most_one_window(n: float, before: list[float], cost: float) -> None:
    log = SlidingWindowLog(RateLimit(n, per=1))
    now = send_all(log, [(0.01, units) for units in before])[-1][0]

    assert now < log.available_at(cost, now) <= now + MARGIN


@examples(full=2000, short=400)
@given(costs=st.lists(st.integers(1, 30).map(lambda tenths: tenths / 10), min_size=1, max_size=8))
def test_any_fractional_cost_is_accepted(costs: list[float]) -> None:
    send_all(SlidingWindowLog(RateLimit(1)), [(0.01, cost) for cost in costs])


@pytest.mark.parametrize(("units", "after"), [(0, 0.0), (5, 1.02), (9, 1.02), (10, 1.02), (15, 2.04), (35, 4.08)])
def test_available_after_counts_units_ahead(units: float, after: float) -> None:
    log = SlidingWindowLog(RateLimit(10, per=1))
    for _ in range(5):
        log.record_request(1, 0.0)

    assert log.available_after(units, 1, 0.0) == pytest.approx(after, abs=0.001)


def test_smooth_limit_has_no_margin() -> None:
    log = SlidingWindowLog(RateLimit(1, per=1, smooth=True))
    log.record_request(1, 0.0)

    assert log.available_at(1, 0.5) == 1.0
