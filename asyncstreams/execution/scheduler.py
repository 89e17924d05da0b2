"""Which slice runs now: all slices of all streams of a run, side by side, fairly, and clean when left."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import partial
from typing import Literal, TypeAlias

import anyio
from anyio.abc import TaskGroup

from ..errors import (
    ConfigError,
    HostUnavailable,
    LocalError,
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
from ..models import Slice
from ..protocols import Stream
from ..records.record_validation import validation_of
from ..state.stream_selection import StreamSelection
from .failure_policy import failure_of, halves_of, unavailable_by
from .page_queue import PageQueue
from .parent_coordinator import ParentCoordinator, ParentFeed
from .report import RunReport
from .slice_reader import SliceReader
from .slice_source import each_work
from .slots import SlotPool, within_descriptors
from .stream_run import ActiveSlice, StreamRun
from .worker_pool import WorkerPool

_MOST_PAGES = 4
_MOST_BYTES = 32 * 2**20
_log = logging.getLogger("asyncstreams")

OnError: TypeAlias = Literal["continue", "stop"]
Lease: TypeAlias = Callable[[Stream], AbstractAsyncContextManager[HttpClient]]


class Scheduler:
    """One run over some streams.

    A slice that fails leaves its siblings alone; AuthError, ConfigError and HostUnavailable end the run, SchemaError
    and too many failures end their stream, RateLimitWaitTooLong does when what is on the wire has been read,
    `stop_on_error` makes the first failure the last. Nothing but cancellation ever leaves a task: what goes wrong is
    told by the delivery, when all that was read has been taken.
    """

    def __init__(
        self, selected: Sequence[StreamSelection], lease: Lease, max_concurrency: int, *, stop_on_error: bool
    ) -> None:
        self.selected, self._lease = tuple(selected), lease
        self._family = ParentCoordinator(selected)
        self._stop_on_error = stop_on_error
        self._places = SlotPool(within_descriptors(max_concurrency))
        self._delivery = PageQueue(_MOST_PAGES, _MOST_BYTES)
        self._runs: list[StreamRun] = []
        self.fatal: Exception | None = None
        self._scope = anyio.CancelScope()
        self._cut_off: dict[int, list[Callable[[], None]]] = {}
        self.unavailable: dict[str, StreamUnavailable] = {}

    @asynccontextmanager
    async def pages(self) -> AsyncGenerator[PageQueue]:
        """The pages of the run, while it runs; leaving ends everything that is under way.

        What the body raises leaves as it was raised: its tasks raise nothing, so the group that anyio
        puts around it holds nothing else.
        """
        raised: BaseException | None = None
        context: BaseException | None = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._run)
                try:
                    yield self._delivery
                except BaseException as error:
                    raised, context = error, error.__context__
                    raise
                finally:
                    tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            if raised is None or group is raised:
                raise
        else:
            return
        try:
            raise raised
        finally:
            raised.__context__ = context

    def explain(self) -> str:
        """A line for each stream that has begun: what it does now, and what keeps it from doing more."""
        lines = [run.explain() for run in self._runs]
        if self._delivery.is_full:
            lines.append("the consumer is slower than the API: nothing more is fetched until it takes a page")
        return "\n".join(lines)

    @property
    def is_safe(self) -> bool:
        """Whether all that was to be read has been, and has been acknowledged where a state is kept."""
        return self.fatal is None and all(run.is_safe for run in self._runs)

    def report(self) -> RunReport:
        """What was read so far."""
        return RunReport(
            tuple(
                run.report for run in self._runs if run.selected.is_emitted and run.stream.name not in self.unavailable
            ),
            {one.stream.name: self.unavailable[one.stream.name].reason for one in self._unavailable()},
        )

    def _unavailable(self) -> list[StreamSelection]:
        """Of those that are read for themselves."""
        return [one for one in self.selected if one.stream.name in self.unavailable]

    async def _run(self) -> None:
        try:
            with self._scope:
                await self._all_streams()
        finally:
            # Tasks that are cancelled together end in any order: listeners hear the same each time.
            for selected in self._family.selected:
                for tell in self._cut_off.pop(id(selected), ()):
                    tell()
        self._delivery.close(self._outcome())

    async def _all_streams(self) -> None:
        try:
            async with self._family.gathered(), anyio.create_task_group() as tasks:
                for selected in self._family.selected:
                    tasks.start_soon(self._stream, selected)
        except Exception as error:  # the parents'
            self._end(error)

    async def _stream(self, selected: StreamSelection) -> None:
        """Everything of one stream. What goes wrong before its slices is the run's, unless it is unavailable."""
        stream = selected.stream
        self._family.here(selected)
        try:
            if selected.limit == 0 and self._family.most(selected) == 0:
                return
            async with self._lease(stream) as chain:
                chain.audience.emit(StreamStarted(stream.name))
                try:
                    failure = await self._slices(selected, chain)
                except Exception as error:
                    if isinstance(error, StreamUnavailable) and len(self._family.selected) > 1:
                        _log.warning("%s is skipped: %s", stream.name, error.reason)
                        chain.audience.emit(StreamSkipped(stream.name, error.reason))
                    _tell_end(chain.audience, StreamFinished(stream.name, error))
                    raise
                except BaseException as error:
                    ended = partial(_tell_end, chain.audience, StreamFinished(stream.name, error))
                    self._cut_off.setdefault(id(selected), []).append(ended)
                    raise
                chain.audience.emit(StreamFinished(stream.name, failure))
        except StreamUnavailable as error:
            self.unavailable[stream.name] = error
        except Exception as error:
            self._end(error)
        finally:
            self._family.cut_off(selected)

    def _tell(self, run: StreamRun, event: SliceStarted | PageRead | SliceFinished | ParentsDiscovered) -> None:
        """What a listener raises ends the run: it is no failure of the slice."""
        try:
            run.chain.audience.emit(event)
        except Exception as error:
            self._end(error)

    async def _slices(self, selected: StreamSelection, chain: HttpClient) -> Exception | None:
        """All slices of a stream, and the first of their failures, where there are any; they are noted as well.

        Raises what is wrong with the stream before its slices, and StreamUnavailable.
        """
        stream = selected.stream
        if (reason := await stream.probe()) is not None:
            raise StreamUnavailable(reason).locate(stream=stream.name)
        validation = await validation_of(stream, selected.keeper)
        share = self._places.share(stream.weight, stream.max_concurrency)
        family = self._family
        lane, feed = family.lane(selected, self._delivery.lane), family.feed(selected)
        run = StreamRun(selected, chain, validation, share, lane, feed, family.most(selected))
        self._runs.append(run)
        try:
            async with anyio.create_task_group() as tasks:
                await self._feed(run, selected, tasks)
        except BaseException:
            self._cut_off[id(selected)] = _ends_of(run)
            raise
        else:
            for tell in _ends_of(run):
                tell()
            is_whole = not (run.failed or run.is_cut_short or stream.name in self.unavailable)
            await family.ended(selected, is_complete=is_whole)
            if is_whole and selected.keeper is not None:
                selected.keeper.ended(stream.name, run, family.states_of_parents(selected))
        finally:
            share.leave()
            validation.tell()
        if stream.name in self.unavailable:
            raise self.unavailable[stream.name]
        return run.failed[0][1] if run.failed else None

    async def _feed(self, run: StreamRun, selected: StreamSelection, tasks: TaskGroup) -> None:
        """Begin one slice after the other; where the author's slices end with an error, those begun go on."""
        workers = WorkerPool(tasks, partial(self._slice, run, tasks))
        try:
            await self._begin_slices(run, selected, tasks, workers)
        except Exception as error:
            self._failed(run, Slice(), error, tasks)
        finally:
            workers.dismiss()

    async def _begin_slices(
        self, run: StreamRun, selected: StreamSelection, tasks: TaskGroup, workers: WorkerPool[ActiveSlice]
    ) -> None:
        # The first page of the first slice comes alone: it tells whether the stream is available.
        first: anyio.Event | None = anyio.Event()
        if run.left is not None and not await run.is_wanted(run.share.place()):
            # Nor are its slices, which may cost requests to its parents.
            return
        async with aclosing(each_work(selected, run.incremental, also_known=run.lane.wants_known)) as works:
            async for work in works:
                self._tell_of_parents(run)
                place = run.share.place()
                await place.take(new=True)
                if run.is_cut_short or not run.lane.is_wanted:
                    run.is_cut_short = True
                    place.give()
                    return
                run.begun += 1
                run.share.opened(1)
                begun = ActiveSlice(run.begun, work.stream_slice, place, first, work.is_known)
                if run.left is not None:
                    await self._slice(run, tasks, begun)
                    if run.left <= 0 or not await run.is_wanted(place):
                        return
                    continue
                workers.begin(begun)
                if first is not None:
                    await first.wait()
                    first = None
        self._tell_of_parents(run)
        if run.feed is not None:
            self._parents_ended(run, run.feed)

    def _tell_of_parents(self, run: StreamRun) -> None:
        feed = run.feed
        if feed is not None and run.chain.audience and feed.is_news():
            self._tell(run, ParentsDiscovered(run.stream.name, feed.known, feed.is_all))

    def _parents_ended(self, run: StreamRun, feed: ParentFeed) -> None:
        """Where parents are missing, what was read of their children is not all."""
        missing = [parent.name for parent in feed.missing]
        for name in missing:
            if not run.begun and (unavailable := self.unavailable.get(name)) is not None:
                reason = f"its parent {name} is unavailable: {unavailable.reason}"
                self.unavailable[run.stream.name] = StreamUnavailable(reason).locate(stream=run.stream.name)
                return
        run.is_cut_short = run.is_cut_short or bool(missing)

    async def _slice(self, run: StreamRun, tasks: TaskGroup, begun: ActiveSlice) -> None:
        """One slice from beginning to end."""
        try:
            parts = [begun]
            while parts:
                part = parts.pop(0)
                halves = await self._part(run, part, tasks)
                run.begun += max(0, len(halves) - 1)
                parts[:0] = [part._replace(stream_slice=half) for half in halves]
        finally:
            begun.place.give()
            run.share.opened(-1)
            if begun.answered is not None:
                begun.answered.set()

    async def _part(self, run: StreamRun, begun: ActiveSlice, tasks: TaskGroup) -> Sequence[Slice]:
        """A slice, or what the API did not take as a whole: its parts, which are to be read in its place."""
        audience, stream_slice = run.chain.audience, begun.stream_slice
        if audience:
            self._tell(run, SliceStarted(run.stream.name, stream_slice))
        failure: Exception | None = None
        halves: Sequence[Slice] = ()
        try:
            await self._pages(run, begun, tasks)
            run.done += 1
        except Exception as error:
            failure = error
            halves = halves_of(run.stream, stream_slice, error)
            if not halves:
                self._failed(run, stream_slice, error, tasks)
        except BaseException as error:
            run.was_cut_off(begun, error)
            raise
        if audience:
            self._tell(run, SliceFinished(run.stream.name, stream_slice, failure))
        return halves

    async def _pages(self, run: StreamRun, begun: ActiveSlice, tasks: TaskGroup) -> None:
        _, stream_slice, place, answered, is_known = begun
        reader = SliceReader(run, place, stream_slice, tasks, is_known=is_known)
        async with aclosing(reader.pages()) as pages:
            async for page, size in pages:
                if run.left is not None:
                    page = run.cut(page)
                run.answered = True
                if run.chain.audience:
                    numbers = page.number, len(page.records), len(page.quarantined)
                    self._tell(run, PageRead(page.stream, stream_slice, *numbers))
                if answered is not None:
                    answered.set()
                if page.number < reader.known:
                    await run.lane.put_known(page)
                else:
                    await run.lane.put(page, size, run.handed)
                is_last = page.is_last
                del page  # it is the consumer's alone now
                if run.left is not None and run.left <= 0:
                    return
                if not is_last:
                    if not await run.is_wanted(place):
                        return
                    await place.give_way()

    def _failed(self, run: StreamRun, stream_slice: Slice, error: Exception, tasks: TaskGroup) -> None:
        """Decide what else a failed slice ends."""
        stream = run.stream
        try:
            unavailable = None if run.answered or run.failed else unavailable_by(stream, error)
        except Exception as mistake:  # the strategy's own
            self._end(mistake)
            return
        if unavailable is not None:
            self.unavailable[stream.name] = unavailable
            tasks.cancel_scope.cancel()
            return
        run.failed.append((stream_slice, error))
        if self._stop_on_error or isinstance(error, ConfigError | HostUnavailable | LocalError | AssertionError):
            self._end(error)
        elif isinstance(error, RateLimitWaitTooLong):
            # What is on the wire is still read; all others meet the same wait.
            run.is_cut_short = True
        elif isinstance(error, SchemaError) or len(run.failed) > stream.max_failed_slices:
            run.is_cut_short = True
            tasks.cancel_scope.cancel()
        elif run.begun > 1 or len(self.selected) > 1:
            # Others go on, and it may be long before the end tells.
            _log.warning("%s: %r failed: %s", stream.name, stream_slice, str(error).partition("\n")[0])

    def _end(self, error: Exception) -> None:
        """End the run; the first reason counts."""
        if self.fatal is None:
            self.fatal = error
        self._scope.cancel()

    def _outcome(self) -> Exception | None:
        """What the consumer is told at the end."""
        if self.fatal is not None:
            return self.fatal
        if any(run.failed for run in self._runs):
            return failure_of(self._runs, self.report())
        unavailable = [self.unavailable[one.stream.name] for one in self._unavailable()]
        if unavailable and len(unavailable) == len(self.selected):
            if len(unavailable) == 1:
                return unavailable[0]
            reasons = "; ".join(f"{error.stream}: {error.reason}" for error in unavailable)
            return StreamUnavailable(f"none of the {len(unavailable)} streams can be read: {reasons}")
        return None


def _tell_end(audience: EventEmitter, end: SliceFinished | StreamFinished) -> None:
    """What ended the reading leaves, and not what a listener makes of it."""
    try:
        audience.emit(end)
    except Exception:
        _log.exception("%s: a listener failed at the end of a reading", end.stream)


def _ends_of(run: StreamRun) -> list[Callable[[], None]]:
    """To tell the ends of the slices that were cut off, in their order."""
    audience, name = run.chain.audience, run.stream.name
    return [partial(_tell_end, audience, SliceFinished(name, *cut)) for cut in run.cut_off()]
