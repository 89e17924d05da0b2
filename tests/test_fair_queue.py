"""Weighted fair queue: shares by weight, order within an entry."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulation import examples

from asyncstreams.rate_limits.fair_queue import FairQueue, QueueEntry

often = examples(full=200, short=40)
weights = st.floats(0.05, 20) | st.integers(1, 5).map(float)


class NamedEntry(QueueEntry[None]):
    __slots__ = ("name",)

    def __init__(self, name: int, weight: float) -> None:
        super().__init__(weight)
        self.name = name


def serve_next(queue: FairQueue[NamedEntry]) -> NamedEntry:
    """Serve the next entry, which then waits again. Returns it."""
    entry = next(iter(queue))
    queue.push(entry)
    assert queue.pop(entry) is not None
    return entry


def serve(queue: FairQueue[NamedEntry], count: int) -> Counter[int]:
    return Counter(serve_next(queue).name for _ in range(count))


def queue_of(*weights: float) -> tuple[FairQueue[NamedEntry], list[NamedEntry]]:
    """A queue of entries of these weights with one waiter each."""
    queue: FairQueue[NamedEntry] = FairQueue()
    entries = [NamedEntry(number, weight) for number, weight in enumerate(weights)]
    for entry in entries:
        queue.push(entry)
    return queue, entries


@often
@given(weights=st.lists(weights, min_size=2, max_size=6), count=st.integers(1, 150))
def test_shares_follow_weights_within_one_turn(weights: list[float], count: int) -> None:
    async def run() -> None:
        queue, entries = queue_of(*weights)
        served: Counter[int] = Counter()

        for _ in range(count):
            served[serve_next(queue).name] += 1
            shares = [served[entry.name] / entry.weight for entry in entries]
            for entry, share in zip(entries, shares, strict=True):
                assert share - min(shares) <= 1 / entry.weight + 1e-9

    asyncio.run(run())


async def test_entries_of_equal_weight_alternate() -> None:
    queue, _ = queue_of(1, 1, 1)

    names = [serve_next(queue).name for _ in range(30)]

    assert all(set(names[begin : begin + 3]) == {0, 1, 2} for begin in range(0, 30, 3))


async def test_four_times_the_weight_gets_four_times_the_turns() -> None:
    queue, _ = queue_of(4, 1)

    assert serve(queue, 500) == {0: 400, 1: 100}


@often
@given(weights=st.lists(weights, min_size=2, max_size=4), count_alone=st.integers(1, 300), busy=st.booleans())
def test_late_entry_neither_catches_up_nor_lags(weights: list[float], count_alone: int, *, busy: bool) -> None:
    async def run() -> None:
        queue, entries = queue_of(*weights) if busy else (FairQueue[NamedEntry](), [NamedEntry(0, weights[0])])
        late_entry = NamedEntry(99, 1.0)
        for _ in range(count_alone):
            if busy:
                serve_next(queue)
            else:
                queue.charge(entries[0])  # without a wait

        for entry in () if busy else entries:
            queue.push(entry)
        queue.push(late_entry)

        served: Counter[int] = Counter()
        for _ in range(100):
            served[serve_next(queue).name] += 1
            for entry in entries:
                # One turn of each may be in progress when it comes, and it may be ahead by one.
                assert served[99] - served[entry.name] / entry.weight <= 1 + 1 / entry.weight + 1e-9
                assert served[entry.name] / entry.weight - served[99] <= 1 + 1 / entry.weight + 1e-9

    asyncio.run(run())


async def test_returning_entry_does_not_catch_up() -> None:
    queue, entries = queue_of(1, 1)
    serve(queue, 10)
    assert queue.pop(entries[1]) is not None

    serve(queue, 1000)
    queue.push(entries[1])

    served = serve(queue, 20)
    assert abs(served[0] - served[1]) <= 2


async def test_entry_that_was_alone_is_not_charged() -> None:
    queue: FairQueue[NamedEntry] = FairQueue()
    first, second = NamedEntry(0, 1), NamedEntry(1, 1)
    for _ in range(1000):
        queue.charge(first)

    queue.push(first)
    queue.push(second)

    served = serve(queue, 20)
    assert abs(served[0] - served[1]) <= 2


async def test_charge_counts_as_a_turn() -> None:
    queue, entries = queue_of(1, 1)
    first_entry = entries[0]

    for _ in range(10):
        queue.charge(first_entry)

    assert [serve_next(queue).name for _ in range(9)] == [1] * 9


async def test_first_come_first_served_within_an_entry() -> None:
    queue: FairQueue[NamedEntry] = FairQueue()
    entry = NamedEntry(0, 1)
    waiters = [queue.push(entry) for _ in range(20)]

    assert [queue.pop(entry) for _ in range(20)] == waiters
    assert not queue


async def test_first_only_goes_before_waiters_of_its_entry() -> None:
    queue, (own, other) = queue_of(1, 1)
    serve_next(queue)
    assert next(iter(queue)) is other

    first = queue.push(own, first=True)

    assert next(iter(queue)) is other
    assert queue.pop(own) is first


async def test_cancelled_waiters_are_skipped_without_charge() -> None:
    queue: FairQueue[NamedEntry] = FairQueue()
    own, other = NamedEntry(0, 1), NamedEntry(1, 1)
    waiters = [queue.push(own) for _ in range(5)]
    queue.push(other)
    for waiter in waiters[:3]:
        waiter.cancel()

    assert queue.pop(own) is waiters[3]
    assert own.start_tag == 1
    assert queue.pop(own) is waiters[4]


async def test_entry_with_only_cancelled_waiters_is_removed() -> None:
    queue: FairQueue[NamedEntry] = FairQueue()
    own, other = NamedEntry(0, 1), NamedEntry(1, 1)
    for _ in range(3):
        queue.push(own).cancel()
    queue.push(other)

    assert queue.pop(own) is None

    assert list(queue) == [other]
    assert own.start_tag == 0


async def test_waiter_of_cancelled_task_is_skipped() -> None:
    queue: FairQueue[NamedEntry] = FairQueue()
    entry = NamedEntry(0, 1)

    async def wait() -> None:
        await queue.push(entry)

    tasks = [asyncio.create_task(wait()) for _ in range(3)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.gather(tasks[0], return_exceptions=True)
    while (waiter := queue.pop(entry)) is not None:
        waiter.set_result(None)

    await asyncio.gather(*tasks[1:])
    assert tasks[0].cancelled()


async def test_removed_waiter_is_not_served_and_may_be_removed_twice() -> None:
    queue: FairQueue[NamedEntry] = FairQueue()
    entry = NamedEntry(0, 1)
    removed, kept = queue.push(entry), queue.push(entry)

    queue.remove(entry, removed)
    queue.remove(entry, removed)
    assert queue.pop(entry) is kept

    queue.remove(entry, queue.push(entry))
    assert not queue


async def test_len_and_iter_report_waiters_and_entries() -> None:
    queue: FairQueue[NamedEntry] = FairQueue()
    assert (len(queue), bool(queue), list(queue)) == (0, False, [])

    entries = [NamedEntry(number, 1) for number in range(3)]
    for number, entry in enumerate(entries):
        for _ in range(number + 1):
            queue.push(entry)

    assert (len(queue), bool(queue), set(queue)) == (6, True, set(entries))


async def test_ahead_of_estimates_waiters_served_before() -> None:
    queue, [light, heavy] = queue_of(1, 3)
    for _ in range(5):
        queue.push(heavy)

    # Three of four served waiters are of the heavy entry.
    assert queue.ahead_of(light) == 1 * 4
    assert queue.ahead_of(heavy) == pytest.approx(6 * 4 / 3)
    assert queue.ahead_of(NamedEntry(2, 1)) == 0


async def test_dismissed_waiters_get_none_and_others_stay() -> None:
    queue: FairQueue[NamedEntry] = FairQueue()
    dismissed, kept = NamedEntry(0, 1), NamedEntry(1, 1)
    waiters = [queue.push(dismissed) for _ in range(3)]
    queue.push(kept)
    waiters[1].cancel()

    queue.dismiss(dismissed)

    assert [waiter.cancelled() or waiter.result() for waiter in waiters] == [None, True, None]
    assert list(queue) == [kept]


@pytest.mark.parametrize("weight", [0.1, 1, 7])
async def test_iteration_starts_with_the_next_entry(weight: float) -> None:
    queue, entries = queue_of(weight, 1, 1)
    queue.charge(entries[0])
    queue.charge(entries[0])
    queue.charge(entries[1])

    entries_in_order: list[Any] = list(queue)

    assert entries_in_order[0] is entries[2]
    assert sorted(entry.name for entry in entries_in_order) == [0, 1, 2]


@often
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["push", "first", "pop", "cancel", "remove", "charge"]))
    )
)
def test_every_waiter_is_served_once_or_removed(steps: list[tuple[int, str]]) -> None:
    async def run() -> None:
        queue: FairQueue[NamedEntry] = FairQueue()
        entries = [NamedEntry(number, 1 + number) for number in range(3)]
        expected: list[list[asyncio.Future[Any]]] = [[], [], []]

        for number, action in steps:
            entry, own = entries[number], expected[number]
            if action == "push":
                own.append(queue.push(entry))
            elif action == "first":
                own.insert(0, queue.push(entry, first=True))
            elif action == "charge":
                queue.charge(entry)
            elif action == "pop":
                assert queue.pop(entry) is (own.pop(0) if own else None)
            elif own:
                removed = own.pop(len(own) // 2)
                if action == "cancel":
                    removed.cancel()
                else:
                    queue.remove(entry, removed)

        assert [entry for entry in entries if expected[entry.name] and entry not in list(queue)] == []
        for entry, own in zip(entries, expected, strict=True):
            for waiter in own:
                assert queue.pop(entry) is waiter
            assert queue.pop(entry) is None
        assert not queue

    asyncio.run(run())
