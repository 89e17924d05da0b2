"""Tests of the executor for blocking disk work: order, failures, capacity and cancellation."""

from __future__ import annotations

import asyncio
import threading

import pytest

from asyncstreams.extraction.disk_executor import DiskExecutor

MIB = 2**20


def do_nothing() -> None:
    """A job without an effect."""


async def test_jobs_run_in_order_in_one_thread():
    results: list[tuple[int, bool]] = []
    threads: set[int] = set()
    disk = DiskExecutor(pytest.fail)

    def job(number: int) -> int:
        threads.add(threading.get_ident())
        return number

    loop_thread = threading.get_ident()
    for number in range(20):
        disk.submit(
            lambda number=number: job(number),
            lambda result: results.append((result, threading.get_ident() == loop_thread)),
        )
    await disk.join()
    await disk.close(do_nothing)

    assert results == [(number, True) for number in range(20)]
    assert len(threads) == 1
    assert loop_thread not in threads


async def test_no_submitted_job_starts_after_a_failure():
    failures: list[str] = []
    started: list[str] = []
    disk = DiskExecutor(lambda: failures.append("failed"))

    def fail() -> None:
        raise OSError("no space left")

    disk.submit(fail)
    disk.submit(lambda: started.append("after"))
    await disk.join()
    disk.submit(lambda: started.append("later"))
    last = await disk.close(lambda: started.append("last"))

    assert (failures, started, last) == (["failed"] * 2, ["last"], None)
    assert isinstance(disk.failure, OSError)


async def test_wait_for_capacity_blocks_while_jobs_hold_too_much():
    may_finish = threading.Event()
    disk = DiskExecutor(pytest.fail)
    disk.submit(may_finish.wait, size=10 * MIB)
    async with asyncio.timeout(5):
        await disk.wait_for_capacity()
    disk.submit(do_nothing, size=10 * MIB)

    waiting = asyncio.create_task(disk.wait_for_capacity())
    await asyncio.sleep(0.02)
    assert not waiting.done()
    may_finish.set()
    async with asyncio.timeout(5):
        await waiting
        await disk.close(do_nothing)


async def test_job_of_cancelled_waiter_still_runs():
    may_finish, done = threading.Event(), threading.Event()
    disk = DiskExecutor(pytest.fail)
    disk.submit(may_finish.wait)
    waiting = asyncio.create_task(disk.run(done.set))
    await asyncio.sleep(0.02)

    waiting.cancel()
    may_finish.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(5):
        await disk.close(do_nothing)

    assert done.is_set()


async def test_jobs_cancelled_by_closing_loop_do_not_end_thread():
    may_finish = threading.Event()
    started: list[int] = []
    disk = DiskExecutor(do_nothing)
    disk.submit(may_finish.wait)
    disk.submit(lambda: started.append(1))
    for future in list(disk._jobs)[1:]:  # as asyncio.run does when it closes the loop
        future.cancel()
    await asyncio.sleep(0.02)

    may_finish.set()
    async with asyncio.timeout(5):
        await disk.close(lambda: started.append(2))

    assert started == [2]


async def test_grace_period_outlasts_repeated_cancellation():
    disk = DiskExecutor(pytest.fail)
    release, done = threading.Event(), threading.Event()

    async def leave() -> None:
        with disk.grace_period(asyncio.get_running_loop().time() + 30):
            await disk.run(release.wait)
            await disk.close(done.set)
        disk.raise_postponed()

    leaving = asyncio.create_task(leave())
    for _ in range(3):
        await asyncio.sleep(0)
        leaving.cancel()
    release.set()

    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert done.is_set()


async def test_grace_period_ends_at_its_deadline():
    disk = DiskExecutor(pytest.fail)
    release = threading.Event()

    with disk.grace_period(asyncio.get_running_loop().time() + 0.01):
        await disk.run(release.wait)

    assert not release.is_set()
    release.set()
    await disk.close(lambda: None)
