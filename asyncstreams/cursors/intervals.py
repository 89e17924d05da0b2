"""Sets of points on a line, as half-open intervals."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

_MAX_IN_TUPLE = 8

Point: TypeAlias = int | float
"""A cursor value as a number; `-math.inf` is before all values, `math.inf` after all."""


class Interval(NamedTuple):
    """A half-open interval: it contains `start`, but not `end`."""

    start: Point
    end: Point


class Intervals:
    """A set of points, as the minimal sequence of half-open intervals in ascending order.

    Overlapping and adjacent intervals are merged.
    """

    __slots__ = ("_ends", "_starts")

    def __init__(self, intervals: Iterable[tuple[Point, Point]] = ()) -> None:
        # A state has one set for each partition. The garbage collector leaves tuples of numbers out, but not lists.
        self._starts: tuple[Point, ...] | list[Point] = ()
        self._ends: tuple[Point, ...] | list[Point] = ()
        for start, end in intervals:
            self.add(start, end)

    def add(self, start: Point, end: Point) -> None:
        """Add all points of [start, end); an empty interval adds nothing."""
        if not start < end:
            return
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        if len(self._starts) < _MAX_IN_TUPLE:
            self._starts = (*self._starts[:first], start, *self._starts[last:])
            self._ends = (*self._ends[:first], end, *self._ends[last:])
            return
        if isinstance(self._starts, tuple) or isinstance(self._ends, tuple):
            self._starts, self._ends = list(self._starts), list(self._ends)
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def copy(self) -> Intervals:
        """An independent copy."""
        copied = Intervals()
        copied._starts, copied._ends = self._starts[:], self._ends[:]
        return copied

    def gaps(self, start: Point = -math.inf, end: Point = math.inf) -> list[Interval]:
        """The parts of [start, end) that are not in the set, in ascending order."""
        gaps: list[Interval] = []
        number = bisect_right(self._ends, start)
        while start < end:
            if number == len(self._starts):
                gaps.append(Interval(start, end))
                break
            if start < self._starts[number]:
                gaps.append(Interval(start, min(end, self._starts[number])))
            start = self._ends[number]
            number += 1
        return gaps

    def covers(self, start: Point, end: Point) -> bool:
        """Whether the set contains all of [start, end)."""
        return not self.gaps(start, end)

    @property
    def frontier(self) -> Point | None:
        """The end of the first interval, or None if the set is empty."""
        return self._ends[0] if self._ends else None

    @property
    def latest(self) -> Point | None:
        """The end of the last interval, or None if the set is empty."""
        return self._ends[-1] if self._ends else None

    def __iter__(self) -> Iterator[Interval]:
        return map(Interval, self._starts, self._ends)

    def __len__(self) -> int:
        return len(self._starts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Intervals):
            return NotImplemented
        return [*self] == [*other]

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"Intervals({[tuple(interval) for interval in self]})"
