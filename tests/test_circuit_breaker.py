"""Circuit breaker of one host: retry budget, outages and probe_intervals."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulation import examples

from asyncstreams.rate_limits.circuit_breaker import RETRY_COST, CircuitBreaker
from asyncstreams.rate_limits.governor import Governor, HostState, Permit, QuotaClient
from asyncstreams.rate_limits.loop_lag import LoopLag
from asyncstreams.testing import VirtualClock

often = examples(full=300, short=60)
actions = st.lists(
    st.tuples(st.just("retry"), st.floats(0, 400))
    | st.tuples(st.just("response"), st.just(0.0) | st.floats(0, 1e6))
    | st.tuples(st.just("probe"), st.floats(0, 400)),
    max_size=150,
)


class MaxRandom(Random):
    """Random numbers at their upper bound."""

    def uniform(self, a: float, b: float) -> float:
        return max(a, b)


def down_breaker(random: Random | None = None, now: float = 100.0) -> CircuitBreaker:
    """A breaker of a host that has just been found to be down."""
    breaker = CircuitBreaker(random or Random(1))
    while not breaker.is_down:
        breaker.record_retry(RETRY_COST, now)
    return breaker


def probe_intervals(breaker: CircuitBreaker, until: float) -> list[float]:
    """Seconds between the probes, each of which fails at once."""
    intervals, failed_at = [], breaker.down_since
    while failed_at is not None and failed_at < until:
        intervals.append(breaker.probe_at - failed_at)
        failed_at = breaker.probe_at
        breaker.start_probe()
        assert breaker.probe_at == math.inf
        breaker.finish_probe(failed_at)
    return intervals


@often
@given(actions=actions)
def test_budget_stays_between_0_and_500(actions: list[tuple[str, float]]) -> None:
    breaker, now = CircuitBreaker(Random(1)), 0.0

    for action, value in actions:
        if action == "retry":
            now += value
            breaker.record_retry(RETRY_COST, now)
        elif action == "response":
            breaker.record_response(now, value)
        elif breaker.is_down:
            breaker.start_probe()
            breaker.finish_probe(now := now + value)
        assert 0 <= breaker.budget <= 500


@often
@given(actions=actions)
def test_only_down_hosts_are_probed_until_a_response(actions: list[tuple[str, float]]) -> None:
    breaker, now = CircuitBreaker(Random(1)), 0.0

    for action, value in actions:
        was_down = breaker.is_down
        if action == "retry":
            now += value
            breaker.record_retry(RETRY_COST, now)
            assert not breaker.is_down or now <= breaker.probe_at < math.inf or was_down
        elif action == "response":
            assert breaker.record_response(now, value) is was_down
            assert not breaker.is_down
        elif was_down:
            breaker.start_probe()
            breaker.finish_probe(now := now + value)
            assert now <= breaker.probe_at < math.inf
        assert breaker.is_down or breaker.probe_at == math.inf


def test_36_consecutive_failures_are_an_outage() -> None:
    breaker = CircuitBreaker(Random(1))

    for count in range(35):
        breaker.record_retry(RETRY_COST, float(count))
    assert not breaker.is_down

    breaker.record_retry(RETRY_COST, 35.0)
    assert breaker.is_down
    assert (breaker.down_since, breaker.budget) == (35, 0)


def test_one_failure_in_15_is_no_outage() -> None:
    breaker = CircuitBreaker(Random(1))

    for count in range(10_000):
        breaker.record_retry(RETRY_COST, float(count))
        for _ in range(14):
            breaker.record_response(100.0)

    assert not breaker.is_down


def test_more_failures_than_refunds_are_an_outage_eventually() -> None:
    breaker, rounds = CircuitBreaker(Random(1)), 0

    while not breaker.is_down and rounds < 1000:
        for _ in range(10):
            breaker.record_response(100.0)
        breaker.record_retry(RETRY_COST, float(rounds))
        rounds += 1

    assert 100 < rounds < 150


def test_response_refunds_its_retries_or_1() -> None:
    breaker = CircuitBreaker(Random(1))
    before = breaker.budget
    breaker.record_retry(RETRY_COST, 0.0)
    breaker.record_retry(RETRY_COST, 1.0)
    assert breaker.budget == before - 2 * RETRY_COST

    breaker.record_response(100.0, 2 * RETRY_COST)
    assert breaker.budget == before

    breaker.record_retry(RETRY_COST, 2.0)
    breaker.record_response(100.0)
    assert breaker.budget == before - RETRY_COST + 1


@often
@given(tries=st.lists(st.integers(1, 4), max_size=200))
def test_failures_refunded_by_a_later_success_are_no_outage(tries: list[int]) -> None:
    breaker = CircuitBreaker(Random(1))

    for count, failures in enumerate(tries):
        for _ in range(failures):
            breaker.record_retry(RETRY_COST, float(count))
        breaker.record_response(100.0, failures * RETRY_COST)

    assert not breaker.is_down
    assert breaker.budget == 500


def test_first_probe_after_one_second_one_at_a_time() -> None:
    breaker = down_breaker(now=100.0)
    assert breaker.probe_at == 101

    breaker.start_probe()

    assert breaker.probe_at == math.inf
    assert breaker.is_down


def test_failure_of_earlier_request_does_not_delay_the_probe() -> None:
    breaker = down_breaker(now=100.0)

    for now in (100.1, 100.5, 100.9):
        breaker.record_retry(RETRY_COST, now)

    assert breaker.probe_at == 101


def test_probe_interval_grows_to_5_then_30_seconds() -> None:
    breaker = down_breaker(MaxRandom(), now=0.0)

    intervals = probe_intervals(breaker, 600.0)

    assert intervals[:6] == pytest.approx([1, 1.5, 2.25, 3.375, 5, 5])
    late = next(number for number, interval in enumerate(intervals) if interval > 5)
    assert 300 <= sum(intervals[:late]) <= 310
    assert intervals[late : late + 6] == pytest.approx([7.5, 11.25, 16.875, 25.3125, 30, 30])
    assert max(intervals) == 30


@often
@given(seed=st.integers(0, 2**32))
def test_probes_are_random_over_the_whole_interval(seed: int) -> None:
    intervals = probe_intervals(down_breaker(Random(seed), now=0.0), 290.0)[6:]

    assert 0 <= min(intervals) < 1
    assert 4 < max(intervals) <= 5
    assert 1.8 < sum(intervals) / len(intervals) < 3.2


def test_first_response_ends_outage_with_a_partial_budget() -> None:
    breaker = down_breaker(now=0.0)
    probe_intervals(breaker, 60.0)

    assert breaker.record_response(100.0) is True

    assert not breaker.is_down
    assert breaker.probe_at == math.inf
    assert breaker.budget == 100
    assert breaker.record_response(100.0) is False


def test_failures_after_an_outage_are_detected_sooner() -> None:
    breaker = down_breaker(MaxRandom(), now=0.0)
    probe_intervals(breaker, 60.0)
    breaker.record_response(100.0)

    for _ in range(8):
        assert not breaker.is_down
        breaker.record_retry(RETRY_COST, 100.0)

    assert breaker.down_since == 100
    assert probe_intervals(breaker, 103.0) == pytest.approx([1, 1.5, 2.25])


def acquire(governor: Governor, client: QuotaClient) -> Permit:
    permit = governor.acquire_nowait(client)
    assert permit is not None
    return permit


def fail(governor: Governor, permit: Permit) -> None:
    governor.record_failure(permit, is_overload=False)
    governor.release(permit)


def governor_of_down_host(clock: VirtualClock) -> tuple[Governor, QuotaClient, Permit]:
    """The governor of a host that is down, its client, and a permit issued before the outage."""
    random = Random(1)
    governor = Governor(clock, random, LoopLag(), HostState(random))
    client = governor.add_client("a", adaptive=False)
    earlier = acquire(governor, client)
    for _ in range(36):
        fail(governor, acquire(governor, client))
    assert governor.host.circuit_breaker.is_down
    return governor, client, earlier


async def test_governor_admits_one_probe_until_it_fails(virtual_clock: VirtualClock) -> None:
    governor, client, _ = governor_of_down_host(virtual_clock)
    assert governor.acquire_nowait(client) is None

    await virtual_clock.sleep(1.1)
    probe = acquire(governor, client)
    await virtual_clock.sleep(60)
    assert governor.acquire_nowait(client) is None

    fail(governor, probe)
    await virtual_clock.sleep(1.6)
    assert governor.acquire_nowait(client) is not None


async def test_late_failure_does_not_admit_a_second_probe(
    virtual_clock: VirtualClock,
) -> None:
    governor, client, earlier = governor_of_down_host(virtual_clock)
    await virtual_clock.sleep(1.1)
    acquire(governor, client)

    fail(governor, earlier)
    await virtual_clock.sleep(10)

    assert governor.acquire_nowait(client) is None


async def test_released_probe_without_result_allows_another(virtual_clock: VirtualClock) -> None:
    governor, client, _ = governor_of_down_host(virtual_clock)
    await virtual_clock.sleep(1.1)

    governor.release(acquire(governor, client))
    await virtual_clock.sleep(60)

    assert governor.acquire_nowait(client) is not None


async def test_host_is_silent_since_its_last_response(virtual_clock: VirtualClock) -> None:
    governor = Governor(virtual_clock, Random(1), LoopLag(), HostState(Random(1)))
    client = governor.add_client("a", adaptive=False)
    assert not governor.has_been_silent_since(math.inf), "no response so far"
    permit = governor.acquire_nowait(client)
    assert permit is not None

    virtual_clock.advance(5)
    governor.record_success(permit)

    now = virtual_clock.monotonic()
    assert [governor.has_been_silent_since(now + later) for later in (-1, 0, 1)] == [False, True, True]
