"""Retry-After headers, valid and malformed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulation import examples

from asyncstreams import Response
from asyncstreams.rate_limits.retry_after import body_retry_after, retry_after

often = examples(full=200, short=40)
WALL = 1_767_225_600.0  # 2026-01-01T00:00:00Z
moments = st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1)).map(lambda m: m.replace(microsecond=0, tzinfo=UTC))  # noqa: DTZ001


def parse(*values: str, date: str | None = None) -> float | None:
    headers = [(b"Retry-After", value.encode("utf-8", "surrogatepass")) for value in values]
    if date is not None:
        headers.append((b"Date", date.encode()))
    request = httpx.Request("GET", "https://api.example.com/")
    return retry_after(Response(429, headers=headers, stream=httpx.ByteStream(b""), request=request), WALL)


@often
@given(seconds=st.integers(1, 9_999_999_999), space=st.sampled_from(["", " ", "\t"]))
def test_seconds_are_returned_unchanged(seconds: int, space: str) -> None:
    assert parse(f"{space}{seconds}{space}") == seconds


@often
@given(now=moments, seconds=st.integers(1, 10**7))
def test_date_is_relative_to_the_date_header(now: datetime, seconds: int) -> None:
    then = datetime.fromtimestamp(now.timestamp() + seconds, UTC)

    assert parse(format_datetime(then, usegmt=True), date=format_datetime(now, usegmt=True)) == seconds


@often
@given(now=moments, seconds=st.integers(0, 10**7))
def test_past_date_orders_no_wait(now: datetime, seconds: int) -> None:
    then = datetime.fromtimestamp(now.timestamp() - seconds, UTC)

    assert parse(format_datetime(then, usegmt=True), date=format_datetime(now, usegmt=True)) is None


@pytest.mark.parametrize("date", [None, "", "yesterday", "Wed, 99 Foo 2026 00:00:00 GMT"])
def test_without_a_date_header_the_local_clock_counts(date: str | None) -> None:
    assert parse("Thu, 01 Jan 2026 00:02:00 GMT", date=date) == 120


@pytest.fixture(params=["UTC", "Asia/Tokyo", "America/New_York"])
def _machine_zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("_machine_zone")
@pytest.mark.parametrize("date", ["Thu, 01 Jan 2026 00:02:00 GMT", "Thursday, 01-Jan-26 00:02:00 GMT"])
def test_date_with_zone_is_gmt_on_any_machine(date: str) -> None:
    assert parse(date, date="Thu, 01 Jan 2026 00:00:00 GMT") == 120


@pytest.mark.parametrize(
    "zone",
    [
        "UTC",
        *(
            pytest.param(
                name,
            )
            for name in ("Asia/Tokyo", "America/New_York")
        ),
    ],
)
def test_asctime_date_is_gmt_on_any_machine(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # RFC 9110, 5.6.7: a recipient must accept the asctime form and interpret it as GMT.
    monkeypatch.setenv("TZ", zone)
    time.tzset()

    try:
        assert parse("Thu Jan  1 00:02:00 2026", date="Thu, 01 Jan 2026 00:00:00 GMT") == 120
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "0",
        "00",
        "0.0",
        "-1",
        "-120",
        "+5",
        "nan",
        "NaN",
        "inf",
        "-inf",
        "Infinity",
        "1e309",
        "1e3",
        "1_0",
        "0x10",
    ]
    + ["10 x", "soon", "1.", ".5", "1;2", "Thu, 01 Jan 1970 00:00:00 GMT", "Thu, 01 Jan 2026 00:00:00 GMT", ",", ",,;"],
)
def test_zero_past_or_malformed_value_orders_no_wait(value: str) -> None:
    assert parse(value) is None


def test_digits_of_other_scripts_order_no_wait() -> None:
    assert parse("\u0663\u0663") is None


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        (("5", "120"), 120),
        (("120", "5"), 120),
        (("5, 120",), 120),
        (("120,5",), 120),
        (("nonsense", "7"), 7),
        (("nan, 7",), 7),
        (("-5", "0", "7"), 7),
        (("5", "Thu, 01 Jan 2026 00:02:00 GMT"), 120),
        (("5, Thu, 01 Jan 2026 00:02:00 GMT",), 120),
        (("500", "Thu, 01 Jan 2026 00:02:00 GMT"), 500),
        (("nonsense", "nan"), None),
    ],
)
def test_longest_of_several_valid_values_counts(values: tuple[str, ...], seconds: float | None) -> None:
    assert parse(*values) == seconds


def test_longest_of_date_and_seconds_counts() -> None:
    assert parse("Thu, 01 Jan 2026 00:02:00 GMT, 500") == 500


def wait_of(*headers: tuple[str, str], body: bytes = b"") -> float | None:
    request = httpx.Request("GET", "https://api.example.com/")
    raw = [(name.encode(), value.encode()) for name, value in headers]
    response = Response(429, headers=raw, stream=httpx.ByteStream(b""), request=request)
    response.set_body(body)
    return body_retry_after(response, WALL) if body else retry_after(response, WALL)


@pytest.mark.parametrize(
    "value",
    [
        "2026-01-01T00:02:00Z",
        "2026-01-01T00:02:00.000+00:00",
        "2026-01-01T01:02:00+01:00",
        "2026-01-01T00:02:00",
        "2026-01-01 00:02:00",
        "PT2M",
        "PT120S",
        "5, 2026-01-01T00:02:00Z",
        "1767225720",
        "1767225720000",
        "2m",
        "120s",
        "1m60s",
        "120000ms",
        "120 seconds",
        '"120"',
    ],
)
def test_iso_date_duration_or_epoch_is_a_wait(value: str) -> None:
    assert parse(value) == 120


@pytest.mark.parametrize("value", ["1767225599", "1767225599000"])
def test_time_that_has_just_passed_orders_no_wait(value: str) -> None:
    assert parse(value) is None


@pytest.mark.parametrize("value", ["2025-12-31T23:59:59Z", "2026-13-01T00:00:00Z", "2026-01-02", "PT", "P", "P1Y"])
def test_past_or_malformed_iso_value_orders_no_wait(value: str) -> None:
    assert parse(value) is None


@pytest.mark.parametrize(
    ("name", "value", "seconds"),
    [
        ("Retry-After-Ms", "1500", 1.5),
        ("X-Ms-Retry-After-Ms", "250", 0.25),
        ("X-RateLimit-Retry-After", "7", 7),
        ("x-ratelimit-retry-after", "2026-01-01T00:00:07Z", 7),
        ("X-Retry-After", "7.5", 7.5),
        ("X-Retry-After", "Thu, 01 Jan 2026 00:00:07 GMT", 7),
        ("X-Rate-Limit-Retry-After", "1767225607", 7),
        ("Retry-After-Ms", "soon", None),
        ("Retry-After-Ms", "0", None),
        ("X-Retry-After", "-1", None),
    ],
)
def test_variants_of_the_header_order_a_wait(name: str, value: str, seconds: float | None) -> None:
    assert wait_of((name, value)) == seconds


def test_longest_of_several_headers_counts() -> None:
    assert wait_of(("Retry-After", "2"), ("Retry-After-Ms", "1500"), ("X-Retry-After", "nonsense")) == 2


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        (b'{"message": "You are being rate limited.", "retry_after": 64.57, "global": false}', 64.57),
        (b'{"ok": false, "error_code": 429, "parameters": {"retry_after": 35}}', 35),
        (b'{"retry_after_ms": 1500}', 1.5),
        (b'{"error": {"retryAfter": "30"}}', 30),
        (b'{"retryAfter": "2026-01-01T00:00:30Z"}', 30),
        (b'{"retry_after": 1767225630}', 30),
        (b'{"error": {"details": [{"@type": "RetryInfo", "retryDelay": "34.07s"}]}}', 34.07),
        (b'[{"retry_after": 3}, {"retry_after": 5}]', 5),
        (b'{"RetryAfter": 3, "retry-after": "2 seconds", "retryAfterMilliseconds": 1500}', 3),
        (b'{"error": {"retry_after_seconds": 7}}', 7),
        (b'{"retry_after": 0}', None),
        (b'{"retry_after": -5}', None),
        (b'{"retry_after": true}', None),
        (b'{"retry_after": null}', None),
        (b'{"retry_after": 1e300}', None),
        (b'{"retry_after": ' + b"9" * 5000 + b"}", None),
        (b'{"retry_after": "later"}', None),
        (b'{"message": "retry_after 5"}', None),
        (b"retry_after: 5", None),
        (b'"retry_after"', None),
    ],
)
def test_body_of_an_error_orders_a_wait(body: bytes, seconds: float | None) -> None:
    assert wait_of(body=body) == seconds


def test_no_header_orders_no_wait() -> None:
    assert parse() is None


@pytest.mark.parametrize(
    "digits",
    [
        1_000_000,
        9_999_999_999,
        pytest.param(10**10),
        pytest.param(10**15),
    ],
)
def test_huge_wait_is_returned_unclamped(digits: int) -> None:
    assert parse(str(digits)) == digits


@often
@given(
    values=st.lists(
        st.text(max_size=30)
        | st.text(alphabet="0123456789.,-+eE naifGMT:WdJ", max_size=40)
        | st.integers().map(str)
        | st.floats().map(str)
        | st.just("9" * 400),
        max_size=3,
    ),
    date=st.none() | st.text(alphabet="0123456789 :,-+GMTJanThu", max_size=40),
)
def test_garbage_gives_none_or_a_positive_finite_wait(values: list[str], date: str | None) -> None:
    seconds = parse(*values, date=date)

    assert seconds is None or (0 < seconds < math.inf)


@pytest.mark.parametrize(
    "value",
    [
        "Thu, 01 Jan 99999 00:00:00 GMT",
        "Thu, 01 Jan 0000 00:00:00 GMT",
        "Thu, 32 Jan 2026 00:00:00 GMT",
        "Thu, 01 Jan 2026 25:61:61 GMT",
        "Thu, 01 Jan 2026 00:00:00 +999999",
        "Thu, 01 Jan 0001 00:00:00 +2359",
        "Thu, 31 Dec 9999 23:59:59 -2359",
        "1 Jan",
        "(((",
        "Thu, 01 Jan 2026 00:00",
        "\x00",
        "é",
    ],
)
def test_odd_date_does_not_raise(value: str) -> None:
    seconds = parse(value, date=value)

    assert seconds is None or (0 < seconds < math.inf)
