"""Is what a server tells of its quotas kept, however its answers come, and spent to the last request?"""

from __future__ import annotations

import math
import tracemalloc
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncstreams.rate_limits.quota_headers import ReportedQuota
from asyncstreams.rate_limits.quota_windows import QuotaWindows

often = settings(max_examples=300, deadline=None)
LONG = 1000.0


def told(
    remaining: float,
    resets_in: float | None = LONG,
    *,
    limit: float | None = None,
    window: float | None = None,
    name: str = "q",
) -> list[ReportedQuota]:
    return [ReportedQuota(name, remaining, resets_in, limit, window)]


def knowing(*quotas: ReportedQuota, at: float = 0.0) -> QuotaWindows:
    windows = QuotaWindows()
    windows.learn(quotas, at, at)
    return windows


def room(windows: QuotaWindows, now: float) -> int:
    """How many may be on the wire at once."""
    return next((in_flight for in_flight in range(1000) if windows.free_at(in_flight, now) > now), 1000)


@often
@given(remaining=st.integers(0, 50))
def test_as_many_may_be_on_the_wire_as_are_left(remaining: int) -> None:
    windows = knowing(*told(remaining))

    assert room(windows, 1.0) == remaining
    assert windows.free_at(0, 1.0) == (1.0 if remaining else LONG)


def test_nobody_waits_where_nothing_was_told() -> None:
    windows = QuotaWindows()

    assert windows.free_at(10_000, 5.0) == 5
    assert not windows.is_known


@often
@given(
    lefts=st.lists(st.integers(0, 40), min_size=1, max_size=12),
    sent=st.lists(st.floats(0, 1), min_size=12, max_size=12),
)
def test_of_answers_to_what_was_sent_before_any_came_the_least_holds_in_whatever_order(
    lefts: list[int], sent: list[float]
) -> None:
    windows, least = QuotaWindows(), math.inf

    for number, left in enumerate(lefts):
        now = 2.0 + number
        windows.learn(told(left, LONG - now), sent[number], now)
        least = min(least, left)
        assert room(windows, now) == least


@often
@given(
    quota=st.integers(1, 12),
    steps=st.lists(st.tuples(st.sampled_from(["send", "count", "answer"]), st.integers(0, 50))),
)
def test_no_more_than_the_quota_is_sent_in_a_window_however_answers_overtake_each_other(
    quota: int, steps: list[tuple[str, int]]
) -> None:
    windows = knowing(*told(quota))
    on_the_way: list[float] = []
    answers: list[tuple[float, int]] = []
    sent = counted = 0

    for number, (what, which) in enumerate(steps * 3):
        now = number / 1000
        if what == "send" and windows.free_at(len(on_the_way) + len(answers), now) <= now:
            on_the_way.append(now)
            sent += 1
        elif what == "count" and on_the_way:
            counted += 1
            answers.append((on_the_way.pop(which % len(on_the_way)), quota - counted))
        elif what == "answer" and answers:
            sent_at, left = answers.pop(which % len(answers))
            windows.learn(told(left, LONG - now), sent_at, now)
        assert sent <= quota


@often
@given(quota=st.integers(1, 12), order=st.randoms())
def test_the_whole_quota_is_spent_at_once(quota: int, order: Random) -> None:
    windows = knowing(*told(quota))
    sent, now = 0, 1.0

    while sent <= quota and (batch := room(windows, now)):
        sent += batch
        lefts = list(range(quota - sent, quota - sent + batch))
        order.shuffle(lefts)
        for left in lefts:
            now += 0.001
            windows.learn(told(left, LONG - now), 1.0, now)

    assert sent == quota
    assert windows.free_at(0, now) == pytest.approx(LONG)


def test_what_is_left_is_told_anew_by_what_was_sent_after_the_last_news() -> None:
    windows = knowing(*told(2))

    windows.learn(told(7, LONG - 2), 1.0, 2.0)

    assert room(windows, 2.0) == 7


def test_a_late_answer_of_the_same_window_raises_nothing() -> None:
    windows = knowing(*told(2), at=5.0)

    windows.learn(told(9, LONG), 4.0, 6.0)

    assert room(windows, 6.0) == 2


def test_what_a_foreign_client_uses_is_not_sent_by_us() -> None:
    windows = knowing(*told(100))

    windows.learn(told(3, LONG - 2), 1.0, 2.0)
    assert room(windows, 2.0) == 3

    windows.learn(told(0, LONG - 4), 3.0, 4.0)
    assert windows.free_at(0, 4.0) == pytest.approx(LONG)


def test_those_who_are_kept_by_what_is_on_the_wire_wait_for_an_answer() -> None:
    windows = knowing(*told(1))

    assert windows.free_at(1, 1.0) == math.inf


def test_those_who_are_kept_by_what_is_on_the_wire_wait_no_longer_than_to_the_reset() -> None:
    windows = knowing(*told(1, 5.0))

    assert windows.free_at(1, 1.0) == math.inf
    assert windows.next_reset == 5


@pytest.mark.parametrize(("first", "then"), [(50.0, 500.0), (500.0, 50.0)])
def test_a_reset_that_is_moved_is_waited_for_as_it_was_told_last(first: float, then: float) -> None:
    windows = knowing(*told(0, first))

    windows.learn(told(0, then), 1.0, 2.0)

    assert windows.free_at(0, 2.0) == 2 + then


def test_a_reset_that_is_later_is_another_window_also_where_the_answer_was_overtaken() -> None:
    windows = knowing(*told(0, 10.0), at=5.0)

    windows.learn(told(40, 60.0), 4.0, 16.0)

    assert room(windows, 16.0) == 40


def test_resets_in_whole_seconds_differ_by_rounding_and_the_earliest_is_right() -> None:
    windows = knowing(*told(5, 60.0))

    for number, resets_in in enumerate((60.0, 59.0, 59.0)):
        now = 0.3 + 0.3 * number
        windows.learn(told(0, resets_in), now - 0.1, now)

    assert windows.free_at(0, 1.0) == pytest.approx(59.6)


def test_after_a_reset_that_kept_us_one_goes_alone_and_tells() -> None:
    windows = knowing(*told(0, 10.0, limit=30))
    assert windows.free_at(0, 9.9) == 10

    assert windows.free_at(0, 10.0) == 10
    assert windows.free_at(1, 10.0) == math.inf

    windows.learn(told(29, 10.0, limit=30), 10.0, 10.5)
    assert room(windows, 10.5) == 29


def test_what_is_still_on_the_wire_at_the_reset_is_heard_before_one_goes_alone() -> None:
    windows = knowing(*told(0, 10.0))

    assert windows.free_at(2, 11.0) == math.inf
    assert windows.free_at(0, 12.0) == 12


def test_after_a_reset_that_kept_nobody_no_probe_is_needed() -> None:
    windows = knowing(*told(5, 10.0, limit=30))

    assert room(windows, 9.9) == 5
    assert windows.free_at(20, 10.0) == 10


def test_after_a_reset_that_kept_nobody_the_next_window_is_as_large_as_is_known() -> None:
    windows = knowing(*told(5, 10.0, limit=30))

    assert windows.free_at(30, 11.0) > 11


def test_an_overtaken_answer_of_the_window_before_tells_nothing_of_the_new_one() -> None:
    windows = knowing(*told(1, 100.0))
    windows.free_at(0, 100.1)
    windows.learn(told(4999, 3600.0), 100.1, 100.2)

    windows.learn(told(0, 0.0), 99.9, 100.5)

    assert windows.free_at(0, 101.0) == 101


@pytest.mark.parametrize("names", [["minute", "hour"], ["hour", "minute"]])
def test_of_several_windows_the_strictest_holds(names: list[str]) -> None:
    def answer(now: float, **left: int) -> list[ReportedQuota]:
        return [ReportedQuota(name, left[name], {"minute": 60, "hour": 3600}[name] - now, None, None) for name in names]

    windows = knowing(*answer(0.0, minute=7, hour=3))
    assert room(windows, 1.0) == 3

    windows.learn(answer(2.0, minute=0, hour=3), 1.0, 2.0)
    assert windows.free_at(0, 2.0) == 60

    windows.learn(answer(3.0, minute=0, hour=0), 2.5, 3.0)
    assert windows.free_at(0, 3.0) == 3600


def test_a_request_that_came_to_nothing_may_have_been_counted() -> None:
    windows = knowing(*told(3))

    windows.untold(0.5)
    assert room(windows, 1.0) == 2

    windows.untold(0.5)
    windows.untold(0.5)
    assert windows.free_at(0, 1.0) == LONG


def test_a_short_window_without_a_reset_is_waited_for_as_long_as_it_lasts_and_a_long_one_is_not() -> None:
    assert knowing(*told(0, None, window=60.0), at=1.0).free_at(0, 2.0) == 61
    assert knowing(*told(0, None, window=3600.0), at=1.0).free_at(0, 2.0) == 2
    assert knowing(*told(0, None)).free_at(0, 2.0) == 2


def test_windows_are_counted_as_they_begin_and_those_in_their_first_half_are_young() -> None:
    windows = knowing(*told(0, 10.0))
    assert windows.is_known
    assert windows.is_young(4.9)
    assert not windows.is_young(5.1)
    assert windows.resets == 0

    windows.free_at(0, 10.0)
    assert windows.resets == 1
    assert not windows.is_known


def test_a_server_that_makes_up_names_fills_no_memory() -> None:
    windows = QuotaWindows()
    windows.learn([ReportedQuota(f"q{number}", 70.0 - number, LONG, None, None) for number in range(64)], 0.0, 0.0)
    tracemalloc.start()
    began = tracemalloc.get_traced_memory()[0]

    for number in range(5000):
        windows.learn([ReportedQuota(f"made up {number}", 0.0, LONG, None, None)], 1.0, 1.0)

    used = tracemalloc.get_traced_memory()[0] - began
    tracemalloc.stop()
    assert used < 10_000
    assert room(windows, 1.0) == 7


def test_of_too_many_names_those_that_are_told_no_more_give_way() -> None:
    windows = knowing(*(ReportedQuota(f"q{number}", 9.0, 1000.0, None, None) for number in range(64)))

    windows.learn(told(3, name="new"), 61.0, 61.0)

    assert room(windows, 61.0) == 3


def test_a_request_of_the_window_before_that_came_to_nothing_is_none_of_the_new_one() -> None:
    windows = knowing(*told(0, 10.0))
    windows.free_at(0, 10.0)

    windows.untold(9.0)

    assert windows.free_at(1, 11.0) == math.inf
