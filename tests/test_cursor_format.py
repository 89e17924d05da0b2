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


def test_time_without_offset_is_local_or_else_utc():
    utc = CursorFormat().point("2026-01-01T00:00:00Z")

    assert CursorFormat().point("2026-01-01T00:00:00") == utc
    assert BERLIN.point("2026-01-01T01:00:00") == utc


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


@pytest.mark.parametrize(
    ("form", "value"),
    [
        ("epoch", 1_770_000_000),
        ("epoch_ms", 1_770_000_000_000),
        ("epoch_us", 1_770_000_000_000_000),
        ("epoch_ns", 1_770_000_000_000_000_000),
        ("%s", 1_770_000_000),
        ("%ms", 1_770_000_000_000),
        ("%epoch_microseconds", 1_770_000_000_000_000),
        ("%s_as_float", 1_770_000_000.0),
    ],
)
def test_epochs_are_points_in_microseconds(form, value):
    cursor = CursorFormat(form)
    point = CursorFormat().point(datetime.fromtimestamp(1_770_000_000, UTC))

    assert cursor.point(value) == cursor.point(str(value)) == point
    assert cursor.value(point) == value
    assert type(cursor.value(point)) is type(value)


def test_numbers_are_their_own_points():
    cursor = CursorFormat("number")

    assert cursor.point(7) == cursor.point("7") == 7
    assert cursor.value(7) == 7


@pytest.mark.parametrize(
    "value",
    [
        "2026-02-03T10:15:00Z",
        "2026-02-03T10:15:00.000Z",
        "2026-02-03T10:15:00.000000+00:00",
        "2026-02-03 10:15:00",
        "2026-02-03T10:15Z",
        "20260203T101500Z",
        "2026-02-03",
        "2026-02-03T10:15:00.000000000Z",
        1_770_113_700,
        1_770_113_700_000,
        "1770113700",
        "1770113700.000000",
        1_770_113_700.0,
    ],
)
def test_bounds_have_type_and_precision_of_the_values(value):
    cursor = CursorFormat("auto").recognise([value])
    assert cursor is not None

    bound = cursor.value(cursor.point(value))

    assert bound == value
    assert type(bound) is type(value)


@pytest.mark.parametrize(
    ("values", "formats"),
    [
        ([100_000_000], ("epoch",)),
        ([99_999_999_999], ("epoch",)),
        ([100_000_000_000], ("epoch_ms",)),
        ([10**14, 10**14 + 1], ("epoch_us",)),
        ([10**17], ("epoch_ns",)),
        ([253_402_300_799], ("epoch",)),
        ([-62_135_596_800, 1_770_000_000, 0], ("epoch",)),
        ([253_402_300_799_000], ("epoch_ms",)),
        (["2026-01-31", "2026-02-01T12:00:00Z"], ("iso",)),
        (["2026-01-31", ""], ("date",)),
        (["2026-01-31T12:00:00Z", "2026-01-31T13:00:00Z", "1770000000"], ("iso", "epoch")),
    ],
)
def test_auto_decides_by_the_values(values, formats):
    cursor = CursorFormat("auto").recognise(values)

    assert cursor is not None
    assert cursor.formats == formats


@pytest.mark.parametrize(
    "values", [[99_999_999], [1, 2, 100_000_001], ["soon"], [True], [20260131], ["20260131120000"]]
)
def test_auto_does_not_guess_ids_and_other_texts(values):
    assert CursorFormat("auto").recognise(values) is None


@pytest.mark.parametrize("form", ["iso", "date", "epoch", "epoch_ms", "%d.%m.%Y", "%Y-%m-%dT%H:%M:%S.%_ms"])
@pytest.mark.parametrize("zone", [None, "Asia/Tokyo", "America/New_York"])
@pytest.mark.parametrize("text", ["0001-01-01T00:00:00", "9999-12-31T23:59:59.999999"])
@pytest.mark.parametrize("offset", ["-14:00", "+00:00", "+14:00"])
def test_ends_of_time_are_values_like_others(form, zone, text, offset):
    cursor = CursorFormat(form, zone)
    point = cursor.point(datetime.fromisoformat(text + offset))

    written = cursor.value(point)

    assert abs(cursor.point(written) - point) <= 48 * 3_600_000_000
    assert cursor.floor(point) <= point <= cursor.ceil(point)
    assert isinstance(cursor.is_ambiguous(point), bool)


@given(moments)
def test_property_stored_points_do_not_depend_on_format(moment):
    point = CursorFormat().point(moment)

    for form in ("auto", "iso", "date", "epoch", "%d.%m.%Y %H:%M"):
        cursor = CursorFormat(form, "Europe/Berlin")
        assert cursor.point_of_stored(cursor.stored(point)) == point


@given(
    form=st.sampled_from(["iso", "date", "epoch", "epoch_ms", "%Y-%m-%d %H:%M", "%Y-%m"]),
    zone=st.sampled_from([None, "Europe/Berlin", "Australia/Lord_Howe"]),
    micros=st.integers(1_600_000_000_000_000, 1_800_000_000_000_000),
)
def test_property_bounds_enclose_a_point(form, zone, micros):
    cursor = CursorFormat(form, zone)

    low, high = cursor.floor(micros), cursor.ceil(micros)

    assert low <= micros <= high
    assert cursor.point(cursor.value(low)) == low
    assert cursor.point(cursor.value(high)) == high


def test_several_formats_are_tried_in_order():
    cursor = CursorFormat(records=("iso", "%s"), request="%Y-%m-%d")
    point = CursorFormat().point("2026-02-03T10:15:00Z")

    assert cursor.point("2026-02-03T10:15:00Z") == cursor.point("1770113700") == cursor.point(1_770_113_700) == point
    assert cursor.value(point) == "2026-02-03"
    assert cursor.value(cursor.ceil(point)) == "2026-02-04"


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("%Y-%Q-%d", "bad directive"),
        ("%Y-%m-%dT%H:%M:%S.%ms", "redefinition"),
        ("%-d.%m.%Y", "bad directive"),
        ("%H:%M", "no year"),
        ("%Y%", "stray %"),
    ],
)
def test_pattern_is_tried_when_declared(pattern, problem):
    with pytest.raises(ConfigError, match=problem) as caught:
        CursorFormat(pattern)

    assert "cursor_format" in str(caught.value)


@pytest.mark.parametrize(
    ("records", "request_format"),
    [((), None), (7, None), (("auto", "iso"), None), (("iso", 7), None), ("iso", "number"), ("iso", "auto")],
)
def test_invalid_combination_of_formats_is_refused(records, request_format):
    with pytest.raises(ConfigError, match="cursor_format"):
        CursorFormat(records=records, request=request_format)


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


@pytest.mark.parametrize("value", [None, "seven", "", True, float("nan"), float("inf")])
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
