"""Remaining units of server-reported quotas, whatever the order of responses."""

from __future__ import annotations

import math
import tracemalloc
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulation import examples

from asyncstreams.rate_limits.quota_headers import ReportedQuota
from asyncstreams.rate_limits.quota_windows import QuotaWindows

often = examples(full=300, short=60)
LONG = 1000.0


def reported(
    remaining: float,
    resets_in: float | None = LONG,
    *,
    limit: float | None = None,
    window: float | None = None,
    name: str = "q",
) -> list[ReportedQuota]:
    return [ReportedQuota(name, remaining, resets_in, limit, window)]


def make_windows(*quotas: ReportedQuota, at: float = 0.0) -> QuotaWindows:
    windows = QuotaWindows()
    windows.update(quotas, at, at)
    return windows


def max_in_flight(windows: QuotaWindows, now: float) -> int:
    """Number of requests that may be in flight at once."""
    return next((in_flight for in_flight in range(1000) if windows.available_at(in_flight, now) > now), 1000)


@often
@given(remaining=st.integers(0, 50))
def test_in_flight_is_bounded_by_remaining_units(remaining: int) -> None:
    windows = make_windows(*reported(remaining))

    assert max_in_flight(windows, 1.0) == remaining
    assert windows.available_at(0, 1.0) == (1.0 if remaining else LONG)


def test_no_wait_without_reported_quotas() -> None:
    windows = QuotaWindows()

    assert windows.available_at(10_000, 5.0) == 5
    assert not windows.has_known_reset


@often
@given(
    remainings=st.lists(st.integers(0, 40), min_size=1, max_size=12),
    sent=st.lists(st.floats(0, 1), min_size=12, max_size=12),
)
def test_lowest_remaining_of_concurrent_responses_counts(remainings: list[int], sent: list[float]) -> None:
    windows, least = QuotaWindows(), math.inf

    for number, remaining in enumerate(remainings):
        now = 2.0 + number
        windows.update(reported(remaining, LONG - now), sent[number], now)
        least = min(least, remaining)
        assert max_in_flight(windows, now) == least


@often
@given(
    quota=st.integers(1, 12),
    steps=st.lists(st.tuples(st.sampled_from(["send", "count", "respond"]), st.integers(0, 50))),
)
def test_quota_is_not_exceeded_by_overtaking_responses(quota: int, steps: list[tuple[str, int]]) -> None:
    windows = make_windows(*reported(quota))
    in_transit: list[float] = []
    responses: list[tuple[float, int]] = []
    sent = counted = 0

    for number, (action, which) in enumerate(steps * 3):
        now = number / 1000
        if action == "send" and windows.available_at(len(in_transit) + len(responses), now) <= now:
            in_transit.append(now)
            sent += 1
        elif action == "count" and in_transit:
            counted += 1
            responses.append((in_transit.pop(which % len(in_transit)), quota - counted))
        elif action == "respond" and responses:
            sent_at, remaining = responses.pop(which % len(responses))
            windows.update(reported(remaining, LONG - now), sent_at, now)
        assert sent <= quota


@often
@given(quota=st.integers(1, 12), order=st.randoms())
def test_whole_quota_is_spent_at_once(quota: int, order: Random) -> None:
    windows = make_windows(*reported(quota))
    sent, now = 0, 1.0

    while sent <= quota and (batch := max_in_flight(windows, now)):
        sent += batch
        remainings = list(range(quota - sent, quota - sent + batch))
        order.shuffle(remainings)
        for remaining in remainings:
            now += 0.001
            windows.update(reported(remaining, LONG - now), 1.0, now)

    assert sent == quota
    assert windows.available_at(0, now) == pytest.approx(LONG)


def test_later_request_replaces_the_remaining_units() -> None:
    windows = make_windows(*reported(2))

    windows.update(reported(7, LONG - 2), 1.0, 2.0)

    assert max_in_flight(windows, 2.0) == 7


def test_late_response_does_not_raise_remaining_units() -> None:
    windows = make_windows(*reported(2), at=5.0)

    windows.update(reported(9, LONG), 4.0, 6.0)

    assert max_in_flight(windows, 6.0) == 2


def test_units_used_by_another_client_are_not_sent() -> None:
    windows = make_windows(*reported(100))

    windows.update(reported(3, LONG - 2), 1.0, 2.0)
    assert max_in_flight(windows, 2.0) == 3

    windows.update(reported(0, LONG - 4), 3.0, 4.0)
    assert windows.available_at(0, 4.0) == pytest.approx(LONG)


def test_used_up_by_requests_in_flight_waits_for_response() -> None:
    windows = make_windows(*reported(1))

    assert windows.available_at(1, 1.0) == math.inf


def test_wait_for_response_ends_at_reset() -> None:
    windows = make_windows(*reported(1, 5.0))

    assert windows.available_at(1, 1.0) == math.inf
    assert windows.next_reset_at == 5


@pytest.mark.parametrize(("first", "then"), [(50.0, 500.0), (500.0, 50.0)])
def test_latest_reported_reset_counts(first: float, then: float) -> None:
    windows = make_windows(*reported(0, first))

    windows.update(reported(0, then), 1.0, 2.0)

    assert windows.available_at(0, 2.0) == 2 + then


def test_later_reset_of_overtaken_response_is_new_window() -> None:
    windows = make_windows(*reported(0, 10.0), at=5.0)

    windows.update(reported(40, 60.0), 4.0, 16.0)

    assert max_in_flight(windows, 16.0) == 40


def test_earliest_of_rounded_resets_counts() -> None:
    windows = make_windows(*reported(5, 60.0))

    for number, resets_in in enumerate((60.0, 59.0, 59.0)):
        now = 0.3 + 0.3 * number
        windows.update(reported(0, resets_in), now - 0.1, now)

    assert windows.available_at(0, 1.0) == pytest.approx(59.6)


def test_one_probe_follows_reset_of_used_up_quota() -> None:
    windows = make_windows(*reported(0, 10.0, limit=30))
    assert windows.available_at(0, 9.9) == 10

    assert windows.available_at(0, 10.0) == 10
    assert windows.available_at(1, 10.0) == math.inf

    windows.update(reported(29, 10.0, limit=30), 10.0, 10.5)
    assert max_in_flight(windows, 10.5) == 29


def test_probe_after_reset_waits_for_requests_in_flight() -> None:
    windows = make_windows(*reported(0, 10.0))

    assert windows.available_at(2, 11.0) == math.inf
    assert windows.available_at(0, 12.0) == 12


def test_no_probe_after_reset_of_quota_with_units_left() -> None:
    windows = make_windows(*reported(5, 10.0, limit=30))

    assert max_in_flight(windows, 9.9) == 5
    assert windows.available_at(20, 10.0) == 10


def test_next_window_has_the_known_limit() -> None:
    windows = make_windows(*reported(5, 10.0, limit=30))

    assert windows.available_at(30, 11.0) > 11


def test_response_of_previous_window_is_ignored() -> None:
    windows = make_windows(*reported(1, 100.0))
    windows.available_at(0, 100.1)
    windows.update(reported(4999, 3600.0), 100.1, 100.2)

    windows.update(reported(0, 0.0), 99.9, 100.5)

    assert windows.available_at(0, 101.0) == 101


@pytest.mark.parametrize("names", [["minute", "hour"], ["hour", "minute"]])
def test_strictest_of_several_windows_counts(names: list[str]) -> None:
    def report(now: float, **remaining: int) -> list[ReportedQuota]:
        return [
            ReportedQuota(name, remaining[name], {"minute": 60, "hour": 3600}[name] - now, None, None) for name in names
        ]

    windows = make_windows(*report(0.0, minute=7, hour=3))
    assert max_in_flight(windows, 1.0) == 3

    windows.update(report(2.0, minute=0, hour=3), 1.0, 2.0)
    assert windows.available_at(0, 2.0) == 60

    windows.update(report(3.0, minute=0, hour=0), 2.5, 3.0)
    assert windows.available_at(0, 3.0) == 3600


def test_request_without_report_is_deducted() -> None:
    windows = make_windows(*reported(3))

    windows.record_unreported(0.5)
    assert max_in_flight(windows, 1.0) == 2

    windows.record_unreported(0.5)
    windows.record_unreported(0.5)
    assert windows.available_at(0, 1.0) == LONG


def test_only_short_window_without_reset_is_waited_for() -> None:
    assert make_windows(*reported(0, None, window=60.0), at=1.0).available_at(0, 2.0) == 61
    assert make_windows(*reported(0, None, window=3600.0), at=1.0).available_at(0, 2.0) == 2
    assert make_windows(*reported(0, None)).available_at(0, 2.0) == 2


def test_reset_count_and_first_half_of_window() -> None:
    windows = make_windows(*reported(0, 10.0))
    assert windows.has_known_reset
    assert windows.has_window_in_first_half(4.9)
    assert not windows.has_window_in_first_half(5.1)
    assert windows.reset_count == 0

    windows.available_at(0, 10.0)
    assert windows.reset_count == 1
    assert not windows.has_known_reset


def test_invented_quota_names_do_not_fill_memory() -> None:
    windows = QuotaWindows()
    windows.update([ReportedQuota(f"q{number}", 70.0 - number, LONG, None, None) for number in range(64)], 0.0, 0.0)
    tracemalloc.start()
    began = tracemalloc.get_traced_memory()[0]

    for number in range(5000):
        windows.update([ReportedQuota(f"invented {number}", 0.0, LONG, None, None)], 1.0, 1.0)

    used = tracemalloc.get_traced_memory()[0] - began
    tracemalloc.stop()
    assert used < 10_000
    assert max_in_flight(windows, 1.0) == 7


def test_stale_quota_is_evicted_for_a_new_one() -> None:
    windows = make_windows(*(ReportedQuota(f"q{number}", 9.0, 1000.0, None, None) for number in range(64)))

    windows.update(reported(3, name="new"), 61.0, 61.0)

    assert max_in_flight(windows, 61.0) == 3


def test_unreported_request_of_previous_window_is_ignored() -> None:
    windows = make_windows(*reported(0, 10.0))
    windows.available_at(0, 10.0)

    windows.record_unreported(9.0)

    assert windows.available_at(1, 11.0) == math.inf
