"""Which records of a slice are in its interval, and what is done when they are safe?"""

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

_MOST_SEEN = 50_000
_log = logging.getLogger("asyncstreams")


class IncrementalPlan:
    """The line of a stream's cursor in one run: where it ends, and what of it is new.

    With a state that nobody keeps all up to now is read, since nobody would come back for the rest.
    """

    def __init__(self, stream: Stream, state: StreamState, now: float, *, is_kept: bool) -> None:
        self.stream, self.state, self.cursor, self.now, self.is_kept = stream, state, state.cursor, now, is_kept
        self._begun: set[str] = set()
        given = stream.windows
        self.windows: Windows = TimeWindows(settle=60 if is_kept else 0) if given is None else given
        self.end = self.windows.ends_at(self.cursor, now)
        self.lookback = self.windows.lookback_of(self.cursor)
        state.lookback = self.lookback
        field = stream.cursor_field
        self.path: Sequence[str] = [field] if isinstance(field, str) else list(field or ())
        self.key = key_paths(stream.primary_key)
        self._told: set[str] = set()

    def slices(self, whole: Slice) -> list[Slice]:
        """What is to be read of a slice: the gaps of its interval, or the windows that are new. Raises ConfigError."""
        partitions = self.stream.partitions_of(whole)
        if self.is_kept and len(partitions) > 1:
            raise ConfigError(
                f"{type(self.stream).__name__} reads several parents at once, and each may be read up to another time",
                hint="remove parent_batch_size, or the cursor_field",
            )
        done = self.state.of(partitions[0]).partition().done
        if whole.interval is not None:
            start, end = points_of(whole, self.cursor)
            gaps = done.gaps(start, end)
            if gaps == [(start, end)]:
                return [whole]
            return [self._slice(whole, gap, like=whole.interval[1]) for gap in gaps]
        if self._is_again(partitions[0]):
            return []
        return [self._slice(whole, one) for one in self.windows.intervals(self.cursor, done, self.now)]

    def _is_again(self, partition: Mapping[str, Any]) -> bool:
        """Whether a partition has come before in this run: a parent does that changes while it is read."""
        if not self.is_kept:
            return False
        before = len(self._begun)
        self._begun.add(partition_key(partition))
        return len(self._begun) == before

    def _slice(self, whole: Slice, interval: Interval, like: Any = None) -> Slice:
        values = [None if math.isinf(point) else self.cursor.value(point, like) for point in interval]
        asked = self.windows.asked(self.cursor, interval)
        bounds = [None if math.isinf(point) else self.cursor.value(point, like) for point in asked]
        return Slice(whole.partition, (values[0], values[1]), bounds=(bounds[0], bounds[1]))

    def warn_once(self, what: str, *more: object) -> None:
        if what not in self._told:
            self._told.add(what)
            _log.warning("%s: " + what, self.stream.name, *more)


class SliceFilter:
    """One slice of an incremental stream, while it is read."""

    def __init__(self, incremental: IncrementalPlan, stream_slice: Slice, partition: Mapping[str, Any]) -> None:
        self._of, self._partition, self._cursor = incremental, partition, incremental.cursor
        self._start, self._end = points_of(stream_slice, incremental.cursor)
        # Nobody comes after the last one: what lies beyond its end is dated in the future, or just being written.
        self._is_last = self._end >= incremental.end
        self._known = incremental.state.of(partition).partition().seen
        self._seen: dict[str, Point] = {}
        self._reached = self._start
        self._since_checkpoint = 0
        self._ascends = incremental.stream.state_checkpoint_interval is not None
        self._is_begun = False

    def page(self, records: list[Record], response: Response) -> list[Record]:
        """The records of a page that belong here and were not handed over before."""
        if not self._is_begun:
            self._is_begun = True
            if self._is_last and self._of.is_kept:
                self._end = min(self._end, self._server_end(response))
        values = [value_at(record, self._of.path) for record in records]
        return records if self._is_plain(values) else self._chosen(records, values)

    def finished(self) -> StateDelta:
        """The slice was read to its end."""
        return StateDelta(self._partition, (self._start, max(self._start, self._end)), self._seen)

    def checkpoint(self, count: int) -> StateDelta | None:
        """What of the slice is done after one more page of so many records, if its author says that it ascends."""
        interval = self._of.stream.state_checkpoint_interval
        self._since_checkpoint += count
        reached = min(self._reached, self._end)
        if interval is None or not self._ascends or self._since_checkpoint < interval or reached <= self._start:
            return None
        if self._cursor.is_ambiguous(reached):
            return None
        self._since_checkpoint = 0
        return StateDelta(self._partition, (self._start, reached), dict(self._seen))

    def _is_plain(self, values: list[Any]) -> bool:
        """Whether nothing is to be left out or remembered of a page; told by its first and last value in time."""
        if not values:
            return True
        if self._known or self._ascends or not _are_sortable(values, self._cursor):
            return False
        try:
            first, last = self._cursor.point(min(values)), self._cursor.point(max(values))
        except InvalidCursorValue:
            return False
        return self._start <= first and last < min(self._end, self._remembered_from())

    def _chosen(self, records: list[Record], values: list[Any]) -> list[Record]:
        """One record after the other."""
        kept: list[Record] = []
        points: list[Point] = []
        for record, value in zip(records, values, strict=True):
            point = self._point(value)
            if point is not None:
                if not self._belongs(point) or self._is_known(record, point):
                    continue
                points.append(point)
            kept.append(record)
            if point is not None and point >= self._remembered_from(point):
                self._remember(record, point)
        self._went_on(points)
        return kept

    def _point(self, value: Any) -> Point | None:
        try:
            return self._cursor.point(value)
        except InvalidCursorValue as error:
            name = ".".join(self._of.path)
            self._of.warn_once("records whose %s is no cursor are handed over each time: it is %s", name, error)
            return None

    def _belongs(self, point: Point) -> bool:
        if self._start <= point < self._end:
            return True
        # Rows from beyond the end come in the next window, or in the next run, unless they are dated in the future.
        if point < self._start or not self._is_last:
            return False
        return not self._of.is_kept or point >= self._cursor.at(self._of.now)

    def _is_known(self, record: Record, point: Point) -> bool:
        return bool(self._known) and self._row(record, point) in self._known

    def _remembered_from(self, reached: Point = math.inf) -> Point:
        """Rows that lie there or after may come again, when the slice has been read up to `reached`."""
        found: Point = reached if self._ascends else math.inf
        if self._of.is_kept and self._is_last:
            found = min(found, self._end - self._of.lookback)
        return found

    def _remember(self, record: Record, point: Point) -> None:
        if len(self._seen) < _MOST_SEEN:
            self._seen[self._row(record, point)] = point
            return
        self._of.warn_once("more than %d rows lie where they may be read again: some will come twice", _MOST_SEEN)

    def _went_on(self, points: list[Point]) -> None:
        if not self._ascends or not points:
            return
        if points[0] < self._reached or points != sorted(points):
            self._ascends = False
            self._of.warn_once("its records do not ascend, so a slice is done only when it has been read to its end")
        self._reached = points[-1]
        # A checkpoint leaves behind what lies before it.
        since = self._remembered_from(self._reached)
        self._seen = {row: point for row, point in self._seen.items() if point >= since}

    def _row(self, record: Record, point: Point) -> str:
        return f"{row_key(record, self._of.key)}@{point}"

    def _server_end(self, response: Response) -> Point:
        """Where the line ends by the server's clock, where that is behind ours."""
        told = response.headers.get("date")
        if told is None or not self._cursor.is_time:
            return math.inf
        try:
            moment = parsedate_to_datetime(told).timestamp()
        except (ValueError, TypeError):
            return math.inf
        # A Date is the second in which the answer was made, and that was after the run began.
        return math.inf if moment + 1 >= self._of.now else self._of.windows.ends_at(self._cursor, moment)


def incremental_of(stream: Stream, state: Mapping[str, Any], now: float, *, is_kept: bool) -> IncrementalPlan | None:
    """Of a stream with a cursor; None for others, and where a state is told that is the author's business."""
    if not stream.cursor_field or not isinstance(state, StreamState):
        return None
    return IncrementalPlan(stream, state, now, is_kept=is_kept)


def _are_sortable(values: list[Any], cursor: CursorFormat) -> bool:
    """Whether comparing the values is comparing their points."""
    first = values[0]
    if cursor.format == "iso" and isinstance(first, str) and first.endswith("Z"):
        length = len(first)
        return all(isinstance(value, str) and len(value) == length and value[-1] == "Z" for value in values)
    if cursor.format == "date":
        return all(isinstance(value, str) and len(value) == 10 for value in values)
    if not cursor.is_time or cursor.format in ("epoch", "epoch_ms"):
        return all(type(value) is int for value in values)
    return False
