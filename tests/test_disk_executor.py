"""Does blocking work keep its order, off the event loop, whatever becomes of those who wait for it?"""

from __future__ import annotations

import asyncio
import threading

import pytest

from asyncstreams.extraction.disk_executor import DiskExecutor

MIB = 2**20


def nothing() -> None:
    """A job that has nothing to do."""


async def test_jobs_run_in_order_in_one_thread():
    done: list[tuple[int, bool]] = []
    threads: set[int] = set()
    disk = DiskExecutor(pytest.fail)

    def job(number: int) -> int:
        threads.add(threading.get_ident())
        return number

    loop_thread = threading.get_ident()
    for number in range(20):
        disk.submit(
            lambda number=number: job(number),
            lambda result: done.append((result, threading.get_ident() == loop_thread)),
        )
    await disk.join()
    await disk.close(nothing)

    assert done == [(number, True) for number in range(20)]
    assert len(threads) == 1
    assert loop_thread not in threads


async def test_no_submitted_job_starts_after_a_failure():
    told: list[str] = []
    began: list[str] = []
    disk = DiskExecutor(lambda: told.append("failed"))

    def breaks() -> None:
        raise OSError("no space left")

    disk.submit(breaks)
    disk.submit(lambda: began.append("after"))
    await disk.join()
    disk.submit(lambda: began.append("later"))
    last = await disk.close(lambda: began.append("last"))

    assert (told, began, last) == (["failed"] * 2, ["last"], None)
    assert isinstance(disk.failure, OSError)


async def test_wait_for_capacity_blocks_while_jobs_hold_too_much():
    gate = threading.Event()
    disk = DiskExecutor(pytest.fail)
    disk.submit(gate.wait, size=10 * MIB)
    async with asyncio.timeout(5):
        await disk.wait_for_capacity()
    disk.submit(nothing, size=10 * MIB)

    waiting = asyncio.create_task(disk.wait_for_capacity())
    await asyncio.sleep(0.02)
    assert not waiting.done()
    gate.set()
    async with asyncio.timeout(5):
        await waiting
        await disk.close(nothing)


async def test_job_of_cancelled_waiter_still_runs():
    gate, done = threading.Event(), threading.Event()
    disk = DiskExecutor(pytest.fail)
    disk.submit(gate.wait)
    waiting = asyncio.create_task(disk.run(done.set))
    await asyncio.sleep(0.02)

    waiting.cancel()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(5):
        await disk.close(nothing)

    assert done.is_set()


async def test_jobs_cancelled_by_closing_loop_do_not_end_thread():
    gate = threading.Event()
    began: list[int] = []
    disk = DiskExecutor(nothing)
    disk.submit(gate.wait)
    disk.submit(lambda: began.append(1))
    for future in list(disk._jobs)[1:]:  # as the end of a loop does
        future.cancel()
    await asyncio.sleep(0.02)

    gate.set()
    async with asyncio.timeout(5):
        await disk.close(lambda: began.append(2))

    assert began == [2]
