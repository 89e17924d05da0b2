"""Cursor formats: values as points, and points as values."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstreams import ConfigError
from asyncstreams.cursors.cursor_format import CursorFormat, InvalidCursorValue

BERLIN = CursorFormat(zone="Europe/Berlin")
moments = st.integers(315_532_800, 3_786_912_000).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))


def floored(cursor: CursorFormat, moment: datetime) -> float:
    return cursor.floor(cursor.point(moment))


@given(moments)
def test_property_iso_times_round_trip(moment):
    cursor = CursorFormat()
    point = cursor.point(moment)

    assert cursor.point(cursor.value(point)) == point


@given(moments, moments)
def test_property_points_sort_like_times(first, second):
    cursor = CursorFormat()

    assert (cursor.point(first) < cursor.point(second)) == (first < second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("2026-01-01T00:00:00Z", "2026-01-01T01:00:00+01:00"),
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00.000Z"),
        ("2026-01-01T00:00:00.123456Z", "2026-01-01T00:00:00.123456789Z"),
        ("2026-01-01T00:00:00+00:00", "20260101T000000Z"),
    ],
)
def test_spellings_of_one_time_are_one_point(first, second):
    assert CursorFormat().point(first) == CursorFormat().point(second)


def test_time_without_offset_needs_time_zone():
    with pytest.raises(ConfigError, match="no UTC offset") as caught:
        CursorFormat().point("2026-01-01T00:00:00")

    assert "cursor_timezone" in str(caught.value)
    assert BERLIN.point("2026-01-01T01:00:00") == CursorFormat().point("2026-01-01T00:00:00Z")


def test_repeated_hour_counts_as_earlier_one():
    assert BERLIN.point("2026-10-25T02:30:00") == CursorFormat().point("2026-10-25T00:30:00Z")
    assert BERLIN.is_ambiguous(BERLIN.point("2026-10-25T02:30:00"))
    assert not BERLIN.is_ambiguous(BERLIN.point("2026-10-25T03:00:00"))


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/St_Johns"])
@pytest.mark.parametrize("pattern", ["iso", "%Y-%m-%d %H:%M:%S"])
@given(hours=st.integers(0, 24 * 366 * 4), seconds=st.integers(0, 3599))
def test_property_floor_is_unambiguous_and_never_later(zone, pattern, hours, seconds):
    cursor = CursorFormat(pattern, zone)
    moment = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=hours // 4, seconds=seconds)

    bound = floored(cursor, moment)

    written = cursor.value(bound)
    assert cursor.point(written) == bound
    wall = datetime.fromisoformat(written)
    both = {wall.replace(tzinfo=ZoneInfo(zone), fold=fold).astimezone(UTC) for fold in (0, 1)}
    # Either the value has one meaning, or it is the first one that is repeated: nothing before it is ambiguous.
    before = cursor.value(bound - 1_000_000)
    assert len(both) == 1 or not cursor.is_ambiguous(cursor.point(before))
    assert 0 <= cursor.point(moment) - bound < 7_200_000_000


@given(moments)
def test_property_dates_without_zone_end_12_hours_later(moment):
    cursor = CursorFormat("date")
    end = date.fromisoformat(cursor.value(cursor.point_at(moment.timestamp())))

    assert datetime(end.year, end.month, end.day, tzinfo=UTC) + timedelta(hours=12) <= moment


def test_date_with_time_zone_ends_at_local_midnight():
    cursor = CursorFormat("date", "Asia/Tokyo")

    assert cursor.value(cursor.point_at(datetime(2026, 5, 1, 15, 30, tzinfo=UTC).timestamp())) == "2026-05-02"


@pytest.mark.parametrize(("form", "value"), [("epoch", 1_770_000_000), ("epoch_ms", 1_770_000_000_000), ("number", 7)])
def test_numbers_are_their_own_points(form, value):
    cursor = CursorFormat(form)

    assert cursor.point(value) == value
    assert cursor.value(value) == value


def test_strptime_pattern_is_read_and_written():
    cursor = CursorFormat("%d.%m.%Y %H:%M", "UTC")
    point = cursor.point("03.02.2026 10:15")

    assert cursor.value(point) == "03.02.2026 10:15"
    assert cursor.floor(point + 59_000_000) == point


@pytest.mark.parametrize("value", [None, 7, True, "", "yesterday", {"at": 1}, ["2026-01-01T00:00:00Z"]])
def test_invalid_time_is_refused_without_showing_it(value):
    with pytest.raises(InvalidCursorValue) as caught:
        CursorFormat().point(value)

    assert "yesterday" not in str(caught.value)


@pytest.mark.parametrize("value", [None, "7", True, float("nan"), float("inf")])
def test_invalid_number_is_refused(value):
    with pytest.raises(InvalidCursorValue):
        CursorFormat("number").point(value)


@pytest.mark.parametrize(("form", "zone"), [("rfc", None), ("iso", "Europe/Atlantis"), ("iso", "../etc/passwd")])
def test_unknown_formats_and_time_zones_are_refused(form, zone):
    with pytest.raises(ConfigError):
        CursorFormat(form, zone)


def test_datetime_and_date_objects_round_trip():
    cursor = CursorFormat()
    moment = datetime(2026, 1, 1, 12, tzinfo=UTC)

    assert cursor.value(cursor.point(moment), like=moment) == moment
    assert CursorFormat("date").value(CursorFormat("date").point(date(2026, 1, 2)), like=date(2026, 1, 1)) == date(
        2026, 1, 2
    )
