"""Are cursors compared as what they mean, and written as the API writes them?"""

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


def at(cursor: CursorFormat, moment: datetime) -> float:
    return cursor.floor(cursor.point(moment))


@given(moments)
def test_property_iso_times_come_back_as_the_same_point(moment):
    cursor = CursorFormat()
    point = cursor.point(moment)

    assert cursor.point(cursor.value(point)) == point


@given(moments, moments)
def test_property_points_are_in_the_order_of_their_times(one, other):
    cursor = CursorFormat()

    assert (cursor.point(one) < cursor.point(other)) == (one < other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2026-01-01T00:00:00Z", "2026-01-01T01:00:00+01:00"),
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00.000Z"),
        ("2026-01-01T00:00:00.123456Z", "2026-01-01T00:00:00.123456789Z"),
        ("2026-01-01T00:00:00+00:00", "20260101T000000Z"),
    ],
)
def test_spellings_of_one_moment_are_one_point(one, other):
    assert CursorFormat().point(one) == CursorFormat().point(other)


def test_a_time_without_an_offset_needs_a_zone():
    with pytest.raises(ConfigError, match="have no offset") as told:
        CursorFormat().point("2026-01-01T00:00:00")

    assert "cursor_timezone" in str(told.value)
    assert BERLIN.point("2026-01-01T01:00:00") == CursorFormat().point("2026-01-01T00:00:00Z")


def test_an_hour_that_comes_twice_counts_as_the_earlier_one():
    assert BERLIN.point("2026-10-25T02:30:00") == CursorFormat().point("2026-10-25T00:30:00Z")
    assert BERLIN.is_ambiguous(BERLIN.point("2026-10-25T02:30:00"))
    assert not BERLIN.is_ambiguous(BERLIN.point("2026-10-25T03:00:00"))


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/St_Johns"])
@pytest.mark.parametrize("pattern", ["iso", "%Y-%m-%d %H:%M:%S"])
@given(hours=st.integers(0, 24 * 366 * 4), seconds=st.integers(0, 3599))
def test_property_a_bound_means_one_moment_only_and_is_never_later(zone, pattern, hours, seconds):
    cursor = CursorFormat(pattern, zone)
    moment = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=hours // 4, seconds=seconds)

    bound = at(cursor, moment)

    written = cursor.value(bound)
    assert cursor.point(written) == bound
    wall = datetime.fromisoformat(written)
    both = {wall.replace(tzinfo=ZoneInfo(zone), fold=fold).astimezone(UTC) for fold in (0, 1)}
    # Either it has one meaning, or it is the first moment that is written twice: all that is, lies after it.
    before = cursor.value(bound - 1_000_000)
    assert len(both) == 1 or not cursor.is_ambiguous(cursor.point(before))
    assert 0 <= cursor.point(moment) - bound < 7_200_000_000


@given(moments)
def test_property_dates_without_a_zone_end_when_the_day_is_over_everywhere(moment):
    cursor = CursorFormat("date")
    end = date.fromisoformat(cursor.value(cursor.point_at(moment.timestamp())))

    assert datetime(end.year, end.month, end.day, tzinfo=UTC) + timedelta(hours=12) <= moment


def test_a_date_with_a_zone_ends_with_its_own_day():
    cursor = CursorFormat("date", "Asia/Tokyo")

    assert cursor.value(cursor.point_at(datetime(2026, 5, 1, 15, 30, tzinfo=UTC).timestamp())) == "2026-05-02"


@pytest.mark.parametrize(("form", "value"), [("epoch", 1_770_000_000), ("epoch_ms", 1_770_000_000_000), ("number", 7)])
def test_numbers_are_their_own_points(form, value):
    cursor = CursorFormat(form)

    assert cursor.point(value) == value
    assert cursor.value(value) == value


def test_a_pattern_is_read_and_written():
    cursor = CursorFormat("%d.%m.%Y %H:%M", "UTC")
    point = cursor.point("03.02.2026 10:15")

    assert cursor.value(point) == "03.02.2026 10:15"
    assert cursor.floor(point + 59_000_000) == point


@pytest.mark.parametrize("value", [None, 7, True, "", "yesterday", {"at": 1}, ["2026-01-01T00:00:00Z"]])
def test_what_is_no_time_is_refused_without_showing_it(value):
    with pytest.raises(InvalidCursorValue) as told:
        CursorFormat().point(value)

    assert "yesterday" not in str(told.value)


@pytest.mark.parametrize("value", [None, "7", True, float("nan"), float("inf")])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(InvalidCursorValue):
        CursorFormat("number").point(value)


@pytest.mark.parametrize(("form", "zone"), [("rfc", None), ("iso", "Europe/Atlantis"), ("iso", "../etc/passwd")])
def test_formats_and_zones_that_are_none_are_refused(form, zone):
    with pytest.raises(ConfigError):
        CursorFormat(form, zone)


def test_objects_of_datetime_are_taken_and_given_back():
    cursor = CursorFormat()
    moment = datetime(2026, 1, 1, 12, tzinfo=UTC)

    assert cursor.value(cursor.point(moment), like=moment) == moment
    assert CursorFormat("date").value(CursorFormat("date").point(date(2026, 1, 2)), like=date(2026, 1, 1)) == date(
        2026, 1, 2
    )
