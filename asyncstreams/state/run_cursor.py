"""The cursor format of one run, and slices whose bounds are written in it."""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast
from urllib.parse import unquote

from .._json import as_object
from ..cursors.codecs import is_compact_time
from ..cursors.cursor_format import CursorFormat, InvalidCursorValue
from ..cursors.intervals import Interval, Intervals, Point
from ..declaration.stream import Stream
from ..errors import ConfigError, CursorMismatch
from ..messages import Request, Response
from ..models import Record, Slice, shorten
from ..protocols import Windows
from .stream_state import StreamState, cursor_name

_MAX_VALUES = 1_000
_NUMERIC = {"integer", "number"}
_log = logging.getLogger("asyncstreams")


class RunCursor:
    """How the values of a cursor are read and written in one run.

    The first values decide what the declaration leaves open, and the states keep the decision. Bounds have one form in
    the whole run: that of the values, or of the declaration if they were needed before.
    """

    def __init__(self, stream: Stream, states: Sequence[StreamState], schema: Mapping[str, Any] | None) -> None:
        self.format = states[0].cursor
        self.is_observed = False
        """Whether the first values of the run have been seen."""
        self._stream, self._states = stream, states
        field = stream.resolved.cursor_field
        self.path: Sequence[str] = [field] if isinstance(field, str) else list(field or ())
        self._field = cursor_name(stream.resolved.cursor_field)
        self._declared = _schema_at(schema, self.path)
        self._sent: CursorFormat | None = None
        self._early_slices: list[PlannedSlice] = []  # the first two that needed their bounds before the first value
        self._has_rows = False
        if not self.format.is_decided:
            self.format = self._by_schema() or self.format

    @property
    def is_decided(self) -> bool:
        """Whether the format of values is known."""
        return self.format.is_decided

    def format_to_send(self, stream_slice: PlannedSlice) -> CursorFormat:
        """The format of the bounds of a slice, which is that of all others from now on.

        Raises CursorMismatch if the schema declares numbers, whose unit is not known yet.
        """
        early = self._early_slices
        if not self.is_observed and len(early) < 2 and not any(known is stream_slice for known in early):
            early.append(stream_slice)
        if self._sent is None:
            has_start = not math.isinf(stream_slice.points[0])
            if has_start and not self.format.is_decided and self.format.request is None and self._is_numeric:
                raise CursorMismatch(
                    f"cursor_format: bounds are needed before the first value of {self._field!r} has been seen, and "
                    "the schema declares numbers",
                    hint=_EPOCH_HINT,
                )
            self._sent = self.format
        return self._sent

    @property
    def current_format(self) -> CursorFormat:
        """The format in which bounds would be sent now."""
        return self._sent or self.format

    def observe_page(self, records: Sequence[Record], values: Sequence[Any], response: Response) -> None:
        """Decide the format by the first page with values. Raises CursorMismatch for a page that does not fit it."""
        if self.is_observed or not records:
            return
        # 0 stands for a missing time, and does not show the unit.
        ignored = (None,) if self.is_decided else (None, 0)
        seen = [value for value in values[:_MAX_VALUES] if value not in ignored]
        if not seen:
            self._check_field(records)
            self._has_rows = True
            return
        found = self.format.recognise(seen) or self._undecided().recognise(seen)
        if found is None:
            raise self._unrecognised(seen)
        self._check_sent(found, response)
        self.is_observed = True
        if not self.format.has_seen_values:
            self.format = found
            for state in self._states:
                state.use_cursor(found)
        self._warn_of_dates(response)
        self._warn_of_unit(seen)
        if any(map(self.format.may_be_local, seen)):
            _log.warning(
                "%s: values of %s have no UTC offset and are read as UTC; set cursor_timezone if they are local",
                self._stream.name,
                self._field,
            )

    def _warn_of_dates(self, response: Response) -> None:
        """Warn if times were sent for values that are dates: an API that compares texts takes them for later ones."""
        if self._sent is None or self._sent.is_decided or self._sent.request is not None or not self.format.is_exact:
            return
        if response.context.stream_slice.bounds[0] is not None:
            _log.warning(
                "%s: bounds were sent with a time of day before the first value of %s had been seen, and the values "
                'are dates: set cursor_format = "date", in case the API compares texts',
                self._stream.name,
                self._field,
            )

    def _warn_of_unit(self, seen: Sequence[Any]) -> None:
        """Warn if the values have the size of epochs in another unit than the declared one."""
        declared = self._undecided().format
        if not declared.startswith("epoch"):
            return
        by_size = CursorFormat("auto").recognise(seen)
        if by_size is not None and by_size.format.startswith("epoch") and by_size.format != declared:
            _log.warning(
                "%s: values of %s such as %s have the size of %r, and are read as %r; check cursor_format",
                self._stream.name,
                self._field,
                shorten(repr(seen[0])),
                by_size.format,
                declared,
            )

    def _check_sent(self, found: CursorFormat, response: Response) -> None:
        """Raises CursorMismatch if bounds were sent in ISO 8601 and the values are epochs."""
        if self._sent is None or _are_epochs(self._sent) or not _are_epochs(found):
            return
        has_start = response.context.stream_slice.bounds[0] is not None
        if len(self._early_slices) > 1 or has_start or _mentions_bounds(response):
            raise CursorMismatch(
                f"cursor_format: bounds were sent in ISO 8601 before the first value of {self._field!r} had been seen, "
                "and the values are epochs",
                hint=f'declare the format: cursor_format = "{found.formats[0]}"',
            )
        self._sent = None  # a hook used only the start, which was open

    def _undecided(self) -> CursorFormat:
        """The format as it is declared, without what the schema says."""
        return self._states[0].cursor

    def _by_schema(self) -> CursorFormat | None:
        """The format that the schema declares, or None."""
        formats = {"date": "date", "date-time": "iso"}
        if self._declared is None or _types(self._declared) != {"string"}:
            return None
        name = formats.get(str(_format_of(self._declared)))
        return None if name is None else CursorFormat(name, self.format.zone, self.format.request)

    @property
    def _is_numeric(self) -> bool:
        types = set[str]() if self._declared is None else _types(self._declared)
        return bool(types) and types <= _NUMERIC

    def _check_field(self, records: Sequence[Record]) -> None:
        """Raises CursorMismatch if the first rows of the run do not have the field at all."""
        if self._has_rows or self._declared is not None or self.format.has_seen_values:
            return
        if any(_has_path(record, self.path) for record in records):
            return
        names = {str(name) for record in records[:_MAX_VALUES] for name in record}
        close = difflib.get_close_matches(self.path[0], sorted(names), 1, 0.6)
        suggestion = f"did you mean {close[0]!r}? " if close else ""
        path = tuple(self.path[0].split("."))
        if len(self.path) == 1 and len(path) > 1 and any(_has_path(record, path) for record in records):
            suggestion = f"a field within another is a path: cursor_field = {path!r}; "
        raise CursorMismatch(
            f"cursor_field = {self._field!r}: no record of the first page has this field ({len(records):,} seen)",
            hint=f"{suggestion}if the API leaves the field out of some records, declare it in the schema",
        )

    def _unrecognised(self, seen: Sequence[Any]) -> CursorMismatch:
        if self._undecided().is_decided:
            try:
                self.format.point(seen[0])
                problem = ""
            except InvalidCursorValue as error:
                problem = str(error)
            return CursorMismatch(
                f"cursor_format = {self._shown_format()}: none of the {len(seen):,} values of {self._field!r} on the "
                f"first page is in this format; the first one is {problem}",
                hint='declare the format that the API writes, or remove cursor_format so that it is "auto"'
                if self._undecided().is_time
                else "for times, set windows = TimeWindows(start=..., step=...)",
            )
        if any(map(is_compact_time, seen)):
            return CursorMismatch(
                f"cursor_format: values of {self._field!r} look like dates without separators",
                hint='declare the pattern, such as cursor_format = "%Y%m%d%H%M%S"',
            )
        if any(isinstance(value, int | float) and not isinstance(value, bool) for value in seen):
            return CursorMismatch(
                f"cursor_format: the values of {self._field!r} are numbers, and too small for times",
                hint='for growing ids, set cursor_format = "number" and windows = NumberRanges(step=...); for times, '
                'a pattern such as cursor_format = "%Y%m%d"',
            )
        kinds = ", ".join(sorted({type(value).__name__ for value in seen}))
        return CursorMismatch(
            f"cursor_format: the values of {self._field!r}, of type {kinds}, are neither in ISO 8601 nor epochs",
            hint='declare the format that the API writes, such as cursor_format = "%d.%m.%Y %H:%M"',
        )

    def _shown_format(self) -> str:
        records = self._undecided().records
        return repr(records) if isinstance(records, str) else ", ".join(map(repr, records))


class IntervalSlice(Slice):
    """A slice whose interval is known exactly, as `points`, whatever the precision of its bounds.

    `done` is what had been read of the partition when the slice was made. No window follows one that `is_last`.
    `range_start` is the start of the range that ends with this slice, if the cursor grows without end.
    """

    __slots__ = ("done", "is_last", "points", "range_start")

    def __init__(
        self,
        partition: Mapping[str, Any],
        points: Interval,
        done: Intervals,
        interval: tuple[Any, Any] | None = None,
        bounds: tuple[Any, Any] | None = None,
        *,
        labels: Mapping[str, Any],
        is_last: bool = False,
        range_start: Point | None = None,
    ) -> None:
        super().__init__(partition, interval, bounds=bounds, labels=labels)
        self.points, self.done, self.is_last, self.range_start = points, done, is_last, range_start

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore_slice, (self.partition, self.interval, self.bounds, self.labels)


class PlannedSlice(IntervalSlice):
    """A slice whose bounds are written when they are first used, so that they follow the values seen until then."""

    __slots__ = ("_cursor", "_windows")

    def __init__(
        self,
        stream_slice: Slice,
        points: Interval,
        windows: Windows,
        cursor: RunCursor,
        done: Intervals,
        *,
        is_last: bool = False,
        range_start: Point | None = None,
    ) -> None:
        partition, labels = stream_slice.partition, stream_slice.labels
        super().__init__(partition, points, done, labels=labels, is_last=is_last, range_start=range_start)
        self._windows, self._cursor = windows, cursor

    @property
    def interval(self) -> tuple[Any, Any]:
        """The half-open range of cursor values."""
        return _written(self._cursor.format_to_send(self), self.points)

    @property
    def bounds(self) -> tuple[Any, Any]:
        """The values to request from the API."""
        cursor = self._cursor.format_to_send(self)
        return _written(cursor, self._windows.query_bounds(cursor, self.points))

    @property
    def has_interval(self) -> bool:
        """True."""
        return True

    def shown_interval(self) -> tuple[Any, Any]:
        """The interval for messages."""
        return _written(self._cursor.current_format, self.points)

    def __reduce__(self) -> tuple[Any, ...]:
        cursor = self._cursor.current_format
        bounds = _written(cursor, self._windows.query_bounds(cursor, self.points))
        return _restore_slice, (self.partition, self.shown_interval(), bounds, self.labels)


def _written(cursor: CursorFormat, points: tuple[Point, Point]) -> tuple[Any, Any]:
    """The values of two points, which enclose them if the format is coarser; None for an open bound."""
    start, end = cursor.floor(points[0]), cursor.ceil(points[1])
    return None if math.isinf(start) else cursor.value(start), None if math.isinf(end) else cursor.value(end)


def _restore_slice(
    partition: Mapping[str, Any], interval: tuple[Any, Any], bounds: tuple[Any, Any], labels: Mapping[str, Any]
) -> Slice:
    return Slice(partition, interval, bounds=bounds, labels=labels)


def points_of(stream_slice: Slice, cursor: CursorFormat) -> tuple[Point, Point]:
    """The interval of a slice as points. Raises ConfigError."""
    if isinstance(stream_slice, IntervalSlice):
        return stream_slice.points
    assert stream_slice.interval is not None
    start, end = stream_slice.interval
    try:
        low = -math.inf if start is None else _point_of_bound(start, cursor)
        high = math.inf if end is None else _point_of_bound(end, cursor)
    except InvalidCursorValue as error:
        raise ConfigError(f"slice {stream_slice!r}: a bound of its interval is {error}").of_data() from None
    return low, high


def _point_of_bound(value: Any, cursor: CursorFormat) -> Point:
    """The point of an author's own bound, which may be in ISO 8601 whatever the format of the values."""
    try:
        return cursor.point(value)
    except InvalidCursorValue:
        if not (cursor.is_time and isinstance(value, str)):
            raise
        return CursorFormat("iso", cursor.zone).point(value)


_EPOCH_HINT = 'declare the format: cursor_format = "epoch" (seconds), "epoch_ms", "epoch_us" or "number"'


def _mentions_bounds(response: Response) -> bool:
    """Whether the request of a response contains the date of a bound."""
    content = response.request.content if isinstance(response.request, Request) else b""
    text = f"{unquote(str(response.request.url))} {content.decode(errors='replace')}"
    dates = [str(bound)[: len("2026-01-31")] for bound in response.context.stream_slice.bounds if bound is not None]
    return any(date in text or date.replace("-", "") in text for date in dates)


def _are_epochs(cursor: CursorFormat) -> bool:
    """Whether bounds are written as epochs, or in an explicit format of requests."""
    return cursor.request is not None or cursor.formats[0].startswith("epoch") or not cursor.is_time


def _has_path(record: Record, path: Sequence[str]) -> bool:
    value: Any = record
    for name in path:
        fields = as_object(value)
        if fields is None or name not in fields:
            return False
        value = fields[name]
    return True


def _schema_at(schema: Mapping[str, Any] | None, path: Sequence[str]) -> Mapping[str, Any] | None:
    """What a schema declares of a field; None if it does not declare it."""
    found: Any = schema
    for name in path:
        fields = as_object(found)
        properties = as_object(fields.get("properties")) if fields is not None else None
        if properties is None or name not in properties:
            return None
        found = properties[name]
    return as_object(found) or {}


def _types(declared: Mapping[str, Any]) -> set[str]:
    """The types that a schema permits, without null."""
    kind = declared.get("type")
    types = {kind} if isinstance(kind, str) else {*map(str, cast(Sequence[object], kind or ()))}
    for option in _options(declared):
        types |= _types(option)
    return types - {"null"}


def _format_of(declared: Mapping[str, Any]) -> object:
    own = declared.get("format")
    return own or next((found for option in _options(declared) if (found := _format_of(option))), None)


def _options(declared: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    options = cast("list[object]", declared.get("anyOf") or declared.get("oneOf") or [])
    return [fields for option in options if (fields := as_object(option)) is not None]
