"""Tests of blocking disk work: the order of jobs, failures, capacity and cancellation."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from asyncstreams import Page, Slice
from asyncstreams.clock import SystemClock
from asyncstreams.destinations.ledger import Ledger
from asyncstreams.destinations.writer_protocol import Chunk
from asyncstreams.extraction.commit_batcher import CommitBatcher
from asyncstreams.extraction.commit_loop import CommitLoop
from asyncstreams.extraction.disk_executor import DiskExecutor, ProtectedTask

MIB = 2**20


def do_nothing() -> None:
    """A job without an effect."""


class FakeWriter:
    """The part of a DestinationWriter that a CommitLoop uses before its first commit."""

    def __init__(self, on_write: Callable[[], Any]) -> None:
        self.on_write, self.written, self.ledger = on_write, 0, Ledger()

    def write(self, stream: str, batch_id: Any, chunks: Any) -> None:
        self.on_write()
        self.written += 1

    def drop(self, batch_id: Any) -> None:
        """Nothing to discard."""

    def maintain(self) -> None:
        """Nothing to do."""


class FakeCheckpoint:
    """The SliceCheckpoint of a slice without state changes."""

    is_abandoned = False

    def pop_due(self, number: int) -> Any:
        return ()


def commit_loop(on_write: Callable[[], Any]) -> tuple[CommitLoop, FakeWriter, Callable[[int], None]]:
    """A loop, its writer, and a function that adds an open slice of some MiB, which is spilled from 16 MiB on."""
    writer: Any = FakeWriter(on_write)
    loop = CommitLoop(writer, DiskExecutor(), CommitBatcher(0.0, 8 * MIB, commit_each_slice=False), SystemClock())

    def add(size: int) -> None:
        checkpoint: Any = FakeCheckpoint()
        page = Page("rows", Slice({}), 0, [], False, (), checkpoint)
        loop.add_page(page, [Chunk("part", b" " * size * MIB, 1)], is_complete=False)

    return loop, writer, add


async def test_jobs_run_in_order_in_one_thread():
    started: list[int] = []
    results: list[tuple[int, bool]] = []
    threads: set[int] = set()
    disk = DiskExecutor()
    loop_thread = threading.get_ident()

    def job(number: int) -> int:
        threads.add(threading.get_ident())
        started.append(number)
        return number

    async def run(number: int) -> None:
        results.append((await disk.run(lambda: job(number)), threading.get_ident() == loop_thread))

    async with asyncio.timeout(5), anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(run, number)
    await disk.close(do_nothing)

    assert started == list(range(20))
    assert sorted(results) == [(number, True) for number in range(20)]
    assert len(threads) == 1
    assert loop_thread not in threads


async def test_no_job_starts_after_a_failure():
    def fail() -> None:
        raise OSError("no space left")

    loop, writer, add = commit_loop(fail)
    add(17)
    writing = ProtectedTask(loop.run)

    with anyio.CancelScope() as dependents:
        await writing.run(dependents)
        add(17)
        await writing.wait()

    assert dependents.cancel_called
    assert isinstance(writing.failure, OSError)
    assert writer.written == 0


async def test_wait_for_capacity_blocks_while_jobs_hold_too_much():
    may_write = threading.Event()
    loop, writer, add = commit_loop(may_write.wait)
    async with asyncio.timeout(5), anyio.create_task_group() as tasks:
        tasks.start_soon(loop.run)
        add(16)
        await loop.wait_for_capacity()
        add(17)

        waiting = asyncio.create_task(loop.wait_for_capacity())
        await asyncio.sleep(0.02)
        assert not waiting.done()
        may_write.set()
        await waiting
        loop.end(None)

    assert writer.written == 1


async def test_job_of_cancelled_waiter_still_runs():
    may_finish, done = threading.Event(), threading.Event()
    disk = DiskExecutor()
    first = asyncio.create_task(disk.run(may_finish.wait))
    waiting = asyncio.create_task(disk.run(done.set))
    await asyncio.sleep(0.02)

    waiting.cancel()
    may_finish.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(5):
        await first
        await disk.close(do_nothing)

    assert done.is_set()


async def test_completed_job_outlasts_cancellation_of_its_task():
    disk = DiskExecutor()
    release = threading.Event()

    task = asyncio.create_task(disk.complete(release.wait))
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.sleep(0.01)
    assert not task.done()
    release.set()

    assert await task
    await disk.close(do_nothing)


async def test_failure_of_cancelled_job_is_not_logged():
    may_fail = threading.Event()
    loop_errors: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: loop_errors.append(context))
    disk = DiskExecutor()

    def fail() -> None:
        may_fail.wait(5)
        raise OSError("no space left")

    waiting = asyncio.create_task(disk.run(fail))
    await asyncio.sleep(0.02)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    may_fail.set()
    async with asyncio.timeout(5):
        await disk.close(do_nothing)

    assert loop_errors == []


async def test_jobs_cancelled_by_closing_loop_do_not_end_thread(monkeypatch: pytest.MonkeyPatch):
    may_finish = threading.Event()
    started: list[int] = []
    loop = asyncio.get_running_loop()
    futures: list[asyncio.Future[Any]] = []
    run_in_executor = loop.run_in_executor

    def recorded(*arguments: Any) -> asyncio.Future[Any]:
        futures.append(run_in_executor(*arguments))
        return futures[-1]

    monkeypatch.setattr(loop, "run_in_executor", recorded)
    disk = DiskExecutor()
    waiting = [asyncio.create_task(disk.run(job)) for job in (may_finish.wait, lambda: started.append(1))]
    await asyncio.sleep(0.02)
    for future in futures[1:]:  # as asyncio.run does when it closes the loop
        future.cancel()
    await asyncio.sleep(0.02)

    may_finish.set()
    async with asyncio.timeout(5):
        await asyncio.gather(*waiting, return_exceptions=True)
        await disk.close(lambda: started.append(2))

    assert started == [2]


async def leave(writing: ProtectedTask, grace_s: float) -> None:
    """Run the task in a group, as an extraction does, and limit it when the group is left."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(writing.run, tasks.cancel_scope)
        try:
            await writing.wait()
        finally:
            writing.limit(grace_s)


async def test_grace_period_outlasts_repeated_cancellation():
    disk = DiskExecutor()
    release, done = threading.Event(), threading.Event()

    async def write() -> None:
        await disk.run(release.wait)
        await disk.close(done.set)

    leaving = asyncio.create_task(leave(ProtectedTask(write), 30))
    for _ in range(3):
        await asyncio.sleep(0.01)
        leaving.cancel()
    await asyncio.sleep(0.01)
    assert not leaving.done()
    release.set()

    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert done.is_set()


async def test_grace_period_ends_at_its_deadline():
    disk = DiskExecutor()
    release = threading.Event()

    leaving = asyncio.create_task(leave(ProtectedTask(lambda: disk.run(release.wait)), 0.01))
    await asyncio.sleep(0.02)
    assert not leaving.done()
    leaving.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError):
            await leaving

    assert not release.is_set()
    release.set()
    await disk.close(do_nothing)


async def test_task_cancelled_before_its_first_step_still_runs():
    done: list[str] = []

    async def work() -> None:
        await asyncio.sleep(0)
        done.append("work")

    with anyio.CancelScope() as scope:
        scope.cancel()
        await leave(ProtectedTask(work), 5)

    assert done == ["work"]
