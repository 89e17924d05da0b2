"""Delays of full jitter, and the failure count of an endpoint."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulation import examples

from asyncstreams import Backoff, ConfigError
from asyncstreams.http.retry import StreamBackoff, full_jitter

often = examples(full=200, short=40)
failures = st.integers(1, 40) | st.integers(1, 10**30)
seeds = st.integers(0, 2**32)


@st.composite
def backoffs(draw: st.DrawFn) -> Backoff:
    cap = draw(st.floats(0, 1e6) | st.floats(0, 1e300))
    return Backoff(base=draw(st.floats(0, cap)), cap=cap)


@often
@given(failures=failures, backoff=backoffs(), seed=seeds)
def test_full_jitter_stays_within_cap_and_doubled_base(failures: int, backoff: Backoff, seed: int) -> None:
    delay = full_jitter(failures, backoff, Random(seed))

    doubled = backoff.base * 2.0 ** (failures - 1) if failures < 1000 else math.inf
    assert 0 <= delay <= backoff.cap
    assert backoff.base == 0 or delay <= doubled


@often
@given(failures=st.integers(1, 40), seed=seeds)
def test_full_jitter_with_an_equal_seed_is_equal(failures: int, seed: int) -> None:
    assert full_jitter(failures, Backoff(), Random(seed)) == full_jitter(failures, Backoff(), Random(seed))


@often
@given(failures=st.integers(1, 12))
def test_full_jitter_covers_the_complete_range(failures: int) -> None:
    backoff = Backoff(base=0.25, cap=30)
    random = Random(1)

    delays = [full_jitter(failures, backoff, random) for _ in range(300)]

    ceiling = min(30, 0.25 * 2 ** (failures - 1))
    assert min(delays) < 0.1 * ceiling
    assert max(delays) > 0.9 * ceiling
    assert 0.4 * ceiling < sum(delays) / len(delays) < 0.6 * ceiling


def test_infinite_cap_grows_the_delay_without_overflow() -> None:
    delays = [full_jitter(count, Backoff(base=1, cap=math.inf), Random(3)) for count in (1, 10, 10**6)]

    assert delays[0] < delays[1] < delays[2] < math.inf


def test_base_of_0_gives_no_delay() -> None:
    assert full_jitter(50, Backoff(base=0, cap=30), Random(1)) == 0


@pytest.mark.parametrize(("base", "cap"), [(-1, 30), (2, 1), (math.nan, 30), (1, math.nan), (0, -1), (math.inf, 30)])
def test_backoff_out_of_bounds_is_a_config_error(base: float, cap: float) -> None:
    with pytest.raises(ConfigError, match="base"):
        Backoff(base=base, cap=cap)


@often
@given(sent=st.floats(0, 1e6), durations=st.lists(st.floats(0.001, 100), min_size=1, max_size=32))
def test_failures_of_concurrent_requests_count_once(sent: float, durations: list[float]) -> None:
    backoff = StreamBackoff()

    for now in sorted(sent + seconds for seconds in durations):
        backoff.record_failure(sent, now)

    assert backoff.failures == 1


def test_32_failures_at_their_send_time_count_once() -> None:
    backoff = StreamBackoff()

    for _ in range(32):
        backoff.record_failure(5.0, 5.0)

    assert backoff.failures == 1


@often
@given(count=st.integers(1, 50), pause=st.floats(0.001, 30), duration=st.floats(0.001, 5))
def test_successive_failures_count_each_time(count: int, pause: float, duration: float) -> None:
    backoff = StreamBackoff()
    now = 0.0

    for _ in range(count):
        backoff.record_failure(now, now + duration)
        now += duration + pause

    assert backoff.failures == count


def test_success_resets_the_failure_count() -> None:
    backoff = StreamBackoff()
    backoff.record_failure(0, 1)
    backoff.record_failure(2, 3)

    backoff.record_success()
    assert backoff.failures == 0

    backoff.record_failure(4, 5)
    assert backoff.failures == 1


def test_late_failure_of_an_older_request_is_not_counted() -> None:
    backoff = StreamBackoff()
    backoff.record_failure(0, 10)
    backoff.record_failure(11, 12)

    backoff.record_failure(9, 30)
    backoff.record_failure(11.5, 31)

    assert backoff.failures == 2
    assert "2 failures" in repr(backoff)
