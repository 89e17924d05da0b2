"""Blocking disk work off the event loop: a worker thread, and a task that cancellations do not reach at once."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, Future
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, ParamSpec, TypeVar

import anyio

P = ParamSpec("P")
T = TypeVar("T")


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
    """Runs the blocking jobs of one output in a thread, in the order of the calls."""

    def __init__(self) -> None:
        self._thread = _DaemonThread("asyncstreams-output")

    async def run(self, job: Callable[[], T]) -> T:
        """Run a job and return its result; cancelling the caller does not cancel the job."""
        future = self._submit(job)
        await asyncio.wait([future])
        return future.result()

    async def complete(self, job: Callable[[], T]) -> T:
        """As `run`, but only a cancelled scope ends the wait; `Task.cancel` does not."""
        future = self._submit(job)
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError:
                if is_scope_cancelled():
                    raise
        return future.result()

    async def close(self, last: Callable[[], T]) -> T:
        """Complete the last job, then stop the thread, even if the caller is cancelled."""
        try:
            return await self.complete(last)
        finally:
            self._thread.shutdown()

    def _submit(self, job: Callable[[], T]) -> asyncio.Future[T]:
        future = asyncio.get_running_loop().run_in_executor(self._thread, job)
        future.add_done_callback(_retrieve_error)
        return future


def is_scope_cancelled() -> bool:
    """Whether a scope of the current task is cancelled: a CancelledError without one comes from `Task.cancel`."""
    return anyio.current_effective_deadline() == -math.inf


def _retrieve_error(future: asyncio.Future[Any]) -> None:
    """Keep asyncio from logging the error of a job whose caller was cancelled."""
    if not future.cancelled():
        future.exception()


class ProtectedTask:
    """Work that goes on when its task group is cancelled, for at most a grace period.

    The task group raises its cancellation, however often it comes, when the work has ended. No scope shields from
    `Task.cancel`, so the work itself ignores cancellations without a cancelled scope (see `is_scope_cancelled`).
    """

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self._work = work
        self._scope = anyio.CancelScope(shield=True)
        self._ended = anyio.Event()
        self.failure: BaseException | None = None
        """The error of the work."""

    async def run(self, dependents: anyio.CancelScope) -> None:
        """The task. If the work fails, `dependents` are cancelled; the caller raises `failure` afterwards."""
        try:
            with self._scope:
                await self._work()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.failure = error
            dependents.cancel()
        finally:
            self._ended.set()

    async def wait(self) -> None:
        """Wait until the work has ended."""
        await self._ended.wait()

    def limit(self, grace_s: float) -> None:
        """End the work after `grace_s` from now, or earlier if an earlier call requires it."""
        self._scope.deadline = min(self._scope.deadline, anyio.current_time() + grace_s)
