"""How are the values of a cursor written, and which of two is the later one?"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ..errors import ConfigError
from .intervals import Point

_SECOND = 1_000_000
_DAY = 86_400 * _SECOND
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# Where no zone is declared a day is over when it is over everywhere: the last zone is UTC-12.
_WEST_OF_ALL = 12 * 3_600 * _SECOND
_UNITS = {"iso": _SECOND, "date": _DAY, "epoch": 1, "epoch_ms": 1, "number": 1}
_PER_SECOND = {"epoch": 1, "epoch_ms": 1_000}


class InvalidCursorValue(ValueError):
    """A value that the declared format does not fit; the text says why, and never the value."""


@dataclass(frozen=True, slots=True)
class CursorFormat:
    """How an API writes the values of a cursor; they are compared as points on a line.

    `format` is "iso" (ISO 8601, to the second or finer), "date" (2026-01-31), "epoch" or "epoch_ms" (numbers of
    seconds and milliseconds), "number" (such as an id), or a pattern for `strptime`. Points of times are microseconds
    since 1970 in UTC, except that those of epochs are what the API writes. `zone` is where times without an offset are
    at home: in an hour that comes twice each counts as the earlier one, so that it is read again rather than skipped.
    """

    format: str = "iso"
    zone: str | None = None
    _zone: tzinfo | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.format not in _UNITS and "%" not in self.format:
            raise ConfigError(
                f"cursor_format = {self.format!r} is none",
                hint=f'one of {", ".join(map(repr, _UNITS))}, or a pattern such as "%Y-%m-%d %H:%M:%S"',
            )
        try:
            object.__setattr__(self, "_zone", ZoneInfo(self.zone) if self.zone else None)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ConfigError(f"cursor_timezone = {self.zone!r} is no zone", hint='such as "Europe/Berlin"') from None

    @property
    def is_time(self) -> bool:
        """Whether a clock tells where the line ends today."""
        return self.format != "number"

    def point(self, value: Any) -> Point:
        """Where a value lies. Raises NotACursor, and ConfigError for a time that has neither an offset nor a zone."""
        if isinstance(value, datetime):
            return self._of_time(value)
        if isinstance(value, date):
            return self._of_time(datetime.combine(value, time()))
        if self.format in ("epoch", "epoch_ms", "number"):
            return _number(value)
        if not isinstance(value, str):
            raise InvalidCursorValue(f"a {type(value).__name__}: a text in the format {self.format!r} is needed")
        try:
            if self.format in ("iso", "date"):
                found = datetime.fromisoformat(value)
            else:
                found = datetime.strptime(value, self.format)  # noqa: DTZ007  # the zone comes in `_of_time`
        except ValueError:
            raise InvalidCursorValue(f"a text that is not in the format {self.format!r}") from None
        return self._of_time(found)

    def value(self, point: Point, like: Any = None) -> Any:
        """How the API writes a point: as a datetime or date where `like` is one."""
        if self.format in ("epoch", "epoch_ms", "number"):
            if isinstance(like, datetime):
                return _EPOCH + timedelta(seconds=point / _PER_SECOND.get(self.format, 1))
            return point
        moment = _EPOCH + _MICROSECOND * int(point)
        if self._zone is not None:
            moment = moment.astimezone(self._zone)
        if isinstance(like, datetime):
            return moment if like.tzinfo else moment.replace(tzinfo=None)
        if isinstance(like, date):
            return moment.date()
        if self.format == "date":
            return moment.date().isoformat()
        if self.format != "iso":
            return moment.strftime(self.format)
        if self._zone is not None:
            return moment.replace(tzinfo=None).isoformat()
        return moment.replace(tzinfo=None).isoformat() + "Z"

    def at(self, wall: float) -> Point:
        """The last bound that is not after a moment, in seconds since 1970, in UTC."""
        if self.format in _PER_SECOND:
            return math.floor(wall * _PER_SECOND[self.format])
        point = math.floor(wall * _SECOND)
        if self.format == "date" and self._zone is None:
            point -= _WEST_OF_ALL
        return self.bound(point)

    def bound(self, point: Point) -> Point:
        """The last point not after this one that the format can write, and that no hour makes ambiguous."""
        if self.format in ("epoch", "epoch_ms", "number") or math.isinf(point):
            return point
        point = int(point)
        if self.format == "date":
            if self._zone is None:
                return point // _DAY * _DAY
            local = (_EPOCH + _MICROSECOND * point).astimezone(self._zone)
            return self._of_time(datetime.combine(local.date(), time()))
        if self.format != "iso":
            return self._before_doubt(self.point(self.value(point)))
        return self._before_doubt(point // _SECOND * _SECOND)

    def is_ambiguous(self, point: Point) -> bool:
        """Whether the API writes this moment as it writes another one."""
        return self._zone is not None and self.format not in _PER_SECOND and self._before_doubt(point) != point

    def distance(self, span: timedelta) -> Point:
        """A duration, as points count it."""
        if self.format in _PER_SECOND:
            return span.total_seconds() * _PER_SECOND[self.format]
        return span // _MICROSECOND

    @property
    def unit(self) -> Point:
        """The least distance between two values that the format can tell apart; a second for finer ones."""
        return _UNITS.get(self.format, _SECOND)

    @property
    def is_exact(self) -> bool:
        """Whether no value lies between two that are a unit apart."""
        return self.format in ("date", "epoch", "epoch_ms", "number")

    def _of_time(self, moment: datetime) -> Point:
        if moment.tzinfo is None:
            zone = self._zone
            if zone is None:
                if self.format not in ("date", *_PER_SECOND):
                    raise ConfigError(
                        "the cursor's times have no offset: where are they at home?",
                        hint='set cursor_timezone, such as "UTC" or "Europe/Berlin"',
                    )
                zone = UTC
            moment = moment.replace(tzinfo=zone, fold=0)
        since = (moment - _EPOCH) // _MICROSECOND
        return since * _PER_SECOND[self.format] // _SECOND if self.format in _PER_SECOND else since

    def _before_doubt(self, point: Point) -> Point:
        """The point itself, or the beginning of the hour that comes twice, in which it lies."""
        if self._zone is None:
            return point
        local = (_EPOCH + _MICROSECOND * int(point)).astimezone(self._zone)
        naive = local.replace(tzinfo=None, fold=0)
        earlier, later = (naive.replace(tzinfo=self._zone, fold=fold) for fold in (0, 1))
        twice = _utc(later) - _utc(earlier)
        if not twice > timedelta(0):
            return point
        # The hour that comes twice begins so much before the clocks are set back.
        changed = _change_after(_utc(earlier), self._zone, twice)
        return (changed - twice - _EPOCH) // _MICROSECOND


def _change_after(moment: datetime, zone: tzinfo, within: timedelta) -> datetime:
    """When the clocks are set back, at most so much after a moment; to the second, by bisection."""
    low, high = moment, moment + within
    before = low.astimezone(zone).utcoffset()
    while high - low > timedelta(seconds=1):
        middle = (low + (high - low) / 2).replace(microsecond=0)
        if middle <= low:
            break
        if middle.astimezone(zone).utcoffset() == before:
            low = middle
        else:
            high = middle
    return high.replace(microsecond=0)


def _utc(moment: datetime) -> datetime:
    # Of two times in one zone Python subtracts what the clocks show.
    return moment.astimezone(UTC)


def _number(value: Any) -> Point:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidCursorValue(f"a {type(value).__name__}: a number is needed")
    return value
