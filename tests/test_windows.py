"""Time windows and number ranges: the intervals that a run reads."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstreams import ConfigError, NumberRanges, TimeWindows
from asyncstreams.cursors.cursor_format import CursorFormat
from asyncstreams.cursors.intervals import Interval, Intervals

ISO = CursorFormat()
NOW = datetime(2026, 3, 10, 12, 0, 30, tzinfo=UTC).timestamp()


def window_values(
    windows: TimeWindows, done: Intervals | None = None, cursor: CursorFormat = ISO
) -> list[tuple[str, str]]:
    found = windows.intervals(cursor, done or Intervals(), NOW)
    return [(cursor.value(window.start), cursor.value(window.end)) for window in found]


def test_windows_cover_start_to_one_minute_before_now():
    windows = TimeWindows(start="2026-01-01", step=timedelta(days=30))

    assert window_values(windows) == [
        ("2026-01-01T00:00:00Z", "2026-01-31T00:00:00Z"),
        ("2026-01-31T00:00:00Z", "2026-03-02T00:00:00Z"),
        ("2026-03-02T00:00:00Z", "2026-03-10T11:59:30Z"),
    ]


def test_one_window_without_step():
    assert window_values(TimeWindows(start=date(2026, 3, 1), settle=0)) == [
        ("2026-03-01T00:00:00Z", "2026-03-10T12:00:30Z")
    ]


def test_first_window_has_no_lower_bound_without_start():
    assert list(TimeWindows().intervals(ISO, Intervals(), NOW)) == [Interval(-math.inf, ISO.point_at(NOW - 60))]


def test_windows_skip_done_intervals_and_stay_on_grid():
    done = Intervals([(ISO.point("2026-01-01T00:00:00Z"), ISO.point("2026-02-10T00:00:00Z"))])

    assert window_values(TimeWindows(start="2026-01-01", step=timedelta(days=30)), done) == [
        ("2026-02-10T00:00:00Z", "2026-03-02T00:00:00Z"),
        ("2026-03-02T00:00:00Z", "2026-03-10T11:59:30Z"),
    ]


def test_lookback_reads_end_of_done_interval_again():
    done = Intervals([(ISO.point("2026-01-01T00:00:00Z"), ISO.point("2026-03-10T10:00:00Z"))])
    windows = TimeWindows(start="2026-01-01", lookback=timedelta(hours=2))

    assert window_values(windows, done) == [("2026-03-10T08:00:00Z", "2026-03-10T11:59:30Z")]


def test_lookback_does_not_widen_inner_gap():
    done = Intervals(
        [
            (ISO.point("2026-01-01T00:00:00Z"), ISO.point("2026-02-01T00:00:00Z")),
            (ISO.point("2026-03-01T00:00:00Z"), ISO.point("2026-03-10T11:59:30Z")),
        ]
    )

    found = window_values(TimeWindows(start="2026-01-01", lookback=timedelta(hours=2)), done)

    assert found == [("2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z")]


@given(
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), max_size=6),
    st.integers(1, 90),
    st.integers(0, 400),
)
def test_property_windows_cover_each_gap_once(spans, step, settle):
    hour = 3_600_000_000
    begin = ISO.point("2026-02-20T00:00:00Z")
    done = Intervals((begin + start * hour, begin + end * hour) for start, end in spans)
    windows = TimeWindows(start="2026-02-20", step=timedelta(hours=step), settle=timedelta(hours=settle))

    found = list(windows.intervals(ISO, done, NOW))

    assert Intervals(found) == Intervals(done.gaps(begin, ISO.point_at(NOW - settle * 3600)))
    assert all(window.start < window.end for window in found)
    assert all(window.end <= after.start for window, after in pairwise(found))
    assert all(window.end - window.start <= step * hour for window in found)


@given(
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), max_size=6), st.integers(1, 30), st.integers(0, 100)
)
def test_property_number_ranges_cover_each_gap_once(spans, step, end):
    done = Intervals(spans)

    found = list(NumberRanges(step, end).intervals(CursorFormat("number"), done, NOW))

    assert [point for window in found for point in range(int(window.start), int(window.end))] == [
        point for point in range(end) if not done.covers(point, point + 1)
    ]
    assert all(window.end - window.start <= step for window in found)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York"])
@pytest.mark.parametrize("step", [1, 24])
def test_windows_across_clock_change_have_no_gap(zone, step):
    cursor = CursorFormat(zone=zone)
    now = datetime(2026, 11, 10, tzinfo=UTC).timestamp()

    windows = TimeWindows(start="2026-10-20", step=timedelta(hours=step))
    found = list(windows.intervals(cursor, Intervals(), now))

    assert len(Intervals(found)) == 1
    assert all(cursor.point(cursor.value(window.end)) == window.end for window in found)


@pytest.mark.parametrize(
    ("bounds", "form", "expected"),
    [
        ("[)", "iso", ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z")),
        ("[]", "iso", ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z")),
        ("(]", "iso", ("2025-12-31T23:59:59Z", "2026-01-02T00:00:00Z")),
        ("[]", "date", ("2026-01-01", "2026-01-01")),
        ("()", "date", ("2025-12-31", "2026-01-02")),
    ],
)
def test_query_bounds_include_whole_interval(bounds, form, expected):
    cursor = CursorFormat(form)
    interval = Interval(cursor.point(date(2026, 1, 1)) if form == "date" else ISO.point("2026-01-01T00:00:00Z"), 0)
    interval = interval._replace(end=interval.start + 86_400_000_000)

    start, end = TimeWindows(bounds=bounds).query_bounds(cursor, interval)

    assert (cursor.value(start), cursor.value(end)) == expected


@pytest.mark.parametrize(
    "make",
    [
        lambda: TimeWindows(step=3600),
        lambda: TimeWindows(start="2026-01-01", step=0),
        lambda: TimeWindows(settle=-1),
        lambda: TimeWindows(bounds="[["),
        lambda: NumberRanges(0, 10),
        lambda: NumberRanges(10, -1),
        lambda: list(TimeWindows(start="soon").intervals(ISO, Intervals(), NOW)),
        lambda: TimeWindows().end_at(CursorFormat("number"), NOW),
    ],
)
def test_invalid_windows_are_refused(make):
    with pytest.raises(ConfigError):
        make()
