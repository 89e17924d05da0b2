"""Who does the next job: a task that has just done one, where there is such a one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from anyio.abc import TaskGroup

Job = TypeVar("Job")


class WorkerPool(Generic[Job]):
    """Tasks that do one job after the other, as many as there are jobs at once.

    To begin a task costs a tenth of reading a slice of one page. What `work` raises ends the group's
    tasks, as if each job had one of its own.
    """

    def __init__(self, tasks: TaskGroup, work: Callable[[Job], Awaitable[None]]) -> None:
        self._tasks, self._work = tasks, work
        self._idle: list[asyncio.Future[Job | None]] = []
        self._are_dismissed = False

    def begin(self, job: Job) -> None:
        """Have a job done, beside all others."""
        while self._idle:
            waiter = self._idle.pop()
            if not waiter.done():  # else it was cancelled
                waiter.set_result(job)
                return
        self._tasks.start_soon(self._worker, job)

    def dismiss(self) -> None:
        """There is no other job: all may go when they have done theirs."""
        self._are_dismissed = True
        for waiter in self._idle:
            if not waiter.done():
                waiter.set_result(None)
        self._idle.clear()

    async def _worker(self, job: Job | None) -> None:
        loop = asyncio.get_running_loop()
        while job is not None:
            await self._work(job)
            if self._are_dismissed:
                return
            del job  # nobody holds what was read while there is nothing to do
            waiter: asyncio.Future[Job | None] = loop.create_future()
            self._idle.append(waiter)
            job = await waiter
