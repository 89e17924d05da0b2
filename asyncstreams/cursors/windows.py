"""Windows and ranges: the intervals in which the range of a cursor is read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Any, Literal, TypeAlias

from ..errors import ConfigError
from .cursor_format import CursorFormat, InvalidCursorValue
from .durations import parse_duration
from .intervals import Interval, Intervals, Point

Bounds: TypeAlias = Literal["[)", "[]", "(]", "()"]
"""Whether the filter of the API includes the two bounds: `[` and `]` include, `(` and `)` exclude."""
_MAX_EPOCH_SECONDS = 10**11
"""Numbers of this size are milliseconds; as seconds they would be in the year 5138."""
_MIN_EPOCH_SECONDS = 10**8
_MAX_ID = 2**63 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class TimeWindows:
    """Time windows of length `step` from `start` to the beginning of the run; without `step`, a single window.

    `lookback` and `settle` are timedeltas, texts such as "P7D" or "12h", or numbers of seconds. Raises ConfigError for
    invalid values.
    """

    start: str | date | datetime | float | None = None
    """Inclusive start of the first window. Times without an offset are in `cursor_timezone`, or else UTC.

    None: no lower bound. Required with `step`.
    """
    step: timedelta | str | float | None = None
    """Length of a window, above 0: a timedelta, an ISO 8601 duration such as "P1M", or a number of s, min, h, d or w
    such as "30d". None: one window from `start` to the end.

    Months and days are those of the calendar, in the offset of `start` or in `cursor_timezone`. All windows are counted
    from `start`: with "P1M" after January 31 they begin on February 28, March 31 and April 30. A plain number has no
    unit and is refused, except with a `start` in epoch seconds: then it is seconds, too.
    """
    lookback: timedelta | str | float = 0
    """How far before the end of the previous run each run reads again, to find late rows; 0 or more.

    Rows that were delivered before are omitted.
    """
    settle: timedelta | str | float = 60
    """How long before the start of the run the last window ends, 0 or more; the next run reads the rest.

    Rows that are being written during the run are therefore not missed.
    """
    bounds: Bounds = "[)"
    """Whether the filter of the API includes its bounds; "[]" if it includes both."""
    end: str | date | datetime | float | None = None
    """Exclusive end of all windows, in the same forms as `start`, and after it. None: each run reads up to its start.

    Later rows are outside of all windows; until then, `settle` applies.
    """

    def __post_init__(self) -> None:
        _check_bounds("TimeWindows", self.bounds)
        self._check_step()
        for name in ("lookback", "settle"):
            if _fixed_length(name, getattr(self, name)) < timedelta(0):
                raise ConfigError(f"{self}: lookback and settle must be durations of at least 0")

    def intervals(self, cursor: CursorFormat, done: Intervals, now: float) -> Iterator[Interval]:
        """The windows to read, in ascending order, given the intervals already read. Raises ConfigError."""
        start, end = self._range(cursor, now)
        for gap in intervals_to_read(cursor, done, Interval(start, end), self.lookback_of(cursor), done.latest, end):
            yield from _split(gap, self._edges(cursor, start, gap))

    def expected_count(self, cursor: CursorFormat, done: Intervals, now: float) -> float:
        """About how many windows `intervals` yields. Raises ConfigError."""
        if self.step is None:
            return 1
        step = cursor.distance(_mean_length(self.step))
        return sum((gap.end - gap.start) / step for gap in done.gaps(*self._range(cursor, now)))

    def end_at(self, cursor: CursorFormat, now: float) -> Point:
        """The exclusive end of the last window: `settle` before `now`, or `end` if that is earlier.

        Raises ConfigError for a cursor of numbers.
        """
        settled = self.settled_at(cursor, now)
        return settled if self.end is None else min(settled, self.limit_of(cursor))

    def settled_at(self, cursor: CursorFormat, now: float) -> Point:
        """The point before which no rows are being written at the time `now`. Raises ConfigError like `end_at`."""
        if not cursor.is_time:
            raise ConfigError(
                "cursor_format = 'number': TimeWindows need a cursor with times",
                hint="set windows = NumberRanges(step=...)",
            )
        return cursor.point_at(now - _fixed_length("settle", self.settle).total_seconds())

    def limit_of(self, cursor: CursorFormat) -> Point:
        """`end` as a point, or infinity: rows from there on belong to no window. Raises ConfigError."""
        return math.inf if self.end is None else self._point("end", self.end, cursor)

    def lookback_of(self, cursor: CursorFormat) -> Point:
        """`lookback` as a distance between points."""
        return cursor.distance(_fixed_length("lookback", self.lookback))

    def query_bounds(self, cursor: CursorFormat, interval: Interval) -> tuple[Point, Point]:
        """The bounds to send to the API, according to `bounds`."""
        return _query_bounds(cursor, interval, self.bounds)

    def _check_step(self) -> None:
        step: Any = self.step
        if step is None:
            return
        if isinstance(step, int | float) and not _is_epoch_seconds(self.start):
            raise ConfigError(
                f"TimeWindows(step={step!r}): a plain number has no unit",
                hint=f'write timedelta(days={step!r}) or timedelta(seconds={step!r}), or a text such as "P1M" or "30d"',
            )
        if self.start is None:
            raise ConfigError(
                "TimeWindows(step=...): start is missing", hint='set the start of the first window: start="2024-01-01"'
            )
        try:
            is_valid = _mean_length(step) > timedelta(0)
        except (ValueError, TypeError, OverflowError):
            is_valid = False
        if not is_valid:
            raise ConfigError(
                f"TimeWindows(step={step!r}): expected a duration above 0",
                hint='for example timedelta(days=30), "30d", or "P1M" for months',
            )

    def _range(self, cursor: CursorFormat, now: float) -> Interval:
        start: Point = -math.inf
        if self.start is not None:
            start = self._point("start", self.start, cursor)
            # Values that are as coarse as the bounds count from their beginning.
            start = cursor.floor(start) if cursor.request is None else start
        if self.end is not None and not start < self.limit_of(cursor):
            raise ConfigError(f"TimeWindows(start={self.start!r}, end={self.end!r}): end must be after start")
        return Interval(start, self.end_at(cursor, now))

    def _point(self, name: str, value: Any, cursor: CursorFormat) -> Point:
        try:
            return cursor.point(_moment(name, value, cursor) if isinstance(value, str | date) else value)
        except InvalidCursorValue as error:
            raise ConfigError(f"TimeWindows({name}={value!r}): {name} is {error}") from None

    def _edges(self, cursor: CursorFormat, start: Point, gap: Interval) -> Iterator[Point]:
        """The starts of windows that lie in a gap, and perhaps some before it."""
        if self.step is None:
            return
        duration = parse_duration(self.step) if isinstance(self.step, str) else None
        if duration is not None and (duration.months or duration.days):
            begin = cursor.value(start, _EPOCH).astimezone(_own_zone(self.start) or cursor.value(start, _EPOCH).tzinfo)
            for moment in duration.moments_after(begin, cursor.value(gap.start, _EPOCH) - begin):
                if (edge := cursor.floor(cursor.point(moment))) >= gap.end:
                    return
                yield edge
            return
        # Windows shorter than the cursor's unit would be empty.
        step = max(cursor.distance(_mean_length(self.step)), cursor.unit)
        number = max(1, math.floor((gap.start - start) / step))
        while (edge := start + number * step) < gap.end:
            yield cursor.floor(edge)
            number += 1


@dataclass(frozen=True, slots=True)
class NumberRanges:
    """Ranges of numbers, such as ids, from `start` (inclusive) to `end` (exclusive). For cursor_format "number".

    Without an `end` the numbers grow: a run reads range after range, each after the last row of the previous one, until
    a range has no rows; then it asks for all that lie beyond, since ids may have gaps. What was seen counts as read,
    and the next run continues after it. With an `end` ranges are read concurrently, and count as read completely.

    Raises ConfigError for invalid values.
    """

    step: float | None = None
    """Length of a range, above 0. None: one range."""
    end: float | None = None
    """Exclusive end of the last range, at least `start`. None: no end."""
    start: float = 0
    """Inclusive start of the first range."""
    bounds: Bounds = "[)"
    """Whether the filter of the API includes its bounds; "[]" if it includes both."""

    def __post_init__(self) -> None:
        _check_bounds("NumberRanges", self.bounds)
        for name, value in (("step", self.step), ("end", self.end), ("start", self.start)):
            if not isinstance(value, int | float) and (value is not None or name == "start"):
                raise ConfigError(
                    f"NumberRanges({name}={value!r}): expected a number",
                    hint="for times, use TimeWindows(start=..., step=...)",
                )
        if self.step is not None and not 0 < self.step < math.inf:
            raise ConfigError(f"{self}: expected a step above 0", hint="for example NumberRanges(step=1000)")
        if not -math.inf < self.start <= self._end or self.end == math.inf:
            raise ConfigError(f"{self}: expected a finite start, and an end of at least start or no end")

    def intervals(self, cursor: CursorFormat, done: Intervals, now: float) -> Iterator[Interval]:
        """The ranges to read, in ascending order, given the intervals already read; without `end` the first new one."""
        for gap in done.gaps(self.start, self._end):
            if self.step is None:
                yield gap
            elif math.isinf(gap.end):
                yield Interval(gap.start, gap.start + self.step)
            else:
                number = max(1, math.floor((gap.start - self.start) / self.step))
                last = math.ceil((gap.end - self.start) / self.step)
                yield from _split(gap, (self.start + index * self.step for index in range(number, last)))

    def expected_count(self, cursor: CursorFormat, done: Intervals, now: float) -> float:
        """About how many ranges `intervals` yields."""
        if self.step is None:
            return 1
        lengths = (gap.end - gap.start for gap in done.gaps(self.start, self._end))
        return sum(1 if math.isinf(length) else length / self.step for length in lengths)

    def end_at(self, cursor: CursorFormat, now: float) -> Point:
        """The exclusive end of the last range; infinity without `end`."""
        return self._end

    def limit_of(self, cursor: CursorFormat) -> Point:
        """The exclusive end of the last range: rows from there on belong to no range."""
        return self._end

    def lookback_of(self, cursor: CursorFormat) -> Point:
        """Always 0: ranges are read once."""
        return 0

    def query_bounds(self, cursor: CursorFormat, interval: Interval) -> tuple[Point, Point]:
        """The bounds to send to the API, according to `bounds`; beyond the last range, the largest 64-bit integer."""
        start, end = _query_bounds(cursor, interval, self.bounds)
        return start, _MAX_ID if self.step is not None and math.isinf(end) else end

    @property
    def _end(self) -> Point:
        return math.inf if self.end is None else self.end


def intervals_to_read(
    cursor: CursorFormat, done: Intervals, within: Interval, lookback: Point, latest: Point | None, run_end: Point
) -> Intervals:
    """The points of an interval that were not read, or that lie within the lookback.

    The lookback begins that distance before `latest`, the end of what earlier runs read. It does not apply if this run
    ends no later.
    """
    unread = Intervals(done.gaps(*within))
    if lookback and latest is not None and latest < run_end:
        unread.add(max(within.start, cursor.floor(latest - lookback)), within.end)
    return unread


def _query_bounds(cursor: CursorFormat, interval: Interval, bounds: Bounds) -> tuple[Point, Point]:
    """The bounds for an API filter, so that it includes all values of the interval, however fine.

    They are wider than the interval where the format writes only coarser values, where a bound is exclusive, or where
    values may lie between the last one that the format writes and the end. The extra records are filtered out.
    """
    start, end = cursor.floor(interval.start), interval.end
    if bounds[0] == "(":
        start = cursor.floor(start - cursor.unit)
    if bounds[1] == "]" and cursor.is_exact and not math.isinf(end):
        return start, cursor.floor(end - 1)
    return start, cursor.ceil(end)


def _split(gap: Interval, edges: Iterable[Point]) -> Iterator[Interval]:
    """Split a gap at the edges that lie in it."""
    start = gap.start
    for edge in edges:
        if start < edge < gap.end:
            yield Interval(start, edge)
            start = edge
    if start < gap.end:
        yield Interval(start, gap.end)


def _mean_length(value: timedelta | str | float) -> timedelta:
    """A duration as a timedelta. Raises ValueError, OverflowError or TypeError."""
    if isinstance(value, str):
        return parse_duration(value).mean_length
    return value if isinstance(value, timedelta) else timedelta(seconds=value)


def _fixed_length(name: str, value: timedelta | str | float) -> timedelta:
    """A duration that does not depend on the calendar. Raises ConfigError."""
    try:
        if isinstance(value, str) and parse_duration(value).months:
            raise ValueError
        return _mean_length(value)
    except (ValueError, TypeError, OverflowError):
        raise ConfigError(
            f"TimeWindows({name}={value!r}): expected a duration without months",
            hint='for example timedelta(days=7), "P7D" or "12h"',
        ) from None


def _is_epoch_seconds(start: object) -> bool:
    return isinstance(start, int | float) and _MIN_EPOCH_SECONDS <= start < _MAX_EPOCH_SECONDS


def _own_zone(start: object) -> tzinfo | None:
    """The UTC offset that a start is written with, or None."""
    if isinstance(start, str):
        start = datetime.fromisoformat(start)
    return start.tzinfo if isinstance(start, datetime) else None


def _moment(name: str, value: str | date, cursor: CursorFormat) -> datetime:
    """A time in ISO 8601, independent of the cursor's format. Without offset and time zone it is in UTC."""
    try:
        moment = datetime.fromisoformat(value if isinstance(value, str) else value.isoformat())
    except ValueError:
        raise ConfigError(
            f"TimeWindows({name}={value!r}): expected a time in ISO 8601",
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
