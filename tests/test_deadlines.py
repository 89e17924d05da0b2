"""One shared timer time_of_end each attempt at its own limit."""

from __future__ import annotations

import asyncio

import pytest

from asyncstreams import StallTimeout, Timeouts
from asyncstreams.http.timeouts import AttemptTimeout, Deadlines
from asyncstreams.testing import VirtualClock


def limits(seconds: float) -> Timeouts:
    """Timeouts that require a response within `seconds`, including the connection."""
    return Timeouts(connect=0.001, first_byte=seconds, read=seconds, total=1000)


async def time_of_stall(deadlines: Deadlines, clock: VirtualClock, seconds: float, delay: float = 0.0) -> float:
    """The time at which an attempt without a response is cancelled."""
    await asyncio.sleep(delay)
    with pytest.raises(StallTimeout), AttemptTimeout(limits(seconds), deadlines):
        await asyncio.sleep(500)
    return clock.monotonic()


async def time_of_end(deadlines: Deadlines, clock: VirtualClock, seconds: float, duration: float) -> float:
    with AttemptTimeout(limits(seconds), deadlines):
        await asyncio.sleep(duration)
    return clock.monotonic()


async def test_concurrent_attempts_end_at_their_own_limits(virtual_clock: VirtualClock):
    started_at = virtual_clock.monotonic()
    deadlines = Deadlines()

    end_times = await asyncio.gather(
        time_of_stall(deadlines, virtual_clock, 60),
        time_of_end(deadlines, virtual_clock, 60, duration=59),
        time_of_stall(deadlines, virtual_clock, 10, delay=5),
        time_of_stall(deadlines, virtual_clock, 10, delay=5),
        time_of_end(deadlines, virtual_clock, 10, duration=3),
        time_of_stall(deadlines, virtual_clock, 7, delay=30),
    )

    assert [ended_at - started_at for ended_at in end_times] == pytest.approx([60, 59, 15, 15, 3, 37], abs=0.01)


async def test_deadline_moves_with_each_received_piece(virtual_clock: VirtualClock):
    started_at = virtual_clock.monotonic()
    deadlines = Deadlines()

    with pytest.raises(StallTimeout), AttemptTimeout(limits(10), deadlines) as timeout:  # noqa: PT012  # pieces arrive, then none
        timeout.start_body()
        for _ in range(8):
            await asyncio.sleep(9)
            timeout.add_bytes(1_000_000)
        await asyncio.sleep(500)

    assert virtual_clock.monotonic() - started_at == pytest.approx(82, abs=0.01)


async def test_timer_restarts_after_all_attempts_have_ended(virtual_clock: VirtualClock):
    deadlines = Deadlines()
    await time_of_end(deadlines, virtual_clock, 60, duration=1)
    await asyncio.sleep(200)
    started_at = virtual_clock.monotonic()

    assert await time_of_stall(deadlines, virtual_clock, 10) - started_at == pytest.approx(10, abs=0.01)
