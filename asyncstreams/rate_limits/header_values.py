"""Parsing of quota header values: numbers, lists, durations and timestamps."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import TypeVar

from ..messages import HeaderIndex, RawHeaders
from .retry_after import parse_http_date
from .structured_fields import BareItem

T = TypeVar("T")

ROUNDING_S = 2.0
"""`Date` is truncated to the second and a reset is rounded, possibly by different servers."""
_MAX_TRANSIT_S = 1.0  # of a response
_DAY_S = 86_400.0
_CACHE_SIZE = 64

_NUMBER = re.compile(rb"[0-9]{1,15}(?:\.[0-9]{1,15})?")
_DURATION = re.compile(
    rb"(?=[0-9])(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9}(?:\.[0-9]{1,9})?)s)?(?:([0-9]{1,9})ms)?"
)
# An HTTP-date contains a comma.
_COMMA = re.compile(rb",(?!\s*[0-9]{1,2}[ -][A-Za-z]{3}[ -])")


class ServerClock:
    """Offset of a server's clock; each `Date` gives it to the second, and many narrow it down."""

    def __init__(self) -> None:
        self._offset = -math.inf

    def time_at(self, date: float, wall: float) -> float:
        """The server's time when a response with this `Date` came at our time `wall`; never too late."""
        if wall + self._offset > date + 1 + _MAX_TRANSIT_S:
            self._offset = -math.inf  # one of the clocks was adjusted
        self._offset = max(self._offset, date - wall)
        return wall + self._offset


class ResponseTiming:
    """The headers of a response and the time at which it was sent."""

    __slots__ = ("_date", "_server", "_wall", "raw")

    def __init__(self, raw: RawHeaders, wall: float, date: HeaderIndex | None, server: ServerClock) -> None:
        self.raw, self._wall, self._date, self._server = raw, wall, date, server

    def server_now(self) -> float:
        """The server's time in seconds since 1970, or ours without a `Date`."""
        date = _parse_timestamp(self._date.value(self.raw)) if self._date else None
        return self._wall if date is None else self._server.time_at(date, self._wall)


def non_negative(value: BareItem | None) -> float | None:
    """A number of 0 or more; None for any other bare item."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else None


def parse_number(text: bytes) -> float | None:
    """A decimal number of at most 15 digits before and after the point, which is finite; None otherwise."""
    if text.isdigit() and len(text) <= 15:
        return float(text)
    text = text.strip()
    return float(text) if _NUMBER.fullmatch(text) else None


def split_values(text: bytes) -> list[bytes]:
    return [value.strip() for value in _COMMA.split(text)] if b"," in text else [text]


def value_at(values: Sequence[T], position: int, beside: Sequence[object]) -> T | None:
    """The value at `position`, or the only value; None if there are not as many values as in `beside`."""
    return values[position] if len(values) == len(beside) else values[0] if len(values) == 1 else None


def parse_reset(text: bytes, unit: float, window: float | None, timing: ResponseTiming) -> float | None:
    """Seconds until a reset: a number, a duration such as "6m0s", or a date. None if it is implausible."""
    if (value := parse_number(text)) is not None:
        return seconds_ahead(value * unit, window, timing)
    text = text.strip()
    if match := _DURATION.fullmatch(text):
        hours, minutes, seconds, milliseconds = (float(part or 0) for part in match.groups())
        return _plausible(hours * 3600 + minutes * 60 + seconds + milliseconds / 1000, window)
    moment = _parse_timestamp(text)
    return None if moment is None else _plausible(moment - timing.server_now(), window)


def seconds_ahead(value: float, window: float | None, timing: ResponseTiming) -> float | None:
    """Seconds until a numeric reset: above 1e12 milliseconds since 1970, above 1e9 seconds, otherwise from now."""
    if value > 1e9:
        value = (value / 1000 if value > 1e12 else value) - timing.server_now()
    elif value <= _DAY_S:
        return value
    return _plausible(value, window)


def _plausible(seconds: float, window: float | None) -> float | None:
    longest = _DAY_S if window is None or window < _DAY_S else window
    return max(0.0, seconds) if -ROUNDING_S <= seconds <= longest + ROUNDING_S else None


@lru_cache(_CACHE_SIZE)
def _parse_timestamp(text: bytes) -> float | None:
    """Seconds since 1970 of an HTTP-date or an ISO 8601 date, which is UTC unless it has an offset."""
    try:
        moment = datetime.fromisoformat(text.decode("ascii"))
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return parse_http_date(text.decode("latin-1"))
