"""Concurrent execution of all slices of all streams of a run, with structured cancellation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

import anyio

from ..clock import SystemClock
from ..errors import (
    ConfigError,
    CursorMismatch,
    HostUnavailable,
    HttpStatusError,
    LocalError,
    PaginationUndeclared,
    RateLimitWaitTooLong,
    SchemaError,
    StreamUnavailable,
)
from ..events import (
    EventEmitter,
    PageRead,
    ParentsDiscovered,
    SliceFinished,
    SliceStarted,
    StreamFinished,
    StreamSkipped,
    StreamStarted,
)
from ..http.client import HttpClient
from ..models import Slice, shorten
from ..protocols import Stream
from ..records.record_validation import create_validator
from ..state.stream_selection import StreamSelection
from .failure_policy import (
    as_unavailable,
    combine_failures,
    shows_wrong_declaration,
    split_rejected_slice,
    unavailable_because,
)
from .missing_children import MissingChildren
from .page_queue import PageQueue
from .parent_coordinator import ParentCoordinator, ParentFeed
from .report import RunReport
from .run_log import log_end, log_progress, log_silences, log_start
from .slice_reader import SliceReader
from .slice_source import pending_slices
from .slots import Slot, SlotPool, cap_to_fd_limit
from .stream_run import ActiveSlice, StreamRun
from .worker_pool import WorkerPool

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

_MAX_QUEUED_PAGES = 4
_MAX_QUEUED_BYTES = 32 * 2**20
_log = logging.getLogger("asyncstreams")

OnError: TypeAlias = Literal["continue", "stop"]
OpenClient: TypeAlias = Callable[[Stream], AbstractAsyncContextManager[HttpClient]]


class Scheduler:
    """Reads a set of streams in one run.

    A failed slice does not affect its siblings, with these exceptions. ConfigError (and so AuthError), HostUnavailable,
    LocalError and AssertionError end the run. SchemaError, PaginationUndeclared and CursorMismatch end the stream, and
    so do more than `max_failed_slices` failures, and what shows a wrong declaration before any response of the stream
    could be parsed. After RateLimitWaitTooLong no further slice of the stream is started. With `stop_on_error`, the
    first failure ends the run.

    Tasks raise nothing but cancellation. The page queue raises the error of the run after its last page.
    """

    def __init__(
        self,
        selections: Sequence[StreamSelection],
        open_client: OpenClient,
        max_concurrency: int,
        *,
        stop_on_error: bool,
    ) -> None:
        self.selections, self._open_client = tuple(selections), open_client
        self._coordinator = ParentCoordinator(selections)
        stores = (selection.state_store for selection in selections if selection.state_store is not None)
        self._failure_store = next(stores, None)  # also for parents, which have none of their own
        self._stop_on_error = stop_on_error
        self._slot_pool = SlotPool(cap_to_fd_limit(max_concurrency))
        self._page_queue = PageQueue(_MAX_QUEUED_PAGES, _MAX_QUEUED_BYTES)
        self._runs: list[StreamRun] = []
        self.fatal_error: Exception | None = None
        self._scope = anyio.CancelScope()
        self._deferred_events: dict[int, list[Callable[[], None]]] = {}
        self.unavailable: dict[str, StreamUnavailable] = {}

    @asynccontextmanager
    async def pages(self) -> AsyncGenerator[PageQueue]:
        """Start the run and yield its page queue; exiting cancels everything in flight.

        An exception of the body propagates unchanged: the tasks raise nothing, so it is the only one in the
        exception group of anyio.
        """
        raised: BaseException | None = None
        context: BaseException | None = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._run)
                try:
                    yield self._page_queue
                except BaseException as error:
                    raised, context = error, error.__context__
                    raise
                finally:
                    tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            if raised is None or group is raised:
                raise
            task = asyncio.current_task()
            if isinstance(raised, asyncio.CancelledError) and task is not None and not task.cancelling():
                raised = _first_of(group)  # a task raised after all, such as by its clock, which cancelled the body
        else:
            return
        try:
            raise raised
        finally:
            raised.__context__ = context

    def explain(self) -> str:
        """Describe what each started stream is doing and what it waits for, one line per stream."""
        lines = [run.explain() for run in self._runs]
        if self._page_queue.is_full:
            lines.append("the consumer is slower than the API: fetching is paused until it takes a page")
        return "\n".join(lines)

    @property
    def is_fully_acknowledged(self) -> bool:
        """Whether all streams were read completely and no checkpoint is pending."""
        return self.fatal_error is None and all(run.is_fully_acknowledged for run in self._runs)

    def report(self) -> RunReport:
        """What was delivered so far."""
        return RunReport(
            tuple(
                run.report for run in self._runs if run.selection.is_emitted and run.stream.name not in self.unavailable
            ),
            {name: error.reason for name, error in self._unavailable_streams()},
        )

    def _unavailable_streams(self) -> list[tuple[str, StreamUnavailable]]:
        """The unavailable streams among those that the caller selected, without their parents."""
        names = [selection.stream.name for selection in self.selections]
        return [(name, self.unavailable[name]) for name in names if name in self.unavailable]

    async def _run(self) -> None:
        try:
            with self._scope:
                clock = self.selections[0].stream.clock if self.selections else SystemClock()
                async with log_silences(clock, self._runs, self._page_queue):
                    await self._run_streams()
        finally:
            # Cancelled tasks end in arbitrary order: their events are emitted here, in a reproducible order.
            for selection in self._coordinator.selections:
                for emit in self._deferred_events.pop(id(selection), ()):
                    emit()
        self._page_queue.close(self._final_error())

    async def _run_streams(self) -> None:
        try:
            async with self._coordinator.resolve_parents(), anyio.create_task_group() as tasks:
                for selection in self._coordinator.selections:
                    tasks.start_soon(self._run_stream, selection)
        except Exception as error:  # of resolve_parents
            self._abort(error)

    async def _run_stream(self, selection: StreamSelection) -> None:
        """Read one stream. An error before its first slice ends the run, unless the stream is unavailable."""
        stream = selection.stream
        stream.read_parents_from(self._coordinator.feed_for(selection))
        try:
            if selection.limit == 0 and self._coordinator.max_records(selection) == 0:
                return
            async with self._open_client(stream) as client:
                client.events.emit(StreamStarted(stream.name))
                try:
                    failure = await self._read_slices(selection, client)
                except Exception as error:
                    if isinstance(error, StreamUnavailable) and len(self._coordinator.selections) > 1:
                        _log.warning("%s is skipped: %s", stream.name, error.reason)
                        client.events.emit(StreamSkipped(stream.name, error.reason))
                    _emit_final(client.events, StreamFinished(stream.name, error))
                    raise
                except BaseException as error:
                    finished = partial(_emit_final, client.events, StreamFinished(stream.name, error))
                    self._deferred_events.setdefault(id(selection), []).append(finished)
                    raise
                client.events.emit(StreamFinished(stream.name, failure))
        except StreamUnavailable as error:
            self.unavailable[stream.name] = error
        except Exception as error:
            self._abort(error)
        finally:
            self._coordinator.close_stream(selection)

    def _emit(self, run: StreamRun, event: SliceStarted | PageRead | SliceFinished | ParentsDiscovered) -> None:
        """Emit an event. An exception of a listener ends the run; it is not a failure of the slice."""
        try:
            run.client.events.emit(event)
        except Exception as error:
            self._abort(error)

    async def _read_slices(self, selection: StreamSelection, client: HttpClient) -> Exception | None:
        """Read all slices of a stream and return the first failure, if any; `run.failed` has all of them.

        Raises StreamUnavailable, and errors that occur before the first slice.
        """
        stream = selection.stream
        if (reason := await stream.probe()) is not None:
            raise StreamUnavailable(reason).locate(stream=stream.name)
        validator = await create_validator(stream, selection.state_store)
        slots = self._slot_pool.add_stream(stream.weight, stream.max_concurrency)
        coordinator = self._coordinator
        sender, feed = coordinator.sender_for(selection, self._page_queue.add_sender), coordinator.feed_for(selection)
        run = StreamRun(selection, client, validator, slots, sender, feed, coordinator.max_records(selection))
        self._runs.append(run)
        log_start(run)
        try:
            async with log_progress(run), anyio.create_task_group() as tasks:
                await self._schedule_slices(run, selection, tasks)
            self._check_children(run)
        except BaseException:
            log_end(run, "stopped")
            self._deferred_events[id(selection)] = _cancelled_slice_events(run)
            raise
        else:
            for emit in _cancelled_slice_events(run):
                emit()
            is_complete = not (run.failed or run.stopped_early or stream.name in self.unavailable)
            log_end(run, "ends" if is_complete else "ends incompletely")
            await coordinator.finish(selection, is_complete=is_complete)
            if is_complete and selection.state_store is not None:
                selection.state_store.finish_stream(stream.name, run, coordinator.parent_states(selection))
        finally:
            slots.close()
            validator.log_summary()
        if stream.name in self.unavailable:
            raise self.unavailable[stream.name]
        return run.failed[0][1] if run.failed else None

    async def _schedule_slices(self, run: StreamRun, selection: StreamSelection, tasks: TaskGroup) -> None:
        """Start all slices. If `stream_slices` raises, that counts as a failure; slices in progress continue."""
        workers = WorkerPool(tasks, partial(self._read_slice, run, tasks))
        try:
            await self._start_slices(run, selection, tasks, workers)
        except Exception as error:
            self._handle_failure(run, Slice(), error, tasks)
        finally:
            workers.close()

    async def _start_slices(
        self, run: StreamRun, selection: StreamSelection, tasks: TaskGroup, workers: WorkerPool[ActiveSlice]
    ) -> None:
        # The first page of the first slice is read alone: it shows whether the stream is available. Of a substream, so
        # are those of the second and third child, as long as each is refused.
        first: anyio.Event | None = anyio.Event()
        if run.remaining_records is not None and not await run.wait_for_demand(run.slots.new_slot()):
            # No record is needed, so no slice is either. Asking for slices might send requests to parents.
            return
        replays = run.sender.replays_delivered
        async with aclosing(pending_slices(selection, run.incremental, include_delivered=replays)) as pending:
            async for stream_slice, already_delivered, problem in pending:
                self._emit_parents_discovered(run)
                slot = run.slots.new_slot()
                await slot.acquire(new=True)
                if run.stopped_early or not run.sender.has_demand:
                    run.stopped_early = True
                    slot.release()
                    return
                run.slices_started += 1
                run.slots.count_open(1)
                if run.children is not None:
                    run.children.start(stream_slice)
                active = ActiveSlice(run.slices_started, stream_slice, slot, first, already_delivered, problem)
                if run.remaining_records is not None:
                    await self._read_slice(run, tasks, active)
                    if run.remaining_records <= 0 or not await run.wait_for_demand(slot):
                        return
                    continue
                workers.start(active)
                if first is not None:
                    await first.wait()
                    is_undecided = run.children is not None and run.children.is_undecided
                    first = anyio.Event() if is_undecided else None
        self._emit_parents_discovered(run)
        if run.feed is not None:
            self._check_missing_parents(run, run.feed)

    def _emit_parents_discovered(self, run: StreamRun) -> None:
        feed = run.feed
        if feed is not None and run.client.events and feed.has_update:
            feed.mark_reported()
            self._emit(run, ParentsDiscovered(run.stream.name, feed.parent_count, feed.is_complete))

    def _check_missing_parents(self, run: StreamRun, feed: ParentFeed) -> None:
        """Mark the stream as stopped early, or as unavailable, if a parent was not read completely."""
        missing = [parent.name for parent in feed.incomplete_parents]
        for name in missing:
            if (unavailable := self.unavailable.get(name)) is not None:
                reason = f"its parent {name} is unavailable: {unavailable.reason}"
                self.unavailable[run.stream.name] = StreamUnavailable(reason).locate(stream=run.stream.name)
                return
        run.stopped_early = run.stopped_early or bool(missing)

    async def _read_slice(self, run: StreamRun, tasks: TaskGroup, active: ActiveSlice) -> None:
        """Read one slice, or the parts that it is split into, and the ranges that follow it."""
        try:
            parts = [active]
            while parts:
                part = parts.pop(0)
                replacements = await self._read_part(run, part, tasks)
                run.slices_started += max(0, len(replacements) - 1)
                parts[:0] = [part._replace(stream_slice=replacement) for replacement in replacements]
        finally:
            active.slot.release()
            run.slots.count_open(-1)
            if active.first_page_read is not None:
                active.first_page_read.set()

    async def _read_part(self, run: StreamRun, active: ActiveSlice, tasks: TaskGroup) -> Sequence[Slice]:
        """Read a slice or a part of one. Returns what to read next: its parts if it is too large, or the next range."""
        events, stream_slice = run.client.events, active.stream_slice
        if events:
            self._emit(run, SliceStarted(run.stream.name, stream_slice))
        failure: Exception | None = None
        replacements: Sequence[Slice] = ()
        try:
            reader = await self._deliver_pages(run, active, tasks)
            if reader.is_ignored:
                run.slices_ignored += 1
            else:
                run.slices_done += 1
                replacements = await self._next_range(run, reader, active.slot)
        except Exception as error:
            replacements = split_rejected_slice(run.stream, stream_slice, error)
            if run.incremental is not None:
                replacements = [*run.incremental.replacements(stream_slice, replacements)]
            if not replacements and run.children is not None and run.children.concerns(error):
                self._leave_out_child(run, stream_slice, error, tasks)
            else:
                failure = error
                if not replacements:
                    self._handle_failure(run, stream_slice, error, tasks)
        except BaseException as error:
            run.record_cancelled(active, error)
            raise
        if events:
            self._emit(run, SliceFinished(run.stream.name, stream_slice, failure))
        return replacements

    async def _next_range(self, run: StreamRun, reader: SliceReader, slot: Slot) -> Sequence[Slice]:
        """The range to read after a slice of a cursor that grows without end, if more records are needed."""
        following = reader.next_range()
        if following is None or (run.remaining_records is not None and run.remaining_records <= 0):
            return ()
        if not await run.wait_for_demand(slot):
            return ()
        run.slices_started += 1
        return [following]

    async def _deliver_pages(self, run: StreamRun, active: ActiveSlice, tasks: TaskGroup) -> SliceReader:
        """Deliver the pages of a slice."""
        _, stream_slice, slot, first_page_read, already_delivered, problem = active
        if problem is not None:
            raise problem.locate(stream=run.stream.name, stream_slice=stream_slice)
        reader = SliceReader(run, slot, stream_slice, tasks, already_delivered=already_delivered)
        async with aclosing(reader.pages()) as pages:
            async for page, size in pages:
                if run.remaining_records is not None:
                    page = run.apply_limit(page)
                run.count_read(page)
                if run.client.events:
                    numbers = page.number, len(page.records), len(page.quarantined)
                    self._emit(run, PageRead(page.stream, stream_slice, *numbers))
                if first_page_read is not None:
                    first_page_read.set()
                if page.number < reader.delivered_pages:
                    await run.sender.put_already_delivered(page)
                else:
                    await run.sender.put(page, size, run.count_delivered)
                is_last = page.is_last
                del page  # only the consumer keeps it
                if run.remaining_records is not None and run.remaining_records <= 0:
                    break
                if not is_last:
                    if not await run.wait_for_demand(slot):
                        break
                    await slot.yield_to_others()
        return reader

    def _leave_out_child(self, run: StreamRun, stream_slice: Slice, error: HttpStatusError, tasks: TaskGroup) -> None:
        """Leave out a slice whose child is refused or missing; end its stream if it is unavailable because of that."""
        assert run.children is not None
        try:
            reason = run.children.add(stream_slice, error)
        except Exception as hook_error:  # raised by the availability strategy
            self._abort(hook_error)
            return
        problem = str(error).partition("\n")[0]
        run.warn_once(
            "missing",
            f"{run.stream.name}: {shorten(str(stream_slice))} is left out: {problem}; the report names such children",
        )
        if reason is not None:
            self._mark_unavailable(run, reason, error)
            tasks.cancel_scope.cancel()

    def _check_children(self, run: StreamRun) -> None:
        """At the end of a substream, mark it as unavailable if all of its children are refused."""
        if run.children is None or run.children.error is None or run.children.count < run.slices_started:
            return
        if (reason := run.children.reason_at_end()) is not None:
            self._mark_unavailable(run, reason, run.children.error)
        else:
            run.warn_once(
                "all missing",
                f"{run.stream.name}: no child was found ({run.slices_started:,} requested): if this is wrong, check "
                "url_base and path()",
            )

    def _mark_unavailable(self, run: StreamRun, reason: str, error: HttpStatusError) -> None:
        self.unavailable.setdefault(run.stream.name, unavailable_because(run.stream, reason, error))

    def _handle_failure(self, run: StreamRun, stream_slice: Slice, error: Exception, tasks: TaskGroup) -> None:
        """Record a failed slice; end its stream or the run if the failure requires it."""
        stream = run.stream
        try:
            is_first = not (run.has_read_page or run.failed or (stream.parents and MissingChildren.concerns(error)))
            unavailable = as_unavailable(stream, error) if is_first else None
        except Exception as hook_error:  # raised by the availability strategy
            self._abort(hook_error)
            return
        if unavailable is not None:
            self.unavailable[stream.name] = unavailable
            tasks.cancel_scope.cancel()
            return
        run.failed.append((stream_slice, error))
        if self._failure_store is not None:
            self._failure_store.record_failure(stream, stream_slice, error)
        is_of_run = isinstance(error, ConfigError | HostUnavailable | LocalError | AssertionError)
        if self._stop_on_error or (is_of_run and not isinstance(error, PaginationUndeclared | CursorMismatch)):
            self._abort(error)
        elif isinstance(error, RateLimitWaitTooLong):
            # Requests in flight complete; all later ones would meet the same wait.
            run.stopped_early = True
        elif (
            isinstance(error, SchemaError | PaginationUndeclared | CursorMismatch)
            or len(run.failed) > stream.max_failed_slices
            or shows_wrong_declaration(run, error)
        ):
            run.stopped_early = True
            tasks.cancel_scope.cancel()
        elif run.slices_started > 1 or len(self.selections) > 1:
            # Other slices continue, and the final error may be a long time away.
            problem = str(error).partition("\n")[0]
            _log.warning("%s: slice %s failed: %s", stream.name, shorten(str(stream_slice)), problem)

    def _abort(self, error: Exception) -> None:
        """End the run; its error is the first one given."""
        if self.fatal_error is None:
            self.fatal_error = error
        self._scope.cancel()

    def _final_error(self) -> Exception | None:
        """The error that the consumer gets after the last page, or None."""
        if self.fatal_error is not None:
            return self.fatal_error
        if any(run.failed for run in self._runs):
            return combine_failures(self._runs, self.report())
        unavailable = [error for _, error in self._unavailable_streams()]
        if unavailable and len(unavailable) == len(self.selections):
            if len(unavailable) == 1:
                return unavailable[0]
            reasons = "; ".join(f"{error.stream}: {error.reason}" for error in unavailable)
            return StreamUnavailable(f"none of the {len(unavailable)} streams can be read: {reasons}")
        return None


def _first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error in a group, however deep."""
    first = group.exceptions[0]
    if isinstance(first, BaseExceptionGroup):
        return _first_of(cast("BaseExceptionGroup[BaseException]", first))
    return first


def _emit_final(events: EventEmitter, event: SliceFinished | StreamFinished) -> None:
    """Emit a final event; an exception of a listener is logged, so that it does not replace the original error."""
    try:
        events.emit(event)
    except Exception:
        _log.exception("%s: a listener failed on the final event of a run", event.stream)


def _cancelled_slice_events(run: StreamRun) -> list[Callable[[], None]]:
    """Callbacks that emit SliceFinished for the cancelled slices, in the order in which they were started."""
    events, name = run.client.events, run.stream.name
    return [partial(_emit_final, events, SliceFinished(name, *cancelled)) for cancelled in run.cancelled_slices()]
