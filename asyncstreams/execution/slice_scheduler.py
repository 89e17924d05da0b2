"""Start and concurrent reading of the slices of one stream."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Generic, TypeVar

import anyio

from ..events import Event, PageRead, ParentsDiscovered, SliceFinished, SliceStarted
from ..models import Slice
from ..records.json_lines import page_counts
from .failure_policy import FailurePolicy, split_rejected_slice
from .missing_children import MissingChildren
from .slice_reader import SliceReader
from .slice_source import pending_slices
from .stream_run import ActiveSlice, StreamRun

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

Job = TypeVar("Job")


class SliceScheduler:
    """Starts the slices of one stream in order, and reads them concurrently in the tasks of a group.

    The first page of the first slice is read alone: it shows whether the stream is available. Of a substream, so are
    those of the second and third child, as long as each is refused.
    """

    def __init__(self, run: StreamRun, failures: FailurePolicy, tasks: TaskGroup) -> None:
        self._run, self._failures, self._tasks = run, failures, tasks
        self._workers = WorkerPool(tasks, self._read_slice)

    async def run_slices(self) -> None:
        """Start all slices. If `stream_slices` raises, that counts as a failure; slices in progress continue."""
        try:
            await self._start_slices()
        except Exception as error:
            self._failures.handle(self._run, Slice(), error, self._tasks.cancel_scope)
        finally:
            self._workers.close()

    async def _start_slices(self) -> None:
        run = self._run
        progress, bounds, children = run.progress, run.bounds, run.children
        first: anyio.Event | None = anyio.Event()
        if bounds.is_limited and not await run.wait_for_demand(run.slots.new_slot()):
            # No record is needed, so no slice is either. Asking for slices might send requests to parents.
            return
        replays = run.sender.replays_delivered
        slices = pending_slices(run.selection, run.incremental, bounds.know_slices, include_delivered=replays)
        async with aclosing(slices) as pending:
            async for stream_slice, already_delivered, problem in pending:
                if run.feed is not None:
                    self._emit_parents_discovered()
                slot = run.slots.new_slot()
                await slot.acquire(new=True)
                if progress.stopped_early or not run.sender.has_demand:
                    progress.stop_early()
                    slot.release()
                    return
                run.slots.count_open(1)
                if children is not None:
                    children.start(stream_slice)
                active = ActiveSlice(progress.start_slices(), stream_slice, slot, first, already_delivered, problem)
                if bounds.is_limited:
                    await self._read_slice(active)
                    if bounds.is_reached or not await run.wait_for_demand(slot):
                        return
                    continue
                self._workers.start(active)
                if first is not None:
                    await first.wait()
                    first = anyio.Event() if children is not None and children.is_undecided else None
        bounds.know_slices(progress.slices_started)
        if run.feed is not None:
            self._emit_parents_discovered()
            self._failures.check_parents(run, run.feed)

    def _emit_parents_discovered(self) -> None:
        feed = self._run.feed
        if feed is not None and self._run.client.events and feed.has_update:
            feed.mark_reported()
            self._emit(ParentsDiscovered(self._run.stream.name, feed.parent_count, feed.is_complete))

    def _emit(self, event: Event) -> None:
        """Emit an event. An exception of a listener ends the run; it is not a failure of the slice."""
        try:
            self._run.client.events.emit(event)
        except Exception as error:
            self._failures.abort(error)

    async def _read_slice(self, active: ActiveSlice) -> None:
        """Read one slice, or the parts that it is split into, and the ranges that follow it."""
        try:
            parts = [*await self._read_part(active)]
            while parts:
                part = active._replace(stream_slice=parts.pop(0))
                parts[:0] = await self._read_part(part)
        finally:
            self._run.slots.count_open(-1)
            active.slot.release()
            if active.first_page_read is not None:
                active.first_page_read.set()

    async def _read_part(self, active: ActiveSlice) -> Sequence[Slice]:
        """Read a slice or a part of one. Returns what to read next: its parts if it is too large, or the next range."""
        run, stream_slice = self._run, active.stream_slice
        events = run.client.events
        if events:
            self._emit(SliceStarted(run.stream.name, stream_slice))
        failure: Exception | None = None
        replacements: Sequence[Slice] = ()
        try:
            reader = await self._deliver_pages(active)
            run.progress.finish_slice(is_ignored=reader.is_ignored)
            following = None if reader.is_ignored else reader.next_range()
            if following is not None and not run.bounds.is_reached and await run.wait_for_demand(active.slot):
                run.progress.start_slices()
                replacements = [following]
        except Exception as error:
            replacements = split_rejected_slice(run.stream, stream_slice, error)
            if run.incremental is not None:
                replacements = [*run.incremental.replacements(stream_slice, replacements)]
            if not replacements and run.children is not None and MissingChildren.concerns(error):
                self._failures.leave_out(run, run.children, stream_slice, error, self._tasks.cancel_scope)
            else:
                failure = error
                if not replacements:
                    self._failures.handle(run, stream_slice, error, self._tasks.cancel_scope)
            run.progress.start_slices(max(0, len(replacements) - 1))
        except BaseException as error:
            run.progress.record_cancelled(active, error)
            raise
        if events:
            self._emit(SliceFinished(run.stream.name, stream_slice, failure))
        return replacements

    async def _deliver_pages(self, active: ActiveSlice) -> SliceReader:
        """Deliver the pages of a slice."""
        run = self._run
        _, stream_slice, slot, first_page_read, already_delivered, problem = active
        if problem is not None:
            raise problem.locate(stream=run.stream.name, stream_slice=stream_slice)
        reader = SliceReader(run, slot, stream_slice, self._tasks, already_delivered=already_delivered)
        try:
            while (sized := await reader.read_page()) is not None:
                page, size = sized
                if run.bounds.is_limited:
                    page = run.bounds.apply(page)
                run.progress.read.add(page)
                if run.client.events:
                    self._emit(PageRead(page.stream, stream_slice, page.number, *page_counts(page)))
                if first_page_read is not None:
                    first_page_read.set()
                if page.number < reader.delivered_pages:
                    await run.sender.put_already_delivered(page)
                else:
                    await run.sender.put(page, size, run.progress.delivered.add)
                is_last = page.is_last
                # Only the consumer keeps a page. Otherwise each slice that waits for its next page would keep the
                # last one in memory, beyond the reach of the processor's caches.
                del page, sized
                if is_last or run.bounds.is_reached or not await run.wait_for_demand(slot):
                    break
                await slot.yield_to_others()
        finally:
            await reader.close()
        return reader


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
