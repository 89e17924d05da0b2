"""A worker thread for blocking disk work: jobs run one at a time, in order, off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, ParamSpec, TypeVar

import anyio

P = ParamSpec("P")
T = TypeVar("T")

_MAX_QUEUED_BYTES = 16 * 2**20


class _DaemonThread(Executor):
    """An executor with one daemon thread: a disk that hangs forever does not keep the process alive."""

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        Thread(target=self._work, name=name, daemon=True).start()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        self._jobs.put((future, partial(fn, *args, **kwargs)))
        return future

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = False) -> None:
        """Stop the thread after the jobs that are queued; neither option has an effect."""
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
            del job, future, work  # nothing stays referenced while the thread waits for the next job


class DiskExecutor:
    """Runs the blocking jobs of one output in a thread, in order.

    After the first failure no submitted job starts, and `on_failure` is called on the event loop.
    """

    def __init__(self, on_failure: Callable[[], None]) -> None:
        self._thread = _DaemonThread("asyncstreams-output")
        self._on_failure = on_failure
        self._jobs: dict[asyncio.Future[Any], int] = {}
        self._is_closed = False
        self.failure: BaseException | None = None
        self._grace: anyio.CancelScope | None = None
        self._postponed: asyncio.CancelledError | None = None

    def submit(self, job: Callable[[], T], on_done: Callable[[T], None] | None = None, size: int = 0) -> None:
        """Queue a job that holds `size` bytes of memory; `on_done` receives its result on the event loop."""
        if self.failure is not None or self._is_closed:
            return
        future = asyncio.get_running_loop().run_in_executor(self._thread, self._run_unless_failed, job)
        self._jobs[future] = size
        future.add_done_callback(partial(self._finish_job, on_done))

    async def run(self, job: Callable[[], T]) -> T:
        """Run a job, even after a failure, and return its result; cancelling the caller does not cancel the job."""
        future = asyncio.get_running_loop().run_in_executor(self._thread, job)
        self._jobs[future] = 0
        future.add_done_callback(self._remove_job)
        await self._wait([future])
        return future.result()

    async def wait_for_capacity(self) -> None:
        """Wait until queued jobs hold at most 16 MiB."""
        while self._jobs and sum(self._jobs.values()) > _MAX_QUEUED_BYTES:
            await asyncio.wait(self._jobs, return_when=asyncio.FIRST_COMPLETED)

    async def join(self) -> None:
        """Wait for all jobs, including those that finished jobs submit."""
        while self._jobs:
            await self._wait(list(self._jobs))

    @contextmanager
    def grace_period(self, deadline: float) -> Generator[None]:
        """A block that waits for its jobs until `deadline`, in time of the event loop, however often it is cancelled.

        The caller raises such cancellations later, with `raise_postponed`.
        """
        try:
            with anyio.CancelScope(deadline=deadline, shield=True) as self._grace:
                yield
        finally:
            self._grace = None

    def raise_postponed(self) -> None:
        """Raise a cancellation that came within a grace period."""
        if self._postponed is not None:
            raise self._postponed

    async def close(self, last: Callable[[], T]) -> T:
        """Run the last job after the queued ones, then stop the thread; jobs submitted meanwhile are dropped."""
        self._is_closed = True
        try:
            return await self.run(last)
        finally:
            self._thread.shutdown()

    async def _wait(self, futures: Sequence[asyncio.Future[Any]]) -> None:
        while True:
            try:
                await asyncio.wait(futures)
            except asyncio.CancelledError as error:
                if self._grace is None or self._grace.cancel_called:
                    raise
                self._postponed = error
            else:
                return

    def _run_unless_failed(self, job: Callable[[], T]) -> T | None:
        if self.failure is not None:
            return None
        try:
            return job()
        except BaseException as error:
            self.failure = error  # set in the thread: the next job may start before the loop sees the failure
            return None

    def _finish_job(self, on_done: Callable[[Any], None] | None, future: asyncio.Future[Any]) -> None:
        self._remove_job(future)
        if self.failure is not None:
            self._on_failure()
        elif on_done is not None:
            on_done(future.result())

    def _remove_job(self, future: asyncio.Future[Any]) -> None:
        self._jobs.pop(future, None)
