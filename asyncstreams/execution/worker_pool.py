"""A pool of tasks that are reused for job after job."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

Job = TypeVar("Job")


class WorkerPool(Generic[Job]):
    """Runs all started jobs concurrently, on as few tasks as possible: an idle task takes the next job.

    Starting a task costs a tenth of reading a slice of one page. An exception of `work` cancels the task
    group, as if each job had its own task.
    """

    def __init__(self, tasks: TaskGroup, work: Callable[[Job], Awaitable[None]]) -> None:
        self._tasks, self._work = tasks, work
        self._idle: list[asyncio.Future[Job | None]] = []
        self._is_closed = False

    def start(self, job: Job) -> None:
        """Run a job concurrently with all others."""
        while self._idle:
            waiter = self._idle.pop()
            if not waiter.done():  # a cancelled worker is done
                waiter.set_result(job)
                return
        self._tasks.start_soon(self._worker, job)

    def close(self) -> None:
        """Accept no more jobs: each worker ends after its current one."""
        self._is_closed = True
        for waiter in self._idle:
            if not waiter.done():
                waiter.set_result(None)
        self._idle.clear()

    async def _worker(self, job: Job | None) -> None:
        loop = asyncio.get_running_loop()
        while job is not None:
            await self._work(job)
            if self._is_closed:
                return
            del job  # an idle worker must not keep the records of its last job alive
            waiter: asyncio.Future[Job | None] = loop.create_future()
            self._idle.append(waiter)
            job = await waiter
