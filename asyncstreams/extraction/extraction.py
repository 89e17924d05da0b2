"""How do the pages of a run become files or tables, and what is known because of them part of the same commits?"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import anyio

from ..clock import Clock
from ..destinations.base import Destination
from ..destinations.ledger import Record
from ..destinations.writer_protocol import Chunk, CommitPayload
from ..errors import PartialFailure, RateLimitWaitTooLong
from ..execution.report import RunReport, StreamReport, WriteReport
from ..execution.scheduler import Lease, Scheduler
from ..models import Page
from ..protocols import Stream
from ..records.json_lines import EncodedLines
from ..state.compatibility import compare, with_credential
from ..state.slice_checkpoint import SliceCheckpoint
from ..state.stream_selection import ReadOutcome, StreamSelection
from ..state.stream_state import StreamState
from .commit_batcher import CommitBatcher, StreamBatch
from .disk_executor import DiskExecutor
from .plan import plan, shape_of

_TO_LEAVE = 10.0  # seconds


class Extraction:
    """One extraction; keeps the state of its streams in the output, and moves it with the commits."""

    def __init__(self, to: Destination, streams: Sequence[Stream], clock: Clock) -> None:
        self._to, self._streams, self._clock = to, streams, clock
        self._output = to.output()
        self._scope = anyio.CancelScope()
        self._disk = DiskExecutor(self._scope.cancel)
        self._leave_by: float | None = None
        self._grouping = CommitBatcher(clock.monotonic(), to.commit_size, is_eager=to.fsync == "full")
        self._gathered = asyncio.Event()
        self._is_committing = False
        self._ended: dict[str, ReadOutcome] = {}
        self._parents: dict[str, Mapping[str, Any]] = {}
        self._identities: dict[str, dict[str, Any]] = {}
        self._written: dict[str, WriteReport] = {}

    async def run(self, lease: Lease, max_concurrency: int, *, stop_on_error: bool) -> RunReport:
        """All of it. Raises what reading raises, OutputLocked, OutputMissing, OutputWriteError, StateCorrupt and
        StateIncompatible; what was committed stays."""
        try:
            await self._disk.wait(partial(self._output.open, self._clock.wall()))
            planned = plan(self._to, self._streams, self._output.ledger)
            await self._disk.wait(partial(self._output.begin, planned.begin))
            for stream in planned.read:
                self._written[stream.name] = replace(self._new_written(stream.name), was_read=True)
            selected = [
                StreamSelection(
                    stream, None, self._output.ledger.streams[stream.name].state, None, keeper=self, takes_lines=True
                )
                for stream in planned.left
            ]
            scheduler = Scheduler(selected, lease, max_concurrency, stop_on_error=stop_on_error)
            return await self._read(scheduler)
        finally:
            with self._last_moments():
                await self._disk.close(self._output.close)

    def check(self, stream: Stream) -> None:
        """Raises StateIncompatible for a stream that is not the one that was read before."""
        one = self._output.ledger.streams[stream.name]
        now = with_credential(stream, self._output.ledger.salt)
        compare(stream.name, one.identity, now, allow_credential_change=self._to.allow_credential_change)
        if one.identity != now:
            self._identities[stream.name] = now

    @property
    def needs_schema(self) -> bool:
        return self._to.needs_schema

    def described(self, stream: Stream, schema: Mapping[str, Any] | None) -> None:
        self._disk.submit(partial(self._output.describe, stream.name, shape_of(stream, schema)))

    def moved(self, stream: str) -> None:
        """A state moves when its commit is done."""

    def ended(self, stream: str, read: ReadOutcome, parents: Mapping[str, StreamState]) -> None:
        self._ended[stream] = read
        self._parents[stream] = {name: one.to_json() for name, one in parents.items()}
        self._gathered.set()

    async def _read(self, scheduler: Scheduler) -> RunReport:
        """Read all that is left, and commit what of it can be, however the reading ends."""
        raised: Exception | None = None
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._commit_when_due)
                    try:
                        await self._take_all(scheduler)
                    except Exception as error:
                        raised = error
                    tasks.cancel_scope.cancel()
            await self._commit_all()  # however long a slow disk takes
        finally:
            with self._last_moments():
                await self._commit_all()  # what there is to be, where this was cut off
        if self._disk.failure is None and scheduler.fatal is None and not _is_to_be_resumed(raised):
            self._disk.submit(self._output.end)
            self._disk.submit(partial(self._output.tidy, is_end=True))
            await self._disk.idle()
        self._leave_by = None
        if self._disk.failure is not None:
            raise self._disk.failure
        report = self._report(scheduler)
        if isinstance(raised, PartialFailure):
            raised.report = report
        if raised is not None:
            raise raised
        return report

    def _last_moments(self) -> anyio.CancelScope:
        """For what must still be done when a run was cut off: that long in all."""
        self._leave_by = self._leave_by or anyio.current_time() + _TO_LEAVE
        return anyio.CancelScope(deadline=self._leave_by, shield=True)

    async def _take_all(self, scheduler: Scheduler) -> None:
        async with scheduler.pages() as pages:
            async for page in pages:
                self._take(page)
                await self._disk.room()

    def _take(self, page: Page) -> None:
        if cast(SliceCheckpoint, page.promise).is_over:
            return  # its slice failed, or is read from its beginning again
        lines = {"part": page.records, "quarantined": page.quarantined}
        chunks = [Chunk(kind, cast(EncodedLines, one).data, len(one)) for kind, one in lines.items() if one]
        now = self._clock.monotonic()
        self._grouping.take(page, chunks, now)
        if self._grouping.due_in(now) == 0:
            self._commit(now)
        elif not self._gathered.is_set():
            self._gathered.set()
        while (large := self._grouping.too_large()) is not None:
            stream, owner, some = large
            self._disk.submit(partial(self._output.write, stream, owner, some), size=_size(some))

    async def _commit_when_due(self) -> None:
        """What has been gathered does not wait for the next page."""
        while True:
            await self._gathered.wait()
            self._gathered.clear()
            due = self._due_in()
            if due is not None and not self._is_committing:
                await self._clock.sleep(due)
                self._commit(self._clock.monotonic())

    async def _commit_all(self) -> None:
        self._grouping.cut()
        await self._disk.idle()
        while self._due_in() is not None and self._disk.failure is None:
            self._commit(self._clock.monotonic(), is_last=True)
            await self._disk.idle()

    def _due_in(self) -> float | None:
        return self._grouping.due_in(self._clock.monotonic(), more=bool(self._finished()))

    def _finished(self) -> list[str]:
        """Streams of which all is gathered or committed, that are yet to be finished."""
        return [name for name, read in self._ended.items() if read.is_safe]

    def _commit(self, now: float, *, is_last: bool = False) -> None:
        """One commit at a time: where it is due, and none is under way."""
        finished = self._finished()
        due = self._grouping.due_in(now, more=bool(finished))
        if self._is_committing or self._disk.failure is not None or due is None:
            return
        if due > 0 and not is_last:
            self._gathered.set()
            return
        self._is_committing = True
        for owner in self._grouping.over():
            self._disk.submit(partial(self._output.drop, owner))
        ready = self._grouping.taken(now)
        for name in finished:
            del self._ended[name]
        if ready:
            brought = {name: self._brought(name, gathered) for name, gathered in ready.items()}
            size = sum(_size(chunks) for one in brought.values() for chunks in one.chunks.values())
            self._disk.submit(partial(self._output.commit, brought), partial(self._committed, finished), size)
        else:
            self._disk.submit(partial(self._finish, finished), self._settled)

    def _brought(self, name: str, gathered: StreamBatch) -> CommitPayload:
        state = self._output.ledger.streams[name].state
        told: dict[str, Any] = {"deltas": [state.delta_json(delta) for delta in gathered.deltas]}
        if gathered.lookback:
            told["lookback"] = gathered.lookback
        if name in self._identities:
            told["identity"] = self._identities.pop(name)
        return CommitPayload(told, {owner: held.chunks for owner, held in gathered.held.items()})

    def _committed(self, finished: Sequence[str], record: Record) -> None:
        self._output.ledger.apply(record)
        for name, told in record["streams"].items():
            before = self._written.get(name) or self._new_written(name)
            self._written[name] = before.with_commit(told)
        self._disk.submit(partial(self._finish, finished), self._settled)

    def _finish(self, finished: Iterable[str]) -> None:
        for name in finished:
            self._output.finish(name, self._parents[name])
        self._output.tidy()

    def _settled(self, _: None) -> None:
        self._is_committing = False
        self._gathered.set()

    def _new_written(self, name: str) -> WriteReport:
        return WriteReport(*self._output.place_of(name))

    def _report(self, scheduler: Scheduler) -> RunReport:
        told = scheduler.report()
        known = {one.stream: one for one in told.streams}
        streams: list[StreamReport] = []
        for name in (stream.name for stream in self._streams if stream.name not in told.unavailable):
            written = self._written.get(name) or self._new_written(name)
            streams.append(replace(known.get(name) or StreamReport(name, 0, 0, 0, 0, 0), written=written))
        return replace(told, streams=tuple(streams))


def _is_to_be_resumed(error: Exception | None) -> bool:
    """Whether a run ended since it was told to come back later."""
    errors = error.errors if isinstance(error, PartialFailure) else (error,)
    return any(isinstance(one, RateLimitWaitTooLong) for one in errors)


def _size(chunks: Iterable[Chunk]) -> int:
    return sum(len(chunk.lines) for chunk in chunks)
