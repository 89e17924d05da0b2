"""Selection of the records that belong to one slice of an incremental stream."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..cursors.cursor_format import CursorFormat, InvalidCursorValue
from ..cursors.intervals import Interval, Point
from ..messages import Response
from ..models import Record, Slice, shorten
from .incremental import IncrementalPlan
from .run_cursor import IntervalSlice, points_of
from .stream_state import StateDelta, row_key, value_at

_MAX_REMEMBERED_ROWS = 50_000


class SliceFilter:
    """Selects the records of one slice of an incremental stream, and reports its progress as state deltas."""

    def __init__(self, plan: IncrementalPlan, stream_slice: Slice, partition: Mapping[str, Any]) -> None:
        self._plan, self._slice, self._partition, self._cursor = plan, stream_slice, partition, plan.cursor
        start, end = points_of(stream_slice, plan.cursor)
        progress = plan.state.progress_of(partition)
        self._done = stream_slice.done if isinstance(stream_slice, IntervalSlice) else progress.done
        # No window follows the last one: records beyond its end have future dates, or are just being written.
        self._bounds = _SliceBounds(start, end, plan.range.limit if self._is_last else end)
        self._grows = plan.range.grows_to(end, progress.done)
        self._seen = _SeenRows()
        self._remembered = _RememberedRows(progress.seen, plan)
        interval = plan.stream.resolved.state_checkpoint_interval
        self._order = None if interval is None else _AscendingOrder(start, interval)
        self._is_started = False

    @property
    def _is_last(self) -> bool:
        return isinstance(self._slice, IntervalSlice) and self._slice.is_last

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
        start = self._bounds.start
        end = self._seen.end_inside(start) if self._grows else max(start, self._bounds.done_end)
        # Before the first row of a cursor without beginning there is nothing to mark.
        return self._delta(0, 0) if math.isinf(end) else self._delta(start, end)

    def finish(self) -> None:
        """Called when the slice has been read: warns if it had rows, but none of its own."""
        seen, plan = self._seen, self._plan
        if self._grows and seen.has_inside:
            plan.observe_seen(self._partition, seen.end_inside(self._bounds.start))
        if seen.has_inside or not seen.outside or plan.stream.resolved.keep_outside:
            return
        asked = plan.range.windows.query_bounds(self._cursor, Interval(*points_of(self._slice, self._cursor)))
        if (asked[0] <= seen.first and seen.last <= asked[1]) or self._done.covers(seen.first, seen.last + 1):
            return
        start, end = self._slice.shown_interval() or (None, None)
        plan.warn_once(
            "all %d rows of the window from %s to %s lie outside of it and are left out, such as one with %s = %s%s; "
            "check cursor_format and the parameters of the request, or set keep_outside = True to keep such rows",
            seen.outside,
            start,
            end,
            ".".join(plan.path),
            seen.example,
            f", read as {self._cursor.stored(seen.example_point)}" if self._cursor.is_time else "",
        )

    def next_range(self) -> Slice | None:
        """The range to read after this one, if the cursor grows without end; otherwise None."""
        return self._plan.next_range(self._slice, self._partition)

    def add_page(self, count: int) -> StateDelta | None:
        """Count a page of `count` records; returns a delta when `state_checkpoint_interval` records have been read."""
        if self._order is None or not self._order.add_page(count):
            return None
        start, reached = self._bounds.start, min(self._order.reached, self._bounds.done_end)
        if reached <= start or self._cursor.is_ambiguous(reached):
            return None
        self._order.restart()
        return self._delta(start, reached)

    def _set_end(self, response: Response) -> None:
        """Determine how far the slice is complete, by its first response or a format that has just been decided."""
        plan, self._cursor = self._plan, self._plan.cursor
        if plan.has_state_store:
            plan.range.observe_server_time(response, is_last=self._is_last)
            self._bounds.narrow(plan.range.latest_end, plan.range.lookback_start)

    def _delta(self, start: Point, end: Point) -> StateDelta:
        seen, keeps_lookback = dict(self._remembered.rows), bool(self._plan.range.lookback)
        return StateDelta(self._partition, (start, end), seen, keeps_lookback=keeps_lookback)

    def _passes_unchanged(self, values: list[Any]) -> bool:
        """Whether all records of a page belong to the slice and none has to be remembered, by its extreme values."""
        if not values:
            return True
        if self._remembered.delivered or self._order is not None or not _are_sortable(values, self._cursor):
            return False
        try:
            first, last = self._cursor.point(min(values)), self._cursor.point(max(values))
        except InvalidCursorValue:
            return False
        if not (self._bounds.start <= first and last < self._bounds.done_end):
            return False
        self._seen.add_inside(last)
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
                self._seen.add_inside(point)
            elif not self._keeps_outside(point, value):
                continue
            if self._remembered.was_delivered(record, point):
                continue
            kept.append(record)
            if is_inside:
                points.append(point)
            if point >= self._replay_start(point) and not self._remembered.add(record, point):
                self._plan.warn_once(
                    "more than %d rows must be remembered until the next run; some will be delivered twice",
                    _MAX_REMEMBERED_ROWS,
                )
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
        start, end = self._bounds.start, self._bounds.end
        if start <= point < end:
            return True
        # Rows beyond the end belong to the next window or the next run, except rows with a future date.
        if point < start or not self._bounds.is_late(point):
            return False
        return not self._plan.has_state_store or point >= self._plan.range.future_start

    def _keeps_outside(self, point: Point, value: Any) -> bool:
        """Count a record that does not belong to the slice; returns whether it is kept."""
        keeps = self._plan.stream.resolved.keep_outside
        if self._bounds.is_late(point) and not keeps:
            self._plan.left_for_next_run += 1
            return False
        self._plan.outside_window += 1
        self._seen.add_outside(point, value)
        return keeps

    def _replay_start(self, reached: Point) -> Point:
        """The point from which on rows may be read again, once the slice has been read up to `reached`."""
        since = self._bounds.done_end if self._plan.has_state_store else math.inf
        return since if self._order is None else min(reached, since)

    def _advance(self, points: list[Point]) -> None:
        if self._order is None or not points:
            return
        if not self._order.advance(points):
            self._order = None
            self._plan.warn_once(
                "records are not in ascending order, so the state advances only when a slice is complete"
            )
        # Rows before a checkpoint are not read again.
        self._remembered.drop_before(self._replay_start(points[-1]))


class _SliceBounds:
    """The interval of a slice as points: what belongs to it, and up to where it is complete once it has been read."""

    __slots__ = ("done_end", "end", "limit", "start")

    def __init__(self, start: Point, end: Point, limit: Point) -> None:
        self.start, self.end, self.done_end, self.limit = start, end, end, limit

    def narrow(self, end: Point, lookback_start: Point) -> None:
        """End the interval no later than at `end`; it is complete up to the lookback."""
        self.end = min(self.end, end)
        self.done_end = min(self.end, lookback_start)

    def is_late(self, point: Point) -> bool:
        """Whether a row lies beyond the end, where no other window of this run reads it."""
        return self.end <= point < self.limit


class _AscendingOrder:
    """How far a slice has been read in ascending order, and the number of records since its last checkpoint."""

    __slots__ = ("_count", "_interval", "reached")

    def __init__(self, start: Point, interval: int) -> None:
        self.reached, self._interval, self._count = start, interval, 0

    def advance(self, points: list[Point]) -> bool:
        """Note the points of a page; false if they are not in ascending order."""
        is_ascending = self.reached <= points[0] and points == sorted(points)
        self.reached = points[-1]
        return is_ascending

    def add_page(self, count: int) -> bool:
        """Count the records of a page; true if a checkpoint is due."""
        self._count += count
        return self._count >= self._interval

    def restart(self) -> None:
        """Count from here, after a checkpoint."""
        self._count = 0


class _RememberedRows:
    """The rows near the end of what was read: those that earlier runs delivered, and those for the next run."""

    __slots__ = ("_key", "delivered", "rows")

    def __init__(self, delivered: Mapping[str, Point], plan: IncrementalPlan) -> None:
        self.delivered, self._key = delivered, plan.key
        self.rows: dict[str, Point] = {}

    def was_delivered(self, record: Record, point: Point) -> bool:
        """Whether an earlier run delivered the row."""
        return bool(self.delivered) and self._row_id(record, point) in self.delivered

    def add(self, record: Record, point: Point) -> bool:
        """Remember a row; false if there are too many."""
        has_capacity = len(self.rows) < _MAX_REMEMBERED_ROWS
        if has_capacity:
            self.rows[self._row_id(record, point)] = point
        return has_capacity

    def drop_before(self, since: Point) -> None:
        """Forget the rows before a point."""
        self.rows = {row: point for row, point in self.rows.items() if point >= since}

    def _row_id(self, record: Record, point: Point) -> str:
        return f"{row_key(record, self._key)}@{point}"


class _SeenRows:
    """The rows of a slice: how far those inside reach, and of those outside the number, the range and an example."""

    __slots__ = ("_last_inside", "example", "example_point", "first", "last", "outside")

    def __init__(self) -> None:
        self._last_inside: Point = -math.inf
        self.outside = 0
        self.example = ""
        self.example_point: Point = 0
        self.first: Point = math.inf
        self.last: Point = -math.inf

    @property
    def has_inside(self) -> bool:
        """Whether the slice had a row of its own."""
        return self._last_inside > -math.inf

    def add_inside(self, point: Point) -> None:
        """Note a row of the slice."""
        if point > self._last_inside:
            self._last_inside = point

    def end_inside(self, start: Point) -> Point:
        """The point after the last row of the slice, or `start`."""
        last = self._last_inside
        if not self.has_inside:
            return start
        # Whole numbers have a next one.
        return last + 1 if isinstance(last, int) else math.nextafter(last, math.inf)

    def add_outside(self, point: Point, value: Any) -> None:
        """Count a row outside of the slice."""
        if not self.outside:
            self.example, self.example_point = shorten(repr(value)), point
        self.outside += 1
        self.first, self.last = min(self.first, point), max(self.last, point)


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
