"""Estimates of the live view: the remaining time, its basis, and how fast it may change."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_run import ScriptedRun, page_read, sample

from asyncstreams import ParentsDiscovered, Slice, SliceFinished, SliceStarted, StreamStarted, WaitStarted
from asyncstreams.progress.estimates import Completion
from asyncstreams.progress.row_cells import duration_text

STEPS = st.lists(st.tuples(st.floats(0, 1e5), st.integers(0, 1_000)), min_size=1, max_size=60)


@given(STEPS, st.sampled_from(["slices", "records"]))
def test_remaining_time_is_never_negative_and_never_jumps(steps, basis):
    completion, now, done, total = Completion(0.0), 0.0, 0, sum(units for _, units in steps)

    for seconds, units in steps:
        now, done = now + seconds, done + units
        before = completion.seconds(now)
        completion.observe(now, basis, done, total)
        after = completion.seconds(now)
        assert after is None or 0 <= after < math.inf
        if before is not None and after is not None:
            factor = math.exp(min(20, 0.3 * seconds)) * 1.000001
            assert (before + 1) / factor <= after + 1 <= (before + 1) * factor
        assert completion.fraction is None or 0 <= completion.fraction <= 1


@given(st.floats(0.5, 500), st.floats(0.25, 5), st.integers(200, 2_000))
def test_steady_progress_gives_an_accurate_estimate(per_second, interval, steps):
    total = round(per_second * interval * steps)
    completion = Completion(0.0)

    for step in range(1, steps // 2):
        completion.observe(step * interval, "records", round(step * interval * per_second), total)

    expected = (steps - steps // 2 + 1) * interval
    assert completion.seconds((steps // 2 - 1) * interval) == pytest.approx(expected, rel=0.2, abs=8)


def test_estimate_counts_down_between_observations():
    completion = Completion(0.0)
    completion.observe(10.0, "records", 100, 400)

    first, later = completion.seconds(10.0), completion.seconds(14.0)

    assert first - later == pytest.approx(4)
    assert completion.seconds(1e6) == 0


def test_estimate_grows_little_during_a_pause():
    completion = Completion(0.0)
    for second in range(1, 601):
        completion.observe(second, "records", second, 1_200)
    before = completion.seconds(600)

    for second in range(600, 660):
        completion.observe(second, "records", 600, 1_200)

    assert before == pytest.approx(600, rel=0.05)
    assert 600 < completion.seconds(660) < 900


def test_faster_progress_shortens_the_estimate():
    completion = Completion(0.0)
    for second in range(1, 101):
        completion.observe(second, "records", second, 100_000)
    for second in range(101, 201):
        completion.observe(second, "records", 100 + (second - 100) * 100, 100_000)

    assert completion.seconds(200) == pytest.approx(900, rel=0.3)


def test_slices_are_the_basis_from_the_third_one():
    run = ScriptedRun()
    run.send(StreamStarted("orders"), ParentsDiscovered("orders", 10, is_all=False))
    run.send(*[SliceFinished("orders", Slice())] * 2, seconds=10)
    assert "unknown" in run.lines()[1]

    run.send(ParentsDiscovered("orders", 10, is_all=True), SliceFinished("orders", Slice()), sample("orders"))

    row = run.lines()[1]
    assert "30%" in row
    assert "(slices)" in row


def test_reported_totals_of_all_slices_are_the_basis():
    run = ScriptedRun()
    known = {"slices_known": 4, "records_expected": 1_000}
    run.send(StreamStarted("orders"), page_read("orders", 500), seconds=10)
    run.send(sample("orders", slices_open=3, **known))
    # One slice has not begun, so the total of its records is missing.
    assert "API total" not in run.lines()[1]

    run.send(sample("orders", slices_open=4, **known))
    assert " 50%  10 s (API total)" in run.lines()[1]
    assert run.lines(70)[1].split()[-5:] == ["50%", "10", "s", "records", "reading"]


def test_estimate_includes_the_current_wait():
    run = ScriptedRun()
    run.send(StreamStarted("orders"), page_read("orders", 900), seconds=1)
    run.send(sample("orders", slices_known=1, records_expected=1_000))
    run.send(WaitStarted("orders", "the API's quota to reset", 600))

    assert "10 min (API total)" in run.lines()[1]


@pytest.mark.parametrize("basis", ["records", "slices"])
def test_burst_of_a_quota_is_no_forecast(basis):
    run = ScriptedRun()
    known = {"slices_known": 1, "records_expected": 10_000} if basis == "records" else {"slices_known": 100}
    run.send(StreamStarted("orders"))
    for pages in range(1, 11):
        run.send(page_read("orders", 100), SliceStarted("orders", Slice()), SliceFinished("orders", Slice()))
        counts = {"pages": pages, "records": 100 * pages, "slices_done": pages * (basis == "slices")}
        run.send(sample("orders", max_rate=0.1, **counts, **known), seconds=0.5)

    # 90 requests remain, at one in 10 s.
    assert re.search(r" 1[56] min \(", run.lines()[1])


def test_never_100_percent_before_the_end():
    run = ScriptedRun()
    run.send(StreamStarted("orders"), page_read("orders", 990, quarantined=9), seconds=10)
    run.send(sample("orders", slices_known=1, records_expected=1_000))
    assert " 99% " in run.lines()[1]

    run.send(page_read("orders", 5_000), sample("orders", slices_known=1, records_expected=1_000))
    assert " 99% " in run.lines()[1]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (3.2, "4 s"),
        (12, "10 s"),
        (89, "90 s"),
        (100, "2 min"),
        (5_000, "83 min"),
        (12_000, "3 h 20 min"),
        (400_000, "5 d"),
    ],
)
def test_durations_are_short(seconds, text):
    assert duration_text(seconds) == text
