"""Formats of cursor values, and their order as points on a line."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Any

from ..errors import ConfigError
from .intervals import Point

_SECOND_US = 1_000_000
_DAY_US = 86_400 * _SECOND_US
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# Without a time zone a day has ended when it has ended everywhere; the last zone is UTC-12.
_WESTERNMOST_OFFSET_US = 12 * 3_600 * _SECOND_US
_UNITS = {"iso": _SECOND_US, "date": _DAY_US, "epoch": 1, "epoch_ms": 1, "number": 1}
_PER_SECOND = {"epoch": 1, "epoch_ms": 1_000}


class InvalidCursorValue(ValueError):
    """A value that does not match the declared format; the message never contains the value."""


@dataclass(frozen=True, slots=True)
class CursorFormat:
    """The format in which an API writes cursor values, which are compared as points on a line.

    `format` is "iso" (ISO 8601, to the second or finer), "date" (2026-01-31), "epoch" or "epoch_ms" (seconds or
    milliseconds since 1970), "number" (such as an id), or a pattern for `strptime`. The point of a time is the number
    of microseconds since 1970 in UTC; epoch values and numbers are their own points.

    `zone` is the IANA time zone of times without a UTC offset. In an hour that occurs twice, each time counts as the
    earlier one, so that records are read again rather than skipped.
    """

    format: str = "iso"
    zone: str | None = None
    _zone: tzinfo | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.format not in _UNITS and "%" not in self.format:
            raise ConfigError(
                f"cursor_format = {self.format!r}: unknown format",
                hint=f'use one of {", ".join(map(repr, _UNITS))}, or a pattern such as "%Y-%m-%d %H:%M:%S"',
            )
        object.__setattr__(self, "_zone", _time_zone(self.zone) if self.zone else None)

    @property
    def is_time(self) -> bool:
        """Whether the values are times, so that the clock bounds them."""
        return self.format != "number"

    def point(self, value: Any) -> Point:
        """The point of a value. Raises InvalidCursorValue; ConfigError for a time without UTC offset and time zone."""
        if isinstance(value, datetime):
            return self._time_point(value)
        if isinstance(value, date):
            return self._time_point(datetime.combine(value, time()))
        if self.format in ("epoch", "epoch_ms", "number"):
            return _number(value)
        if not isinstance(value, str):
            raise InvalidCursorValue(f"of type {type(value).__name__}, not a str in the format {self.format!r}")
        try:
            if self.format in ("iso", "date"):
                moment = datetime.fromisoformat(value)
            else:
                moment = datetime.strptime(value, self.format)  # noqa: DTZ007  # `_time_point` adds the time zone
        except ValueError:
            raise InvalidCursorValue(f"a str that is not in the format {self.format!r}") from None
        return self._time_point(moment)

    def value(self, point: Point, like: Any = None) -> Any:
        """The value of a point in the API's format, or as a datetime or date if `like` is one."""
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

    def point_at(self, wall: float) -> Point:
        """The last point not after `wall`, in seconds since 1970, that the format can write unambiguously."""
        if self.format in _PER_SECOND:
            return math.floor(wall * _PER_SECOND[self.format])
        point = math.floor(wall * _SECOND_US)
        if self.format == "date" and self._zone is None:
            point -= _WESTERNMOST_OFFSET_US
        return self.floor(point)

    def floor(self, point: Point) -> Point:
        """The last point not after this one that the format can write unambiguously."""
        if self.format in ("epoch", "epoch_ms", "number") or math.isinf(point):
            return point
        point = int(point)
        if self.format == "date":
            if self._zone is None:
                return point // _DAY_US * _DAY_US
            local = (_EPOCH + _MICROSECOND * point).astimezone(self._zone)
            return self._time_point(datetime.combine(local.date(), time()))
        if self.format != "iso":
            return self._before_ambiguity(self.point(self.value(point)))
        return self._before_ambiguity(point // _SECOND_US * _SECOND_US)

    def is_ambiguous(self, point: Point) -> bool:
        """Whether the format writes this time and a different one in the same way."""
        return self._zone is not None and self.format not in _PER_SECOND and self._before_ambiguity(point) != point

    def distance(self, span: timedelta) -> Point:
        """A duration, as a distance between points."""
        if self.format in _PER_SECOND:
            return span.total_seconds() * _PER_SECOND[self.format]
        return span // _MICROSECOND

    @property
    def unit(self) -> Point:
        """The smallest distance between two values of the format, but at least one second for times."""
        return _UNITS.get(self.format, _SECOND_US)

    @property
    def is_exact(self) -> bool:
        """Whether all values are whole multiples of `unit`."""
        return self.format in ("date", "epoch", "epoch_ms", "number")

    def _time_point(self, moment: datetime) -> Point:
        if moment.tzinfo is None:
            zone = self._zone
            if zone is None:
                if self.format not in ("date", *_PER_SECOND):
                    raise ConfigError(
                        "cursor_timezone: cursor values have no UTC offset, and their time zone is not declared",
                        hint='set cursor_timezone, such as "UTC" or "Europe/Berlin"',
                    )
                zone = UTC
            moment = moment.replace(tzinfo=zone, fold=0)
        since = (moment - _EPOCH) // _MICROSECOND
        return since * _PER_SECOND[self.format] // _SECOND_US if self.format in _PER_SECOND else since

    def _before_ambiguity(self, point: Point) -> Point:
        """The point itself, or the beginning of the repeated hour in which it lies."""
        if self._zone is None:
            return point
        local = (_EPOCH + _MICROSECOND * int(point)).astimezone(self._zone)
        naive = local.replace(tzinfo=None, fold=0)
        earlier, later = (naive.replace(tzinfo=self._zone, fold=fold) for fold in (0, 1))
        twice = _utc(later) - _utc(earlier)
        if not twice > timedelta(0):
            return point
        # The repeated period begins `twice` before the clocks are set back.
        changed = _clock_change_after(_utc(earlier), self._zone, twice)
        return (changed - twice - _EPOCH) // _MICROSECOND


def _time_zone(name: str) -> tzinfo:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigError(
            f"cursor_timezone = {name!r}: unknown time zone", hint='use an IANA name such as "Europe/Berlin"'
        ) from None


def _clock_change_after(moment: datetime, zone: tzinfo, within: timedelta) -> datetime:
    """When the clocks are set back, at most `within` after `moment`; to the second, by bisection."""
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
    # Python subtracts two times of the same zone without regard to their offsets.
    return moment.astimezone(UTC)


def _number(value: Any) -> Point:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidCursorValue(f"of type {type(value).__name__}, not a finite number")
    return value
