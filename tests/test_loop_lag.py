"""Is it known how late this event loop is, and does nobody look when nobody asks?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from asyncstreams.rate_limits.loop_lag import LoopLag
from asyncstreams.testing import VirtualClock

LOOK = 0.05


@pytest.fixture
async def timers(virtual_clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> list[asyncio.TimerHandle]:
    """All that are set from now on; time is virtual."""
    virtual_clock.monotonic()
    loop = asyncio.get_running_loop()
    handles: list[asyncio.TimerHandle] = []
    call_at = loop.call_at

    def noted(when: float, callback: Callable[..., object], *arguments: Any, **keywords: Any) -> asyncio.TimerHandle:
        handles.append(call_at(when, callback, *arguments, **keywords))
        return handles[-1]

    monkeypatch.setattr(loop, "call_at", noted)
    return handles


async def ask_for(lag: LoopLag, seconds: float) -> float:
    """Ask a hundred times a second; what the last answer is."""
    for _ in range(round(seconds * 100)):
        lag.sample()
        await asyncio.sleep(0.01)
    return lag.sample()


async def test_an_idle_loop_is_not_late(virtual_clock: VirtualClock) -> None:
    virtual_clock.monotonic()

    assert await ask_for(LoopLag(), 2) < 0.001


async def test_a_busy_loop_is_as_late_as_it_was_busy(virtual_clock: VirtualClock) -> None:
    lag = LoopLag()
    virtual_clock.monotonic()
    await ask_for(lag, 1)

    virtual_clock.advance(0.4)
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert 0.4 - LOOK - 0.001 < lag.sample() < 0.401


async def test_a_loop_that_really_blocks_is_late() -> None:
    lag = LoopLag()
    lag.sample()

    time.sleep(0.2)  # noqa: ASYNC251
    await asyncio.sleep(0.01)

    assert lag.sample() > 0.1
    lag.stop()


async def test_it_is_late_for_two_looks_and_then_forgets(virtual_clock: VirtualClock) -> None:
    lag = LoopLag()
    virtual_clock.monotonic()
    await ask_for(lag, 1)

    virtual_clock.advance(0.4)

    assert await ask_for(lag, 0.02) > 0.3
    assert await ask_for(lag, LOOK) > 0.3
    assert await ask_for(lag, 2 * LOOK) < 0.001


async def test_of_the_last_two_delays_the_larger_counts(virtual_clock: VirtualClock) -> None:
    lag = LoopLag()
    virtual_clock.monotonic()
    await ask_for(lag, 1)

    virtual_clock.advance(0.4)
    await ask_for(lag, 0.02)
    virtual_clock.advance(0.2)

    assert await ask_for(lag, 0.02) > 0.3
    assert 0.1 < await ask_for(lag, LOOK) < 0.2


async def test_it_looks_twenty_times_a_second_while_somebody_asks(timers: list[asyncio.TimerHandle]) -> None:
    lag = LoopLag()

    for _ in range(1000):
        lag.sample()
    assert len(timers) == 1

    lag.stop()
    timers.clear()
    for _ in range(40):
        lag.sample()
        lag.sample()
        await asyncio.sleep(LOOK)
    ours = [timer for timer in timers if "_measure" in repr(timer)]
    assert 38 <= len(ours) <= 41


async def test_it_stops_by_itself_soon_after_nobody_asks(timers: list[asyncio.TimerHandle]) -> None:
    lag = LoopLag()
    await ask_for(lag, 1)
    await asyncio.sleep(2.5 * LOOK)
    timers.clear()

    await asyncio.sleep(10)

    assert len(timers) == 1  # this sleep's own
    assert lag.seconds == 0


async def test_who_asks_again_makes_it_look_again(
    timers: list[asyncio.TimerHandle], virtual_clock: VirtualClock
) -> None:
    lag = LoopLag()
    lag.sample()
    await asyncio.sleep(10)

    lag.sample()
    virtual_clock.advance(0.4)

    assert await ask_for(lag, 0.02) > 0.3


async def test_a_delay_of_long_ago_is_forgotten(virtual_clock: VirtualClock) -> None:
    lag = LoopLag()
    virtual_clock.monotonic()
    lag.sample()
    await asyncio.sleep(1.5 * LOOK)
    virtual_clock.advance(0.4)
    await asyncio.sleep(3600)

    assert await ask_for(lag, 1.5 * LOOK) < 0.001


async def test_stop_leaves_no_timer(timers: list[asyncio.TimerHandle]) -> None:
    lag = LoopLag()
    lag.sample()
    assert [timer.cancelled() for timer in timers] == [False]

    lag.stop()
    lag.stop()

    assert [timer.cancelled() for timer in timers] == [True]
    timers.clear()
    await asyncio.sleep(1)
    assert len(timers) == 1  # this sleep's own


async def test_who_asks_after_a_stop_makes_it_look_again(timers: list[asyncio.TimerHandle]) -> None:
    lag = LoopLag()
    lag.sample()
    lag.stop()

    lag.sample()

    assert [timer.cancelled() for timer in timers] == [True, False]
    lag.stop()
