"""In which intervals is the line of a cursor read?"""

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


@dataclass(frozen=True, slots=True)
class TimeWindows:
    """Intervals of time from `start` to the beginning of the run, `step` long; without a step one for all.

    The line ends `settle` before the run began, so that rows that are being written are not missed: a next run reads
    them. `lookback` before that is read again each time, for rows that come late; those that
    came before are left out. `bounds` tells how the API's filter counts the bounds that it is given. Durations are
    timedeltas, or numbers of seconds.
    """

    start: str | date | datetime | float | None = None
    step: timedelta | float | None = None
    lookback: timedelta | float = 0
    settle: timedelta | float = 60
    bounds: Bounds = "[)"

    def __post_init__(self) -> None:
        _check_bounds("TimeWindows", self.bounds)
        if self.step is not None and not _span(self.step) > timedelta(0):
            raise ConfigError(f"TimeWindows(step={self.step!r}): a duration above 0 is needed")
        if self.step is not None and self.start is None:
            raise ConfigError("TimeWindows(step=...): where does the first one begin?", hint='start="2024-01-01"')
        if _span(self.lookback) < timedelta(0) or _span(self.settle) < timedelta(0):
            raise ConfigError(f"{self}: lookback and settle are durations of 0 or more")

    def intervals(self, cursor: CursorFormat, done: Intervals, now: float) -> Iterator[Interval]:
        start, end = self._start(cursor), self.ends_at(cursor, now)
        lookback = self.lookback_of(cursor)
        for gap in done.gaps(start, end):
            if lookback and gap.start == done.latest:
                gap = Interval(cursor.bound(max(start, gap.start - lookback)), gap.end)
            yield from _split(gap, self._edges(cursor, start, gap))

    def ends_at(self, cursor: CursorFormat, now: float) -> Point:
        if not cursor.is_time:
            raise ConfigError(
                "cursor_format = 'number' has no clock: where does it end?",
                hint="set windows = NumberRanges(step=..., end=...)",
            )
        return cursor.at(now - _span(self.settle).total_seconds())

    def lookback_of(self, cursor: CursorFormat) -> Point:
        return cursor.distance(_span(self.lookback))

    def asked(self, cursor: CursorFormat, interval: Interval) -> tuple[Point, Point]:
        return _asked(cursor, interval, self.bounds)

    def _start(self, cursor: CursorFormat) -> Point:
        if self.start is None:
            return -math.inf
        told: Any = self.start
        if isinstance(told, str | date) and cursor.format != "date":
            told = _moment(told, cursor)
        try:
            return cursor.bound(cursor.point(told))
        except InvalidCursorValue as error:
            raise ConfigError(f"TimeWindows(start={self.start!r}) is {error}") from None

    def _edges(self, cursor: CursorFormat, start: Point, gap: Interval) -> Iterator[Point]:
        if self.step is None:
            return
        step = cursor.distance(_span(self.step))
        number = max(1, math.floor((gap.start - start) / step))
        while (edge := start + number * step) < gap.end:
            yield cursor.bound(edge)
            number += 1


@dataclass(frozen=True, slots=True)
class NumberRanges:
    """Ranges of numbers, such as of ids, from `start` to before `end`, `step` long."""

    step: float
    end: float
    start: float = 0
    bounds: Bounds = "[)"

    def __post_init__(self) -> None:
        _check_bounds("NumberRanges", self.bounds)
        if not self.step > 0 or not self.start <= self.end < math.inf:
            raise ConfigError(f"{self}: a step above 0, and an end that is not before the start, are needed")

    def intervals(self, cursor: CursorFormat, done: Intervals, now: float) -> Iterator[Interval]:
        for gap in done.gaps(self.start, self.end):
            number = max(1, math.floor((gap.start - self.start) / self.step))
            last = math.ceil((gap.end - self.start) / self.step)
            yield from _split(gap, (self.start + one * self.step for one in range(number, last)))

    def ends_at(self, cursor: CursorFormat, now: float) -> Point:
        return self.end

    def lookback_of(self, cursor: CursorFormat) -> Point:
        return 0

    def asked(self, cursor: CursorFormat, interval: Interval) -> tuple[Point, Point]:
        return _asked(cursor, interval, self.bounds)


def _asked(cursor: CursorFormat, interval: Interval, bounds: Bounds) -> tuple[Point, Point]:
    """Where it is not certain that a value less is enough, more is asked for: what lies outside is left out."""
    start, end = interval
    if bounds[0] == "(":
        start = cursor.bound(start - cursor.unit)
    if bounds[1] == "]" and cursor.is_exact:
        end = cursor.bound(end - cursor.unit)
    return start, end


def _split(gap: Interval, edges: Iterable[Point]) -> Iterator[Interval]:
    """A gap, cut where an edge lies in it."""
    start = gap.start
    for edge in edges:
        if start < edge < gap.end:
            yield Interval(start, edge)
            start = edge
    if start < gap.end:
        yield Interval(start, gap.end)


def _span(told: timedelta | float) -> timedelta:
    return told if isinstance(told, timedelta) else timedelta(seconds=told)


def _moment(told: str | date, cursor: CursorFormat) -> datetime:
    """A start that is written in ISO 8601, whatever the cursor's format; without offset and zone it is UTC's."""
    try:
        found = datetime.fromisoformat(told if isinstance(told, str) else told.isoformat())
    except ValueError:
        raise ConfigError(f"start={told!r} is no time", hint='such as "2024-01-31" or "2024-01-31T12:00:00Z"') from None
    if found.tzinfo is not None or cursor.zone is not None:
        return found
    return datetime.fromisoformat(f"{found.isoformat()}+00:00")


def _check_bounds(owner: str, bounds: object) -> None:
    if bounds not in ("[)", "[]", "(]", "()"):
        raise ConfigError(
            f"{owner}(bounds={bounds!r}): '[)', '[]', '(]' or '()' is needed",
            hint="'[]' where the API's filter counts both bounds in",
        )
