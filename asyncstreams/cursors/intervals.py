"""Which parts of a line are done, and which are not?"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

Point: TypeAlias = int | float
"""A value of a cursor as a number; `-math.inf` is before all of them, `math.inf` after."""


class Interval(NamedTuple):
    """Half-open: `start` is in it, `end` is not."""

    start: Point
    end: Point


class Intervals:
    """A set of points, as the fewest half-open intervals that hold it; they are kept in order.

    Two become one when they overlap, or when one begins exactly where the other ends.
    """

    __slots__ = ("_ends", "_starts")

    def __init__(self, intervals: Iterable[tuple[Point, Point]] = ()) -> None:
        self._starts: list[Point] = []
        self._ends: list[Point] = []
        for start, end in intervals:
            self.add(start, end)

    def add(self, start: Point, end: Point) -> None:
        """Add all points of [start, end); nothing, where that is empty."""
        if not start < end:
            return
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def gaps(self, start: Point = -math.inf, end: Point = math.inf) -> list[Interval]:
        """What of [start, end) is not in the set, in order."""
        found: list[Interval] = []
        number = bisect_right(self._ends, start)
        while start < end:
            if number == len(self._starts):
                found.append(Interval(start, end))
                break
            if start < self._starts[number]:
                found.append(Interval(start, min(end, self._starts[number])))
            start = self._ends[number]
            number += 1
        return found

    def covers(self, start: Point, end: Point) -> bool:
        """Whether all of [start, end) is in the set."""
        return not self.gaps(start, end)

    @property
    def frontier(self) -> Point | None:
        """The end of the first interval: what lies before it, from where it began, is done; None where nothing is."""
        return self._ends[0] if self._ends else None

    @property
    def latest(self) -> Point | None:
        """The end of the last interval; None where there is none."""
        return self._ends[-1] if self._ends else None

    def __iter__(self) -> Iterator[Interval]:
        return map(Interval, self._starts, self._ends)

    def __len__(self) -> int:
        return len(self._starts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Intervals):
            return NotImplemented
        return self._starts == other._starts and self._ends == other._ends

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"Intervals({[tuple(one) for one in self]})"
