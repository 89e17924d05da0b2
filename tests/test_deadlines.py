"""Does one timer end each attempt at its own limit, and leave the others alone?"""

from __future__ import annotations

import asyncio

import pytest

from asyncstreams import StallTimeout, Timeouts
from asyncstreams.http.timeouts import AttemptTimeout, Deadlines
from asyncstreams.testing import VirtualClock


def limits(seconds: float) -> Timeouts:
    """An answer must begin within so many seconds, connecting included."""
    return Timeouts(connect=0.001, first_byte=seconds, read=seconds, total=1000)


async def stalls(alarm: Deadlines, clock: VirtualClock, seconds: float, after: float = 0.0) -> float:
    """When an attempt is ended that never gets an answer."""
    await asyncio.sleep(after)
    with pytest.raises(StallTimeout), AttemptTimeout(limits(seconds), alarm):
        await asyncio.sleep(500)
    return clock.monotonic()


async def ends(alarm: Deadlines, clock: VirtualClock, seconds: float, takes: float) -> float:
    with AttemptTimeout(limits(seconds), alarm):
        await asyncio.sleep(takes)
    return clock.monotonic()


async def test_attempts_side_by_side_are_each_ended_at_their_own_limit(virtual_clock: VirtualClock):
    began = virtual_clock.monotonic()
    alarm = Deadlines()

    found = await asyncio.gather(
        stalls(alarm, virtual_clock, 60),
        ends(alarm, virtual_clock, 60, takes=59),
        stalls(alarm, virtual_clock, 10, after=5),
        stalls(alarm, virtual_clock, 10, after=5),
        ends(alarm, virtual_clock, 10, takes=3),
        stalls(alarm, virtual_clock, 7, after=30),
    )

    assert [one - began for one in found] == pytest.approx([60, 59, 15, 15, 3, 37], abs=0.01)


async def test_a_limit_that_moves_on_is_held_from_where_it_was_moved_to(virtual_clock: VirtualClock):
    began = virtual_clock.monotonic()
    alarm = Deadlines()

    with pytest.raises(StallTimeout), AttemptTimeout(limits(10), alarm) as watch:  # noqa: PT012  # pieces come, and then none
        watch.start_body()
        for _ in range(8):
            await asyncio.sleep(9)
            watch.add_bytes(1_000_000)
        await asyncio.sleep(500)

    assert virtual_clock.monotonic() - began == pytest.approx(82, abs=0.01)


async def test_after_all_have_ended_the_next_one_is_looked_after_too(virtual_clock: VirtualClock):
    alarm = Deadlines()
    await ends(alarm, virtual_clock, 60, takes=1)
    await asyncio.sleep(200)
    began = virtual_clock.monotonic()

    assert await stalls(alarm, virtual_clock, 10) - began == pytest.approx(10, abs=0.01)
