"""Codecs of cursor values: how one format reads, writes and rounds points."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from typing import Any, Protocol

from ..errors import ConfigError
from .intervals import Point

SECOND_US = 1_000_000
_MINUTE_US = 60 * SECOND_US
HOUR_US = 60 * _MINUTE_US
_DAY_US = 24 * HOUR_US
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
_FIRST_US = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // MICROSECOND
_LAST_US = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // MICROSECOND
# Without a time zone a day has ended when it has ended everywhere; the last zone is UTC-12.
_WESTERNMOST_OFFSET_US = 12 * HOUR_US
PER_SECOND = {"epoch": 1, "epoch_ms": 10**3, "epoch_us": 10**6, "epoch_ns": 10**9}
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
_DIRECTIVES = (("%f", 1), ("%_ms", 1_000), ("%S", SECOND_US), ("%M", _MINUTE_US), ("%H", HOUR_US), ("%I", HOUR_US))
_DAY_DIRECTIVES = ("%d", "%j", "%u", "%w", "%a", "%A")
_TRIALS = (datetime(2026, 11, 30, 13, 45, 59, tzinfo=UTC), datetime(1999, 2, 7, tzinfo=UTC))
FORMATS = ("auto", "iso", "date", "epoch", "epoch_ms", "epoch_us", "epoch_ns", "number")
CDK_EPOCHS = {"%s": "epoch", "%ms": "epoch_ms", "%epoch_microseconds": "epoch_us", "%s_as_float": "epoch"}


class InvalidCursorValue(ValueError):
    """A value that does not match the declared format; the message never contains the value."""


class Codec(Protocol):
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


class IsoCodec:
    """Times in ISO 8601."""

    is_local = True

    def read(self, value: Any, zone: tzinfo | None) -> Point:
        if not isinstance(value, str):
            raise InvalidCursorValue(f"of type {type(value).__name__}, not a str in ISO 8601")
        try:
            moment = datetime.fromisoformat(f"{value[:-1]}Z" if value.endswith("z") else value)
        except ValueError:
            raise InvalidCursorValue("a str that is not in ISO 8601") from None
        return point_of(moment, zone)

    def write(self, point: Point, zone: tzinfo | None, like: Any) -> Any:
        layout = _LAYOUT.fullmatch(like) if isinstance(like, str) else None
        if layout is None:
            moment = moment_of(point, zone).replace(tzinfo=None)
            return moment.isoformat() + ("" if zone else "Z")
        suffix: str = layout["suffix"] or ""
        moment = moment_of(point, None if suffix else zone)
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
            return SECOND_US
        return _MINUTE_US if layout["separator"] else _DAY_US

    def floor(self, point: int, zone: tzinfo | None, like: Any) -> Point:
        unit = self.unit(like)
        if unit == _DAY_US:
            return _start_of_day(point, zone)
        return before_ambiguity(point // unit * unit, zone)

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


class DateCodec(IsoCodec):
    """Dates in ISO 8601."""

    def write(self, point: Point, zone: tzinfo | None, like: Any) -> Any:
        return super().write(point, zone, like or "0000-00-00")

    def unit(self, like: Any) -> int:
        return _DAY_US

    def last_complete(self, now: int, zone: tzinfo | None) -> Point:
        return _start_of_day(now if zone is not None else now - _WESTERNMOST_OFFSET_US, zone)


class EpochCodec:
    """Times since 1970, as a number or in digits."""

    is_local = False

    def __init__(self, per_second: int, default: Any) -> None:
        self._per_second, self._default = per_second, default

    def read(self, value: Any, zone: tzinfo | None) -> Point:
        if type(value) is int:
            return value * SECOND_US // self._per_second
        if type(value) is float and math.isfinite(value):
            return round(value * SECOND_US / self._per_second)
        if isinstance(value, str) and _DIGITS.fullmatch(value):
            return math.floor(Decimal(value) * SECOND_US / self._per_second)
        raise InvalidCursorValue(f"of type {type(value).__name__}, not an epoch")

    def write(self, point: Point, zone: tzinfo | None, like: Any) -> Any:
        like = self._default if like is None or isinstance(self._default, float) else like
        if isinstance(like, float):
            return point * self._per_second / SECOND_US
        if isinstance(like, str) and "." in like:
            return f"{Decimal(point) * self._per_second / SECOND_US:.{len(like.partition('.')[2])}f}"
        units = math.floor(point) * self._per_second // SECOND_US
        return str(units) if isinstance(like, str) else units

    def unit(self, like: Any) -> int:
        return max(1, SECOND_US // self._per_second)

    def floor(self, point: int, zone: tzinfo | None, like: Any) -> Point:
        unit = self.unit(like)
        return point // unit * unit

    def last_complete(self, now: int, zone: tzinfo | None) -> Point:
        return self.floor(now, zone, None)

    def like(self, value: Any, zone: tzinfo | None) -> Any:
        return self._default if isinstance(value, date) else _zero_like(value)


class NumberCodec(EpochCodec):
    """Numbers, which are their own points."""

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
        return now / SECOND_US


class PatternCodec:
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
            moment = datetime.strptime(text, self._for_reading)  # noqa: DTZ007  # `point_of` adds the time zone
        except ValueError:
            raise InvalidCursorValue(f"a {type(value).__name__} that is not in the format {self._pattern!r}") from None
        return point_of(moment, zone)

    def write(self, point: Point, zone: tzinfo | None, like: Any) -> Any:
        text = self._write(moment_of(point, zone))
        return int(text) if type(like) is int and text.isdecimal() else text

    def _write(self, moment: datetime) -> str:
        # The C library writes years before 1000 without zeros, which strptime refuses.
        pattern = self._pattern.replace("%_ms", f"{moment.microsecond // 1_000:03d}")
        return moment.strftime(pattern.replace("%Y", f"{moment.year:04d}"))

    def unit(self, like: Any) -> int:
        return self._unit

    def floor(self, point: int, zone: tzinfo | None, like: Any) -> Point:
        floored = self.read(self._write(moment_of(point, zone)), zone)
        return before_ambiguity(floored, zone) if self.is_local else floored

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


class AutoCodec(IsoCodec):
    """ISO 8601, and epochs by their magnitude."""

    def read(self, value: Any, zone: tzinfo | None) -> Point:
        name = "epoch" if type(value) is int and value == 0 else _detect(value)
        if name is None:
            raise InvalidCursorValue(f"of type {type(value).__name__}, neither ISO 8601 nor an epoch")
        return codec_for(name).read(value, zone)


def formats_of(values: Sequence[Any]) -> list[str]:
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
        return None if (like := ISO.like(value, None)) is None else "date" if len(like) <= len("0000-00-00") else "iso"
    if type(value) is int or (type(value) is float and math.isfinite(value)):
        return _epoch_unit(value)
    return "iso" if isinstance(value, datetime) else "date" if isinstance(value, date) else None


def _epoch_unit(value: float | str) -> str | None:
    """The unit of an epoch between 1973 and 5138, or in 9999; None for smaller numbers, and for 20260131120000."""
    size = abs(int(Decimal(value)))
    if size < _MIN_EPOCH or is_compact_time(value):
        return None
    for name, per_second in PER_SECOND.items():
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


def is_local_time(name: str, like: Any) -> bool:
    """Whether values like this one are times without a UTC offset."""
    if name == "iso":
        layout = _LAYOUT.fullmatch(like) if isinstance(like, str) else None
        return layout is not None and bool(layout["separator"]) and not layout["suffix"]
    has_zone = "%z" in name or "%Z" in name or name.endswith(_UTC_SUFFIXES)
    return "%" in name and not has_zone and codec_for(name).unit(None) < _DAY_US


def codec_for(name: str) -> Codec:
    """The codec of a format. Raises ConfigError."""
    if name in _CODECS:
        return _CODECS[name]
    if "%" not in name:
        raise ConfigError(
            f"cursor_format = {name!r}: unknown format",
            hint=f'use one of {", ".join(map(repr, FORMATS))}, or a pattern such as "%Y-%m-%d %H:%M:%S"',
        )
    return _CODECS.setdefault(name, PatternCodec(name))


def point_of(moment: datetime, zone: tzinfo | None) -> int:
    """The point of a time; without an offset it is in the zone, or in UTC."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone or UTC, fold=0)
    return (moment - _EPOCH) // MICROSECOND


def moment_of(point: Point, zone: tzinfo | None) -> datetime:
    """The time of a point, within the years 1 to 9999; at their ends in UTC."""
    moment = _EPOCH + MICROSECOND * int(min(max(point, _FIRST_US), _LAST_US))
    try:
        return moment if zone is None else moment.astimezone(zone)
    except OverflowError:
        return moment


def _start_of_day(point: int, zone: tzinfo | None) -> Point:
    if zone is None:
        return point // _DAY_US * _DAY_US
    return point_of(datetime.combine(moment_of(point, zone).date(), time()), zone)


def before_ambiguity(point: Point, zone: tzinfo | None) -> Point:
    """The point itself, or the beginning of the repeated hour in which it lies."""
    if zone is None or not _FIRST_US + 2 * _DAY_US < point < _LAST_US - 2 * _DAY_US:
        return point
    local = moment_of(point, zone)
    naive = local.replace(tzinfo=None, fold=0)
    earlier, later = (naive.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    twice = _utc(later) - _utc(earlier)
    if not twice > timedelta(0):
        return point
    # The repeated period begins `twice` before the clocks are set back.
    changed = _clock_change_after(_utc(earlier), zone, twice)
    return (changed - twice - _EPOCH) // MICROSECOND


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


ISO = IsoCodec()
_CODECS: dict[str, Codec] = {
    "auto": AutoCodec(),
    "iso": ISO,
    "date": DateCodec(),
    **{name: EpochCodec(per_second, 0) for name, per_second in PER_SECOND.items()},
    "number": NumberCodec(),
    **{code: EpochCodec(PER_SECOND[name], 0.0 if "float" in code else 0) for code, name in CDK_EPOCHS.items()},
}
