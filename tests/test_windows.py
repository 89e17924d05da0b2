"""Time windows and number ranges: the intervals that a run reads."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulation import examples

from asyncstreams import ConfigError, NumberRanges, TimeWindows
from asyncstreams.cursors.cursor_format import CursorFormat
from asyncstreams.cursors.intervals import Interval, Intervals

Bounds = Literal["[)", "[]", "(]", "()"]
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


def starts(windows: TimeWindows, cursor: CursorFormat = ISO, now: float = NOW) -> list[str]:
    return [cursor.value(window.start)[:16] for window in windows.intervals(cursor, Intervals(), now)]


def test_months_end_with_month_and_do_not_drift():
    windows = TimeWindows(start="2025-10-31", step="P1M")

    assert starts(windows) == [f"2025-{day}T00:00" for day in ("10-31", "11-30", "12-31")] + [
        f"2026-{day}T00:00" for day in ("01-31", "02-28")
    ]


def test_months_are_counted_in_offset_of_start():
    windows = TimeWindows(start="2026-01-01T00:00:00+02:00", step="P1M")

    assert starts(windows) == ["2025-12-31T22:00", "2026-01-31T22:00", "2026-02-28T22:00"]


def test_calendar_days_begin_at_local_midnight():
    cursor = CursorFormat(zone="Europe/Berlin")
    now = datetime(2026, 3, 31, tzinfo=UTC).timestamp()

    assert starts(TimeWindows(start="2026-03-28", step="1d"), cursor, now) == [
        f"2026-03-{day}T00:00" for day in (28, 29, 30, 31)
    ]


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("30d", timedelta(days=30)),
        ("P30D", timedelta(days=30)),
        ("2w", timedelta(weeks=2)),
        ("P1DT12H", timedelta(hours=36)),
        ("PT36H", timedelta(hours=36)),
        ("90min", timedelta(minutes=90)),
    ],
)
def test_steps_in_text_equal_timedeltas(text: str, step: timedelta):
    windows = TimeWindows(start="2026-02-20", step=text)

    assert window_values(windows) == window_values(TimeWindows(start="2026-02-20", step=step))


def test_calendar_windows_skip_done_intervals_and_stay_on_grid():
    done = Intervals([(ISO.point("2026-01-01T00:00:00Z"), ISO.point("2026-02-10T00:00:00Z"))])

    assert window_values(TimeWindows(start="2025-12-31", step="P1M"), done) == [
        ("2025-12-31T00:00:00Z", "2026-01-01T00:00:00Z"),
        ("2026-02-10T00:00:00Z", "2026-02-28T00:00:00Z"),
        ("2026-02-28T00:00:00Z", "2026-03-10T11:59:30Z"),
    ]


def test_end_is_exclusive_and_ends_windows():
    windows = TimeWindows(start="2026-01-01", step="P1M", end="2026-02-15")

    assert window_values(windows)[-1] == ("2026-02-01T00:00:00Z", "2026-02-15T00:00:00Z")


def test_settle_applies_before_end():
    windows = TimeWindows(start="2026-03-10", end="2026-03-10T12:00:00Z", settle=60)

    assert window_values(windows) == [("2026-03-10T00:00:00Z", "2026-03-10T11:59:30Z")]


def test_windows_are_made_lazily():
    windows = TimeWindows(start="0001-01-01", step=timedelta(seconds=1)).intervals(ISO, Intervals(), NOW)

    assert next(windows).end == ISO.point("0001-01-01T00:00:01Z")


def test_windows_are_not_shorter_than_unit_of_cursor():
    cursor = CursorFormat("date")

    found = list(TimeWindows(start="2026-03-01", step="1h").intervals(cursor, Intervals(), NOW))

    assert [cursor.value(window.start) for window in found] == [f"2026-03-0{day}" for day in range(1, 9)]


@examples(full=1_000, short=30)
@given(
    st.sampled_from(["P1M", "P3M", "P1Y", "P1M1D", "P1MT6H", "20d", "5w"]),
    st.datetimes(datetime(2021, 1, 1), datetime(2026, 1, 1)),  # noqa: DTZ001  # the time zone is the cursor's
    st.lists(st.tuples(st.integers(0, 2_000), st.integers(0, 2_000)), max_size=4),
    st.sampled_from([None, "Europe/Berlin"]),
)
def test_property_calendar_windows_cover_each_gap_once(step, start, spans, zone):
    cursor = CursorFormat(zone=zone)
    begin = cursor.floor(cursor.point(start))
    done = Intervals((begin + first * 86_400_000_000, begin + last * 86_400_000_000) for first, last in spans)
    windows = TimeWindows(start=start, step=step, settle=0)

    found = list(windows.intervals(cursor, done, NOW))
    grid = {window.start for window in windows.intervals(cursor, Intervals(), NOW)}

    assert Intervals(found) == Intervals(done.gaps(begin, cursor.point_at(NOW)))
    assert all(window.end <= after.start for window, after in pairwise(found))
    assert not [edge for window in found for edge in grid if window.start < edge < window.end]


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


def test_open_number_ranges_give_gaps_and_next_range():
    done = Intervals([(0, 10), (25, 100)])

    found = list(NumberRanges(10).intervals(CursorFormat("number"), done, NOW))

    assert found == [(10, 20), (20, 25), (100, 110)]


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
        ("[]", "epoch", (1767225600, 1767312000)),
        ("(]", "epoch_ms", (1767225599999, 1767312000000)),
    ],
)
def test_query_bounds_include_whole_interval(bounds, form, expected):
    cursor = CursorFormat(form)
    interval = Interval(cursor.point(date(2026, 1, 1)) if form == "date" else ISO.point("2026-01-01T00:00:00Z"), 0)
    interval = interval._replace(end=interval.start + 86_400_000_000)

    start, end = TimeWindows(bounds=bounds).query_bounds(cursor, interval)

    assert (cursor.value(start), cursor.value(end)) == expected


@pytest.mark.parametrize(
    ("cursor", "expected"),
    [
        (CursorFormat("iso"), ("2026-01-01T00:00:00Z", "2026-01-01T00:00:02Z")),
        (CursorFormat("epoch"), (1767225600, 1767225602)),
        (CursorFormat(("iso", "epoch"), request="%Y-%m-%d"), ("2026-01-01", "2026-01-02")),
    ],
)
@pytest.mark.parametrize("bounds", ["[)", "[]"])
def test_query_bounds_enclose_fractions(cursor: CursorFormat, expected: tuple[Any, Any], bounds: Bounds):
    begin = ISO.point("2026-01-01T00:00:00Z")

    start, end = TimeWindows(bounds=bounds).query_bounds(cursor, Interval(begin + 250_000, begin + 1_250_000))

    assert (cursor.value(start), cursor.value(end)) == expected


def test_inclusive_end_is_last_day_when_clocks_change():
    cursor = CursorFormat("date", zone="Europe/Berlin")
    interval = Interval(cursor.point("2026-03-29"), cursor.point("2026-03-30"))

    start, end = TimeWindows(bounds="[]").query_bounds(cursor, interval)

    assert (cursor.value(start), cursor.value(end)) == ("2026-03-29", "2026-03-29")


@pytest.mark.parametrize(("bounds", "expected"), [("[)", (10, 20)), ("[]", (10, 20)), ("(]", (9, 20)), ("()", (9, 20))])
def test_query_bounds_include_fractions_of_numbers(bounds: Bounds, expected: tuple[int, int]):
    assert NumberRanges(10, bounds=bounds).query_bounds(CursorFormat("number"), Interval(10, 20)) == expected


def test_query_bound_beyond_ranges_is_number():
    numbers = CursorFormat("number")

    assert NumberRanges(10).query_bounds(numbers, Interval(10, math.inf)) == (10, 2**63 - 1)
    assert NumberRanges().query_bounds(numbers, Interval(10, math.inf)) == (10, math.inf)


@pytest.mark.parametrize("start", ["2026-01-01", date(2026, 1, 1), None, 1_700_000_000_000])
def test_plain_number_as_step_is_refused_with_remedy(start: Any):
    with pytest.raises(ConfigError, match="plain number has no unit") as caught:
        TimeWindows(start=start, step=30)

    assert caught.value.hint is not None
    assert "timedelta(days=30)" in caught.value.hint


def test_plain_number_as_step_is_seconds_with_epoch_start():
    windows = TimeWindows(start=int(NOW) - 100, step=40, settle=0)

    found = list(windows.intervals(CursorFormat("epoch"), Intervals(), NOW))

    assert [(window.end - window.start) / 1_000_000 for window in found] == [40, 40, 20]


@pytest.mark.parametrize(
    "make",
    [
        lambda: TimeWindows(step=3600),
        lambda: TimeWindows(start="2026-01-01", step=0),
        lambda: TimeWindows(start="2026-01-01", step="1m"),
        lambda: TimeWindows(start="2026-01-01", step="P"),
        lambda: TimeWindows(start="2026-01-01", step="P0D"),
        lambda: TimeWindows(start="2026-01-01", step="P1DT"),
        lambda: TimeWindows(start="2026-01-01", step="99999999999999d"),
        lambda: TimeWindows(start="2026-01-01", step=timedelta(days=-1)),
        lambda: TimeWindows(lookback="P1M"),
        lambda: TimeWindows(settle="soon"),
        lambda: TimeWindows(settle=-1),
        lambda: TimeWindows(bounds="[["),
        lambda: NumberRanges(0, 10),
        lambda: NumberRanges(10, -1),
        lambda: NumberRanges(10, math.inf),
        lambda: NumberRanges(10, start=-math.inf),
        lambda: list(TimeWindows(end="soon").intervals(ISO, Intervals(), NOW)),
        lambda: list(TimeWindows(start="2026-01-02", end="2026-01-01").intervals(ISO, Intervals(), NOW)),
        lambda: list(TimeWindows(start="soon").intervals(ISO, Intervals(), NOW)),
        lambda: TimeWindows().end_at(CursorFormat("number"), NOW),
    ],
)
def test_invalid_windows_are_refused(make):
    with pytest.raises(ConfigError):
        make()


@pytest.mark.parametrize("arguments", [{"step": "P1D"}, {"step": timedelta(1)}, {"start": "7"}, {"end": "2026-01-01"}])
def test_number_ranges_of_times_are_refused(arguments: Any):
    with pytest.raises(ConfigError, match="expected a number") as caught:
        NumberRanges(**arguments)

    assert "use TimeWindows" in str(caught.value.hint)
