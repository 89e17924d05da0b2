"""Is a declared limit kept in every window, and nobody kept for longer than that takes?"""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncstreams import RateLimit
from asyncstreams.rate_limits.sliding_window import SlidingWindowLog

often = settings(max_examples=300, deadline=None)
MARGIN = 1.021
quarters = st.integers(1, 80).map(lambda count: count / 4)
limits = st.builds(
    RateLimit, st.integers(1, 40).map(lambda count: count / 2), st.sampled_from([0.02, 1.0, 7.5, 3600.0])
)
gaps = st.just(0.0) | st.floats(0, 0.001) | st.floats(0, 0.4) | st.floats(0, 3)
"""From one arrival to the next, in windows."""
arrivals = st.lists(st.tuples(gaps, st.just(1.0) | quarters), max_size=60)


def passes(
    log: SlidingWindowLog, arrivals: list[tuple[float, float]], began: float = 1000.0
) -> list[tuple[float, float]]:
    """When each one passed that came then and waited until it was free to go, and what it cost."""
    passed: list[tuple[float, float]] = []
    now = began
    for gap, cost in arrivals:
        now += gap * log.limit.per
        now = log.available_at(cost, now)
        log.record_request(cost, now)
        passed.append((now, cost))
    return passed


@often
@given(limit=limits, arrivals=arrivals)
def test_no_window_holds_more_than_the_limit_but_for_one_request_that_is_dearer_and_alone(
    limit: RateLimit, arrivals: list[tuple[float, float]]
) -> None:
    passed = passes(SlidingWindowLog(limit), arrivals)

    for first, (begins, _) in enumerate(passed):
        window = [cost for at, cost in passed[first:] if at <= begins + limit.per]
        assert sum(window) <= limit.limit or len(window) == 1


def test_what_went_before_the_first_answer_may_have_arrived_as_late_as_that() -> None:
    log = SlidingWindowLog(RateLimit(2, per=1))
    log.record_request(1, 0.0)
    log.record_request(1, 0.1)
    log.record_response(0.4)
    log.record_response(0.7)  # the connections are open

    assert log.available_at(1, 1.1) == pytest.approx(1.42)
    log.record_request(1, 1.42)
    log.record_request(1, 1.5)
    log.record_response(1.9)
    assert log.available_at(1, 2.0) == pytest.approx(2.44)


def test_spaced_requests_do_not_wait_for_what_went_before_the_first_answer() -> None:
    log = SlidingWindowLog(RateLimit(2, per=1, smooth=True))
    log.record_request(1, 0.0)
    log.record_request(1, 0.5)
    log.record_response(0.8)

    assert log.available_at(1, 1.0) == 1.0


@often
@given(limit=limits, arrivals=arrivals, cost=quarters, later=gaps)
def test_the_wait_is_never_in_the_past_and_one_window_at_most(
    limit: RateLimit, arrivals: list[tuple[float, float]], cost: float, later: float
) -> None:
    log = SlidingWindowLog(limit)
    passed = passes(log, arrivals)
    now = (passed[-1][0] if passed else 0.0) + later * limit.per

    free = log.available_at(cost, now)

    assert now <= free <= now + MARGIN * limit.per


@often
@given(limit=limits, arrivals=arrivals, cost=quarters)
def test_whoever_waited_until_it_was_free_to_go_may_go(
    limit: RateLimit, arrivals: list[tuple[float, float]], cost: float
) -> None:
    log = SlidingWindowLog(limit)
    passed = passes(log, arrivals)

    free = log.available_at(cost, passed[-1][0] if passed else 0.0)

    assert log.available_at(cost, free) == free


@often
@given(limit=limits, arrivals=arrivals, cost=quarters)
def test_asking_changes_nothing(limit: RateLimit, arrivals: list[tuple[float, float]], cost: float) -> None:
    log = SlidingWindowLog(limit)
    passed = passes(log, arrivals)
    now = passed[-1][0] if passed else 0.0

    assert log.available_at(cost, now) == log.available_at(cost, now)


@often
@given(limit=limits, arrivals=arrivals)
def test_no_time_is_lost_whoever_waits_goes_as_soon_as_the_window_has_room(
    limit: RateLimit, arrivals: list[tuple[float, float]]
) -> None:
    log = SlidingWindowLog(limit)
    now, passed = 1000.0, list[tuple[float, float]]()

    for gap, cost in arrivals:
        now += gap * limit.per
        free = log.available_at(cost, now)
        if free > now:
            # A thousandth of a window earlier there was no room.
            early = [units for at, units in passed if at > free - limit.per * MARGIN]
            assert early
            assert sum(early) + cost > limit.limit
        now = free
        log.record_request(cost, now)
        passed.append((now, cost))


def test_all_of_the_limit_may_go_at_once_and_not_one_more() -> None:
    log = SlidingWindowLog(RateLimit(5, per=2))

    for _ in range(5):
        assert log.available_at(1, 10.0) == 10.0
        log.record_request(1, 10.0)

    assert 12.0 < log.available_at(1, 10.0) <= 10 + 2 * MARGIN


def test_room_comes_back_in_the_order_in_which_it_was_used() -> None:
    log = SlidingWindowLog(RateLimit(3, per=1))
    for now in (0.0, 0.25, 0.5):
        log.record_request(1, now)

    assert [log.available_at(cost, 0.6) for cost in (1, 2, 3)] == pytest.approx([1.02, 1.27, 1.52], abs=0.001)


def test_a_request_dearer_than_the_limit_waits_for_an_empty_window_and_leaves_nothing() -> None:
    log = SlidingWindowLog(RateLimit(10, per=1))
    log.record_request(1, 0.0)

    passes_at = log.available_at(25, 0.5)
    log.record_request(25, passes_at)

    assert passes_at == pytest.approx(1.02, abs=0.001)
    assert log.available_at(1, passes_at) == pytest.approx(2.04, abs=0.002)
    assert log.available_at(25, passes_at) == pytest.approx(2.04, abs=0.002)


def test_a_request_dearer_than_the_limit_passes_at_once_where_nothing_else_is() -> None:
    assert SlidingWindowLog(RateLimit(10, per=1)).available_at(25, 3.0) == 3.0


def test_a_little_is_added_to_the_window_for_what_one_request_gains_on_the_way() -> None:
    log = SlidingWindowLog(RateLimit(1, per=1000))
    log.record_request(1, 0.0)

    assert 1000.04 < log.available_at(1, 0.0) <= 1001


def test_what_is_counted_together_counts_as_late_as_the_last_of_it() -> None:
    log = SlidingWindowLog(RateLimit(2, per=4096))
    log.record_request(1, 0.0)
    log.record_request(1, 0.9)
    apart = SlidingWindowLog(log.limit)
    apart.record_request(2, 0.9)

    assert log.available_at(1, 1.0) == apart.available_at(1, 1.0)


def test_what_comes_close_after_each_other_is_not_counted_together_for_ever() -> None:
    log = SlidingWindowLog(RateLimit(10_000, per=4096))
    for count in range(10_000):
        log.record_request(1, count * 0.4)

    assert log.available_at(1, 4000.0) < 4096 + 6


def test_a_million_requests_a_day_are_kept_in_little_memory() -> None:
    log = SlidingWindowLog(RateLimit(125_000, per=86_400 / 8))
    tracemalloc.start()
    began = tracemalloc.get_traced_memory()[0]

    for count in range(125_000):
        log.record_request(1, count * 86_400 / 1e6)

    used = tracemalloc.get_traced_memory()[0] - began
    tracemalloc.stop()
    assert used < 1_500_000
    assert log.available_at(1, 10_000.0) > 10_000


def test_what_is_over_is_let_go_of() -> None:
    log = SlidingWindowLog(RateLimit(1000, per=1))
    tracemalloc.start()
    passes(log, [(0.0004, 1.0)] * 5000)
    began = tracemalloc.get_traced_memory()[0]

    passes(log, [(0.0004, 1.0)] * 20_000, began=2000.0)

    used = tracemalloc.get_traced_memory()[0] - began
    tracemalloc.stop()
    assert used < 100_000


@pytest.mark.parametrize("before", [[0.1, 0.1, 0.1, 0.3], [0.2, 0.2, 0.7]])
def test_an_idle_log_is_as_good_as_new_whatever_fractions_have_left_over(before: list[float]) -> None:
    log = SlidingWindowLog(RateLimit(1, per=1))
    passes(log, [(0.01, cost) for cost in before])

    assert log.available_at(1, 1e6) == 1e6


@pytest.mark.parametrize(
    ("n", "before", "cost"), [(1, [0.1, 0.1, 0.1, 0.3], 1), (0.3, [0.1, 0.1, 0.1], 0.3), (1, [0.2, 0.2, 0.7], 1)]
)
def test_fractions_that_do_not_add_up_keep_nobody_for_more_than_a_window(
    n: float, before: list[float], cost: float
) -> None:
    log = SlidingWindowLog(RateLimit(n, per=1))
    now = passes(log, [(0.01, units) for units in before])[-1][0]

    assert now < log.available_at(cost, now) <= now + MARGIN


@settings(max_examples=2000, deadline=None)
@given(costs=st.lists(st.integers(1, 30).map(lambda tenths: tenths / 10), min_size=1, max_size=8))
def test_any_fractions_may_be_asked_for(costs: list[float]) -> None:
    passes(SlidingWindowLog(RateLimit(1)), [(0.01, cost) for cost in costs])


@pytest.mark.parametrize(("units", "after"), [(0, 0.0), (5, 1.02), (9, 1.02), (10, 1.02), (15, 2.04), (35, 4.08)])
def test_it_tells_when_one_passes_that_goes_after_others(units: float, after: float) -> None:
    log = SlidingWindowLog(RateLimit(10, per=1))
    for _ in range(5):
        log.record_request(1, 0.0)

    assert log.available_after(units, 1, 0.0) == pytest.approx(after, abs=0.001)


def test_a_smooth_limit_has_no_margin() -> None:
    log = SlidingWindowLog(RateLimit(1, per=1, smooth=True))
    log.record_request(1, 0.0)

    assert log.available_at(1, 0.5) == 1.0
