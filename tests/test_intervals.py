"""Do intervals hold exactly the points that were added, as few as can be?"""

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
def test_property_a_point_is_in_it_if_it_was_added(added):
    found = Intervals(added)

    assert points_of([tuple(one) for one in found]) == points_of(added)


@given(spans)
def test_property_they_are_in_order_and_do_not_touch(added):
    found = list(Intervals(added))

    assert all(one.end < after.start for one, after in pairwise(found))


@given(spans, st.sampled_from(POINTS), st.sampled_from(POINTS))
def test_property_gaps_are_exactly_what_is_missing(added, start, end):
    gaps = Intervals(added).gaps(start, end)

    assert points_of([tuple(gap) for gap in gaps]) == set(range(start, end)) - points_of(added)
    assert gaps == sorted(gaps)


@given(spans, st.sampled_from(POINTS), st.sampled_from(POINTS))
def test_property_what_is_covered_has_no_gaps(added, start, end):
    assert Intervals(added).covers(start, end) == (set(range(start, end)) <= points_of(added))


@given(spans, st.randoms())
def test_property_the_order_of_adding_does_not_matter(added, random):
    other = list(added)
    random.shuffle(other)

    assert Intervals(other) == Intervals(added)


@given(spans)
def test_property_the_frontier_ends_the_first_unbroken_run(added):
    points = points_of(added)
    first = min(points, default=None)
    run = first
    while run is not None and run in points:
        run += 1

    assert Intervals(added).frontier == run
    assert Intervals(added).latest == (max(points) + 1 if points else None)


def test_nothing_is_covered_at_first():
    assert Intervals().gaps() == [Interval(float("-inf"), float("inf"))]
    assert Intervals().frontier is None
