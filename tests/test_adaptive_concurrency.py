"""Adaptive limit on the number of requests in flight."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulation import examples

from asyncstreams.rate_limits.adaptive_concurrency import ConcurrencyLimit
from asyncstreams.rate_limits.governor import Governor, HostState
from asyncstreams.rate_limits.loop_lag import LoopLag
from asyncstreams.testing import VirtualClock

often = examples(full=200, short=40)
seconds = st.floats(0, 10)
actions = st.lists(
    st.tuples(st.just("success"), st.integers(0, 200))
    | st.tuples(st.just("latency"), st.sampled_from("ab"), st.floats(0, 30), seconds)
    | st.tuples(st.just("overload"), seconds)
    | st.tuples(st.just("restart")),
    max_size=80,
)


def round_trip(concurrency: ConcurrencyLimit) -> float:
    """Answer as many requests as the limit allows, always at the limit. Returns the new limit."""
    for _ in range(math.floor(concurrency.limit)):
        concurrency.record_success(math.floor(concurrency.limit))
    return concurrency.limit


def limit_after(*actions: str) -> ConcurrencyLimit:
    """A limit after the given round trips ("r") and cuts ("c")."""
    concurrency, now = ConcurrencyLimit(), 0.0
    for action in "".join(actions):
        now += 1.0
        if action == "r":
            round_trip(concurrency)
        else:
            concurrency.record_overload(now, now)
    return concurrency


def record_latencies(
    concurrency: ConcurrencyLimit, label: str, latencies: list[float], begin: float = 0.0
) -> list[float]:
    """Record one response each tenth of a second. Returns the limit after each."""
    limits: list[float] = []
    for count, latency in enumerate(latencies):
        now = begin + count / 10
        concurrency.record_latency(label, latency, now, now)
        limits.append(concurrency.limit)
    return limits


@often
@given(actions=actions)
def test_limit_is_never_below_one(actions: list[tuple[Any, ...]]) -> None:
    concurrency, now = ConcurrencyLimit(), 0.0

    for action, *arguments in actions:
        if action == "success":
            concurrency.record_success(arguments[0])
        elif action == "restart":
            concurrency.restart()
        else:
            now += arguments[-1]
            if action == "latency":
                concurrency.record_latency(arguments[0], arguments[1], now, now)
            else:
                concurrency.record_overload(now, now)
        assert concurrency.limit >= 1


def test_limit_doubles_each_round_trip_in_slow_start() -> None:
    concurrency = ConcurrencyLimit()

    assert [concurrency.limit, *(round_trip(concurrency) for _ in range(6))] == [4, 8, 16, 32, 64, 128, 256]


def test_limit_grows_by_one_each_round_trip_after_a_cut() -> None:
    concurrency = limit_after("rrrrc")
    assert concurrency.limit == pytest.approx(0.7 * 64)

    for _ in range(20):
        before = concurrency.limit
        assert 0.9 < round_trip(concurrency) - before <= 1


@pytest.mark.parametrize("history", ["", "rrr", "rrrc", "rrrcrc"])
def test_unused_limit_does_not_grow(history: str) -> None:
    concurrency = limit_after(history)
    before = concurrency.limit

    for in_flight in range(math.floor(before)):
        concurrency.record_success(in_flight)

    assert concurrency.limit == before
    concurrency.record_success(math.floor(before))
    assert concurrency.limit > before


@often
@given(overloads=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 60)), min_size=1, max_size=50))
def test_overload_of_requests_sent_before_a_cut_is_ignored(overloads: list[tuple[float, float]]) -> None:
    concurrency = ConcurrencyLimit()
    concurrency.record_overload(0.5, 1.0)

    for sent_at, later in sorted(overloads, key=lambda overload: overload[1]):
        concurrency.record_overload(sent_at, 1 + later)

    assert concurrency.limit == pytest.approx(0.7 * 4)


def test_overload_cuts_by_30_percent_at_most_twice_a_second() -> None:
    concurrency = limit_after("rrrrr")
    limits: list[float] = []

    for now in (10.0, 10.1, 10.2, 10.49, 10.51, 10.6, 11.0, 11.02):
        concurrency.record_overload(now, now)
        limits.append(concurrency.limit / 128)

    once, twice, thrice = 0.7, 0.7**2, 0.7**3
    assert limits == pytest.approx([once, once, once, once, twice, twice, twice, thrice])


def test_average_latency_above_1_5_times_cuts_by_15_percent() -> None:
    concurrency = ConcurrencyLimit()
    record_latencies(concurrency, "a", [0.1] * 20)

    # The geometric averages are 0.112, 0.123, 0.135, 0.146 and 0.157 s.
    limits = record_latencies(concurrency, "a", [0.3] * 5, begin=5.0)

    assert limits == pytest.approx([4, 4, 4, 4, 0.85 * 4])


def test_slow_responses_sent_before_a_cut_do_not_cut_again() -> None:
    concurrency = ConcurrencyLimit()
    record_latencies(concurrency, "a", [0.1] * 20)
    concurrency.record_overload(5.0, 5.0)

    for count in range(50):
        concurrency.record_latency("a", 1.0, 4.9, 6.0 + count)

    assert concurrency.limit == pytest.approx(0.7 * 4)


def test_slow_responses_cut_at_most_once_each_round_trip() -> None:
    concurrency = ConcurrencyLimit()
    record_latencies(concurrency, "a", [2.0] * 20)

    limits = record_latencies(concurrency, "a", [6.0] * 80, begin=5.0)

    # The average exceeds 1.5 times after five responses; then a round trip takes 3 to 6 s.
    assert limits[4] == limits[30] == pytest.approx(0.85 * 4)
    assert limits[-1] == pytest.approx(0.85**2 * 4)


@pytest.mark.parametrize(
    ("quick", "slow", "is_cut"), [(0.002, 0.02, False), (0.005, 0.0245, False), (0.005, 0.03, True)]
)
def test_increase_below_20_ms_is_no_congestion(quick: float, slow: float, is_cut: bool) -> None:
    concurrency = ConcurrencyLimit()
    record_latencies(concurrency, "a", [quick] * 20)

    limits = record_latencies(concurrency, "a", [slow] * 60, begin=2.0)

    assert (min(limits) < 4) is is_cut


@often
@given(seed=st.integers(0, 10**6), share=st.floats(0.1, 0.9))
def test_quick_and_slow_endpoints_are_no_congestion(seed: int, share: float) -> None:
    random, concurrency = Random(seed), limit_after("c")
    now = 10.0

    for _ in range(300):
        now += 0.05
        label = "quick" if random.random() < share else "slow"
        before = concurrency.limit
        latency = (0.05 if label == "quick" else 2.0) * random.uniform(0.95, 1.05)
        concurrency.record_latency(label, latency, now - latency, now)
        concurrency.record_success(math.floor(before))
        assert concurrency.limit > before


def test_growth_stops_above_1_2_times_and_resumes_below() -> None:
    concurrency = limit_after("rrc")
    record_latencies(concurrency, "a", [0.1] * 20, begin=10.0)
    before = concurrency.limit

    record_latencies(concurrency, "a", [0.13] * 20, begin=12.0)
    assert round_trip(concurrency) == before

    record_latencies(concurrency, "a", [0.1] * 20, begin=14.0)
    assert round_trip(concurrency) > before


def test_increase_below_10_ms_does_not_stop_growth() -> None:
    concurrency = limit_after("rrc")
    record_latencies(concurrency, "a", [0.01] * 20, begin=10.0)
    before = concurrency.limit

    record_latencies(concurrency, "a", [0.018] * 40, begin=12.0)

    assert round_trip(concurrency) > before


def test_first_responses_do_not_cut() -> None:
    concurrency = ConcurrencyLimit()

    assert record_latencies(concurrency, "a", [0.01, 0.5, 0.5, 0.5]) == [4, 4, 4, 4]


def test_permanently_slower_api_becomes_the_new_baseline() -> None:
    concurrency = ConcurrencyLimit()
    record_latencies(concurrency, "a", [0.1] * 50)
    assert record_latencies(concurrency, "a", [0.3] * 900, begin=5.0)[-1] < 4
    concurrency.limit = 64.0

    assert record_latencies(concurrency, "a", [0.3] * 300, begin=95.0)[-1] == 64


def test_baseline_is_the_quickest_of_the_last_minute() -> None:
    concurrency = ConcurrencyLimit()
    record_latencies(concurrency, "a", [0.05] * 5)

    # Each average is at most 1.4 times the quickest of the minute before.
    for count in range(1, 20):
        concurrency.record_latency("a", 0.12, 25.0 * count, 25.0 * count)

    assert concurrency.limit == 4


@pytest.mark.parametrize("before", [64, 128])
def test_restart_doubles_from_one_to_half_of_the_former_limit(before: int) -> None:
    concurrency = limit_after("c")
    concurrency.limit = float(before)

    concurrency.restart()

    limits = [concurrency.limit]
    while limits[-1] < before / 2:
        limits.append(round_trip(concurrency))
    assert limits == [2.0**count for count in range(len(limits))]
    assert limits[-1] == before / 2
    assert before / 2 + 0.9 < round_trip(concurrency) <= before / 2 + 1


def test_overload_ends_the_slow_start_after_an_outage() -> None:
    concurrency = limit_after("rrrr")
    concurrency.restart()
    round_trip(concurrency)
    round_trip(concurrency)

    concurrency.record_overload(10.0, 10.0)

    assert concurrency.limit == pytest.approx(0.7 * 4)
    assert round_trip(concurrency) <= 0.7 * 4 + 1


async def test_refusal_after_an_outage_also_restarts_the_limit(
    virtual_clock: VirtualClock,
) -> None:
    random = Random(1)
    governor = Governor(virtual_clock, random, LoopLag(), HostState(random))
    client = governor.add_client("a", adaptive=True)
    governor.host.concurrency.limit = 64.0
    while not governor.host.circuit_breaker.is_down:
        permit = governor.acquire_nowait(client)
        assert permit is not None
        governor.record_failure(permit, is_overload=False)
        governor.release(permit)
    await virtual_clock.sleep(1.1)
    probe = governor.acquire_nowait(client)
    assert probe is not None

    governor.record_refusal(probe, has_retry_after=True)

    assert not governor.host.circuit_breaker.is_down
    assert governor.host.concurrency.limit == 1


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "latency",
    [
        pytest.param(lambda random: random.uniform(0.02, 0.14), id="even"),
        pytest.param(lambda random: random.choice([0.03, 0.3]), id="of-a-cache"),
        pytest.param(lambda random: random.lognormvariate(-3, 0.7), id="skewed"),
        pytest.param(lambda random: 5.0 if random.random() < 0.01 else 0.05, id="rarely-very-slow"),
    ],
)
def test_latency_that_varies_without_load_does_not_cut(seed: int, latency: Any) -> None:
    random, concurrency = Random(seed), ConcurrencyLimit()

    for count in range(20_000):
        concurrency.record_latency("a", latency(random), count / 200, count / 200)
        concurrency.record_success(math.floor(concurrency.limit))

    assert concurrency.limit > 100


@pytest.mark.parametrize("seed", range(5))
def test_rise_of_varying_latency_cuts(seed: int) -> None:
    random, concurrency = Random(seed), ConcurrencyLimit()
    record_latencies(concurrency, "a", [random.uniform(0.02, 0.14) for _ in range(200)])

    limits = record_latencies(concurrency, "a", [random.uniform(0.1, 0.7) for _ in range(50)], begin=20.0)

    assert limits[-1] < 3.5
