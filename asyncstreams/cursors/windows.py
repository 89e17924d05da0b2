"""Windows and ranges: the intervals in which the range of a cursor is read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Literal, TypeAlias

from ..errors import ConfigError
from .cursor_format import CursorFormat, InvalidCursorValue
from .intervals import Interval, Intervals, Point

Bounds: TypeAlias = Literal["[)", "[]", "(]", "()"]
"""Whether the filter of the API includes the two bounds: `[` and `]` include, `(` and `)` exclude."""


@dataclass(frozen=True, slots=True)
class TimeWindows:
    """Time windows of length `step` from `start` to the beginning of the run; without `step`, a single window.

    Durations are timedeltas or numbers of seconds. Raises ConfigError for invalid values.
    """

    start: str | date | datetime | float | None = None
    """Inclusive start of the first window. Times without an offset are in `cursor_timezone`, or else UTC.

    None: no lower bound. Required with `step`.
    """
    step: timedelta | float | None = None
    """Length of a window, above 0. None: one window from `start` to the end."""
    lookback: timedelta | float = 0
    """How far before the end of the previous run each run reads again, to find late rows; 0 or more.

    Rows that were delivered before are omitted.
    """
    settle: timedelta | float = 60
    """How long before the start of the run the last window ends, 0 or more; the next run reads the rest.

    Rows that are being written during the run are therefore not missed.
    """
    bounds: Bounds = "[)"
    """Whether the filter of the API includes its bounds; "[]" if it includes both."""

    def __post_init__(self) -> None:
        _check_bounds("TimeWindows", self.bounds)
        if self.step is not None and not _timedelta(self.step) > timedelta(0):
            raise ConfigError(
                f"TimeWindows(step={self.step!r}): expected a duration above 0", hint="for example timedelta(days=30)"
            )
        if self.step is not None and self.start is None:
            raise ConfigError(
                "TimeWindows(step=...): start is missing", hint='set the start of the first window: start="2024-01-01"'
            )
        if _timedelta(self.lookback) < timedelta(0) or _timedelta(self.settle) < timedelta(0):
            raise ConfigError(f"{self}: lookback and settle must be durations of at least 0")

    def intervals(self, cursor: CursorFormat, done: Intervals, now: float) -> Iterator[Interval]:
        """The windows to read, in ascending order, given the intervals already read. Raises ConfigError."""
        start, end = self._start_point(cursor), self.end_at(cursor, now)
        lookback = self.lookback_of(cursor)
        for gap in done.gaps(start, end):
            if lookback and gap.start == done.latest:
                gap = Interval(cursor.floor(max(start, gap.start - lookback)), gap.end)
            yield from _split(gap, self._edges(cursor, start, gap))

    def end_at(self, cursor: CursorFormat, now: float) -> Point:
        """The exclusive end of the last window: `settle` before `now`. Raises ConfigError for a cursor of numbers."""
        if not cursor.is_time:
            raise ConfigError(
                "cursor_format = 'number': TimeWindows need a cursor with times",
                hint="set windows = NumberRanges(step=..., end=...)",
            )
        return cursor.point_at(now - _timedelta(self.settle).total_seconds())

    def lookback_of(self, cursor: CursorFormat) -> Point:
        """`lookback` as a distance between points."""
        return cursor.distance(_timedelta(self.lookback))

    def query_bounds(self, cursor: CursorFormat, interval: Interval) -> tuple[Point, Point]:
        """The bounds to send to the API, according to `bounds`."""
        return _query_bounds(cursor, interval, self.bounds)

    def _start_point(self, cursor: CursorFormat) -> Point:
        if self.start is None:
            return -math.inf
        start: Any = self.start
        if isinstance(start, str | date) and cursor.format != "date":
            start = _start_time(start, cursor)
        try:
            return cursor.floor(cursor.point(start))
        except InvalidCursorValue as error:
            raise ConfigError(f"TimeWindows(start={self.start!r}): start is {error}") from None

    def _edges(self, cursor: CursorFormat, start: Point, gap: Interval) -> Iterator[Point]:
        if self.step is None:
            return
        step = cursor.distance(_timedelta(self.step))
        number = max(1, math.floor((gap.start - start) / step))
        while (edge := start + number * step) < gap.end:
            yield cursor.floor(edge)
            number += 1


@dataclass(frozen=True, slots=True)
class NumberRanges:
    """Ranges of numbers, such as ids, from `start` (inclusive) to `end` (exclusive). For cursor_format "number".

    Raises ConfigError for invalid values.
    """

    step: float
    """Length of a range, above 0."""
    end: float
    """Exclusive end of the last range, at least `start`."""
    start: float = 0
    """Inclusive start of the first range."""
    bounds: Bounds = "[)"
    """Whether the filter of the API includes its bounds; "[]" if it includes both."""

    def __post_init__(self) -> None:
        _check_bounds("NumberRanges", self.bounds)
        if not self.step > 0 or not self.start <= self.end < math.inf:
            raise ConfigError(f"{self}: expected a step above 0 and a finite end of at least start")

    def intervals(self, cursor: CursorFormat, done: Intervals, now: float) -> Iterator[Interval]:
        """The ranges to read, in ascending order, given the intervals already read."""
        for gap in done.gaps(self.start, self.end):
            number = max(1, math.floor((gap.start - self.start) / self.step))
            last = math.ceil((gap.end - self.start) / self.step)
            yield from _split(gap, (self.start + index * self.step for index in range(number, last)))

    def end_at(self, cursor: CursorFormat, now: float) -> Point:
        """The exclusive end of the last range."""
        return self.end

    def lookback_of(self, cursor: CursorFormat) -> Point:
        """Always 0: ranges are read once."""
        return 0

    def query_bounds(self, cursor: CursorFormat, interval: Interval) -> tuple[Point, Point]:
        """The bounds to send to the API, according to `bounds`."""
        return _query_bounds(cursor, interval, self.bounds)


def _query_bounds(cursor: CursorFormat, interval: Interval, bounds: Bounds) -> tuple[Point, Point]:
    """The bounds for an API filter. They are wider if the cursor is not exact; the extra records are filtered out."""
    start, end = interval
    if bounds[0] == "(":
        start = cursor.floor(start - cursor.unit)
    if bounds[1] == "]" and cursor.is_exact:
        end = cursor.floor(end - cursor.unit)
    return start, end


def _split(gap: Interval, edges: Iterable[Point]) -> Iterator[Interval]:
    """Split a gap at the edges that lie in it."""
    start = gap.start
    for edge in edges:
        if start < edge < gap.end:
            yield Interval(start, edge)
            start = edge
    if start < gap.end:
        yield Interval(start, gap.end)


def _timedelta(value: timedelta | float) -> timedelta:
    return value if isinstance(value, timedelta) else timedelta(seconds=value)


def _start_time(start: str | date, cursor: CursorFormat) -> datetime:
    """A start in ISO 8601, independent of the cursor's format. Without offset and time zone it is in UTC."""
    try:
        moment = datetime.fromisoformat(start if isinstance(start, str) else start.isoformat())
    except ValueError:
        raise ConfigError(
            f"TimeWindows(start={start!r}): expected a time in ISO 8601",
            hint='for example "2024-01-31" or "2024-01-31T12:00:00Z"',
        ) from None
    if moment.tzinfo is not None or cursor.zone is not None:
        return moment
    return datetime.fromisoformat(f"{moment.isoformat()}+00:00")


def _check_bounds(class_name: str, bounds: object) -> None:
    if bounds not in ("[)", "[]", "(]", "()"):
        raise ConfigError(
            f"{class_name}(bounds={bounds!r}): expected '[)', '[]', '(]' or '()'",
            hint="use '[]' if the API's filter includes both bounds",
        )
