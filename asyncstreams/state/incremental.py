"""Incremental reads: the intervals of one run, and the records that belong to them."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any

from ..cursors.cursor_format import CursorFormat, InvalidCursorValue
from ..cursors.intervals import Interval, Point
from ..cursors.windows import TimeWindows
from ..errors import ConfigError
from ..messages import Response
from ..models import Record, Slice, key_paths
from ..protocols import Stream, Windows
from .stream_state import StateDelta, StreamState, partition_key, points_of, row_key, value_at

_MAX_REMEMBERED_ROWS = 50_000
_log = logging.getLogger("asyncstreams")


class IncrementalPlan:
    """The intervals of a stream's cursor that one run reads, and the end of its range.

    Without a state store everything up to now is read, since no later run reads the rest.
    """

    def __init__(self, stream: Stream, state: StreamState, now: float, *, has_state_store: bool) -> None:
        self.stream, self.state, self.cursor, self.now = stream, state, state.cursor, now
        self.has_state_store = has_state_store
        self._started_partitions: set[str] = set()
        declared = stream.windows
        self.windows: Windows = TimeWindows(settle=60 if has_state_store else 0) if declared is None else declared
        self.end = self.windows.end_at(self.cursor, now)
        self.lookback = self.windows.lookback_of(self.cursor)
        state.lookback = self.lookback
        field = stream.cursor_field
        self.path: Sequence[str] = [field] if isinstance(field, str) else list(field or ())
        self.key = key_paths(stream.primary_key)
        self._warned: set[str] = set()

    def slices(self, stream_slice: Slice) -> list[Slice]:
        """The slices to read for a slice: the gaps in its interval, or the new windows. Raises ConfigError."""
        partitions = self.stream.partitions_of(stream_slice)
        if self.has_state_store and len(partitions) > 1:
            raise ConfigError(
                f"{type(self.stream).__name__}: parent_batch_size cannot be combined with cursor_field, because each "
                "parent has a state of its own",
                hint="remove parent_batch_size or cursor_field",
            )
        done = self.state.of(partitions[0]).partition().done
        if stream_slice.interval is not None:
            start, end = points_of(stream_slice, self.cursor)
            gaps = done.gaps(start, end)
            if gaps == [(start, end)]:
                return [stream_slice]
            return [self._slice_of(stream_slice, gap, like=stream_slice.interval[1]) for gap in gaps]
        if self.has_state_store:
            # A parent that changes while it is read is delivered twice; its partition is read once per run.
            key = partition_key(self.state.of(partitions[0]).partition().key)
            if key in self._started_partitions:
                return []
            self._started_partitions.add(key)
        return [self._slice_of(stream_slice, window) for window in self.windows.intervals(self.cursor, done, self.now)]

    def _slice_of(self, stream_slice: Slice, interval: Interval, like: Any = None) -> Slice:
        values = [None if math.isinf(point) else self.cursor.value(point, like) for point in interval]
        query_bounds = self.windows.query_bounds(self.cursor, interval)
        bounds = [None if math.isinf(point) else self.cursor.value(point, like) for point in query_bounds]
        return Slice(
            stream_slice.partition, (values[0], values[1]), bounds=(bounds[0], bounds[1]), labels=stream_slice.labels
        )

    def warn_once(self, message: str, *args: object) -> None:
        """Log a warning with the name of the stream, once per message."""
        if message not in self._warned:
            self._warned.add(message)
            _log.warning("%s: " + message, self.stream.name, *args)


class SliceFilter:
    """Selects the records of one slice of an incremental stream, and reports its progress as state deltas."""

    def __init__(self, plan: IncrementalPlan, stream_slice: Slice, partition: Mapping[str, Any]) -> None:
        self._plan, self._partition, self._cursor = plan, partition, plan.cursor
        self._start, self._end = points_of(stream_slice, plan.cursor)
        # No window follows the last one: records beyond its end have future dates, or are just being written.
        self._is_last = self._end >= plan.end
        self._delivered = plan.state.of(partition).partition().seen
        self._seen: dict[str, Point] = {}
        self._reached = self._start
        self._since_checkpoint = 0
        self._is_ascending = plan.stream.state_checkpoint_interval is not None
        self._is_started = False

    def filter_page(self, records: list[Record], response: Response) -> list[Record]:
        """The records of a page that belong to the slice and were not delivered before."""
        if not self._is_started:
            self._is_started = True
            if self._is_last and self._plan.has_state_store:
                self._end = min(self._end, self._server_end(response))
        values = [value_at(record, self._plan.path) for record in records]
        return records if self._passes_unchanged(values) else self._filter_records(records, values)

    def final_delta(self) -> StateDelta:
        """The progress to store when the complete slice has been read."""
        return StateDelta(self._partition, (self._start, max(self._start, self._end)), self._seen)

    def add_page(self, count: int) -> StateDelta | None:
        """Count a page of `count` records; returns a delta when `state_checkpoint_interval` records have been read."""
        interval = self._plan.stream.state_checkpoint_interval
        self._since_checkpoint += count
        reached = min(self._reached, self._end)
        if interval is None or not self._is_ascending or self._since_checkpoint < interval or reached <= self._start:
            return None
        if self._cursor.is_ambiguous(reached):
            return None
        self._since_checkpoint = 0
        return StateDelta(self._partition, (self._start, reached), dict(self._seen))

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
        return self._start <= first and last < min(self._end, self._replay_start())

    def _filter_records(self, records: list[Record], values: list[Any]) -> list[Record]:
        """The records that belong to the slice, checked one by one."""
        kept: list[Record] = []
        points: list[Point] = []
        for record, value in zip(records, values, strict=True):
            point = self._point(value)
            if point is not None:
                if not self._belongs(point) or self._already_delivered(record, point):
                    continue
                points.append(point)
            kept.append(record)
            if point is not None and point >= self._replay_start(point):
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
        if point < self._start or not self._is_last:
            return False
        return not self._plan.has_state_store or point >= self._cursor.point_at(self._plan.now)

    def _already_delivered(self, record: Record, point: Point) -> bool:
        return bool(self._delivered) and self._row_id(record, point) in self._delivered

    def _replay_start(self, reached: Point = math.inf) -> Point:
        """The point from which on rows may be read again, once the slice has been read up to `reached`."""
        start: Point = reached if self._is_ascending else math.inf
        if self._plan.has_state_store and self._is_last:
            start = min(start, self._end - self._plan.lookback)
        return start

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

    def _server_end(self, response: Response) -> Point:
        """The end of the range by the server's clock, or infinity if that clock is not behind ours."""
        date = response.headers.get("date")
        if date is None or not self._cursor.is_time:
            return math.inf
        try:
            moment = parsedate_to_datetime(date).timestamp()
        except (ValueError, TypeError):
            return math.inf
        # Date has a resolution of one second, and the response was created after the run began.
        return math.inf if moment + 1 >= self._plan.now else self._plan.windows.end_at(self._cursor, moment)


def plan_incremental(
    stream: Stream, state: Mapping[str, Any], now: float, *, has_state_store: bool
) -> IncrementalPlan | None:
    """The plan of a stream with a cursor; None for other streams, and for a state that the author manages."""
    if not stream.cursor_field or not isinstance(state, StreamState):
        return None
    return IncrementalPlan(stream, state, now, has_state_store=has_state_store)


def _are_sortable(values: list[Any], cursor: CursorFormat) -> bool:
    """Whether the values sort in the same order as their points."""
    first = values[0]
    if cursor.format == "iso" and isinstance(first, str) and first.endswith("Z"):
        length = len(first)
        return all(isinstance(value, str) and len(value) == length and value[-1] == "Z" for value in values)
    if cursor.format == "date":
        return all(isinstance(value, str) and len(value) == 10 for value in values)
    if not cursor.is_time or cursor.format in ("epoch", "epoch_ms"):
        return all(type(value) is int for value in values)
    return False
