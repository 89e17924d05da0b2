"""Formats of cursor values, and their order as points on a line."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from typing import Any, Protocol, cast

from ..errors import ConfigError
from .intervals import Point

_SECOND_US = 1_000_000
_MINUTE_US = 60 * _SECOND_US
_HOUR_US = 60 * _MINUTE_US
_DAY_US = 24 * _HOUR_US
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FIRST_US = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
_LAST_US = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
# Without a time zone a day has ended when it has ended everywhere; the last zone is UTC-12.
_WESTERNMOST_OFFSET_US = 12 * _HOUR_US
_MAX_CLOCK_CHANGE_US = 4 * _HOUR_US
_PER_SECOND = {"epoch": 1, "epoch_ms": 10**3, "epoch_us": 10**6, "epoch_ns": 10**9}
_MIN_EPOCH = 10**8
_MAX_EPOCH_SECONDS = 10**11
# Many systems write "never" as the end of 9999, which would be in 1978 in the next smaller unit.
_YEAR_9999 = range(253_370_764_800, 253_402_387_200)
_DIGITS = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_COMPACT_TIME = re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])([01]\d|2[0-3])([0-5]\d){2}", re.ASCII)
_LAYOUT = re.compile(
    r"0000(?P<dash>-?)00(?P=dash)00(?:(?P<separator>.)00(?P<colon>:?)00(?P<seconds>(?P=colon)00(?P<fraction>[.,]0+)?)?"
    r"(?P<suffix>Z|[+]00:?00|))?"
)
_ZERO_OFFSET = re.compile(r"[+]00:?00")
_OFFSET = re.compile(r"[+-]\d\d:?\d\d$")
_UTC_SUFFIXES = ("Z", "UTC", "GMT", "+00:00", "+0000")
_DIRECTIVES = (("%f", 1), ("%_ms", 1_000), ("%S", _SECOND_US), ("%M", _MINUTE_US), ("%H", _HOUR_US), ("%I", _HOUR_US))
_DAY_DIRECTIVES = ("%d", "%j", "%u", "%w", "%a", "%A")
_TRIALS = (datetime(2026, 11, 30, 13, 45, 59, tzinfo=UTC), datetime(1999, 2, 7, tzinfo=UTC))
FORMATS = ("auto", "iso", "date", "epoch", "epoch_ms", "epoch_us", "epoch_ns", "number")
_CDK_EPOCHS = {"%s": "epoch", "%ms": "epoch_ms", "%epoch_microseconds": "epoch_us", "%s_as_float": "epoch"}


class InvalidCursorValue(ValueError):
    """A value that does not match the declared format; the message never contains the value."""


@dataclass(frozen=True, slots=True)
class CursorFormat:
    """How an API writes cursor values: in its records, and in what it is asked for.

    `records` is one format or several: "iso" (ISO 8601), "date" (2026-01-31), "epoch", "epoch_ms", "epoch_us" or
    "epoch_ns" (since 1970, as a number or in digits), "number" (such as an id), a pattern for `strptime`, or a code of
    the Airbyte CDK (`%s`, `%s_as_float`, `%ms`, `%epoch_microseconds`; `%_ms` within a pattern). A value is read in the
    first of them that it matches. "auto" reads ISO 8601 and epochs, and decides from the first values.

    `request` is the format of bounds. None: they are written like the values of the records.

    `zone` is the IANA time zone of times without a UTC offset. None: the stream's `cursor_timezone`, or else UTC. In an
    hour that occurs twice, each time counts as the earlier one, so that records are read again rather than skipped.

    Raises ConfigError for an unknown format or time zone, and for a pattern that does not read what it writes.
    """

    # Values are compared as points: microseconds since 1970 in UTC, whatever the format of the time; numbers are their
    # own points. So a format may be decided after the intervals of a run, and may change between two runs.
    records: str | Sequence[str] = "iso"
    zone: str | None = None
    request: str | None = None
    formats: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """The formats of values, with the standard names of epochs."""
    format: str = field(init=False, repr=False, compare=False)
    """The only format of values, or "" if there are several."""
    _zone: tzinfo | None = field(init=False, repr=False, compare=False)
    _readers: tuple[_Codec, ...] = field(init=False, repr=False, compare=False)
    _writer: _Codec = field(init=False, repr=False, compare=False)
    _written: tuple[str, Any] | None = field(init=False, repr=False, default=None)
    """The format of the values seen, and one with zeros for its digits, in their type and precision."""

    def __post_init__(self) -> None:
        given: Any = self.records
        names: list[str] = [given] if isinstance(given, str) else [*given] if isinstance(given, list | tuple) else []
        if not names or not all(isinstance(name, str) for name in (*names, self.request or "")):
            raise ConfigError(
                f"cursor_format: CursorFormat(records={self.records!r}, request={self.request!r}): expected a format, "
                "or a list of formats for records",
                hint='for example CursorFormat(records=("iso", "%s"), request="%Y-%m-%d")',
            )
        readers = tuple(_codec(name) for name in names)
        first = readers[0]
        if len(readers) > 1 and any(isinstance(reader, _Auto | _Number) for reader in readers):
            raise ConfigError(
                f'cursor_format: CursorFormat(records={names!r}): "auto" and "number" cannot be combined with others',
                hint="list formats of times, or use one format",
            )
        writer = first if self.request is None else _codec(self.request)
        if self.request == "auto":
            raise ConfigError(
                'cursor_format: CursorFormat(request="auto"): expected the format in which bounds are sent',
                hint="leave request out, so that bounds are written like the values",
            )
        if isinstance(writer, _Number) != isinstance(first, _Number):
            raise ConfigError(
                f"cursor_format: CursorFormat(records={self.records!r}, request={self.request!r}) mixes times and "
                "numbers",
                hint="use formats of times for both, or of numbers",
            )
        object.__setattr__(self, "records", names[0] if len(names) == 1 else tuple(names))
        formats = tuple(_CDK_EPOCHS.get(name, name) for name in names)
        object.__setattr__(self, "formats", formats)
        object.__setattr__(self, "format", formats[0] if len(formats) == 1 else "")
        object.__setattr__(self, "_zone", _time_zone(self.zone) if self.zone else None)
        object.__setattr__(self, "_readers", readers)
        object.__setattr__(self, "_writer", writer)

    @property
    def is_time(self) -> bool:
        """Whether the values are times, so that the clock bounds them."""
        return not isinstance(self._readers[0], _Number)

    @property
    def is_decided(self) -> bool:
        """Whether the format of values is known; not so for "auto" before the first values."""
        return not isinstance(self._readers[0], _Auto)

    @property
    def has_seen_values(self) -> bool:
        """Whether bounds are written like values that have been seen."""
        return self._written is not None and self._written[1] is not None

    def point(self, value: Any) -> Point:
        """The point of a value. Raises InvalidCursorValue."""
        if isinstance(value, date):
            moment = value if isinstance(value, datetime) else datetime.combine(value, time())
            return _point_of(moment, self._zone)
        for reader in self._readers[:-1]:
            try:
                return reader.read(value, self._zone)
            except InvalidCursorValue:
                continue
        return self._readers[-1].read(value, self._zone)

    def value(self, point: Point, like: Any = None) -> Any:
        """The value of a point as it is sent to the API, or as a datetime or date if `like` is one.

        A point between two values is written as the earlier one; see `ceil`.
        """
        if isinstance(like, datetime):
            moment = _moment(point, self._zone)
            return moment if like.tzinfo else moment.replace(tzinfo=None)
        if isinstance(like, date):
            return _moment(point, self._zone).date()
        return self._writer.write(point, self._zone, self._like)

    def point_at(self, wall: float) -> Point:
        """The last point not after `wall`, in seconds since 1970, before which no further values are written."""
        now = math.floor(wall * _SECOND_US)
        return min(reader.last_complete(now, self._zone) for reader in self._readers)

    def floor(self, point: Point) -> Point:
        """The last point not after this one that can be sent to the API unambiguously."""
        if math.isinf(point):
            return point
        if isinstance(self._writer, _Number):
            # The float after a whole number is where numbers go on after it; as a bound it is the whole number.
            before = math.nextafter(point, -math.inf)
            return before if isinstance(point, float) and before.is_integer() and not point.is_integer() else point
        return min(point, self._writer.floor(math.floor(point), self._zone, self._like))

    def ceil(self, point: Point) -> Point:
        """A point not before this one that can be sent to the API unambiguously: the first one, or one close to it."""
        if math.isinf(point) or isinstance(self._writer, _Number) or self.floor(point) == point:
            return point
        for margin in (0, _MAX_CLOCK_CHANGE_US):
            if (found := self.floor(math.floor(point) + self.unit + margin)) >= point:
                return found
        return point

    def is_ambiguous(self, point: Point) -> bool:
        """Whether the format writes this time and a different one in the same way."""
        return self._zone is not None and self._writer.is_local and _before_ambiguity(point, self._zone) != point

    def distance(self, span: timedelta) -> Point:
        """A duration, as a distance between points."""
        return span // _MICROSECOND

    @property
    def unit(self) -> Point:
        """The distance between two values that can be sent, but at least one second for times in ISO 8601."""
        return self._writer.unit(self._like)

    @property
    def is_exact(self) -> bool:
        """Whether all values are whole multiples of `unit`: dates, unless values with a time of day have been seen."""
        return all(isinstance(reader, _Date) for reader in self._readers) and not self.has_times_of_day

    @property
    def has_times_of_day(self) -> bool:
        """Whether values that are declared as dates have a time of day."""
        written = None if self._written is None else self._written[1]
        return isinstance(self._readers[0], _Date) and len(str(written or "")) > len("2026-01-31")

    def may_be_local(self, value: Any) -> bool:
        """Whether a value is a time without UTC offset, which is read as UTC because no time zone is declared."""
        if self._zone is not None:
            return False
        likes = ((name, reader.like(value, None)) for name, reader in zip(self.formats, self._readers, strict=True))
        return next((_is_local(name, like) for name, like in likes if like is not None), False)

    def stored(self, point: Point) -> Any:
        """A point as a JSON value that does not depend on the format: a number, or a time in ISO 8601 and UTC."""
        return _ISO.write(point, None, None) if self.is_time else point

    def point_of_stored(self, value: Any) -> Point:
        """The inverse of `stored`; also reads values in the format. Raises InvalidCursorValue."""
        if self.is_time and isinstance(value, str) and value.endswith("Z"):
            try:
                return _ISO.read(value, None)
            except InvalidCursorValue:
                pass
        return self.point(value)

    def recognise(self, values: Sequence[Any]) -> CursorFormat | None:
        """The format after these values have been seen: in "auto" decided, and with the type and precision of bounds.

        None if no value matches, or if most numbers are too small for times.
        """
        if isinstance(self._readers[0], _Auto):
            found = _formats_of(values)
            return CursorFormat(found, self.zone, self.request).recognise(values) if found else None
        for name, reader in zip(self.formats, self._readers, strict=True):
            seen = [like for value in values if (like := reader.like(value, self._zone)) is not None]
            if seen:
                return self._with_written(name, _finest(seen))
        return None

    def decided_by_epoch(self, value: Any) -> CursorFormat:
        """The format after "auto" if this value, of another tool's state, is an epoch; its type decides nothing."""
        found = self.recognise([value])
        name = None if found is None else found.formats[0]
        return self if found is None or name not in _PER_SECOND else found._with_written(name, None)

    def redeclared(self, declared: CursorFormat) -> CursorFormat:
        """A declaration with what has been decided and seen in this format, where it still applies."""
        if not declared.is_decided and self.is_decided and self._written is not None:
            return CursorFormat(self.records, declared.zone, declared.request)._with_written(*self._written)
        if self._written is not None and self._written[0] in declared.formats:
            return declared._with_written(*self._written)
        return declared

    def to_json(self) -> Any:
        """The declaration as a JSON value: the format of the values, or an object with that of requests, too."""
        if self.request is None and isinstance(self.records, str):
            return self.records
        records = self.records if isinstance(self.records, str) else list(self.records)
        return {"records": records, "request": self.request}

    def written_to_json(self) -> Any:
        """What has been decided and seen, as a JSON value; None before the first values."""
        return None if self._written is None else {"records": list(self.formats), "written": list(self._written)}

    def with_written_json(self, payload: Mapping[str, Any]) -> CursorFormat:
        """This declaration with a result of `written_to_json`, where it applies. Raises KeyError and ValueError."""
        name, like = cast(Sequence[Any], payload["written"])
        decided = CursorFormat(cast(Sequence[str], payload["records"]), self.zone)
        return decided._with_written(str(name), like).redeclared(self)

    @classmethod
    def from_json(cls, payload: Any, zone: str | None = None) -> CursorFormat:
        """The inverse of `to_json`. Raises ConfigError."""
        if isinstance(payload, Mapping):
            fields = cast(Mapping[str, Any], payload)
            return cls(fields["records"], zone, fields["request"])
        return cls("iso" if payload is None else payload, zone)

    @property
    def _like(self) -> Any:
        if self._written is None:
            return None
        name, like = self._written
        return like if self.request is None or _CDK_EPOCHS.get(self.request, self.request) == name else None

    def _with_written(self, name: str, like: Any) -> CursorFormat:
        known = CursorFormat(self.records, self.zone, self.request)
        object.__setattr__(known, "_written", (name, like))
        if self.request is None:
            position = known.formats.index(name)
            object.__setattr__(known, "_writer", known._readers[position])
        return known


class _Codec(Protocol):
    """Reads and writes the values of one format. `like` is a value seen, with zeros for its digits, or None."""

    is_local: bool
    """Whether times are written in the time zone, without an offset."""

    def read(self, value: Any, zone: tzinfo | None) -> Point: ...

    def write(self, point: Point, zone: tzinfo | None, like: Any) -> Any: ...

    def unit(self, like: Any) -> int: ...

    def floor(self, point: int, zone: tzinfo | None, like: Any) -> Point: ...

    def last_complete(self, now: int, zone: tzinfo | None) -> Point: ...

    def like(self, value: Any, zone: tzinfo | None) -> Any:
        """The value with zeros for its digits; None if it is not of this format. Objects of `date` match each time."""
        ...


class _Iso:
    is_local = True

    def read(self, value: Any, zone: tzinfo | None) -> Point:
        if not isinstance(value, str):
            raise InvalidCursorValue(f"of type {type(value).__name__}, not a str in ISO 8601")
        try:
            moment = datetime.fromisoformat(f"{value[:-1]}Z" if value.endswith("z") else value)
        except ValueError:
            raise InvalidCursorValue("a str that is not in ISO 8601") from None
        return _point_of(moment, zone)

    def write(self, point: Point, zone: tzinfo | None, like: Any) -> Any:
        layout = _LAYOUT.fullmatch(like) if isinstance(like, str) else None
        if layout is None:
            moment = _moment(point, zone).replace(tzinfo=None)
            return moment.isoformat() + ("" if zone else "Z")
        suffix: str = layout["suffix"] or ""
        moment = _moment(point, None if suffix else zone)
        dash, colon, separator = layout["dash"], layout["colon"], layout["separator"]
        text = f"{moment.year:04d}{dash}{moment.month:02d}{dash}{moment.day:02d}"
        if separator is None:
            return text
        text += f"{separator}{moment.hour:02d}{colon}{moment.minute:02d}"
        if layout["seconds"]:
            text += f"{colon}{moment.second:02d}"
        if fraction := layout["fraction"]:
            digits = len(fraction) - 1
            text += fraction[0] + f"{moment.microsecond:06d}".ljust(digits, "0")[:digits]
        return text + suffix

    def unit(self, like: Any) -> int:
        layout = _LAYOUT.fullmatch(like) if isinstance(like, str) else None
        if layout is None or layout["seconds"]:
            return _SECOND_US
        return _MINUTE_US if layout["separator"] else _DAY_US

    def floor(self, point: int, zone: tzinfo | None, like: Any) -> Point:
        unit = self.unit(like)
        if unit == _DAY_US:
            return _start_of_day(point, zone)
        return _before_ambiguity(point // unit * unit, zone)

    def last_complete(self, now: int, zone: tzinfo | None) -> Point:
        return self.floor(now, zone, None)

    def like(self, value: Any, zone: tzinfo | None) -> Any:
        if isinstance(value, date):
            value = value.isoformat()
        if not isinstance(value, str):
            return None
        try:
            self.read(value, zone)
        except InvalidCursorValue:
            return None
        suffix = _OFFSET.search(value) if len(value) > len("2026-01-31") else None
        if suffix is not None and not _ZERO_OFFSET.fullmatch(suffix[0]):
            value = value[: suffix.start()].rstrip() + "Z"
        return _zeros(value)


class _Date(_Iso):
    def write(self, point: Point, zone: tzinfo | None, like: Any) -> Any:
        return super().write(point, zone, like or "0000-00-00")

    def unit(self, like: Any) -> int:
        return _DAY_US

    def last_complete(self, now: int, zone: tzinfo | None) -> Point:
        return _start_of_day(now if zone is not None else now - _WESTERNMOST_OFFSET_US, zone)


class _Epoch:
    is_local = False

    def __init__(self, per_second: int, default: Any) -> None:
        self._per_second, self._default = per_second, default

    def read(self, value: Any, zone: tzinfo | None) -> Point:
        if type(value) is int:
            return value * _SECOND_US // self._per_second
        if type(value) is float and math.isfinite(value):
            return round(value * _SECOND_US / self._per_second)
        if isinstance(value, str) and _DIGITS.fullmatch(value):
            return math.floor(Decimal(value) * _SECOND_US / self._per_second)
        raise InvalidCursorValue(f"of type {type(value).__name__}, not an epoch")

    def write(self, point: Point, zone: tzinfo | None, like: Any) -> Any:
        like = self._default if like is None or isinstance(self._default, float) else like
        if isinstance(like, float):
            return point * self._per_second / _SECOND_US
        if isinstance(like, str) and "." in like:
            return f"{Decimal(point) * self._per_second / _SECOND_US:.{len(like.partition('.')[2])}f}"
        units = math.floor(point) * self._per_second // _SECOND_US
        return str(units) if isinstance(like, str) else units

    def unit(self, like: Any) -> int:
        return max(1, _SECOND_US // self._per_second)

    def floor(self, point: int, zone: tzinfo | None, like: Any) -> Point:
        unit = self.unit(like)
        return point // unit * unit

    def last_complete(self, now: int, zone: tzinfo | None) -> Point:
        return self.floor(now, zone, None)

    def like(self, value: Any, zone: tzinfo | None) -> Any:
        return self._default if isinstance(value, date) else _zero_like(value)


class _Number(_Epoch):
    def __init__(self) -> None:
        super().__init__(1, 0)

    def read(self, value: Any, zone: tzinfo | None) -> Point:
        if type(value) is int or (type(value) is float and math.isfinite(value)):
            return value
        if isinstance(value, str) and _DIGITS.fullmatch(value):
            return float(value) if "." in value else int(value)
        raise InvalidCursorValue(f"of type {type(value).__name__}, not a finite number")

    def write(self, point: Point, zone: tzinfo | None, like: Any) -> Any:
        if isinstance(like, float) or not float(point).is_integer():
            return float(point)
        return str(int(point)) if isinstance(like, str) else int(point)

    def unit(self, like: Any) -> int:
        return 1

    def last_complete(self, now: int, zone: tzinfo | None) -> Point:
        return now / _SECOND_US


class _Pattern:
    """A pattern for `strptime`, in which `%_ms` stands for milliseconds."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._for_reading = pattern.replace("%_ms", "%f")
        self.is_local = "%z" not in pattern
        plain = pattern.replace("%%", "").replace("%c", "%d%S").replace("%X", "%S").replace("%x", "%d")
        units = [unit for directive, unit in _DIRECTIVES if directive in plain]
        has_day = any(directive in plain for directive in _DAY_DIRECTIVES)
        has_month = any(directive in plain for directive in ("%m", "%b", "%B"))
        self._unit = units[0] if units else _DAY_US * (1 if has_day else 31 if has_month else 366)
        for trial in _TRIALS:
            self._check(trial)

    def _check(self, trial: datetime) -> None:
        try:
            read = datetime.strptime(self._write(trial), self._for_reading)  # noqa: DTZ007  # for its year alone
        except (ValueError, IndexError, re.error) as error:
            problem = str(error).partition(" in format")[0]
        else:
            if read.year == trial.year:
                return
            problem = "it has no year"
        raise ConfigError(
            f"cursor_format = {self._pattern!r}: the pattern does not read what it writes: {problem}",
            hint='use directives of strptime, such as "%Y-%m-%d %H:%M:%S"; the codes %s, %ms, %s_as_float and '
            "%epoch_microseconds stand alone",
        )

    def read(self, value: Any, zone: tzinfo | None) -> Point:
        text = str(value) if type(value) is int else value
        if not isinstance(text, str):
            raise InvalidCursorValue(f"of type {type(value).__name__}, not a str in the format {self._pattern!r}")
        try:
            moment = datetime.strptime(text, self._for_reading)  # noqa: DTZ007  # `_point_of` adds the time zone
        except ValueError:
            raise InvalidCursorValue(f"a {type(value).__name__} that is not in the format {self._pattern!r}") from None
        return _point_of(moment, zone)

    def write(self, point: Point, zone: tzinfo | None, like: Any) -> Any:
        text = self._write(_moment(point, zone))
        return int(text) if type(like) is int and text.isdecimal() else text

    def _write(self, moment: datetime) -> str:
        # The C library writes years before 1000 without zeros, which strptime refuses.
        pattern = self._pattern.replace("%_ms", f"{moment.microsecond // 1_000:03d}")
        return moment.strftime(pattern.replace("%Y", f"{moment.year:04d}"))

    def unit(self, like: Any) -> int:
        return self._unit

    def floor(self, point: int, zone: tzinfo | None, like: Any) -> Point:
        floored = self.read(self._write(_moment(point, zone)), zone)
        return _before_ambiguity(floored, zone) if self.is_local else floored

    def last_complete(self, now: int, zone: tzinfo | None) -> Point:
        is_day = self._unit >= _DAY_US and zone is None
        return self.floor(now - _WESTERNMOST_OFFSET_US if is_day else now, zone, None)

    def like(self, value: Any, zone: tzinfo | None) -> Any:
        if isinstance(value, date):
            return ""
        try:
            self.read(value, zone)
        except InvalidCursorValue:
            return None
        return 0 if type(value) is int else ""


class _Auto(_Iso):
    """ISO 8601, and epochs by their magnitude."""

    def read(self, value: Any, zone: tzinfo | None) -> Point:
        name = "epoch" if type(value) is int and value == 0 else _detect(value)
        if name is None:
            raise InvalidCursorValue(f"of type {type(value).__name__}, neither ISO 8601 nor an epoch")
        return _codec(name).read(value, zone)


def _formats_of(values: Sequence[Any]) -> list[str]:
    """The formats of values: ISO 8601, or a date, and the most frequent unit of epochs; the most frequent one first."""
    names = [_detect(value) for value in values]
    small = sum(name is None and type(value) in (int, float) for name, value in zip(names, values, strict=True))
    found = Counter(name for name in names if name is not None)
    if small > sum(found.values()):
        return []
    if {"iso", "date"} <= found.keys():
        found["iso"] += found.pop("date")
    ordered = [name for name, _ in found.most_common()]
    epochs = [name for name in ordered if name.startswith("epoch")]
    return [name for name in ordered if name not in epochs[1:]]


def is_compact_time(value: Any) -> bool:
    """Whether a value looks like 20260131120000, a time without separators."""
    return _COMPACT_TIME.fullmatch(str(value)) is not None


def _detect(value: Any) -> str | None:
    """The format of a value: ISO 8601, or an epoch by its magnitude; None for anything else."""
    if isinstance(value, str):
        if _DIGITS.fullmatch(value) and (name := _epoch_unit(value)) is not None:
            return name
        return None if (like := _ISO.like(value, None)) is None else "date" if len(like) <= len("0000-00-00") else "iso"
    if type(value) is int or (type(value) is float and math.isfinite(value)):
        return _epoch_unit(value)
    return "iso" if isinstance(value, datetime) else "date" if isinstance(value, date) else None


def _epoch_unit(value: float | str) -> str | None:
    """The unit of an epoch between 1973 and 5138, or in 9999; None for smaller numbers, and for 20260131120000."""
    size = abs(int(Decimal(value)))
    if size < _MIN_EPOCH or is_compact_time(value):
        return None
    for name, per_second in _PER_SECOND.items():
        if size < _MAX_EPOCH_SECONDS * per_second or size // per_second in _YEAR_9999:
            return name
    return "epoch_ns"


def _zero_like(value: Any) -> Any:
    if type(value) is int:
        return 0
    if type(value) is float and math.isfinite(value):
        return 0.0
    return _zeros(value.lstrip("-")) if isinstance(value, str) and _DIGITS.fullmatch(value) else None


def _zeros(text: str) -> str:
    return re.sub(r"[0-9]", "0", text)


def _finest(seen: Sequence[Any]) -> Any:
    """The value with the finest precision: of numbers a float, of texts the longest one in known layout."""
    if any(isinstance(like, float) for like in seen):
        return 0.0
    texts = [like for like in seen if isinstance(like, str)]
    return max(texts, key=len) if texts else seen[0]


def _is_local(name: str, like: Any) -> bool:
    """Whether values like this one are times without a UTC offset."""
    if name == "iso":
        layout = _LAYOUT.fullmatch(like) if isinstance(like, str) else None
        return layout is not None and bool(layout["separator"]) and not layout["suffix"]
    has_zone = "%z" in name or "%Z" in name or name.endswith(_UTC_SUFFIXES)
    return "%" in name and not has_zone and _codec(name).unit(None) < _DAY_US


def _codec(name: str) -> _Codec:
    if name in _CODECS:
        return _CODECS[name]
    if "%" not in name:
        raise ConfigError(
            f"cursor_format = {name!r}: unknown format",
            hint=f'use one of {", ".join(map(repr, FORMATS))}, or a pattern such as "%Y-%m-%d %H:%M:%S"',
        )
    return _CODECS.setdefault(name, _Pattern(name))


def _point_of(moment: datetime, zone: tzinfo | None) -> int:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone or UTC, fold=0)
    return (moment - _EPOCH) // _MICROSECOND


def _moment(point: Point, zone: tzinfo | None) -> datetime:
    """The time of a point, within the years 1 to 9999; at their ends in UTC."""
    moment = _EPOCH + _MICROSECOND * int(min(max(point, _FIRST_US), _LAST_US))
    try:
        return moment if zone is None else moment.astimezone(zone)
    except OverflowError:
        return moment


def _start_of_day(point: int, zone: tzinfo | None) -> Point:
    if zone is None:
        return point // _DAY_US * _DAY_US
    return _point_of(datetime.combine(_moment(point, zone).date(), time()), zone)


def _time_zone(name: str) -> tzinfo:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigError(
            f"cursor_timezone = {name!r}: unknown time zone", hint='use an IANA name such as "Europe/Berlin"'
        ) from None


def _before_ambiguity(point: Point, zone: tzinfo | None) -> Point:
    """The point itself, or the beginning of the repeated hour in which it lies."""
    if zone is None or not _FIRST_US + 2 * _DAY_US < point < _LAST_US - 2 * _DAY_US:
        return point
    local = _moment(point, zone)
    naive = local.replace(tzinfo=None, fold=0)
    earlier, later = (naive.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    twice = _utc(later) - _utc(earlier)
    if not twice > timedelta(0):
        return point
    # The repeated period begins `twice` before the clocks are set back.
    changed = _clock_change_after(_utc(earlier), zone, twice)
    return (changed - twice - _EPOCH) // _MICROSECOND


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


_ISO = _Iso()
_CODECS: dict[str, _Codec] = {
    "auto": _Auto(),
    "iso": _ISO,
    "date": _Date(),
    **{name: _Epoch(per_second, 0) for name, per_second in _PER_SECOND.items()},
    "number": _Number(),
    **{code: _Epoch(_PER_SECOND[name], 0.0 if "float" in code else 0) for code, name in _CDK_EPOCHS.items()},
}
