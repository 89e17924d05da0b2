"""Is a host that is down asked by one request at a time, until it answers, and nobody failed for it?"""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncstreams.rate_limits.circuit_breaker import RETRY, CircuitBreaker
from asyncstreams.rate_limits.governor import Governor, HostState, Permit, QuotaClient
from asyncstreams.rate_limits.loop_lag import LoopLag
from asyncstreams.testing import VirtualClock

often = settings(max_examples=300, deadline=None)
actions = st.lists(
    st.tuples(st.just("retried"), st.floats(0, 400))
    | st.tuples(st.just("answered"), st.just(0.0) | st.floats(0, 1e6))
    | st.tuples(st.just("probing"), st.floats(0, 400)),
    max_size=150,
)


class Longest(Random):
    """Chance at its slowest."""

    def uniform(self, a: float, b: float) -> float:
        return max(a, b)


def down(random: Random | None = None, now: float = 100.0) -> CircuitBreaker:
    """A host that has just been found to be down."""
    health = CircuitBreaker(random or Random(1))
    while not health.is_down:
        health.retried(RETRY, now)
    return health


def probes(health: CircuitBreaker, until: float) -> list[float]:
    """Seconds from a probe's failure, which follows at once, to the next one."""
    intervals, failed_at = [], health.down_since
    while failed_at is not None and failed_at < until:
        intervals.append(health.probe_at - failed_at)
        failed_at = health.probe_at
        health.probing()
        assert health.probe_at == math.inf
        health.probed(failed_at)
    return intervals


@often
@given(actions=actions)
def test_the_budget_stays_between_0_and_500(actions: list[tuple[str, float]]) -> None:
    health, now = CircuitBreaker(Random(1)), 0.0

    for action, value in actions:
        if action == "retried":
            now += value
            health.retried(RETRY, now)
        elif action == "answered":
            health.answered(now, value)
        elif health.is_down:
            health.probing()
            health.probed(now := now + value)
        assert 0 <= health.budget <= 500


@often
@given(actions=actions)
def test_only_a_host_that_is_down_is_probed_and_answers_end_that(actions: list[tuple[str, float]]) -> None:
    health, now = CircuitBreaker(Random(1)), 0.0

    for action, value in actions:
        was_down = health.is_down
        if action == "retried":
            now += value
            health.retried(RETRY, now)
            assert not health.is_down or now <= health.probe_at < math.inf or was_down
        elif action == "answered":
            assert health.answered(now, value) is was_down
            assert not health.is_down
        elif was_down:
            health.probing()
            health.probed(now := now + value)
            assert now <= health.probe_at < math.inf
        assert health.is_down or health.probe_at == math.inf


def test_36_failures_without_an_answer_between_them_are_an_outage_and_35_are_none() -> None:
    health = CircuitBreaker(Random(1))

    for count in range(35):
        health.retried(RETRY, float(count))
    assert not health.is_down

    health.retried(RETRY, 35.0)
    assert health.is_down
    assert (health.down_since, health.budget) == (35, 0)


def test_failures_between_answers_are_no_outage_as_long_as_they_are_few() -> None:
    health = CircuitBreaker(Random(1))

    for count in range(10_000):
        health.retried(RETRY, float(count))
        for _ in range(14):
            health.answered(100.0)

    assert not health.is_down


def test_more_failures_than_answers_pay_for_are_an_outage_in_the_end() -> None:
    health, rounds = CircuitBreaker(Random(1)), 0

    while not health.is_down and rounds < 1000:
        for _ in range(10):
            health.answered(100.0)
        health.retried(RETRY, float(rounds))
        rounds += 1

    assert 100 < rounds < 150


def test_an_answer_after_retries_gives_back_what_they_cost_and_another_gives_1() -> None:
    health = CircuitBreaker(Random(1))
    before = health.budget
    health.retried(RETRY, 0.0)
    health.retried(RETRY, 1.0)
    assert health.budget == before - 2 * RETRY

    health.answered(100.0, 2 * RETRY)
    assert health.budget == before

    health.retried(RETRY, 2.0)
    health.answered(100.0)
    assert health.budget == before - RETRY + 1


@often
@given(tries=st.lists(st.integers(1, 4), max_size=200))
def test_failures_after_which_each_page_came_in_the_end_are_no_outage(tries: list[int]) -> None:
    health = CircuitBreaker(Random(1))

    for count, failures in enumerate(tries):
        for _ in range(failures):
            health.retried(RETRY, float(count))
        health.answered(100.0, failures * RETRY)

    assert not health.is_down
    assert health.budget == 500


def test_a_host_that_is_down_is_probed_after_a_second_and_by_one_request_at_a_time() -> None:
    health = down(now=100.0)
    assert health.probe_at == 101

    health.probing()

    assert health.probe_at == math.inf
    assert health.is_down


def test_a_failure_of_what_was_sent_before_the_outage_was_known_does_not_put_a_probe_off() -> None:
    health = down(now=100.0)

    for now in (100.1, 100.5, 100.9):
        health.retried(RETRY, now)

    assert health.probe_at == 101


def test_probes_become_rarer_up_to_5_seconds_and_to_30_after_5_minutes() -> None:
    health = down(Longest(), now=0.0)

    intervals = probes(health, 600.0)

    assert intervals[:6] == pytest.approx([1, 1.5, 2.25, 3.375, 5, 5])
    late = next(number for number, interval in enumerate(intervals) if interval > 5)
    assert 300 <= sum(intervals[:late]) <= 310
    assert intervals[late : late + 6] == pytest.approx([7.5, 11.25, 16.875, 25.3125, 30, 30])
    assert max(intervals) == 30


@often
@given(seed=st.integers(0, 2**32))
def test_chance_spreads_the_probes_over_the_whole_interval(seed: int) -> None:
    intervals = probes(down(Random(seed), now=0.0), 290.0)[6:]

    assert 0 <= min(intervals) < 1
    assert 4 < max(intervals) <= 5
    assert 1.8 < sum(intervals) / len(intervals) < 3.2


def test_the_first_answer_makes_the_host_well_with_a_part_of_the_budget() -> None:
    health = down(now=0.0)
    probes(health, 60.0)

    assert health.answered(100.0) is True

    assert not health.is_down
    assert health.probe_at == math.inf
    assert health.budget == 100
    assert health.answered(100.0) is False


def test_a_host_that_fails_again_soon_after_is_known_to_be_down_sooner_and_probed_often_again() -> None:
    health = down(Longest(), now=0.0)
    probes(health, 60.0)
    health.answered(100.0)

    for _ in range(8):
        assert not health.is_down
        health.retried(RETRY, 100.0)

    assert health.down_since == 100
    assert probes(health, 103.0) == pytest.approx([1, 1.5, 2.25])


def ticket(governor: Governor, client: QuotaClient) -> Permit:
    taken = governor.acquire_nowait(client)
    assert taken is not None
    return taken


def fail(governor: Governor, taken: Permit) -> None:
    governor.failed(taken, is_overload=False)
    governor.release(taken)


def host_down(clock: VirtualClock) -> tuple[Governor, QuotaClient, Permit]:
    """The governor of a host that has been found to be down, and a request that was sent before that."""
    random = Random(1)
    governor = Governor(clock, random, LoopLag(), HostState(random))
    client = governor.client("a", adaptive=False)
    old = ticket(governor, client)
    for _ in range(36):
        fail(governor, ticket(governor, client))
    assert governor.host.health.is_down
    return governor, client, old


async def test_a_governor_lets_one_probe_pass_and_nobody_else_until_it_has_failed(virtual_clock: VirtualClock) -> None:
    governor, client, _ = host_down(virtual_clock)
    assert governor.acquire_nowait(client) is None

    await virtual_clock.sleep(1.1)
    probe = ticket(governor, client)
    await virtual_clock.sleep(60)
    assert governor.acquire_nowait(client) is None

    fail(governor, probe)
    await virtual_clock.sleep(1.6)
    assert governor.acquire_nowait(client) is not None


async def test_a_late_failure_while_a_probe_is_under_way_does_not_let_another_one_pass(
    virtual_clock: VirtualClock,
) -> None:
    governor, client, old = host_down(virtual_clock)
    await virtual_clock.sleep(1.1)
    ticket(governor, client)

    fail(governor, old)
    await virtual_clock.sleep(10)

    assert governor.acquire_nowait(client) is None


async def test_a_probe_that_comes_to_nothing_is_followed_by_another_one(virtual_clock: VirtualClock) -> None:
    governor, client, _ = host_down(virtual_clock)
    await virtual_clock.sleep(1.1)

    governor.release(ticket(governor, client))
    await virtual_clock.sleep(60)

    assert governor.acquire_nowait(client) is not None


async def test_a_host_is_silent_since_it_answered_last(virtual_clock: VirtualClock) -> None:
    governor = Governor(virtual_clock, Random(1), LoopLag(), HostState(Random(1)))
    client = governor.client("a", adaptive=False)
    assert not governor.is_silent_since(math.inf), "it has never answered"
    ticket = governor.acquire_nowait(client)
    assert ticket is not None

    virtual_clock.advance(5)
    governor.succeeded(ticket)

    now = virtual_clock.monotonic()
    assert [governor.is_silent_since(now + later) for later in (-1, 0, 1)] == [False, True, True]
