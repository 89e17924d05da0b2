"""Order of the versions of one row, by the points of their cursor values."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from ..cursors.cursor_format import CursorFormat, InvalidCursorValue
from ..cursors.intervals import Point
from ..state.stream_state import StreamState

_MAX_AHEAD = timedelta(days=1)
"""How far a time may be ahead of our clock: clocks differ, and local times without an offset are read as UTC."""
_log = logging.getLogger("asyncstreams")


Rank: TypeAlias = tuple[int, Point, str]
"""Place of a version in the order: its tier, its point, the digits after its microseconds; a higher one is newer."""
_UNKNOWN: Rank = (0, 0, "")
_AFTER_MICROSECONDS = re.compile(r"[.,][0-9]{6}([0-9]+)")
_MIN_NANOSECONDS = 10**17
"""The smallest epoch in nanoseconds, of 1973; smaller numbers are epochs in larger units."""


class RowOrder:
    """Decides which of two versions of a row a table keeps. The order in which they arrive makes no difference.

    From the lowest: versions without a valid cursor value, those dated more than a day after `now` (in seconds since
    1970), such as 9999-12-31, and all others; within these, by the point of the cursor.

    `path` leads to the cursor in a record. `state` has the format of its values, which a run may decide when it has
    read the first of them.
    """

    def __init__(self, stream: str, path: Sequence[str], state: StreamState, now: float) -> None:
        self.path = path
        self._stream, self._state = stream, state
        self._last_time = datetime.fromtimestamp(now, UTC) + _MAX_AHEAD
        self._cursor: CursorFormat | None = None
        self._last_point: Point = math.inf
        self._is_warned = False

    def rank(self, value: Any) -> Rank:
        """The rank of a version with this cursor value: a JSON value, a datetime or a date."""
        cursor = self._state.cursor
        if cursor is not self._cursor:
            self._cursor = cursor
            self._last_point = cursor.point(self._last_time) if cursor.is_time else math.inf
        try:
            point = cursor.point(value)
        except InvalidCursorValue:
            return _UNKNOWN
        rest = _after_microseconds(value) if cursor.is_time else ""
        return (1 if point > self._last_point else 2, point, rest)

    def replaces(self, new: Any, stored: Any) -> bool:
        """Whether a version with cursor value `new` replaces a stored one: if it is newer, or equal."""
        if new == stored:
            return True
        new_rank, stored_rank = self.rank(new), self.rank(stored)
        if new_rank == _UNKNOWN and new_rank < stored_rank and not self._is_warned:
            self._is_warned = True
            _log.warning(
                "%s: a record without a valid cursor value %s does not replace a row that has one",
                self._stream,
                ".".join(self.path),
            )
        return new_rank >= stored_rank


def _after_microseconds(value: Any) -> str:
    """The digits of a time after its microseconds, which its point does not hold; without zeros at the end."""
    if isinstance(value, str) and (found := _AFTER_MICROSECONDS.search(value)):
        return found[1].rstrip("0")
    is_digits = type(value) is int or (isinstance(value, str) and value.isdecimal())
    return f"{int(value) % 1_000:03d}".rstrip("0") if is_digits and int(value) >= _MIN_NANOSECONDS else ""
