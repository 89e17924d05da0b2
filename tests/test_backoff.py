"""How long is it until the next try, and how sick does an endpoint look to its stream?"""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncstreams import Backoff, ConfigError
from asyncstreams.http.retry import StreamBackoff, full_jitter

often = settings(max_examples=200, deadline=None)
failures = st.integers(1, 40) | st.integers(1, 10**30)
seeds = st.integers(0, 2**32)


@st.composite
def backoffs(draw: st.DrawFn) -> Backoff:
    cap = draw(st.floats(0, 1e6) | st.floats(0, 1e300))
    return Backoff(base=draw(st.floats(0, cap)), cap=cap)


@often
@given(failures=failures, backoff=backoffs(), seed=seeds)
def test_full_jitter_stays_between_0_and_the_smaller_of_cap_and_the_doubled_base(
    failures: int, backoff: Backoff, seed: int
) -> None:
    delay = full_jitter(failures, backoff, Random(seed))

    doubled = backoff.base * 2.0 ** (failures - 1) if failures < 1000 else math.inf
    assert 0 <= delay <= backoff.cap
    assert backoff.base == 0 or delay <= doubled


@often
@given(failures=st.integers(1, 40), seed=seeds)
def test_the_same_chance_gives_the_same_delay(failures: int, seed: int) -> None:
    assert full_jitter(failures, Backoff(), Random(seed)) == full_jitter(failures, Backoff(), Random(seed))


@often
@given(failures=st.integers(1, 12))
def test_full_jitter_uses_the_whole_range(failures: int) -> None:
    backoff = Backoff(base=0.25, cap=30)
    random = Random(1)

    delays = [full_jitter(failures, backoff, random) for _ in range(300)]

    ceiling = min(30, 0.25 * 2 ** (failures - 1))
    assert min(delays) < 0.1 * ceiling
    assert max(delays) > 0.9 * ceiling
    assert 0.4 * ceiling < sum(delays) / len(delays) < 0.6 * ceiling


def test_a_cap_without_end_lets_the_delay_grow_but_never_overflows() -> None:
    delays = [full_jitter(count, Backoff(base=1, cap=math.inf), Random(3)) for count in (1, 10, 10**6)]

    assert delays[0] < delays[1] < delays[2] < math.inf


def test_a_base_of_0_tries_again_at_once() -> None:
    assert full_jitter(50, Backoff(base=0, cap=30), Random(1)) == 0


@pytest.mark.parametrize(("base", "cap"), [(-1, 30), (2, 1), (math.nan, 30), (1, math.nan), (0, -1), (math.inf, 30)])
def test_a_backoff_out_of_bounds_is_a_config_error(base: float, cap: float) -> None:
    with pytest.raises(ConfigError, match="base"):
        Backoff(base=base, cap=cap)


@often
@given(sent=st.floats(0, 1e6), lasted=st.lists(st.floats(0.001, 100), min_size=1, max_size=32))
def test_failures_of_what_was_sent_together_raise_the_exponent_once(sent: float, lasted: list[float]) -> None:
    backoff = StreamBackoff()

    for now in sorted(sent + seconds for seconds in lasted):
        backoff.record_failure(sent, now)

    assert backoff.failures == 1


def test_32_failures_at_the_moment_they_were_sent_raise_the_exponent_once() -> None:
    backoff = StreamBackoff()

    for _ in range(32):
        backoff.record_failure(5.0, 5.0)

    assert backoff.failures == 1


@often
@given(count=st.integers(1, 50), pause=st.floats(0.001, 30), lasted=st.floats(0.001, 5))
def test_failures_one_after_the_other_raise_the_exponent_each_time(count: int, pause: float, lasted: float) -> None:
    backoff = StreamBackoff()
    now = 0.0

    for _ in range(count):
        backoff.record_failure(now, now + lasted)
        now += lasted + pause

    assert backoff.failures == count


def test_a_success_makes_the_endpoint_well_again() -> None:
    backoff = StreamBackoff()
    backoff.record_failure(0, 1)
    backoff.record_failure(2, 3)

    backoff.record_success()
    assert backoff.failures == 0

    backoff.record_failure(4, 5)
    assert backoff.failures == 1


def test_a_late_failure_of_what_was_sent_before_the_last_raise_is_no_news() -> None:
    backoff = StreamBackoff()
    backoff.record_failure(0, 10)
    backoff.record_failure(11, 12)

    backoff.record_failure(9, 30)
    backoff.record_failure(11.5, 31)

    assert backoff.failures == 2
    assert "2 failures" in repr(backoff)
