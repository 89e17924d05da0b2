"""The worker pool: concurrent jobs on as few tasks as possible."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import anyio
import pytest

from asyncstreams.execution.slice_scheduler import WorkerPool


class Jobs:
    """Jobs that end on `finish`; records the task of each job."""

    def __init__(self) -> None:
        self.events: dict[int, asyncio.Event] = {}
        self.ran_on: dict[int, asyncio.Task[None] | None] = {}

    async def work(self, job: int) -> None:
        self.ran_on[job] = asyncio.current_task()
        self.events[job] = asyncio.Event()
        await self.events[job].wait()

    async def finish(self, jobs: Iterable[int]) -> None:
        for job in jobs:
            self.events[job].set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_jobs_started_together_run_concurrently():
    jobs = Jobs()
    async with asyncio.timeout(5), anyio.create_task_group() as tasks:
        pool = WorkerPool(tasks, jobs.work)
        for job in range(5):
            pool.start(job)
        await settle()
        assert len(set(jobs.ran_on.values())) == 5
        await jobs.finish(range(5))
        pool.close()


async def test_idle_worker_takes_the_next_job():
    jobs = Jobs()
    async with asyncio.timeout(5), anyio.create_task_group() as tasks:
        pool = WorkerPool(tasks, jobs.work)
        pool.start(0)
        pool.start(1)
        await settle()
        await jobs.finish([0, 1])
        for job in range(2, 40):
            pool.start(job)
            await settle()
            await jobs.finish([job])
        pool.close()

    assert len(jobs.ran_on) == 40
    assert len(set(jobs.ran_on.values())) == 2


async def test_closed_pool_ends_workers_after_their_job():
    jobs = Jobs()
    async with asyncio.timeout(5), anyio.create_task_group() as tasks:
        pool = WorkerPool(tasks, jobs.work)
        pool.start(0)
        pool.start(1)
        await settle()
        await jobs.finish([0])
        pool.close()
        await settle()
        idle, busy = jobs.ran_on[0], jobs.ran_on[1]
        assert idle is not None
        assert busy is not None
        assert (idle.done(), busy.done()) == (True, False)
        await jobs.finish([1])


async def test_raising_job_cancels_the_group():
    jobs = Jobs()

    async def work(job: int) -> None:
        if job == 1:
            raise ValueError("of job 1")
        await jobs.work(job)

    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012  # raised by the task group
        async with asyncio.timeout(5), anyio.create_task_group() as tasks:
            pool = WorkerPool(tasks, work)
            pool.start(0)
            await settle()
            pool.start(1)

    assert caught.group_contains(ValueError, match="of job 1")
    task = jobs.ran_on[0]
    assert task is not None
    assert task.cancelled() or task.done()


async def test_cancelled_idle_worker_gets_no_job():
    jobs = Jobs()
    async with asyncio.timeout(5), anyio.create_task_group() as tasks:
        pool = WorkerPool(tasks, jobs.work)
        pool.start(0)
        await settle()
        await jobs.finish([0])
        tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await settle()
            pool.start(1)

    assert list(jobs.ran_on) in ([0], [0, 1])
    assert jobs.ran_on.get(1) is not jobs.ran_on[0]
