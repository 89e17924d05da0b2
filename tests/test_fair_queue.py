"""Does each stream have its share of the turns, by weight, and those of one stream theirs in their order?"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncstreams.rate_limits.fair_queue import FairQueue, QueueEntry

often = settings(max_examples=200, deadline=None)
weights = st.floats(0.05, 20) | st.integers(1, 5).map(float)


class Named(QueueEntry[None]):
    __slots__ = ("name",)

    def __init__(self, name: int, weight: float) -> None:
        super().__init__(weight)
        self.name = name


def turn(queue: FairQueue[Named]) -> Named:
    """Whose turn it is: it has it, and waits again."""
    lane = next(iter(queue))
    queue.push(lane)
    assert queue.pop(lane) is not None
    return lane


def turns(queue: FairQueue[Named], count: int) -> Counter[int]:
    return Counter(turn(queue).name for _ in range(count))


def waiting(*weights: float) -> tuple[FairQueue[Named], list[Named]]:
    """A queue of lanes of these weights, in each of which one waits."""
    queue: FairQueue[Named] = FairQueue()
    lanes = [Named(number, weight) for number, weight in enumerate(weights)]
    for lane in lanes:
        queue.push(lane)
    return queue, lanes


@often
@given(weights=st.lists(weights, min_size=2, max_size=6), count=st.integers(1, 150))
def test_lanes_that_always_wait_have_their_shares_within_one_turn(weights: list[float], count: int) -> None:
    async def run() -> None:
        queue, lanes = waiting(*weights)
        had: Counter[int] = Counter()

        for _ in range(count):
            had[turn(queue).name] += 1
            shares = [had[lane.name] / lane.weight for lane in lanes]
            for lane, share in zip(lanes, shares, strict=True):
                assert share - min(shares) <= 1 / lane.weight + 1e-9

    asyncio.run(run())


async def test_turns_of_equal_lanes_alternate() -> None:
    queue, _ = waiting(1, 1, 1)

    names = [turn(queue).name for _ in range(30)]

    assert all(set(names[begin : begin + 3]) == {0, 1, 2} for begin in range(0, 30, 3))


async def test_four_times_the_weight_is_four_times_the_turns() -> None:
    queue, _ = waiting(4, 1)

    assert turns(queue, 500) == {0: 400, 1: 100}


@often
@given(weights=st.lists(weights, min_size=2, max_size=4), alone=st.integers(1, 300), busy=st.booleans())
def test_a_latecomer_neither_makes_up_for_what_it_missed_nor_is_behind(
    weights: list[float], alone: int, *, busy: bool
) -> None:
    async def run() -> None:
        queue, lanes = waiting(*weights)
        late = Named(99, 1.0)
        for _ in range(alone):
            if busy:
                turn(queue)
            else:
                queue.passed(lanes[0])

        queue.push(late)

        had: Counter[int] = Counter()
        for _ in range(100):
            had[turn(queue).name] += 1
            for lane in lanes if busy else lanes[:1]:
                # One turn of each that is under way when it comes, and one that it may be ahead.
                assert had[99] - had[lane.name] / lane.weight <= 1 + 1 / lane.weight + 1e-9
                assert had[lane.name] / lane.weight - had[99] <= 1 + 1 / lane.weight + 1e-9

    asyncio.run(run())


async def test_a_lane_that_comes_back_does_not_make_up_for_the_time_it_was_away() -> None:
    queue, lanes = waiting(1, 1)
    turns(queue, 10)
    assert queue.pop(lanes[1]) is not None

    turns(queue, 1000)
    queue.push(lanes[1])

    had = turns(queue, 20)
    assert abs(had[0] - had[1]) <= 2


async def test_whoever_went_alone_is_not_charged_for_it() -> None:
    queue: FairQueue[Named] = FairQueue()
    first, second = Named(0, 1), Named(1, 1)
    for _ in range(1000):
        queue.passed(first)

    queue.push(first)
    queue.push(second)

    had = turns(queue, 20)
    assert abs(had[0] - had[1]) <= 2


async def test_what_went_without_waiting_counts_as_a_turn() -> None:
    queue, lanes = waiting(1, 1)
    lanes_left = lanes[0]

    for _ in range(10):
        queue.passed(lanes_left)

    assert [turn(queue).name for _ in range(9)] == [1] * 9


async def test_within_a_lane_it_is_first_come_first_served() -> None:
    queue: FairQueue[Named] = FairQueue()
    lane = Named(0, 1)
    waiters = [queue.push(lane) for _ in range(20)]

    assert [queue.pop(lane) for _ in range(20)] == waiters
    assert not queue


async def test_who_comes_first_goes_before_its_own_lane_and_not_before_others() -> None:
    queue, (mine, other) = waiting(1, 1)
    turn(queue)
    assert next(iter(queue)) is other

    first = queue.push(mine, first=True)

    assert next(iter(queue)) is other
    assert queue.pop(mine) is first


async def test_waiters_that_were_cancelled_are_skipped_and_cost_no_turn() -> None:
    queue: FairQueue[Named] = FairQueue()
    mine, other = Named(0, 1), Named(1, 1)
    waiters = [queue.push(mine) for _ in range(5)]
    queue.push(other)
    for waiter in waiters[:3]:
        waiter.cancel()

    assert queue.pop(mine) is waiters[3]
    assert mine.due == 1
    assert queue.pop(mine) is waiters[4]


async def test_a_lane_of_cancelled_waiters_only_has_no_turn_and_waits_no_more() -> None:
    queue: FairQueue[Named] = FairQueue()
    mine, other = Named(0, 1), Named(1, 1)
    for _ in range(3):
        queue.push(mine).cancel()
    queue.push(other)

    assert queue.pop(mine) is None

    assert list(queue) == [other]
    assert mine.due == 0


async def test_a_waiter_whose_task_is_cancelled_is_skipped() -> None:
    queue: FairQueue[Named] = FairQueue()
    lane = Named(0, 1)

    async def wait() -> None:
        await queue.push(lane)

    tasks = [asyncio.create_task(wait()) for _ in range(3)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.gather(tasks[0], return_exceptions=True)
    while (waiter := queue.pop(lane)) is not None:
        waiter.set_result(None)

    await asyncio.gather(*tasks[1:])
    assert tasks[0].cancelled()


async def test_who_is_forgotten_waits_no_more_and_may_be_forgotten_twice() -> None:
    queue: FairQueue[Named] = FairQueue()
    lane = Named(0, 1)
    gone, stays = queue.push(lane), queue.push(lane)

    queue.forget(lane, gone)
    queue.forget(lane, gone)
    assert queue.pop(lane) is stays

    queue.forget(lane, queue.push(lane))
    assert not queue


async def test_it_tells_how_many_wait_and_in_which_lanes() -> None:
    queue: FairQueue[Named] = FairQueue()
    assert (len(queue), bool(queue), list(queue)) == (0, False, [])

    lanes = [Named(number, 1) for number in range(3)]
    for number, lane in enumerate(lanes):
        for _ in range(number + 1):
            queue.push(lane)

    assert (len(queue), bool(queue), set(queue)) == (6, True, set(lanes))


async def test_it_tells_how_many_go_before_one_more_of_a_lane() -> None:
    queue, [light, heavy] = waiting(1, 3)
    for _ in range(5):
        queue.push(heavy)

    # Of four that go three are of the heavy one.
    assert queue.ahead_of(light) == 1 * 4
    assert queue.ahead_of(heavy) == pytest.approx(6 * 4 / 3)
    assert queue.ahead_of(Named(2, 1)) == 0


async def test_those_of_a_lane_who_are_sent_away_are_told_nothing_and_the_others_stay() -> None:
    queue: FairQueue[Named] = FairQueue()
    going, staying = Named(0, 1), Named(1, 1)
    sent_away = [queue.push(going) for _ in range(3)]
    queue.push(staying)
    sent_away[1].cancel()

    queue.send_away(going)

    assert [waiter.cancelled() or waiter.result() for waiter in sent_away] == [None, True, None]
    assert list(queue) == [staying]


@pytest.mark.parametrize("weight", [0.1, 1, 7])
async def test_the_next_one_is_told_first_and_all_are_told(weight: float) -> None:
    queue, lanes = waiting(weight, 1, 1)
    queue.passed(lanes[0])
    queue.passed(lanes[0])
    queue.passed(lanes[1])

    told: list[Any] = list(queue)

    assert told[0] is lanes[2]
    assert sorted(lane.name for lane in told) == [0, 1, 2]


@often
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["push", "first", "pop", "cancel", "forget", "passed"]))
    )
)
def test_everybody_is_served_once_or_has_gone_whatever_happens(steps: list[tuple[int, str]]) -> None:
    async def run() -> None:
        queue: FairQueue[Named] = FairQueue()
        lanes = [Named(number, 1 + number) for number in range(3)]
        want: list[list[asyncio.Future[Any]]] = [[], [], []]

        for number, what in steps:
            lane, mine = lanes[number], want[number]
            if what == "push":
                mine.append(queue.push(lane))
            elif what == "first":
                mine.insert(0, queue.push(lane, first=True))
            elif what == "passed":
                queue.passed(lane)
            elif what == "pop":
                assert queue.pop(lane) is (mine.pop(0) if mine else None)
            elif mine:
                gone = mine.pop(len(mine) // 2)
                if what == "cancel":
                    gone.cancel()
                else:
                    queue.forget(lane, gone)

        assert [lane for lane in lanes if want[lane.name] and lane not in list(queue)] == []
        for lane, mine in zip(lanes, want, strict=True):
            for waiter in mine:
                assert queue.pop(lane) is waiter
            assert queue.pop(lane) is None
        assert not queue

    asyncio.run(run())
