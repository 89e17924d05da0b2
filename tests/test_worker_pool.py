"""Do jobs run side by side on as few tasks as there are jobs at once?"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import anyio
import pytest

from asyncstreams.execution.worker_pool import WorkerPool


class Jobs:
    """Jobs that are done when they are told to be; notes on which task each ran."""

    def __init__(self) -> None:
        self.gates: dict[int, asyncio.Event] = {}
        self.ran_on: dict[int, asyncio.Task[None] | None] = {}

    async def work(self, job: int) -> None:
        self.ran_on[job] = asyncio.current_task()
        self.gates[job] = asyncio.Event()
        await self.gates[job].wait()

    async def finish(self, jobs: Iterable[int]) -> None:
        for job in jobs:
            self.gates[job].set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def settled() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_jobs_started_together_run_concurrently():
    jobs = Jobs()
    async with asyncio.timeout(5), anyio.create_task_group() as tasks:
        workers = WorkerPool(tasks, jobs.work)
        for job in range(5):
            workers.start(job)
        await settled()
        assert len(set(jobs.ran_on.values())) == 5
        await jobs.finish(range(5))
        workers.close()


async def test_idle_worker_takes_the_next_job():
    jobs = Jobs()
    async with asyncio.timeout(5), anyio.create_task_group() as tasks:
        workers = WorkerPool(tasks, jobs.work)
        workers.start(0)
        workers.start(1)
        await settled()
        await jobs.finish([0, 1])
        for job in range(2, 40):
            workers.start(job)
            await settled()
            await jobs.finish([job])
        workers.close()

    assert len(jobs.ran_on) == 40
    assert len(set(jobs.ran_on.values())) == 2


async def test_closed_pool_ends_workers_after_their_job():
    jobs = Jobs()
    async with asyncio.timeout(5), anyio.create_task_group() as tasks:
        workers = WorkerPool(tasks, jobs.work)
        workers.start(0)
        workers.start(1)
        await settled()
        await jobs.finish([0])
        workers.close()
        await settled()
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

    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012  # of the group
        async with asyncio.timeout(5), anyio.create_task_group() as tasks:
            workers = WorkerPool(tasks, work)
            workers.start(0)
            await settled()
            workers.start(1)

    assert caught.group_contains(ValueError, match="of job 1")
    task = jobs.ran_on[0]
    assert task is not None
    assert task.cancelled() or task.done()


async def test_cancelled_idle_worker_gets_no_job():
    jobs = Jobs()
    async with asyncio.timeout(5), anyio.create_task_group() as tasks:
        workers = WorkerPool(tasks, jobs.work)
        workers.start(0)
        await settled()
        await jobs.finish([0])
        tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await settled()
            workers.start(1)

    assert list(jobs.ran_on) in ([0], [0, 1])
    assert jobs.ran_on.get(1) is not jobs.ran_on[0]
