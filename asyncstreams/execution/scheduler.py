"""Concurrent execution of all streams of a run, with structured cancellation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Literal, TypeAlias, cast

import anyio

from ..clock import SystemClock
from ..declaration.stream import Stream
from ..errors import StreamUnavailable
from ..events import EventEmitter, SliceFinished, StreamFinished, StreamSkipped, StreamStarted
from ..http.client import HttpClient
from ..records.record_validation import create_validator
from ..state.stream_selection import StreamSelection
from .failure_policy import FailurePolicy
from .page_queue import PageQueue
from .parent_coordinator import ParentCoordinator, StreamNode
from .progress_sampler import PageStore, ProgressSampler
from .report import RunReport
from .run_log import log_end, log_progress, log_silences, log_start
from .slice_scheduler import SliceScheduler
from .slots import SlotPool, cap_to_fd_limit
from .stream_run import StreamRun

_MAX_QUEUED_PAGES = 4
_MAX_QUEUED_BYTES = 32 * 2**20
_log = logging.getLogger("asyncstreams")

OnError: TypeAlias = Literal["continue", "stop"]
OpenClient: TypeAlias = Callable[[Stream], AbstractAsyncContextManager[HttpClient]]


class Scheduler:
    """Reads a set of streams in one run; `FailurePolicy` says what a failure ends.

    Tasks raise nothing but cancellation. The page queue raises the error of the run after its last page.
    """

    def __init__(
        self,
        selections: Sequence[StreamSelection],
        open_client: OpenClient,
        max_concurrency: int,
        *,
        stop_on_error: bool,
        store: PageStore | None = None,
    ) -> None:
        self.selections, self._open_client = tuple(selections), open_client
        self._clock = self.selections[0].stream.resolved.clock if self.selections else SystemClock()
        self._coordinator = ParentCoordinator(selections)
        self._failures = FailurePolicy(selections, stop_on_error=stop_on_error)
        self._slot_pool = SlotPool(cap_to_fd_limit(max_concurrency))
        self._page_queue = PageQueue(_MAX_QUEUED_PAGES, _MAX_QUEUED_BYTES)
        self._sampler = ProgressSampler(self._clock, self._page_queue, store)
        self._readers: list[StreamReader] = []

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

    def _runs(self) -> Sequence[StreamRun]:
        """The runs of the streams that have begun, in the order of the streams."""
        return [reader.run for reader in self._readers if reader.run is not None]

    def _active_runs(self) -> Sequence[StreamRun]:
        """The runs of the streams that are being read."""
        return [reader.run for reader in self._readers if reader.run is not None and reader.is_reading]

    def explain(self) -> str:
        """Describe what each started stream is doing and what it waits for, one line per stream."""
        lines = [run.explain() for run in self._runs()]
        if self._page_queue.is_full:
            lines.append("the consumer is slower than the API: fetching is paused until it takes a page")
        return "\n".join(lines)

    @property
    def fatal_error(self) -> Exception | None:
        """The error that ended the run, rather than a slice or a stream."""
        return self._failures.fatal_error

    @property
    def is_fully_acknowledged(self) -> bool:
        """Whether all streams were read completely and no checkpoint is pending."""
        return self.fatal_error is None and all(run.is_fully_acknowledged for run in self._runs())

    def report(self) -> RunReport:
        """What was delivered so far."""
        unavailable = self._failures.unavailable
        return RunReport(
            tuple(
                run.report for run in self._runs() if run.selection.is_emitted and run.stream.name not in unavailable
            ),
            {name: error.reason for name, error in self._failures.unavailable_streams()},
        )

    async def _run(self) -> None:
        try:
            with self._failures.scope:
                silences = log_silences(self._clock, self._runs, self._page_queue)
                async with silences, self._sampler.sampling(self._active_runs):
                    await self._run_streams()
        finally:
            # Cancelled tasks end in arbitrary order: their events are emitted here, in a reproducible order.
            for reader in self._readers:
                reader.emit_cancelled()
        self._page_queue.close(self._failures.final_error(self._runs(), self.report()))

    async def _run_streams(self) -> None:
        try:
            async with self._coordinator.resolve_parents() as nodes, anyio.create_task_group() as tasks:
                self._readers = [
                    StreamReader(node, self._failures, self._sampler, is_alone=len(nodes) == 1) for node in nodes
                ]
                for reader in self._readers:
                    tasks.start_soon(self._run_stream, reader)
        except Exception as error:  # of resolve_parents
            self._failures.abort(error)

    async def _run_stream(self, reader: StreamReader) -> None:
        """Read one stream. An error before its first slice ends the run, unless the stream is unavailable."""
        node = reader.node
        stream = node.selection.stream
        stream.read_parents_from(node.feed)
        try:
            if node.selection.limit == 0 and node.max_records == 0:
                return
            async with self._open_client(stream) as client:
                await reader.read(client, self._slot_pool, self._page_queue)
        except StreamUnavailable as error:
            self._failures.mark_unavailable(stream, error)
        except Exception as error:
            self._failures.abort(error)
        finally:
            node.close()
            stream.read_parents_from(None)


class StreamReader:
    """Reads one stream of a run, from its first event to its last one."""

    def __init__(self, node: StreamNode, failures: FailurePolicy, sampler: ProgressSampler, *, is_alone: bool) -> None:
        self.node, self._failures, self._sampler, self._is_alone = node, failures, sampler, is_alone
        self.run: StreamRun | None = None
        """The state of the stream, once it has begun."""
        self.is_reading = False
        self._events: EventEmitter | None = None
        self._cancellation: BaseException | None = None

    async def read(self, client: HttpClient, slot_pool: SlotPool, queue: PageQueue) -> None:
        """Read the stream. Raises StreamUnavailable, and errors that occur before the first slice."""
        stream = self.node.selection.stream
        self._events = client.events
        client.events.emit(StreamStarted(stream.name))
        try:
            failure = await self._read_slices(client, slot_pool, queue)
        except Exception as error:
            if isinstance(error, StreamUnavailable) and not self._is_alone:
                _log.warning("%s is skipped: %s", stream.name, error.reason)
                client.events.emit(StreamSkipped(stream.name, error.reason))
            _emit_final(client.events, StreamFinished(stream.name, error))
            raise
        except BaseException as error:
            self._cancellation = error
            raise
        client.events.emit(StreamFinished(stream.name, failure))

    def emit_cancelled(self) -> None:
        """Emit the final events of what was cancelled: of slices, in the order in which they were started, then of
        the stream.
        """
        name = self.node.selection.stream.name
        if self._events is None:
            return
        if self.run is not None:
            for stream_slice, error in self.run.progress.pop_cancelled():
                _emit_final(self._events, SliceFinished(name, stream_slice, error))
        if self._cancellation is not None:
            _emit_final(self._events, StreamFinished(name, self._cancellation))

    async def _read_slices(self, client: HttpClient, slot_pool: SlotPool, queue: PageQueue) -> Exception | None:
        """Read all slices and return the first failure, if any; the progress of the run has all of them."""
        node, failures = self.node, self._failures
        selection, stream = node.selection, node.selection.stream
        if (reason := await stream.probe()) is not None:
            raise StreamUnavailable(reason).locate(stream=stream.name)
        validator = await create_validator(stream, selection.state_store)
        slots = slot_pool.add_stream(stream.resolved.weight, stream.resolved.max_concurrency)
        sender = node.sender_to(queue)
        run = StreamRun.create(selection, client, validator, slots, sender, node.feed, node.max_records)
        self.run, self.is_reading = run, True
        log_start(run)
        try:
            async with log_progress(run), anyio.create_task_group() as tasks:
                await SliceScheduler(run, failures, tasks).run_slices()
            self._sampler.sample(run)
            failures.check_children(run)
        except BaseException:
            log_end(run, "stopped")
            raise
        else:
            self.emit_cancelled()
            is_complete = run.progress.is_complete and stream.name not in failures.unavailable
            log_end(run, "ends" if is_complete else "ends incompletely")
            await node.finish(is_complete=is_complete)
            if is_complete and selection.state_store is not None:
                selection.state_store.finish_stream(stream.name, run, node.parent_states())
        finally:
            self.is_reading = False
            slots.close()
            validator.log_summary()
        if stream.name in failures.unavailable:
            raise failures.unavailable[stream.name]
        return run.progress.failures[0][1] if run.progress.failures else None


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
