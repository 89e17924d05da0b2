"""What do the values of quota headers say: numbers, several of them, points in time?"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import TypeVar

from ..messages import RawHeaders
from .retry_after import http_date
from .structured_fields import BareItem

T = TypeVar("T")

# A `Date` is cut to the second and a reset is rounded, each by its own server.
ROUNDING = 2.0
_TRAVEL = 1.0  # seconds that a response may be under way
_DAY, _KEPT = 86_400.0, 64

_NUMBER = re.compile(rb"[0-9]{1,15}(?:\.[0-9]{1,15})?")
_DURATION = re.compile(
    rb"(?=[0-9])(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9}(?:\.[0-9]{1,9})?)s)?(?:([0-9]{1,9})ms)?"
)
# A date has a comma of its own.
_COMMA = re.compile(rb",(?!\s*[0-9]{1,2}[ -][A-Za-z]{3}[ -])")


class HeaderIndex:
    """At which places of the headers a name stands: one at least."""

    __slots__ = ("_first", "_more")

    def __init__(self, places: Sequence[int]) -> None:
        self._first, self._more = places[0], tuple(places[1:])

    def text(self, raw: RawHeaders) -> bytes:
        """The value, of several lines joined."""
        text = raw[self._first][1]
        return b", ".join((text, *[raw[place][1] for place in self._more])) if self._more else text


class ServerClock:
    """A server's clock beside ours: each `Date` tells it in whole seconds, many of them tell it closely."""

    def __init__(self) -> None:
        self._ahead = -math.inf

    def at(self, date: float, wall: float) -> float:
        """Its time when a response with this `Date` came at our `wall`: never later than it is."""
        if wall + self._ahead > date + 1 + _TRAVEL:
            self._ahead = -math.inf  # one of the clocks has been set
        self._ahead = max(self._ahead, date - wall)
        return wall + self._ahead


class ResponseTiming:
    """The headers of a response, and when it was sent."""

    __slots__ = ("_date", "_server", "_wall", "raw")

    def __init__(self, raw: RawHeaders, wall: float, date: HeaderIndex | None, server: ServerClock) -> None:
        self.raw, self._wall, self._date, self._server = raw, wall, date, server

    def now(self) -> float:
        """The server's time, else ours."""
        told = _moment(self._date.text(self.raw)) if self._date else None
        return self._wall if told is None else self._server.at(told, self._wall)


def count(value: BareItem | None) -> float | None:
    """A number that is not negative; what else a structured field may hold is None."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else None


def number(text: bytes) -> float | None:
    """Plain digits, with decimals or without; of 15 at most, so that they are finite and exact."""
    if text.isdigit() and len(text) <= 15:
        return float(text)
    text = text.strip()
    return float(text) if _NUMBER.fullmatch(text) else None


def split_values(text: bytes) -> list[bytes]:
    return [value.strip() for value in _COMMA.split(text)] if b"," in text else [text]


def nth(values: Sequence[T], place: int, beside: Sequence[object]) -> T | None:
    """The value that belongs to one of several beside it; None where their numbers do not agree."""
    return values[place] if len(values) == len(beside) else values[0] if len(values) == 1 else None


def resets_in(text: bytes, unit: float, window: float | None, arrival: ResponseTiming) -> float | None:
    """Seconds until what a reset says, in any of its forms."""
    if (value := number(text)) is not None:
        return ahead(value * unit, window, arrival)
    text = text.strip()
    if match := _DURATION.fullmatch(text):
        hours, minutes, seconds, milliseconds = (float(part or 0) for part in match.groups())
        return _plausible(hours * 3600 + minutes * 60 + seconds + milliseconds / 1000, window)
    moment = _moment(text)
    return None if moment is None else _plausible(moment - arrival.now(), window)


def ahead(value: float, window: float | None, arrival: ResponseTiming) -> float | None:
    """Seconds until a number's moment: since 1970 in milliseconds or seconds, or from now."""
    if value > 1e9:
        value = (value / 1000 if value > 1e12 else value) - arrival.now()
    elif value <= _DAY:
        return value
    return _plausible(value, window)


def _plausible(seconds: float, window: float | None) -> float | None:
    longest = _DAY if window is None or window < _DAY else window
    return max(0.0, seconds) if -ROUNDING <= seconds <= longest + ROUNDING else None


@lru_cache(_KEPT)
def _moment(text: bytes) -> float | None:
    """Seconds since 1970 of an HTTP-date or an ISO 8601 one, which is UTC unless it says otherwise."""
    try:
        moment = datetime.fromisoformat(text.decode("ascii"))
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return http_date(text.decode("latin-1"))
