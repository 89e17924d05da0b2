"""Waits and retries that a response asks for."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from .._json import as_array, as_object, decode
from ..errors import MalformedJSON
from ..messages import Response

# Lower case. Zendesk, Zoom and others use the first; Azure and OpenAI add those in milliseconds.
_SECONDS_HEADERS = (
    b"retry-after",
    b"x-retry-after",
    b"x-ratelimit-retry-after",
    b"x-rate-limit-retry-after",
    b"ratelimit-retry-after",
)
_MILLISECONDS_HEADERS = (
    b"retry-after-ms",
    b"x-ms-retry-after-ms",
    b"x-retry-after-ms",
    b"x-ratelimit-retry-after-ms",
    b"x-rate-limit-retry-after-ms",
)
# Of Discord, Telegram and Firebase; Google's RetryInfo has a duration. Keys are without case and separators.
_BODY_UNITS_S = {
    "retryafter": 1.0,
    "retryafterseconds": 1.0,
    "retryaftersecs": 1.0,
    "retrydelay": 1.0,
    "retryafterms": 0.001,
    "retryaftermillis": 0.001,
    "retryaftermilliseconds": 0.001,
}
_MAX_BODY_BYTES = 64 * 1024
_MAX_DEPTH, _MAX_ITEMS = 4, 20
_DAY_S, _MAX_NUMBER = 86_400.0, 1e15
_MIN_TIME_S, _MIN_TIME_MS = 1e9, 1e12  # since 1970
_BLANKS_AND_QUOTES = " \t\r\n\"'"

_SECONDS = re.compile(r"[0-9]{1,300}(?:\.[0-9]{1,300})?")
_DURATION = re.compile(
    r"P(?=[0-9T])(?:([0-9]{1,9})D)?(?:T(?=[0-9])(?:([0-9]{1,9})H)?(?:([0-9]{1,9})M)?(?:([0-9]{1,9}(?:[.,][0-9]{1,9})?)S)?)?"
)
# As Go and Google write durations, and people.
_SHORT_DURATION = re.compile(
    r"(?=[0-9])(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9}(?:\.[0-9]{1,9})?) ?s(?:ec(?:ond)?s?)?)?"
    r"(?:([0-9]{1,9}(?:\.[0-9]{1,9})?) ?ms)?"
)


def retry_after(response: Response, wall: float) -> float | None:
    """Seconds of a Retry-After header (RFC 9110, 10.2.3) or one of its variants; None if none orders a wait.

    A value is a number of seconds, a duration such as "1m30s", an HTTP-date, or a date or duration of ISO 8601.
    Headers whose names end in `-ms` have milliseconds. A date is compared with the response's own `Date`, or with
    `wall`, our time in seconds since 1970; so is a number that is a time within 24 hours of it, in seconds or
    milliseconds since 1970. Zero, a past date and a malformed value order no wait. The longest of several values
    counts.
    """
    now: float | None = None
    longest: float | None = None
    for name, value in response.raw_headers:
        lower = name.lower()
        if lower in _SECONDS_HEADERS:
            if now is None:
                now = parse_http_date(response.headers.get("date")) or wall
            wait = _longest_wait(value.decode("utf-8", "replace"), now)
        elif lower in _MILLISECONDS_HEADERS:
            wait = _milliseconds(value)
        else:
            continue
        if wait and (longest is None or wait > longest):
            longest = wait
    return longest


def body_retry_after(response: Response, wall: float) -> float | None:
    """Seconds that the JSON body of an error orders to wait, such as `retry_after`; None if it orders no wait.

    Dates are compared as in `retry_after`, and the longest of several values counts.
    """
    body = response.content if response.has_body else b""
    if not body or len(body) > _MAX_BODY_BYTES:
        return None
    try:
        value = decode(body)
    except MalformedJSON:
        return None
    now = parse_http_date(response.headers.get("date")) or wall
    return max(_body_waits(value, now), default=None)


def _body_waits(value: Any, now: float, depth: int = 0) -> Iterator[float]:
    if depth > _MAX_DEPTH:
        return
    if (items := as_array(value)) is not None:
        for item in items[:_MAX_ITEMS]:
            yield from _body_waits(item, now, depth + 1)
    elif (fields := as_object(value)) is not None:
        for key, child in fields.items():
            unit = _BODY_UNITS_S.get(key.lower().replace("_", "").replace("-", ""))
            if unit is None or isinstance(child, dict | list):
                yield from _body_waits(child, now, depth + 1)
            elif wait := _body_wait(child, now, unit):
                yield wait


def _body_wait(value: Any, now: float, unit: float) -> float | None:
    """Seconds of one value; a number is in `unit`. None if it orders no wait."""
    if isinstance(value, str):
        text = value.strip()
        if not _SECONDS.fullmatch(text):
            return _longest_wait(text, now)
        value = float(text)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _MAX_NUMBER:
        return None
    wait = value * unit if unit < 1 else _seconds(value, now)
    return wait if wait > 0 else None


def _seconds(value: float, now: float) -> float:
    """Seconds of a number: of the time until then, if it is a time near `now`, in (milli)seconds since 1970."""
    time = value / 1000 if value > _MIN_TIME_MS else value
    return time - now if time > _MIN_TIME_S and abs(time - now) <= _DAY_S else value


def _milliseconds(value: bytes) -> float | None:
    parts = value.decode("ascii", "replace").split(",")
    waits = [float(part) / 1000 for part in parts if _SECONDS.fullmatch(part.strip())]
    return max((wait for wait in waits if 0 < wait < math.inf), default=None)


def backoff_seconds(response: Response) -> float | None:
    """Seconds of a `Backoff` header, which Kinto also sends with a 200; None without one."""
    value = response.raw_header(b"backoff")
    return None if value is None else _longest_wait(value.decode("ascii", "replace"), 0.0)


def should_retry(response: Response) -> bool | None:
    """Value of `Stripe-Should-Retry`; None without a valid one."""
    value = response.raw_header(b"stripe-should-retry")
    return None if value is None else {b"true": True, b"false": False}.get(value.strip().lower())


def _longest_wait(value: str, now: float) -> float | None:
    """The longest of the values, which are separated by commas; a date contains a comma itself."""
    waits: list[float] = []
    parts = value.split(",")
    while parts:
        part = parts.pop(0).strip(_BLANKS_AND_QUOTES)
        if _SECONDS.fullmatch(part):
            waits.append(_seconds(float(part), now))
            continue
        if (duration := _iso_duration(part) or _short_duration(part)) is not None:
            waits.append(duration)
            continue
        if part.isalpha() and parts and (date := parse_http_date(f"{part},{parts[0]}")) is not None:
            parts.pop(0)
        else:
            date = parse_iso_date(part) or parse_http_date(part)
        if date is not None:
            waits.append(date - now)
    return max((wait for wait in waits if 0 < wait < math.inf), default=None)


def _iso_duration(text: str) -> float | None:
    """Seconds of an ISO 8601 duration of days and shorter units, such as PT1M30S; None if it is none."""
    match = _DURATION.fullmatch(text)
    if match is None:
        return None
    days, hours, minutes, seconds = (float((part or "0").replace(",", ".")) for part in match.groups())
    return days * _DAY_S + hours * 3600 + minutes * 60 + seconds


def _short_duration(text: str) -> float | None:
    """Seconds of a duration such as 1m30s, 250ms or "30 seconds"; None if it is none."""
    match = _SHORT_DURATION.fullmatch(text)
    if match is None:
        return None
    hours, minutes, seconds, milliseconds = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000


def parse_iso_date(text: str) -> float | None:
    """Seconds since 1970 of an ISO 8601 date and time, in UTC unless it has an offset; None if it is malformed."""
    text = text.strip()
    if len(text) < len("2026-01-01T00:00") or not (text[:4].isdigit() and text.isascii()):
        return None
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def parse_http_date(value: str | None) -> float | None:
    """Seconds since 1970 of an HTTP-date (RFC 9110, 5.6.7) in any of its forms; None if it is malformed."""
    if not value:
        return None
    try:
        date = parsedate_to_datetime(value)
        # All HTTP-dates are GMT, even in the form without a zone (RFC 9110, 5.6.7).
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
