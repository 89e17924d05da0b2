"""Interval sets: membership, gaps and frontier."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from asyncstreams.cursors.intervals import Interval, Intervals

POINTS = range(40)
spans = st.lists(st.tuples(st.sampled_from(POINTS), st.sampled_from(POINTS)), max_size=12)


def points_of(intervals: list[tuple[int, int]]) -> set[int]:
    return {point for start, end in intervals for point in range(start, end)}


@given(spans)
def test_property_intervals_contain_exactly_added_points(added):
    found = Intervals(added)

    assert points_of([tuple(interval) for interval in found]) == points_of(added)


@given(spans)
def test_property_intervals_are_sorted_and_disjoint(added):
    found = list(Intervals(added))

    assert all(interval.end < after.start for interval, after in pairwise(found))


@given(spans, st.sampled_from(POINTS), st.sampled_from(POINTS))
def test_property_gaps_are_exactly_missing_points(added, start, end):
    gaps = Intervals(added).gaps(start, end)

    assert points_of([tuple(gap) for gap in gaps]) == set(range(start, end)) - points_of(added)
    assert gaps == sorted(gaps)


@given(spans, st.sampled_from(POINTS), st.sampled_from(POINTS))
def test_property_covered_range_has_no_gaps(added, start, end):
    assert Intervals(added).covers(start, end) == (set(range(start, end)) <= points_of(added))


@given(spans, st.randoms())
def test_property_insertion_order_does_not_matter(added, random):
    other = list(added)
    random.shuffle(other)

    assert Intervals(other) == Intervals(added)


@given(spans)
def test_property_frontier_is_end_of_first_interval(added):
    points = points_of(added)
    first = min(points, default=None)
    run = first
    while run is not None and run in points:
        run += 1

    assert Intervals(added).frontier == run
    assert Intervals(added).latest == (max(points) + 1 if points else None)


def test_empty_set_covers_nothing():
    assert Intervals().gaps() == [Interval(float("-inf"), float("inf"))]
    assert Intervals().frontier is None


def test_gap_ends_at_the_end_of_the_range():
    assert Intervals([(5, 9)]).gaps(0, 3) == [Interval(0, 3)]
