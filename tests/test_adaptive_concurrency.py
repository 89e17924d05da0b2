"""Does the number of requests on the wire grow while that helps, and shrink when it does harm?"""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncstreams.rate_limits.adaptive_concurrency import ConcurrencyLimit
from asyncstreams.rate_limits.governor import Governor, HostState
from asyncstreams.rate_limits.loop_lag import LoopLag
from asyncstreams.testing import VirtualClock

often = settings(max_examples=200, deadline=None)
seconds = st.floats(0, 10)
actions = st.lists(
    st.tuples(st.just("succeeded"), st.integers(0, 200))
    | st.tuples(st.just("took"), st.sampled_from("ab"), st.floats(0, 30), seconds)
    | st.tuples(st.just("overloaded"), seconds)
    | st.tuples(st.just("reopened")),
    max_size=80,
)


def round_trip(concurrency: ConcurrencyLimit) -> float:
    """All that is on the wire is answered, and the wire kept full; what the limit is then."""
    for _ in range(math.floor(concurrency.limit)):
        concurrency.succeeded(math.floor(concurrency.limit))
    return concurrency.limit


def after(*round_trips_and_cuts: str) -> ConcurrencyLimit:
    """As many round trips ("r") and cuts ("c") as are told."""
    concurrency, now = ConcurrencyLimit(), 0.0
    for action in "".join(round_trips_and_cuts):
        now += 1.0
        if action == "r":
            round_trip(concurrency)
        else:
            concurrency.overloaded(now, now)
    return concurrency


def answers(concurrency: ConcurrencyLimit, label: str, took: list[float], begin: float = 0.0) -> list[float]:
    """One answer each tenth of a second; what the limit is after each."""
    limits: list[float] = []
    for count, one in enumerate(took):
        now = begin + count / 10
        concurrency.took(label, one, now, now)
        limits.append(concurrency.limit)
    return limits


@often
@given(actions=actions)
def test_one_request_may_always_be_on_the_wire(actions: list[tuple[Any, ...]]) -> None:
    concurrency, now = ConcurrencyLimit(), 0.0

    for what, *how in actions:
        if what == "succeeded":
            concurrency.succeeded(how[0])
        elif what == "reopened":
            concurrency.reopened()
        else:
            now += how[-1]
            if what == "took":
                concurrency.took(how[0], how[1], now, now)
            else:
                concurrency.overloaded(now, now)
        assert concurrency.limit >= 1


def test_before_any_resistance_the_limit_doubles_each_round_trip() -> None:
    concurrency = ConcurrencyLimit()

    assert [concurrency.limit, *(round_trip(concurrency) for _ in range(6))] == [4, 8, 16, 32, 64, 128, 256]


def test_after_a_cut_it_grows_by_one_each_round_trip() -> None:
    concurrency = after("rrrrc")
    assert concurrency.limit == pytest.approx(0.7 * 64)

    for _ in range(20):
        before = concurrency.limit
        assert 0.9 < round_trip(concurrency) - before <= 1


@pytest.mark.parametrize("history", ["", "rrr", "rrrc", "rrrcrc"])
def test_a_limit_that_is_not_used_up_does_not_grow(history: str) -> None:
    concurrency = after(history)
    before = concurrency.limit

    for in_flight in range(math.floor(before)):
        concurrency.succeeded(in_flight)

    assert concurrency.limit == before
    concurrency.succeeded(math.floor(before))
    assert concurrency.limit > before


@often
@given(crowd=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 60)), min_size=1, max_size=50))
def test_overload_of_what_was_sent_before_a_cut_is_the_same_overload(crowd: list[tuple[float, float]]) -> None:
    concurrency = ConcurrencyLimit()
    concurrency.overloaded(0.5, 1.0)

    for sent_at, later in sorted(crowd, key=lambda one: one[1]):
        concurrency.overloaded(sent_at, 1 + later)

    assert concurrency.limit == pytest.approx(0.7 * 4)


def test_overload_cuts_by_three_tenths_twice_a_second_at_most() -> None:
    concurrency = after("rrrrr")
    limits: list[float] = []

    for now in (10.0, 10.1, 10.2, 10.49, 10.51, 10.6, 11.0, 11.02):
        concurrency.overloaded(now, now)
        limits.append(concurrency.limit / 128)

    once, twice, thrice = 0.7, 0.7**2, 0.7**3
    assert limits == pytest.approx([once, once, once, once, twice, twice, twice, thrice])


def test_answers_that_take_half_as_long_again_on_average_cut_by_three_twentieths() -> None:
    concurrency = ConcurrencyLimit()
    answers(concurrency, "a", [0.1] * 20)

    # On (geometric) average 0.112, 0.123, 0.135, 0.146 and 0.157 s.
    limits = answers(concurrency, "a", [0.3] * 5, begin=5.0)

    assert limits == pytest.approx([4, 4, 4, 4, 0.85 * 4])


def test_slow_answers_to_what_was_sent_before_a_cut_do_not_cut_again() -> None:
    concurrency = ConcurrencyLimit()
    answers(concurrency, "a", [0.1] * 20)
    concurrency.overloaded(5.0, 5.0)

    for count in range(50):
        concurrency.took("a", 1.0, 4.9, 6.0 + count)

    assert concurrency.limit == pytest.approx(0.7 * 4)


def test_slow_answers_cut_once_a_round_trip_at_most() -> None:
    concurrency = ConcurrencyLimit()
    answers(concurrency, "a", [2.0] * 20)

    limits = answers(concurrency, "a", [6.0] * 80, begin=5.0)

    # Half as much again after five answers, and then a round trip is between 3 and 6 s.
    assert limits[4] == limits[30] == pytest.approx(0.85 * 4)
    assert limits[-1] == pytest.approx(0.85**2 * 4)


@pytest.mark.parametrize(
    ("quick", "slow", "is_cut"), [(0.002, 0.02, False), (0.005, 0.0245, False), (0.005, 0.03, True)]
)
def test_less_than_20_ms_more_are_no_congestion(quick: float, slow: float, is_cut: bool) -> None:
    concurrency = ConcurrencyLimit()
    answers(concurrency, "a", [quick] * 20)

    limits = answers(concurrency, "a", [slow] * 60, begin=2.0)

    assert (min(limits) < 4) is is_cut


@often
@given(seed=st.integers(0, 10**6), share=st.floats(0.1, 0.9))
def test_a_quick_endpoint_and_a_slow_one_do_not_look_like_congestion(seed: int, share: float) -> None:
    random, concurrency = Random(seed), after("c")
    now = 10.0

    for _ in range(300):
        now += 0.05
        label = "quick" if random.random() < share else "slow"
        before = concurrency.limit
        took = (0.05 if label == "quick" else 2.0) * random.uniform(0.95, 1.05)
        concurrency.took(label, took, now - took, now)
        concurrency.succeeded(math.floor(before))
        assert concurrency.limit > before


def test_answers_that_take_a_fifth_longer_stop_the_growth_and_quick_ones_let_it_go_on() -> None:
    concurrency = after("rrc")
    answers(concurrency, "a", [0.1] * 20, begin=10.0)
    before = concurrency.limit

    answers(concurrency, "a", [0.13] * 20, begin=12.0)
    assert round_trip(concurrency) == before

    answers(concurrency, "a", [0.1] * 20, begin=14.0)
    assert round_trip(concurrency) > before


def test_less_than_10_ms_more_do_not_stop_the_growth() -> None:
    concurrency = after("rrc")
    answers(concurrency, "a", [0.01] * 20, begin=10.0)
    before = concurrency.limit

    answers(concurrency, "a", [0.018] * 40, begin=12.0)

    assert round_trip(concurrency) > before


def test_the_first_answers_prove_nothing() -> None:
    concurrency = ConcurrencyLimit()

    assert answers(concurrency, "a", [0.01, 0.5, 0.5, 0.5]) == [4, 4, 4, 4]


def test_an_api_that_has_become_slower_for_good_is_not_cut_for_ever() -> None:
    concurrency = ConcurrencyLimit()
    answers(concurrency, "a", [0.1] * 50)
    assert answers(concurrency, "a", [0.3] * 900, begin=5.0)[-1] < 4
    concurrency.limit = 64.0

    assert answers(concurrency, "a", [0.3] * 300, begin=95.0)[-1] == 64


def test_only_the_last_minute_tells_how_quick_an_endpoint_can_be() -> None:
    concurrency = ConcurrencyLimit()
    answers(concurrency, "a", [0.05] * 5)

    # On average at most 1.4 times as long as the quickest average of the minute before.
    for count in range(1, 20):
        concurrency.took("a", 0.12, 25.0 * count, 25.0 * count)

    assert concurrency.limit == 4


@pytest.mark.parametrize("before", [64, 128])
def test_after_an_outage_it_goes_one_by_one_and_doubles_up_to_half_of_what_it_was(before: int) -> None:
    concurrency = after("c")
    concurrency.limit = float(before)

    concurrency.reopened()

    limits = [concurrency.limit]
    while limits[-1] < before / 2:
        limits.append(round_trip(concurrency))
    assert limits == [2.0**count for count in range(len(limits))]
    assert limits[-1] == before / 2
    assert before / 2 + 0.9 < round_trip(concurrency) <= before / 2 + 1


def test_overload_ends_the_doubling_after_an_outage() -> None:
    concurrency = after("rrrr")
    concurrency.reopened()
    round_trip(concurrency)
    round_trip(concurrency)

    concurrency.overloaded(10.0, 10.0)

    assert concurrency.limit == pytest.approx(0.7 * 4)
    assert round_trip(concurrency) <= 0.7 * 4 + 1


async def test_a_refusal_that_is_the_first_answer_after_an_outage_reopens_gradually_too(
    virtual_clock: VirtualClock,
) -> None:
    random = Random(1)
    governor = Governor(virtual_clock, random, LoopLag(), HostState(random))
    client = governor.client("a", adaptive=True)
    governor.host.concurrency.limit = 64.0
    while not governor.host.health.is_down:
        ticket = governor.acquire_nowait(client)
        assert ticket is not None
        governor.failed(ticket, is_overload=False)
        governor.release(ticket)
    await virtual_clock.sleep(1.1)
    probe = governor.acquire_nowait(client)
    assert probe is not None

    governor.refused(probe, is_ordered=True)

    assert not governor.host.health.is_down
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
def test_latencies_that_vary_by_themselves_do_not_shrink_it(seed: int, latency: Any) -> None:
    random, concurrency = Random(seed), ConcurrencyLimit()

    for count in range(20_000):
        concurrency.took("a", latency(random), count / 200, count / 200)
        concurrency.succeeded(math.floor(concurrency.limit))

    assert concurrency.limit > 100


@pytest.mark.parametrize("seed", range(5))
def test_a_rise_is_noticed_though_latencies_vary(seed: int) -> None:
    random, concurrency = Random(seed), ConcurrencyLimit()
    answers(concurrency, "a", [random.uniform(0.02, 0.14) for _ in range(200)])

    limits = answers(concurrency, "a", [random.uniform(0.1, 0.7) for _ in range(50)], begin=20.0)

    assert limits[-1] < 3.5
