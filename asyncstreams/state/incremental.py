"""Incremental reads: the intervals of one run, and the records that belong to them."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from ..cursors.cursor_format import CursorFormat, InvalidCursorValue
from ..cursors.intervals import Interval, Intervals, Point
from ..cursors.windows import NumberRanges, TimeWindows, intervals_to_read
from ..errors import ConfigError
from ..messages import Response
from ..models import Record, Slice, key_paths, shorten
from ..protocols import Stream, Windows
from .run_cursor import IntervalSlice, PlannedSlice, RunCursor, points_of
from .stream_state import Partition, StateDelta, StreamState, partition_key, row_key, value_at

_MAX_REMEMBERED_ROWS = 50_000
_MAX_USUAL_WINDOWS = 10_000
_log = logging.getLogger("asyncstreams")


class IncrementalPlan:
    """The intervals of a stream's cursor that one run reads, and the end of its range.

    Without a state store everything up to now is read, since no later run reads the rest.
    """

    def __init__(
        self,
        stream: Stream,
        state: StreamState,
        now: float,
        *,
        has_state_store: bool,
        state_for_children: StreamState | None = None,
        schema: Mapping[str, Any] | None = None,
        cursor_range: tuple[Any, Any] = (None, None),
    ) -> None:
        self.stream, self.state, self.now = stream, state, now
        field = stream.cursor_field
        self.path: Sequence[str] = [field] if isinstance(field, str) else list(field or ())
        states = [state] if state_for_children is None else [state, state_for_children]
        self._run_cursor = RunCursor(stream, states, schema, self.path)
        self.has_state_store = has_state_store
        self._started_partitions: set[str] = set()
        declared = stream.windows
        self.windows: Windows = TimeWindows(settle=60 if has_state_store else 0) if declared is None else declared
        self.end = self.windows.end_at(self.cursor, now)
        """The exclusive end of the range; infinity if the cursor grows without end."""
        self.latest_end = self.end
        """The end by the format that the first values have shown, and by the server's clock: what is written later may
        lie beyond it."""
        self.limit: Point = math.inf
        """Rows from this point on belong to no window."""
        if isinstance(self.windows, TimeWindows | NumberRanges):
            self.limit = self.windows.limit_of(self.cursor)
        self._range = points_of_range(cursor_range, self.cursor)
        self.limit = min(self.limit, self._range.end)
        if not math.isinf(self.end):
            self.end = self.latest_end = min(self.end, self._range.end)
        elif isinstance(self.windows, NumberRanges) and self.windows.start < self._range.start:
            self.windows = replace(self.windows, start=self._range.start)  # ranges follow one another from there
        self.outside_window = self.left_for_next_run = 0
        """Numbers of rows outside of their windows, and of rows that `settle` leaves for the next run."""
        self._has_server_time = False
        self._lookback_from: dict[str, Point | None] = {}
        self._seen_ends: dict[str, Point] = {}
        self.lookback = self.windows.lookback_of(self.cursor)
        self._settled: Point = math.inf
        self.lookback_start: Point = math.inf
        """The point from which on the next run reads again, to find rows that arrive late."""
        self.future_start: Point = math.inf
        """The point from which on rows have a date in the future."""
        self._narrow(now)
        self.key = key_paths(stream.primary_key)
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
        is_time_left = isinstance(self.windows, TimeWindows) and self.has_state_store and bool(self.windows.settle)
        return self.cursor.value(self.latest_end) if is_time_left and self.latest_end < self.limit else None

    def observe_page(self, records: Sequence[Record], values: Sequence[Any], response: Response) -> None:
        """Decide the format of cursor values by the first page that has some. Raises CursorMismatch."""
        if not self._run_cursor.is_observed:
            self._run_cursor.observe_page(records, values, response)
            self._narrow(self.now)  # days end later than seconds
            if self.cursor.has_times_of_day:
                self.warn_once(
                    "values of %s have a time of day, so rows of the last day of a window may be missing; set "
                    'cursor_format = CursorFormat(records="iso", request="date")',
                    ".".join(self.path),
                )

    def slices(self, stream_slice: Slice) -> Iterator[Slice]:
        """The slices to read for a slice: what is not read of its interval, or the windows. Raises ConfigError."""
        partitions = self.stream.partitions_of(stream_slice)
        if len(partitions) > 1 and (self.has_state_store or self.state.has_partitions):
            raise ConfigError(
                f"{type(self.stream).__name__}: parent_batch_size cannot be combined with cursor_field, because each "
                "parent has a state of its own",
                hint="remove parent_batch_size or cursor_field",
            )
        progress = self.state.begin(partitions[0])
        key = partition_key(progress.key)
        if stream_slice.has_interval:
            yield from self._unread_parts(stream_slice, key, progress)
            return
        if self.has_state_store:
            # A parent that changes while it is read is delivered twice; its partition is read once per run.
            if key in self._started_partitions:
                return
            self._started_partitions.add(key)
        done = known = Intervals(progress.done)  # it changes while the windows are made
        if self.lookback and progress.keeps_lookback:
            known = Intervals([*done, (self.end, math.inf)])  # so that windows do not go back once more
        self._check_number_of_windows(done)
        for window in self._within_range(self.windows.intervals(self.cursor, known, self.now)):
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
            done = self.state.of(self.stream.partitions_of(part)[0]).partition().done
            is_last = like is not None and like.is_last
            range_start = None if like is None else like.range_start
            yield self._part(part, points, points, done, is_last=is_last, range_start=range_start)

    def next_range(self, stream_slice: Slice, partition: Mapping[str, Any]) -> Slice | None:
        """The range to read after one that has been read, if the cursor grows without end; otherwise None."""
        if not isinstance(stream_slice, IntervalSlice) or stream_slice.range_start is None:
            return None
        start, done = stream_slice.range_start, stream_slice.done
        seen_end = self._seen_ends.pop(partition_key(self.state.of(partition).partition().key), start)
        if stream_slice.points.end >= self._range.end:
            return None
        if seen_end <= start:
            # Ids may have gaps that are longer than a range.
            following: Iterable[Interval] = [Interval(start, math.inf)]
        else:
            following = self.windows.intervals(self.cursor, Intervals([(-math.inf, seen_end)]), self.now)
        points = next(self._within_range(following), None)
        return None if points is None else self._window(stream_slice, points, done)

    def observe_seen(self, partition: Mapping[str, Any], seen_end: Point) -> None:
        """Note how far rows have been seen in a range of a cursor that grows without end."""
        key = partition_key(self.state.of(partition).partition().key)
        self._seen_ends[key] = max(seen_end, self._seen_ends.get(key, seen_end))

    def observe_server_time(self, response: Response, *, is_last: bool) -> None:
        """End the range by the server's clock if it is behind ours, by the first response and those of last windows."""
        if not self._has_server_time or is_last:
            self._has_server_time = True
            if (moment := _server_time(response)) is not None and moment + 1 < self.now:
                # Date has a resolution of one second, and the response was created after the run began.
                self._narrow(moment)

    def _narrow(self, now: float) -> None:
        """End the range no later than a run at the time `now` would."""
        windows, cursor = self.windows, self.cursor
        self.latest_end = min(self.latest_end, windows.end_at(cursor, now))
        settled_at = windows.settled_at if isinstance(windows, TimeWindows) else windows.end_at
        self._settled = min(self._settled, settled_at(cursor, now))
        self.lookback_start = cursor.floor(self._settled - self.lookback) if self.lookback else math.inf
        self.future_start = cursor.point_at(self.now)

    def _unread_parts(self, stream_slice: Slice, key: str, progress: Partition) -> Iterator[Slice]:
        """The parts of an author's interval that are not read, or read again because of the lookback."""
        given = Interval(*points_of(stream_slice, self.cursor))
        done, latest = progress.done, None
        if self.lookback:  # it counts from what earlier runs read
            latest = self._lookback_from.setdefault(key, None if progress.keeps_lookback else done.latest)
        unread = intervals_to_read(self.cursor, done, given, self.lookback, latest, self.end)
        for points in self._within_range(unread):
            yield self._part(stream_slice, given, points, done)

    def _within_range(self, intervals: Iterable[Interval]) -> Iterator[Interval]:
        """The parts of ascending intervals that lie in the range that the caller gave."""
        low, high = self._range
        for start, end in intervals:
            if start >= high:
                return
            if max(start, low) < min(end, high):
                yield Interval(max(start, low), min(end, high))

    def _window(self, stream_slice: Slice, points: Interval, done: Intervals) -> Slice:
        grows = math.isinf(self.end) and (done.latest is None or points.end > done.latest)
        return PlannedSlice(
            stream_slice,
            points,
            self.windows,
            self._run_cursor,
            done,
            is_last=points.end >= self.end,
            range_start=points.start if grows else None,
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
        query_points = self.windows.query_bounds(cursor, points)
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
        windows = self.windows
        if isinstance(windows, NumberRanges) and windows.end is not None and done.covers(windows.start, windows.end):
            self.warn_once(
                "all numbers up to windows.end = %s count as read, so nothing is requested; "
                "if the numbers grow, leave out `end`",
                windows.end,
            )
        if not isinstance(windows, TimeWindows | NumberRanges):
            return
        if (count := windows.expected_count(self.cursor, done, self.now)) > _MAX_USUAL_WINDOWS:
            self.warn_once(
                "about %s windows are to be read, with at least one request each; a longer step makes fewer of them",
                f"{count:,.0f}",
            )

    def warn_once(self, message: str, *args: object) -> None:
        """Log a warning with the name of the stream, once per message."""
        if message not in self._warned:
            self._warned.add(message)
            _log.warning("%s: " + message, self.stream.name, *args)


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


class SliceFilter:
    """Selects the records of one slice of an incremental stream, and reports its progress as state deltas."""

    def __init__(self, plan: IncrementalPlan, stream_slice: Slice, partition: Mapping[str, Any]) -> None:
        self._plan, self._slice, self._partition, self._cursor = plan, stream_slice, partition, plan.cursor
        self._start, self._end = points_of(stream_slice, plan.cursor)
        progress = plan.state.of(partition).partition()
        planned = stream_slice if isinstance(stream_slice, IntervalSlice) else None
        self._done = progress.done if planned is None else planned.done
        # No window follows the last one: records beyond its end have future dates, or are just being written.
        self._is_last = planned is not None and planned.is_last
        self._limit = plan.limit if self._is_last else self._end
        self._done_end = self._end
        latest = progress.done.latest
        self._grows = math.isinf(plan.end) and (latest is None or self._end > latest)
        self._seen_end = self._start
        self._has_rows_inside = False
        self._outside = OutsideRows()
        self._delivered = progress.seen
        self._seen: dict[str, Point] = {}
        self._reached = self._start
        self._since_checkpoint = 0
        self._is_ascending = plan.stream.state_checkpoint_interval is not None
        self._is_started = False

    def filter_page(self, records: list[Record], response: Response) -> list[Record]:
        """The records of a page that belong to the slice and were not delivered before."""
        values = [value_at(record, self._plan.path) for record in records]
        self._plan.observe_page(records, values, response)
        if not self._is_started or self._cursor is not self._plan.cursor:
            self._is_started = True
            self._set_end(response)
        return records if self._passes_unchanged(values) else self._filter_records(records, values)

    def final_delta(self) -> StateDelta | None:
        """The progress to store when the complete slice has been read; None if the format of the cursor is unknown.

        Such a slice had no values. If the API misread its bounds, it may have withheld some.
        """
        if not self._plan.is_decided:
            return None
        end = self._seen_end if self._grows else max(self._start, self._done_end)
        # Before the first row of a cursor without beginning there is nothing to mark.
        return self._delta((0, 0) if math.isinf(end) else (self._start, end))

    def finish(self) -> None:
        """Called when the slice has been read: warns if it had rows, but none of its own."""
        if self._grows and self._has_rows_inside:
            self._plan.observe_seen(self._partition, self._seen_end)
        if self._has_rows_inside or not self._outside.count or self._plan.stream.keep_outside:
            return
        first, last = self._outside.first, self._outside.last
        asked = self._plan.windows.query_bounds(self._cursor, Interval(*points_of(self._slice, self._cursor)))
        if (asked[0] <= first and last <= asked[1]) or self._done.covers(first, last + 1):
            return
        start, end = self._slice.shown_interval() or (None, None)
        self._plan.warn_once(
            "all %d rows of the window from %s to %s lie outside of it and are left out, such as one with %s = %s%s; "
            "check cursor_format and the parameters of the request, or set keep_outside = True to keep such rows",
            self._outside.count,
            start,
            end,
            ".".join(self._plan.path),
            self._outside.example,
            f", read as {self._cursor.stored(self._outside.example_point)}" if self._cursor.is_time else "",
        )

    def next_range(self) -> Slice | None:
        """The range to read after this one, if the cursor grows without end; otherwise None."""
        return self._plan.next_range(self._slice, self._partition)

    def _set_end(self, response: Response) -> None:
        """Determine how far the slice is complete, by its first response or a format that has just been decided."""
        plan, self._cursor = self._plan, self._plan.cursor
        if not plan.has_state_store:
            return
        plan.observe_server_time(response, is_last=self._is_last)
        self._end = min(self._end, plan.latest_end)
        self._done_end = min(self._end, plan.lookback_start)

    def add_page(self, count: int) -> StateDelta | None:
        """Count a page of `count` records; returns a delta when `state_checkpoint_interval` records have been read."""
        interval = self._plan.stream.state_checkpoint_interval
        self._since_checkpoint += count
        reached = min(self._reached, self._done_end)
        if interval is None or not self._is_ascending or self._since_checkpoint < interval or reached <= self._start:
            return None
        if self._cursor.is_ambiguous(reached):
            return None
        self._since_checkpoint = 0
        return self._delta((self._start, reached))

    def _delta(self, done: tuple[Point, Point]) -> StateDelta:
        return StateDelta(self._partition, done, dict(self._seen), keeps_lookback=bool(self._plan.lookback))

    def _passes_unchanged(self, values: list[Any]) -> bool:
        """Whether all records of a page belong to the slice and none has to be remembered, by its extreme values."""
        if not values:
            return True
        if self._delivered or self._is_ascending or not _are_sortable(values, self._cursor):
            return False
        try:
            first, last = self._cursor.point(min(values)), self._cursor.point(max(values))
        except InvalidCursorValue:
            return False
        if not (self._start <= first and last < self._done_end):
            return False
        self._observe_inside(last)
        return True

    def _filter_records(self, records: list[Record], values: list[Any]) -> list[Record]:
        """The records that belong to the slice, checked one by one."""
        kept: list[Record] = []
        points: list[Point] = []
        for record, value in zip(records, values, strict=True):
            point = self._point(value)
            if point is None:
                kept.append(record)
                continue
            is_inside = self._belongs(point)
            if is_inside:
                self._observe_inside(point)
            elif not self._keeps_outside(point, value):
                continue
            if self._already_delivered(record, point):
                continue
            kept.append(record)
            if is_inside:
                points.append(point)
            if point >= self._replay_start(point):
                self._remember(record, point)
        self._advance(points)
        return kept

    def _point(self, value: Any) -> Point | None:
        try:
            return self._cursor.point(value)
        except InvalidCursorValue as error:
            name = ".".join(self._plan.path)
            self._plan.warn_once(
                "records with an invalid cursor value are delivered in every run: %s is %s", name, error
            )
            return None

    def _belongs(self, point: Point) -> bool:
        if self._start <= point < self._end:
            return True
        # Rows beyond the end belong to the next window or the next run, except rows with a future date.
        if point < self._start or point >= self._limit:
            return False
        return not self._plan.has_state_store or point >= self._plan.future_start

    def _observe_inside(self, point: Point) -> None:
        self._has_rows_inside = True
        if self._grows and point >= self._seen_end:
            # Whole numbers have a next one.
            self._seen_end = point + 1 if isinstance(point, int) else math.nextafter(point, math.inf)

    def _keeps_outside(self, point: Point, value: Any) -> bool:
        """Count a record that does not belong to the slice; returns whether it is kept."""
        if self._end <= point < self._limit and not self._plan.stream.keep_outside:
            self._plan.left_for_next_run += 1
            return False
        self._plan.outside_window += 1
        self._outside.add(point, value)
        return self._plan.stream.keep_outside

    def _already_delivered(self, record: Record, point: Point) -> bool:
        return bool(self._delivered) and self._row_id(record, point) in self._delivered

    def _replay_start(self, reached: Point = math.inf) -> Point:
        """The point from which on rows may be read again, once the slice has been read up to `reached`."""
        since = self._done_end if self._plan.has_state_store else math.inf
        return min(reached, since) if self._is_ascending else since

    def _remember(self, record: Record, point: Point) -> None:
        if len(self._seen) < _MAX_REMEMBERED_ROWS:
            self._seen[self._row_id(record, point)] = point
            return
        self._plan.warn_once(
            "more than %d rows must be remembered until the next run; some will be delivered twice",
            _MAX_REMEMBERED_ROWS,
        )

    def _advance(self, points: list[Point]) -> None:
        if not self._is_ascending or not points:
            return
        if points[0] < self._reached or points != sorted(points):
            self._is_ascending = False
            self._plan.warn_once(
                "records are not in ascending order, so the state advances only when a slice is complete"
            )
        self._reached = points[-1]
        # Rows before a checkpoint are not read again.
        since = self._replay_start(self._reached)
        self._seen = {row: point for row, point in self._seen.items() if point >= since}

    def _row_id(self, record: Record, point: Point) -> str:
        return f"{row_key(record, self._plan.key)}@{point}"


class OutsideRows:
    """The number of rows outside of a slice, where they lie, and an example."""

    __slots__ = ("count", "example", "example_point", "first", "last")

    def __init__(self) -> None:
        self.count = 0
        self.example = ""
        self.example_point: Point = 0
        self.first: Point = math.inf
        self.last: Point = -math.inf

    def add(self, point: Point, value: Any) -> None:
        """Count a row with this cursor."""
        if not self.count:
            self.example, self.example_point = shorten(repr(value)), point
        self.count += 1
        self.first, self.last = min(self.first, point), max(self.last, point)


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
    if not stream.cursor_field or not isinstance(state, StreamState):
        return None
    return IncrementalPlan(
        stream,
        state,
        now,
        has_state_store=has_state_store,
        state_for_children=state_for_children,
        schema=schema,
        cursor_range=cursor_range,
    )


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


def _are_sortable(values: list[Any], cursor: CursorFormat) -> bool:
    """Whether the values sort in the same order as their points."""
    first = values[0]
    if cursor.format == "iso" and isinstance(first, str) and first.endswith("Z"):
        length = len(first)
        return all(isinstance(value, str) and len(value) == length and value[-1] == "Z" for value in values)
    if cursor.format == "date":
        return all(isinstance(value, str) and len(value) == 10 for value in values)
    if not cursor.is_time or cursor.format.startswith("epoch"):
        return all(type(value) is int for value in values)
    return False
