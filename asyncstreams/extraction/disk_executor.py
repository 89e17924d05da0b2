"""How does blocking work keep its order, and stay off the event loop? One job after the other, in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_MOST_BYTES = 16 * 2**20


class _DaemonThread(Executor):
    """A thread that does one job after the other, and keeps no process from ending: a disk may be stuck for good."""

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        Thread(target=self._work, name=name, daemon=True).start()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        self._jobs.put((future, partial(fn, *args, **kwargs)))
        return future

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = False) -> None:
        """No job comes any more; those that there are will be done."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, work = job
            if future.set_running_or_notify_cancel():
                try:
                    result = work()
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)
                    del result
            del job, future, work  # while it waits for the next one


class DiskExecutor:
    """A thread for the jobs of one output. After one of them has failed no other begins; `failed` is called then."""

    def __init__(self, failed: Callable[[], None]) -> None:
        self._thread = _DaemonThread("asyncstreams-output")
        self._failed = failed
        self._jobs: dict[asyncio.Future[Any], int] = {}
        self._is_closed = False
        self.failure: BaseException | None = None

    def submit(self, job: Callable[[], T], done: Callable[[T], None] | None = None, size: int = 0) -> None:
        """Do it when all before it is done, and then call `done` with what comes of it; it holds `size` bytes."""
        if self.failure is not None or self._is_closed:
            return
        future = asyncio.get_running_loop().run_in_executor(self._thread, self._unless_failed, job)
        self._jobs[future] = size
        future.add_done_callback(partial(self._ended, done))

    async def wait(self, job: Callable[[], T]) -> T:
        """Do it even after a failure, and wait for it. It is done even where the waiting is cancelled."""
        future = asyncio.get_running_loop().run_in_executor(self._thread, job)
        self._jobs[future] = 0
        future.add_done_callback(self._forget)
        await asyncio.wait([future])
        return future.result()

    async def room(self) -> None:
        """Wait while jobs hold too much."""
        while self._jobs and sum(self._jobs.values()) > _MOST_BYTES:
            await asyncio.wait(self._jobs, return_when=asyncio.FIRST_COMPLETED)

    async def idle(self) -> None:
        """Wait for all jobs, and those that come of them."""
        while self._jobs:
            await asyncio.wait(self._jobs)

    async def close(self, last: Callable[[], T]) -> T:
        """Do the last job, after all that there are; what would follow from these is left."""
        self._is_closed = True
        try:
            return await self.wait(last)
        finally:
            self._thread.shutdown()

    def _unless_failed(self, job: Callable[[], T]) -> T | None:
        if self.failure is not None:
            return None
        try:
            return job()
        except BaseException as error:
            self.failure = error  # here, since the next job may begin before the loop hears of it
            return None

    def _ended(self, done: Callable[[Any], None] | None, future: asyncio.Future[Any]) -> None:
        self._forget(future)
        if self.failure is not None:
            self._failed()
        elif done is not None:
            done(future.result())

    def _forget(self, future: asyncio.Future[Any]) -> None:
        self._jobs.pop(future, None)
