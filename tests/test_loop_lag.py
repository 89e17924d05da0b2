"""Measurement of the event loop's own delay."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from asyncstreams.rate_limits.loop_lag import LoopLag
from asyncstreams.testing import VirtualClock

INTERVAL = 0.05


@pytest.fixture
async def timers(virtual_clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> list[asyncio.TimerHandle]:
    """All timers set from now on, in virtual time."""
    virtual_clock.monotonic()
    loop = asyncio.get_running_loop()
    handles: list[asyncio.TimerHandle] = []
    call_at = loop.call_at

    def record_timer(
        when: float, callback: Callable[..., object], *arguments: Any, **keywords: Any
    ) -> asyncio.TimerHandle:
        handles.append(call_at(when, callback, *arguments, **keywords))
        return handles[-1]

    monkeypatch.setattr(loop, "call_at", record_timer)
    return handles


async def sample_for(lag: LoopLag, seconds: float) -> float:
    """Sample a hundred times a second. Returns the last sample."""
    for _ in range(round(seconds * 100)):
        lag.sample()
        await asyncio.sleep(0.01)
    return lag.sample()


async def test_idle_loop_has_no_lag(virtual_clock: VirtualClock) -> None:
    virtual_clock.monotonic()

    assert await sample_for(LoopLag(), 2) < 0.001


async def test_lag_equals_the_blocked_time(virtual_clock: VirtualClock) -> None:
    lag = LoopLag()
    virtual_clock.monotonic()
    await sample_for(lag, 1)

    virtual_clock.advance(0.4)
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert 0.4 - INTERVAL - 0.001 < lag.sample() < 0.401


async def test_lag_of_a_really_blocked_loop() -> None:
    lag = LoopLag()
    lag.sample()

    time.sleep(0.2)  # noqa: ASYNC251
    await asyncio.sleep(0.01)

    assert lag.sample() > 0.1
    lag.stop()


async def test_lag_is_kept_for_two_measurements(virtual_clock: VirtualClock) -> None:
    lag = LoopLag()
    virtual_clock.monotonic()
    await sample_for(lag, 1)

    virtual_clock.advance(0.4)

    assert await sample_for(lag, 0.02) > 0.3
    assert await sample_for(lag, INTERVAL) > 0.3
    assert await sample_for(lag, 2 * INTERVAL) < 0.001


async def test_larger_of_the_last_two_delays_counts(virtual_clock: VirtualClock) -> None:
    lag = LoopLag()
    virtual_clock.monotonic()
    await sample_for(lag, 1)

    virtual_clock.advance(0.4)
    await sample_for(lag, 0.02)
    virtual_clock.advance(0.2)

    assert await sample_for(lag, 0.02) > 0.3
    assert 0.1 < await sample_for(lag, INTERVAL) < 0.2


async def test_measures_twenty_times_a_second_while_in_use(timers: list[asyncio.TimerHandle]) -> None:
    lag = LoopLag()

    for _ in range(1000):
        lag.sample()
    assert len(timers) == 1

    lag.stop()
    timers.clear()
    for _ in range(40):
        lag.sample()
        lag.sample()
        await asyncio.sleep(INTERVAL)
    lag_timers = [timer for timer in timers if "_measure" in repr(timer)]
    assert 38 <= len(lag_timers) <= 41


async def test_measurement_stops_when_unused(timers: list[asyncio.TimerHandle]) -> None:
    lag = LoopLag()
    await sample_for(lag, 1)
    await asyncio.sleep(2.5 * INTERVAL)
    timers.clear()

    await asyncio.sleep(10)

    assert len(timers) == 1  # the timer of this sleep
    assert lag.seconds == 0


async def test_sample_after_a_break_measures_again(
    timers: list[asyncio.TimerHandle], virtual_clock: VirtualClock
) -> None:
    lag = LoopLag()
    lag.sample()
    await asyncio.sleep(10)

    lag.sample()
    virtual_clock.advance(0.4)

    assert await sample_for(lag, 0.02) > 0.3


async def test_old_delay_is_not_reported(virtual_clock: VirtualClock) -> None:
    lag = LoopLag()
    virtual_clock.monotonic()
    lag.sample()
    await asyncio.sleep(1.5 * INTERVAL)
    virtual_clock.advance(0.4)
    await asyncio.sleep(3600)

    assert await sample_for(lag, 1.5 * INTERVAL) < 0.001


async def test_stop_cancels_the_timer(timers: list[asyncio.TimerHandle]) -> None:
    lag = LoopLag()
    lag.sample()
    assert [timer.cancelled() for timer in timers] == [False]

    lag.stop()
    lag.stop()

    assert [timer.cancelled() for timer in timers] == [True]
    timers.clear()
    await asyncio.sleep(1)
    assert len(timers) == 1  # the timer of this sleep


async def test_sample_after_stop_measures_again(timers: list[asyncio.TimerHandle]) -> None:
    lag = LoopLag()
    lag.sample()
    lag.stop()

    lag.sample()

    assert [timer.cancelled() for timer in timers] == [True, False]
    lag.stop()
