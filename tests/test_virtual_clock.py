"""VirtualClock: order of waits, timeouts, threads and reproducible backoff."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import anyio
import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncstreams import HttpStatusError, HttpStream, RequestContext
from asyncstreams.testing import VirtualClock


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2000).map(lambda tenths: tenths / 10), min_size=1, max_size=12))
def test_sleepers_wake_in_order_and_on_time(naps: list[float]) -> None:
    clock = VirtualClock()
    woken: list[tuple[float, float]] = []

    async def nap(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((seconds, clock.monotonic()))

    async def run() -> None:
        clock.monotonic()
        await asyncio.gather(*map(nap, naps))

    asyncio.run(run())

    assert [seconds for seconds, _ in woken] == sorted(naps)
    assert [at for _, at in woken] == pytest.approx(sorted(naps), abs=1e-6)


async def test_an_hour_takes_no_real_time(virtual_clock: VirtualClock) -> None:
    started, monotonic, wall = time.perf_counter(), virtual_clock.monotonic(), virtual_clock.wall()

    await virtual_clock.sleep(3600)

    assert time.perf_counter() - started < 1
    assert virtual_clock.monotonic() - monotonic == pytest.approx(3600)
    assert virtual_clock.wall() - wall == pytest.approx(3600)


def test_a_year_takes_no_real_time() -> None:
    clock = VirtualClock()

    with interrupt_after(1.0):
        asyncio.run(clock.sleep(366 * 86_400))

    assert clock.monotonic() == pytest.approx(366 * 86_400)


@contextmanager
def interrupt_after(seconds: float) -> Iterator[None]:
    """Raise TimeoutError by a signal, the only way out of an event loop that never waits."""

    def interrupt(number: int, frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


async def test_asyncio_sleep_follows_the_clock(virtual_clock: VirtualClock) -> None:
    virtual_clock.monotonic()
    order: list[str] = []

    async def by_asyncio() -> None:
        await asyncio.sleep(2)
        order.append("asyncio")

    async def by_clock(seconds: float) -> None:
        await virtual_clock.sleep(seconds)
        order.append(f"clock {seconds}")

    await asyncio.gather(by_clock(3), by_asyncio(), by_clock(1))

    assert order == ["clock 1", "asyncio", "clock 3"]
    assert virtual_clock.monotonic() == pytest.approx(3)


async def test_timeout_ends_a_longer_wait_on_time(virtual_clock: VirtualClock) -> None:
    virtual_clock.monotonic()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await virtual_clock.sleep(60)

    assert virtual_clock.monotonic() == pytest.approx(5)


async def test_timeout_does_not_affect_a_shorter_wait(virtual_clock: VirtualClock) -> None:
    async with asyncio.timeout(60):
        await virtual_clock.sleep(59)

    assert virtual_clock.monotonic() == pytest.approx(59)


async def test_timer_set_before_first_use_keeps_its_delay(virtual_clock: VirtualClock) -> None:
    virtual_clock.advance(1000)
    timer = asyncio.ensure_future(asyncio.sleep(10))
    await asyncio.sleep(0)

    await virtual_clock.sleep(9)
    assert not timer.done()

    await virtual_clock.sleep(2)
    assert timer.done()


async def test_time_does_not_advance_while_a_task_runs(virtual_clock: VirtualClock) -> None:
    before = virtual_clock.monotonic()

    for _ in range(100):
        await asyncio.sleep(0)

    assert virtual_clock.monotonic() == before


async def test_advance_moves_time_without_a_wait(virtual_clock: VirtualClock) -> None:
    wall = virtual_clock.wall()

    virtual_clock.advance(90)

    assert virtual_clock.monotonic() == pytest.approx(90)
    assert virtual_clock.wall() == pytest.approx(wall + 90)


def test_wall_starts_at_start() -> None:
    assert VirtualClock(start=1000.0).wall() == 1000.0
    assert VirtualClock().wall() == 1_767_225_600.0


def test_consecutive_loops_share_one_time() -> None:
    clock = VirtualClock()

    asyncio.run(clock.sleep(100))
    assert clock.monotonic() == pytest.approx(100)

    asyncio.run(clock.sleep(50))
    assert clock.monotonic() == pytest.approx(150)


def test_second_clock_in_a_loop_raises() -> None:
    async def two_clocks() -> None:
        VirtualClock().monotonic()
        VirtualClock().monotonic()

    with pytest.raises(RuntimeError, match="one clock"):
        asyncio.run(two_clocks())


def attempt_times(seed: int) -> list[float]:
    clock = VirtualClock()
    times: list[float] = []

    def answer(request: httpx.Request) -> httpx.Response:
        times.append(clock.monotonic())
        return httpx.Response(503)

    class Things(HttpStream):
        url_base = "https://api.example.com"

        def path(self, context: RequestContext) -> str:
            return "things"

    with pytest.raises(HttpStatusError):
        asyncio.run(Things(transport=httpx.MockTransport(answer), clock=clock, seed=seed).read())
    return times


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_equal_seeds_give_equal_waits(seed: int) -> None:
    first = attempt_times(seed)

    assert len(first) == 5
    assert first == sorted(first)
    assert attempt_times(seed) == pytest.approx(first, abs=1e-9)
    assert attempt_times(seed + 1) != pytest.approx(first, abs=1e-9)


async def test_timer_that_rounds_to_zero_delay_still_fires(virtual_clock: VirtualClock) -> None:
    loop = asyncio.get_running_loop()
    loop.time = lambda: 1e9  # type: ignore[method-assign]  # adjacent floats are 1e-7 apart here
    fired = asyncio.Event()
    end = virtual_clock.monotonic() + 1 + 1e-12

    def check() -> None:
        if (left := end - virtual_clock.monotonic()) > 0:
            loop.call_later(left, check)
        else:
            fired.set()

    check()
    await fired.wait()

    assert virtual_clock.monotonic() < 1.001


async def test_time_does_not_advance_while_a_thread_works(virtual_clock: VirtualClock) -> None:
    begin = virtual_clock.monotonic()

    async with asyncio.timeout(5):
        await anyio.to_thread.run_sync(time.sleep, 0.05)

    assert virtual_clock.monotonic() == begin


async def test_time_does_not_advance_while_an_executor_works(virtual_clock: VirtualClock) -> None:
    begin = virtual_clock.monotonic()

    with ThreadPoolExecutor(1) as executor:
        async with asyncio.timeout(5):
            await asyncio.get_running_loop().run_in_executor(executor, time.sleep, 0.05)
    async with asyncio.timeout(5):
        await asyncio.to_thread(time.sleep, 0.05)

    assert virtual_clock.monotonic() == begin


async def test_time_advances_again_after_the_thread_ends(virtual_clock: VirtualClock) -> None:
    begin = virtual_clock.monotonic()

    with anyio.move_on_after(3) as scope:
        await anyio.to_thread.run_sync(time.sleep, 0.05)
        await anyio.sleep(10)

    assert scope.cancelled_caught
    assert virtual_clock.monotonic() - begin == pytest.approx(3)


async def test_second_clock_of_a_loop_is_refused_with_its_own_error(virtual_clock: VirtualClock) -> None:
    class Rows(HttpStream):
        url_base = "https://api.test/"

        def path(self, context: RequestContext) -> str:
            return "rows"

    virtual_clock.monotonic()
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=[{"id": 1}]))

    with pytest.raises(RuntimeError, match="only one clock for each loop"):
        await Rows(transport=transport, clock=VirtualClock()).read()
