"""Which slice runs now: all slices of all streams of a run, side by side, fairly, and clean when left."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import partial
from typing import Literal, TypeAlias

import anyio
from anyio.abc import TaskGroup

from ..contracts import Stream
from ..errors import (
    ConfigError,
    HostUnavailable,
    HttpStatusError,
    PartialFailure,
    RateLimitWaitTooLong,
    SchemaError,
    StreamUnavailable,
)
from ..events import Audience, PageRead, SliceEnded, SliceStarted, StreamEnded, StreamSkipped, StreamStarted
from ..http.chain import Chain
from ..model import Page, Slice
from .delivery import Delivery
from .limits import within_descriptors
from .places import Place, Places
from .report import RunReport, StreamReport
from .slice_reader import SliceReader
from .slices import each_slice
from .stream_run import Begun, Selected, StreamRun
from .validation import Validation, validation_of

_MOST_PAGES = 4
_SHOWN = 3
_MOST_BYTES = 32 * 2**20
_log = logging.getLogger("asyncstreams")

OnError: TypeAlias = Literal["continue", "stop"]
Lease: TypeAlias = Callable[[Stream], AbstractAsyncContextManager[Chain]]


class Scheduler:
    """One run over some streams.

    A slice that fails leaves its siblings alone; AuthError, ConfigError and HostUnavailable end the
    run, SchemaError and too many failures end their stream, RateLimitWaitTooLong does when what is
    on the wire has been read, `stop_on_error` makes the first failure
    the last. Nothing but cancellation ever leaves a task: what goes wrong is told by the delivery,
    when all that was read has been taken.
    """

    def __init__(
        self, selected: Sequence[Selected], lease: Lease, max_concurrency: int, *, stop_on_error: bool
    ) -> None:
        self._selected, self._lease = selected, lease
        self._stop_on_error = stop_on_error
        self._places = Places(within_descriptors(max_concurrency))
        self._delivery = Delivery(_MOST_PAGES, _MOST_BYTES)
        self._runs: list[StreamRun] = []
        self._fatal: Exception | None = None
        self._scope = anyio.CancelScope()
        self._cut_off: dict[str, list[Callable[[], None]]] = {}
        self.unavailable: dict[str, StreamUnavailable] = {}

    @asynccontextmanager
    async def pages(self) -> AsyncGenerator[Delivery]:
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

    def report(self) -> RunReport:
        """What was read so far."""
        return RunReport(
            tuple(
                StreamReport(run.stream.name, run.pages, run.records, run.quarantined, run.done, len(run.failed))
                for run in self._runs
                if run.stream.name not in self.unavailable
            ),
            {name: error.reason for name, error in self.unavailable.items()},
        )

    async def _run(self) -> None:
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    for selected in self._selected:
                        tasks.start_soon(self._stream, selected)
        finally:
            # Tasks that are cancelled together end in any order: listeners hear the same each time.
            for selected in self._selected:
                for tell in self._cut_off.pop(selected.stream.name, ()):
                    tell()
        self._delivery.close(self._outcome())

    async def _stream(self, selected: Selected) -> None:
        """Everything of one stream. What goes wrong before its slices is the run's, unless it is unavailable."""
        stream = selected.stream
        if selected.limit == 0:
            return
        try:
            async with self._lease(stream) as chain:
                chain.audience.tell(StreamStarted(stream.name))
                try:
                    failure = await self._slices(selected, chain)
                except Exception as error:
                    if isinstance(error, StreamUnavailable) and len(self._selected) > 1:
                        _log.warning("%s is skipped: %s", stream.name, error.reason)
                        chain.audience.tell(StreamSkipped(stream.name, error.reason))
                    _tell_end(chain.audience, StreamEnded(stream.name, error))
                    raise
                except BaseException as error:
                    ended = partial(_tell_end, chain.audience, StreamEnded(stream.name, error))
                    self._cut_off.setdefault(stream.name, []).append(ended)
                    raise
                chain.audience.tell(StreamEnded(stream.name, failure))
        except StreamUnavailable as error:
            self.unavailable[stream.name] = error
        except Exception as error:
            self._end(error)

    def _tell(self, run: StreamRun, event: SliceStarted | PageRead | SliceEnded) -> None:
        """What a listener raises ends the run: it is no failure of the slice."""
        try:
            run.chain.audience.tell(event)
        except Exception as error:
            self._end(error)

    async def _slices(self, selected: Selected, chain: Chain) -> Exception | None:
        """All slices of a stream, and the first of their failures, where there are any; they are noted as well.

        Raises what is wrong with the stream before its slices, and StreamUnavailable.
        """
        stream = selected.stream
        if (reason := await stream.probe()) is not None:
            raise StreamUnavailable(reason).locate(stream=stream.name)
        validation = await validation_of(stream)
        share = self._places.share(stream.weight, stream.max_concurrency)
        run = StreamRun(selected, chain, validation, share, self._delivery.lane(stream.weight))
        self._runs.append(run)
        try:
            async with anyio.create_task_group() as tasks:
                await self._feed(run, selected, tasks)
        except BaseException:
            self._cut_off[stream.name] = _ends_of(run)
            raise
        else:
            for tell in _ends_of(run):
                tell()
        finally:
            share.leave()
            validation.tell()
        if stream.name in self.unavailable:
            raise self.unavailable[stream.name]
        return run.failed[0][1] if run.failed else None

    async def _feed(self, run: StreamRun, selected: Selected, tasks: TaskGroup) -> None:
        """Begin one slice after the other; where the author's slices end with an error, those begun go on."""
        try:
            await self._begin_slices(run, selected, tasks)
        except Exception as error:
            self._failed(run, Slice(), error, tasks)

    async def _begin_slices(self, run: StreamRun, selected: Selected, tasks: TaskGroup) -> None:
        # The first page of the first slice comes alone: it tells whether the stream is available.
        first: anyio.Event | None = anyio.Event()
        async with aclosing(each_slice(run.stream, selected.slices, selected.state)) as slices:
            async for stream_slice in slices:
                place = run.share.place()
                await place.take(new=True)
                if run.is_cut_short:
                    place.give()
                    return
                run.begun += 1
                run.share.opened(1)
                begun = Begun(run.begun, stream_slice, place)
                if run.left is not None:
                    await self._slice(run, begun, tasks, None)
                    if run.left <= 0:
                        return
                    continue
                tasks.start_soon(self._slice, run, begun, tasks, first)
                if first is not None:
                    await first.wait()
                    first = None

    async def _slice(self, run: StreamRun, begun: Begun, tasks: TaskGroup, answered: anyio.Event | None) -> None:
        """One slice from beginning to end; `answered` is set when something of it is known."""
        audience, stream_slice, place = run.chain.audience, begun.stream_slice, begun.place
        if audience:
            self._tell(run, SliceStarted(run.stream.name, stream_slice))
        failure: Exception | None = None
        try:
            await self._pages(run, stream_slice, place, tasks, answered)
            run.done += 1
        except Exception as error:
            failure = error
            self._failed(run, stream_slice, error, tasks)
        except BaseException as error:
            run.was_cut_off(begun, error)
            raise
        finally:
            place.give()
            run.share.opened(-1)
            if answered is not None:
                answered.set()
        if audience:
            self._tell(run, SliceEnded(run.stream.name, stream_slice, failure))

    async def _pages(
        self, run: StreamRun, stream_slice: Slice, place: Place, tasks: TaskGroup, answered: anyio.Event | None
    ) -> None:
        async with aclosing(SliceReader(run, place, stream_slice, tasks).pages()) as pages:
            async for page, size in pages:
                if run.left is not None:
                    page = run.cut(page)
                run.answered = True
                if run.chain.audience:
                    numbers = page.number, len(page.records), len(page.quarantined)
                    self._tell(run, PageRead(page.stream, stream_slice, *numbers))
                if answered is not None:
                    answered.set()
                await run.lane.put(page, size, run.handed)
                is_last = page.is_last
                del page  # it is the consumer's alone now
                if run.left is not None and run.left <= 0:
                    return
                if not is_last:
                    await place.give_way()

    def _failed(self, run: StreamRun, stream_slice: Slice, error: Exception, tasks: TaskGroup) -> None:
        """Decide what else a failed slice ends."""
        stream = run.stream
        try:
            unavailable = None if run.answered or run.failed else _unavailable(stream, error)
        except Exception as mistake:  # the strategy's own
            self._end(mistake)
            return
        if unavailable is not None:
            self.unavailable[stream.name] = unavailable
            tasks.cancel_scope.cancel()
            return
        run.failed.append((stream_slice, error))
        if self._stop_on_error or isinstance(error, ConfigError | HostUnavailable | AssertionError):
            self._end(error)
        elif isinstance(error, RateLimitWaitTooLong):
            # What is on the wire is still read; all others meet the same wait.
            run.is_cut_short = True
        elif isinstance(error, SchemaError) or len(run.failed) > stream.max_failed_slices:
            run.is_cut_short = True
            tasks.cancel_scope.cancel()
        elif run.begun > 1 or len(self._selected) > 1:
            # Others go on, and it may be long before the end tells.
            _log.warning("%s: %r failed: %s", stream.name, stream_slice, str(error).partition("\n")[0])

    def _end(self, error: Exception) -> None:
        """End the run; the first reason counts."""
        if self._fatal is None:
            self._fatal = error
        self._scope.cancel()

    def _outcome(self) -> Exception | None:
        """What the consumer is told at the end."""
        if self._fatal is not None:
            return self._fatal
        if any(run.failed for run in self._runs):
            return failure_of(self._runs, self.report())
        if self.unavailable and len(self.unavailable) == len(self._selected):
            if len(self._selected) == 1:
                return next(iter(self.unavailable.values()))
            reasons = "; ".join(f"{name}: {error.reason}" for name, error in self.unavailable.items())
            return StreamUnavailable(f"none of the {len(self._selected)} streams can be read: {reasons}")
        return None


def _tell_end(audience: Audience, end: SliceEnded | StreamEnded) -> None:
    """What ended the reading leaves, and not what a listener makes of it."""
    try:
        audience.tell(end)
    except Exception:
        _log.exception("%s: a listener failed at the end of a reading", end.stream)


def _ends_of(run: StreamRun) -> list[Callable[[], None]]:
    """To tell the ends of the slices that were cut off, in their order."""
    audience, name = run.chain.audience, run.stream.name
    return [partial(_tell_end, audience, SliceEnded(name, *cut)) for cut in run.cut_off()]


def failure_of(runs: Sequence[StreamRun], report: RunReport) -> Exception:
    """What a run ends with of which slices failed: the error itself, where there was one slice at most."""
    failed = [(run, stream_slice, error) for run in runs for stream_slice, error in run.failed]
    begun = sum(run.begun for run in runs)
    if begun <= 1:
        return failed[0][2]
    slices = ", ".join(f"{run.stream.name} {dict(stream_slice)}" for run, stream_slice, _ in failed[:_SHOWN])
    more = ", ..." if len(failed) > _SHOWN else ""
    cut_short = ", ".join(run.stream.name for run in runs if run.is_cut_short)
    told = f"{len(failed)} of {begun} slices failed ({slices}{more})"
    told += f", and {cut_short} was ended before its end" if cut_short else ""
    hint = "read again: some slices were not even begun" if cut_short else "read again with slices= those that failed"
    errors = tuple(error for *_, error in failed)
    return PartialFailure(f"{told}; the first: {errors[0]}", errors, report, hint=f"`errors` has them all; {hint}")


def _unavailable(stream: Stream, error: Exception) -> StreamUnavailable | None:
    """What the error of a stream's first request means, if it means that the stream is unavailable."""
    if not isinstance(error, HttpStatusError) or (reason := stream.why_unavailable(error)) is None:
        return None
    unavailable = StreamUnavailable(reason, status=error.status)
    unavailable.__cause__ = error
    where = {"url": error.url, "method": error.method, "tries": error.tries, "stream_slice": error.stream_slice}
    return unavailable.locate(stream=stream.name, **where)


async def first_page(stream: Stream, chain: Chain) -> Page | None:
    """The first page of the first slice, as it comes: nobody is told, nothing is validated, no strategy is asked."""
    selected = Selected(stream, None, {}, 1)
    run = StreamRun(selected, chain, Validation(stream, None), Places(1).share(), Delivery(1, 1).lane())
    async with aclosing(each_slice(stream, None, {})) as slices:
        async for stream_slice in slices:
            async with aclosing(SliceReader(run, run.share.place(), stream_slice, None).pages()) as pages:
                async for page, _ in pages:
                    return page
    return None
