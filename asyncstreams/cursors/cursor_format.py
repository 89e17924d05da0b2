"""Formats of cursor values, and their order as points on a line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, tzinfo
from typing import Any, cast

from ..errors import ConfigError
from .codecs import (
    CDK_EPOCHS,
    HOUR_US,
    ISO,
    MICROSECOND,
    PER_SECOND,
    SECOND_US,
    AutoCodec,
    Codec,
    DateCodec,
    InvalidCursorValue,
    NumberCodec,
    before_ambiguity,
    codec_for,
    formats_of,
    is_local_time,
    moment_of,
    point_of,
)
from .intervals import Point

__all__ = ["CursorFormat", "InvalidCursorValue"]

_MAX_CLOCK_CHANGE_US = 4 * HOUR_US


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
    _readers: tuple[Codec, ...] = field(init=False, repr=False, compare=False)
    _writer: Codec = field(init=False, repr=False, compare=False)
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
        readers = tuple(codec_for(name) for name in names)
        first = readers[0]
        if len(readers) > 1 and any(isinstance(reader, AutoCodec | NumberCodec) for reader in readers):
            raise ConfigError(
                f'cursor_format: CursorFormat(records={names!r}): "auto" and "number" cannot be combined with others',
                hint="list formats of times, or use one format",
            )
        writer = first if self.request is None else codec_for(self.request)
        if self.request == "auto":
            raise ConfigError(
                'cursor_format: CursorFormat(request="auto"): expected the format in which bounds are sent',
                hint="leave request out, so that bounds are written like the values",
            )
        if isinstance(writer, NumberCodec) != isinstance(first, NumberCodec):
            raise ConfigError(
                f"cursor_format: CursorFormat(records={self.records!r}, request={self.request!r}) mixes times and "
                "numbers",
                hint="use formats of times for both, or of numbers",
            )
        object.__setattr__(self, "records", names[0] if len(names) == 1 else tuple(names))
        formats = tuple(CDK_EPOCHS.get(name, name) for name in names)
        object.__setattr__(self, "formats", formats)
        object.__setattr__(self, "format", formats[0] if len(formats) == 1 else "")
        object.__setattr__(self, "_zone", _time_zone(self.zone) if self.zone else None)
        object.__setattr__(self, "_readers", readers)
        object.__setattr__(self, "_writer", writer)

    @property
    def is_time(self) -> bool:
        """Whether the values are times, so that the clock bounds them."""
        return not isinstance(self._readers[0], NumberCodec)

    @property
    def is_decided(self) -> bool:
        """Whether the format of values is known; not so for "auto" before the first values."""
        return not isinstance(self._readers[0], AutoCodec)

    @property
    def has_seen_values(self) -> bool:
        """Whether bounds are written like values that have been seen."""
        return self._written is not None and self._written[1] is not None

    def point(self, value: Any) -> Point:
        """The point of a value. Raises InvalidCursorValue."""
        if isinstance(value, date):
            moment = value if isinstance(value, datetime) else datetime.combine(value, time())
            return point_of(moment, self._zone)
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
            moment = moment_of(point, self._zone)
            return moment if like.tzinfo else moment.replace(tzinfo=None)
        if isinstance(like, date):
            return moment_of(point, self._zone).date()
        return self._writer.write(point, self._zone, self._like)

    def point_at(self, wall: float) -> Point:
        """The last point not after `wall`, in seconds since 1970, before which no further values are written."""
        now = math.floor(wall * SECOND_US)
        return min(reader.last_complete(now, self._zone) for reader in self._readers)

    def floor(self, point: Point) -> Point:
        """The last point not after this one that can be sent to the API unambiguously."""
        if math.isinf(point):
            return point
        if isinstance(self._writer, NumberCodec):
            # The float after a whole number is where numbers go on after it; as a bound it is the whole number.
            before = math.nextafter(point, -math.inf)
            return before if isinstance(point, float) and before.is_integer() and not point.is_integer() else point
        return min(point, self._writer.floor(math.floor(point), self._zone, self._like))

    def ceil(self, point: Point) -> Point:
        """A point not before this one that can be sent to the API unambiguously: the first one, or one close to it."""
        if math.isinf(point) or isinstance(self._writer, NumberCodec) or self.floor(point) == point:
            return point
        for margin in (0, _MAX_CLOCK_CHANGE_US):
            if (found := self.floor(math.floor(point) + self.unit + margin)) >= point:
                return found
        return point

    def is_ambiguous(self, point: Point) -> bool:
        """Whether the format writes this time and a different one in the same way."""
        return self._zone is not None and self._writer.is_local and before_ambiguity(point, self._zone) != point

    def distance(self, span: timedelta) -> Point:
        """A duration, as a distance between points."""
        return span // MICROSECOND

    @property
    def unit(self) -> Point:
        """The distance between two values that can be sent, but at least one second for times in ISO 8601."""
        return self._writer.unit(self._like)

    @property
    def is_exact(self) -> bool:
        """Whether all values are whole multiples of `unit`: dates, unless values with a time of day have been seen."""
        return all(isinstance(reader, DateCodec) for reader in self._readers) and not self.has_times_of_day

    @property
    def has_times_of_day(self) -> bool:
        """Whether values that are declared as dates have a time of day."""
        written = None if self._written is None else self._written[1]
        return isinstance(self._readers[0], DateCodec) and len(str(written or "")) > len("2026-01-31")

    def may_be_local(self, value: Any) -> bool:
        """Whether a value is a time without UTC offset, which is read as UTC because no time zone is declared."""
        if self._zone is not None:
            return False
        likes = ((name, reader.like(value, None)) for name, reader in zip(self.formats, self._readers, strict=True))
        return next((is_local_time(name, like) for name, like in likes if like is not None), False)

    def stored(self, point: Point) -> Any:
        """A point as a JSON value that does not depend on the format: a number, or a time in ISO 8601 and UTC."""
        return ISO.write(point, None, None) if self.is_time else point

    def point_of_stored(self, value: Any) -> Point:
        """The inverse of `stored`; also reads values in the format. Raises InvalidCursorValue."""
        if self.is_time and isinstance(value, str) and value.endswith("Z"):
            try:
                return ISO.read(value, None)
            except InvalidCursorValue:
                pass
        return self.point(value)

    def recognise(self, values: Sequence[Any]) -> CursorFormat | None:
        """The format after these values have been seen: in "auto" decided, and with the type and precision of bounds.

        None if no value matches, or if most numbers are too small for times.
        """
        if isinstance(self._readers[0], AutoCodec):
            found = formats_of(values)
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
        return self if found is None or name not in PER_SECOND else found._with_written(name, None)

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
        return like if self.request is None or CDK_EPOCHS.get(self.request, self.request) == name else None

    def _with_written(self, name: str, like: Any) -> CursorFormat:
        known = CursorFormat(self.records, self.zone, self.request)
        object.__setattr__(known, "_written", (name, like))
        if self.request is None:
            position = known.formats.index(name)
            object.__setattr__(known, "_writer", known._readers[position])
        return known


def _finest(seen: Sequence[Any]) -> Any:
    """The value with the finest precision: of numbers a float, of texts the longest one in known layout."""
    if any(isinstance(like, float) for like in seen):
        return 0.0
    texts = [like for like in seen if isinstance(like, str)]
    return max(texts, key=len) if texts else seen[0]


def _time_zone(name: str) -> tzinfo:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigError(
            f"cursor_timezone = {name!r}: unknown time zone", hint='use an IANA name such as "Europe/Berlin"'
        ) from None
