"""Incremental reads: the range and the intervals of one run."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from ..cursors.cursor_format import CursorFormat, InvalidCursorValue
from ..cursors.intervals import Interval, Intervals, Point
from ..cursors.windows import NumberRanges, TimeWindows, intervals_to_read
from ..declaration.stream import Stream
from ..errors import ConfigError
from ..messages import Response
from ..models import Record, Slice, key_paths
from ..protocols import Windows
from .run_cursor import IntervalSlice, PlannedSlice, RunCursor, points_of
from .stream_state import Partition, StreamState, partition_key

_MAX_USUAL_WINDOWS = 10_000
_log = logging.getLogger("asyncstreams")


class RunRange:
    """The range of a cursor that one run reads: to an end that the declaration, both clocks, and the caller bound.

    Without a state store everything up to now is read, since no later run reads the rest.
    """

    def __init__(
        self, stream: Stream, cursor: RunCursor, now: float, cursor_range: tuple[Any, Any], *, has_state_store: bool
    ) -> None:
        self._cursor, self.now = cursor, now
        declared = stream.resolved.windows
        self.windows: Windows = TimeWindows(settle=60 if has_state_store else 0) if declared is None else declared
        self.end = self.windows.end_at(cursor.format, now)
        """The exclusive end of the range; infinity if the cursor grows without end."""
        self.limit: Point = math.inf
        """Rows from this point on belong to no window."""
        if isinstance(self.windows, TimeWindows | NumberRanges):
            self.limit = self.windows.limit_of(cursor.format)
        self._given = points_of_range(cursor_range, cursor.format)
        self.limit = min(self.limit, self._given.end)
        if not math.isinf(self.end):
            self.end = min(self.end, self._given.end)
        elif isinstance(self.windows, NumberRanges) and self.windows.start < self._given.start:
            self.windows = replace(self.windows, start=self._given.start)  # ranges follow one another from there
        self.latest_end = self.end
        """The end by the format that the first values have shown, and by the server's clock: what is written later may
        lie beyond it."""
        self._has_server_time = False
        self.lookback = self.windows.lookback_of(cursor.format)
        self._settled: Point = math.inf
        self.lookback_start: Point = math.inf
        """The point from which on the next run reads again, to find rows that arrive late."""
        self.future_start: Point = math.inf
        """The point from which on rows have a date in the future."""
        self.narrow(now)

    def narrow(self, now: float) -> None:
        """End the range no later than a run at the time `now` would, by the format of the cursor as it is known."""
        windows, cursor = self.windows, self._cursor.format
        self.latest_end = min(self.latest_end, windows.end_at(cursor, now))
        settled_at = windows.settled_at if isinstance(windows, TimeWindows) else windows.end_at
        self._settled = min(self._settled, settled_at(cursor, now))
        self.lookback_start = cursor.floor(self._settled - self.lookback) if self.lookback else math.inf
        self.future_start = cursor.point_at(self.now)

    def observe_server_time(self, response: Response, *, is_last: bool) -> None:
        """End the range by the server's clock if it is behind ours, by the first response and those of last windows."""
        if not self._has_server_time or is_last:
            self._has_server_time = True
            if (moment := _server_time(response)) is not None and moment + 1 < self.now:
                # Date has a resolution of one second, and the response was created after the run began.
                self.narrow(moment)

    def intervals(self, done: Intervals) -> Iterator[Interval]:
        """The windows to read, in ascending order, given the intervals already read. Raises ConfigError."""
        return self.clip(self.windows.intervals(self._cursor.format, done, self.now))

    def clip(self, intervals: Iterable[Interval]) -> Iterator[Interval]:
        """The parts of ascending intervals that lie in the range that the caller gave."""
        low, high = self._given
        for start, end in intervals:
            if start >= high:
                return
            if max(start, low) < min(end, high):
                yield Interval(max(start, low), min(end, high))

    def stops_at(self, point: Point) -> bool:
        """Whether the caller wants nothing from this point on."""
        return point >= self._given.end

    def grows_to(self, end: Point, done: Intervals) -> bool:
        """Whether the cursor grows without end, and `end` is beyond what has been read."""
        return math.isinf(self.end) and (done.latest is None or end > done.latest)


@dataclass(slots=True)
class _RunPartition:
    """What one run knows of a partition beside its state."""

    read_before: Point | None
    """The end of what earlier runs read, from which the lookback counts; None if there is nothing to read again."""
    is_started: bool = False
    seen_end: Point | None = None
    """How far rows have been seen in a range of a cursor that grows without end."""


class IncrementalPlan:
    """The intervals of a stream's cursor that one run reads, in each partition."""

    def __init__(
        self, stream: Stream, state: StreamState, cursor: RunCursor, run_range: RunRange, *, has_state_store: bool
    ) -> None:
        self.stream, self.state, self.has_state_store = stream, state, has_state_store
        self._run_cursor, self.range = cursor, run_range
        self.path, self.key = cursor.path, key_paths(stream.resolved.primary_key)
        self._partitions: dict[str, _RunPartition] = {}
        self.outside_window = self.left_for_next_run = 0
        """Numbers of rows outside of their windows, and of rows that `settle` leaves for the next run."""
        self._warned: set[str] = set()

    @property
    def cursor(self) -> CursorFormat:
        """The format of cursor values, as far as it is known."""
        return self._run_cursor.format

    @property
    def is_decided(self) -> bool:
        """Whether the format of cursor values is known; until then no progress is recorded."""
        return self._run_cursor.is_decided

    @property
    def left_from(self) -> Any:
        """The cursor value from which on `settle` leaves records for the next run; None if it leaves none."""
        windows, end = self.range.windows, self.range.latest_end
        is_time_left = isinstance(windows, TimeWindows) and self.has_state_store and bool(windows.settle)
        return self.cursor.value(end) if is_time_left and end < self.range.limit else None

    def observe_page(self, records: Sequence[Record], values: Sequence[Any], response: Response) -> None:
        """Decide the format of cursor values by the first page that has some. Raises CursorMismatch."""
        if not self._run_cursor.is_observed:
            self._run_cursor.observe_page(records, values, response)
            self.range.narrow(self.range.now)  # days end later than seconds
            if self.cursor.has_times_of_day:
                self.warn_once(
                    "values of %s have a time of day, so rows of the last day of a window may be missing; set "
                    'cursor_format = CursorFormat(records="iso", request="date")',
                    ".".join(self.path),
                )

    def slices(
        self, stream_slice: Slice, partitions: Sequence[Mapping[str, Any]], *, is_distinct: bool
    ) -> Iterator[Slice]:
        """The slices to read for a slice: what is not read of its interval, or the windows. Raises ConfigError.

        Unless slices are known to be distinct, a partition is read once per run.
        """
        if len(partitions) > 1 and (self.has_state_store or self.state.has_partitions):
            raise ConfigError(
                f"{type(self.stream).__name__}: parent_batch_size cannot be combined with cursor_field, because each "
                "parent has a state of its own",
                hint="remove parent_batch_size or cursor_field",
            )
        progress, lookback = self.state.begin(partitions[0]), self.range.lookback
        if stream_slice.has_interval:
            yield from self._unread_parts(stream_slice, progress)
            return
        if self.has_state_store and not is_distinct:
            known = self._partition(progress)
            if known.is_started:
                return
            known.is_started = True
        done = read = Intervals(progress.done)  # it changes while the windows are made
        if lookback and progress.keeps_lookback:
            read = Intervals([*done, (self.range.end, math.inf)])  # so that windows do not go back once more
        self._check_number_of_windows(done)
        for window in self.range.intervals(read):
            yield self._window(stream_slice, window, done)

    def replacements(self, stream_slice: Slice, parts: Sequence[Slice]) -> Iterator[Slice]:
        """The parts that replace a slice that is too large, with the bounds to send."""
        for part in parts:
            if not part.has_interval or not stream_slice.has_interval:
                yield part
                continue
            (start, end), whole = points_of(part, self.cursor), points_of(stream_slice, self.cursor)
            given, own = part.interval or (None, None), stream_slice.interval or (None, None)
            # The values of a window may be less precise than its points.
            points = Interval(whole[0] if given[0] == own[0] else start, whole[1] if given[1] == own[1] else end)
            like = stream_slice if isinstance(stream_slice, IntervalSlice) and points.end == whole[1] else None
            done = self.state.progress_of(self.stream.partitions_of(part)[0]).done
            is_last = like is not None and like.is_last
            range_start = None if like is None else like.range_start
            yield self._part(part, points, points, done, is_last=is_last, range_start=range_start)

    def next_range(self, stream_slice: Slice, partition: Mapping[str, Any]) -> Slice | None:
        """The range to read after one that has been read, if the cursor grows without end; otherwise None."""
        if not isinstance(stream_slice, IntervalSlice) or stream_slice.range_start is None:
            return None
        start, known = stream_slice.range_start, self._partition(self.state.progress_of(partition))
        seen_end, known.seen_end = known.seen_end, None
        if self.range.stops_at(stream_slice.points.end):
            return None
        if seen_end is None or seen_end <= start:
            # Ids may have gaps that are longer than a range.
            following = self.range.clip([Interval(start, math.inf)])
        else:
            following = self.range.intervals(Intervals([(-math.inf, seen_end)]))
        points = next(following, None)
        return None if points is None else self._window(stream_slice, points, stream_slice.done)

    def observe_seen(self, partition: Mapping[str, Any], seen_end: Point) -> None:
        """Note how far rows have been seen in a range of a cursor that grows without end."""
        known = self._partition(self.state.progress_of(partition))
        known.seen_end = seen_end if known.seen_end is None else max(seen_end, known.seen_end)

    def _partition(self, progress: Partition) -> _RunPartition:
        """What this run knows of a partition."""
        key = partition_key(progress.key)
        if (known := self._partitions.get(key)) is None:
            read_before = None if progress.keeps_lookback else progress.done.latest
            known = self._partitions[key] = _RunPartition(read_before)
        return known

    def _unread_parts(self, stream_slice: Slice, progress: Partition) -> Iterator[Slice]:
        """The parts of an author's interval that are not read, or read again because of the lookback."""
        given, lookback = Interval(*points_of(stream_slice, self.cursor)), self.range.lookback
        done, latest = progress.done, self._partition(progress).read_before if lookback else None
        for points in self.range.clip(intervals_to_read(self.cursor, done, given, lookback, latest, self.range.end)):
            yield self._part(stream_slice, given, points, done)

    def _window(self, stream_slice: Slice, points: Interval, done: Intervals) -> Slice:
        windows, end = self.range.windows, self.range.end
        range_start = points.start if math.isinf(end) and self.range.grows_to(points.end, done) else None
        is_last = points.end >= end
        return PlannedSlice(
            stream_slice, points, windows, self._run_cursor, done, is_last=is_last, range_start=range_start
        )

    def _part(
        self,
        stream_slice: Slice,
        given: Interval,
        points: Interval,
        done: Intervals,
        *,
        is_last: bool = False,
        range_start: Point | None = None,
    ) -> Slice:
        """A part of a slice with the interval `given`, in the types of its values, with the bounds to send."""
        values = stream_slice.interval or (None, None)
        like = next((value for value in values if value is not None), None)
        cursor = self.cursor if self.is_decided else self.cursor.recognise([like]) or self.cursor
        query_points = self.range.windows.query_bounds(cursor, points)
        interval: list[Any] = []
        bounds: list[Any] = []
        for side, is_end in ((0, False), (1, True)):
            is_given = points[side] == given[side]
            value = values[side] if is_given else _value_like(cursor, points[side], like, is_end=is_end)
            interval.append(value)
            if is_given and stream_slice.has_own_bounds:
                bounds.append(stream_slice.bounds[side])
            elif query_points[side] == points[side]:
                bounds.append(value)
            else:
                bounds.append(_value_like(cursor, query_points[side], like, is_end=is_end))
        return IntervalSlice(
            stream_slice.partition,
            points,
            done,
            (interval[0], interval[1]),
            (bounds[0], bounds[1]),
            labels=stream_slice.labels,
            is_last=is_last,
            range_start=range_start,
        )

    def _check_number_of_windows(self, done: Intervals) -> None:
        """Warn if there are very many windows, or no more ranges."""
        windows = self.range.windows
        if isinstance(windows, NumberRanges) and windows.end is not None and done.covers(windows.start, windows.end):
            self.warn_once(
                "all numbers up to windows.end = %s count as read, so nothing is requested; "
                "if the numbers grow, leave out `end`",
                windows.end,
            )
        if not isinstance(windows, TimeWindows | NumberRanges):
            return
        if (count := windows.expected_count(self.cursor, done, self.range.now)) > _MAX_USUAL_WINDOWS:
            self.warn_once(
                "about %s windows are to be read, with at least one request each; a longer step makes fewer of them",
                f"{count:,.0f}",
            )

    def warn_once(self, message: str, *args: object) -> None:
        """Log a warning with the name of the stream, once per message."""
        if message not in self._warned:
            self._warned.add(message)
            _log.warning("%s: " + message, self.stream.name, *args)


def plan_incremental(
    stream: Stream,
    state: Mapping[str, Any],
    now: float,
    *,
    has_state_store: bool,
    state_for_children: StreamState | None = None,
    schema: Mapping[str, Any] | None = None,
    cursor_range: tuple[Any, Any] = (None, None),
) -> IncrementalPlan | None:
    """The plan of a stream with a cursor; None for other streams, and for a state that the author manages.

    Only what lies in `cursor_range` is read. `schema` and the first values decide the format of the cursor, for
    `state_for_children`, too.
    """
    if not stream.resolved.cursor_field or not isinstance(state, StreamState):
        return None
    cursor = RunCursor(stream, [state] if state_for_children is None else [state, state_for_children], schema)
    run_range = RunRange(stream, cursor, now, cursor_range, has_state_store=has_state_store)
    return IncrementalPlan(stream, state, cursor, run_range, has_state_store=has_state_store)


def points_of_range(cursor_range: tuple[Any, Any], cursor: CursorFormat) -> Interval:
    """`since` and `until` of a run as points. Raises ConfigError."""
    points: list[Point] = []
    for name, value, default in zip(("since", "until"), cursor_range, (-math.inf, math.inf), strict=True):
        try:
            if value is None:
                points.append(default)
            elif cursor.is_time:
                points.append(TimeWindows(end=value).limit_of(cursor))
            else:
                points.append(cursor.point(value))
        except (ConfigError, InvalidCursorValue):
            raise ConfigError(
                f"{name}={value!r}: not a value of the cursor",
                hint='pass a time in ISO 8601, such as "2024-01-31" or "2024-01-31T12:00:00Z", or a datetime'
                if cursor.is_time
                else "pass a number",
            ) from None
    since, until = points
    if not since < until:
        raise ConfigError(f"since={cursor_range[0]!r}, until={cursor_range[1]!r}: until must be after since")
    return Interval(since, until)


def _server_time(response: Response) -> float | None:
    """The time of the server's clock, in seconds since 1970; None if the response does not have it."""
    date = response.headers.get("date")
    try:
        return None if date is None else parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError):
        return None


def _value_like(cursor: CursorFormat, point: Point, like: Any, *, is_end: bool) -> Any:
    """The value of a bound in the type of another value; a coarser one encloses the interval."""
    if math.isinf(point):
        return None
    value = cursor.value(point, like)
    if is_end and isinstance(like, date) and cursor.point(value) < point:
        value += timedelta(days=1)
    return value
