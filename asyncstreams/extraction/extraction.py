"""One extraction: the pages of a run become files or tables, and are committed together with the state."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any, cast

import anyio

from ..clock import Clock
from ..destinations.base import Destination
from ..destinations.ledger import JournalRecord
from ..destinations.writer_protocol import Chunk, CommitPayload, FailedSlice
from ..errors import PartialFailure, RateLimitWaitTooLong
from ..execution.report import RunReport, StreamReport, WriteReport
from ..execution.scheduler import OpenClient, Scheduler
from ..models import Page, Slice
from ..protocols import Stream
from ..records.json_lines import EncodedPage
from ..state.compatibility import check_compatible, identity_of, identity_with_credential, use_declared_cursor
from ..state.slice_checkpoint import SliceCheckpoint
from ..state.stream_selection import ReadOutcome, StreamSelection
from ..state.stream_state import StreamState, empty_state
from .commit_batcher import CommitBatcher, StreamBatch
from .disk_executor import DiskExecutor
from .failures import describe_failure
from .plan import plan_extraction, schema_of
from .run_scope import RunScope

_SHUTDOWN_GRACE_S = 10.0
_log = logging.getLogger("asyncstreams")


class Extraction:
    """One extraction into one destination; a StateStore whose state advances with the commits."""

    def __init__(self, to: Destination, streams: Sequence[Stream], clock: Clock, scope: RunScope) -> None:
        self._destination, self._streams, self._clock, self._run_scope = to, streams, clock, scope
        self._writer = to.new_writer()
        self._scope = anyio.CancelScope()
        self._disk = DiskExecutor(self._scope.cancel)
        self._shutdown_deadline: float | None = None
        self._batcher = CommitBatcher(clock.monotonic(), to.commit_bytes, commit_each_slice=to.fsync == "full")
        self._has_new_work = asyncio.Event()
        self._is_committing = False
        self._outcomes: dict[str, ReadOutcome] = {}
        self._parent_states: dict[str, Mapping[str, Any]] = {}
        self._missing_children: dict[str, Mapping[str, int]] = {}
        self._new_identities: dict[str, dict[str, Any]] = {}
        self._reports: dict[str, WriteReport] = {}
        self._failures: list[FailedSlice] = []
        self._states: dict[str, StreamState] = {}
        self._samples: Collection[str] = ()
        self._not_written: Mapping[str, str] = {}

    async def run(self, client: OpenClient, max_concurrency: int, *, stop_on_error: bool) -> RunReport:
        """Read and commit all streams.

        Raises what reading raises, OutputLocked, OutputMissing, OutputWriteError, StateCorrupt and StateIncompatible;
        commits that are done stay.
        """
        try:
            began_at = self._clock.wall()
            await self._disk.run(partial(self._writer.open, began_at))
            plan = plan_extraction(self._destination, self._streams, self._writer.ledger, self._run_scope, began_at)
            self._samples, self._not_written = plan.samples, plan.not_written
            await self._disk.run(partial(self._writer.begin_run, plan.begin_record))
            for stream in plan.to_read:
                kind = type(self._destination).__name__
                _log.info("%s: writing to %s (%s)", stream.name, self._destination.path, kind)
                self._states[stream.name] = state = self._initial_state(stream)
                use_declared_cursor(state, stream)
            for stream in plan.already_read:
                self._reports[stream.name] = replace(self._new_report(stream.name), was_read=True)
            for name, reason in plan.not_written.items():
                _log.warning("%s: its records are read, but not written: %s", name, reason)
                self._reports[name] = replace(self._new_report(name), not_written_because=reason)
            selections = [self._select(stream) for stream in plan.to_read]
            scheduler = Scheduler(selections, client, max_concurrency, stop_on_error=stop_on_error)
            report = await self._read(scheduler)
        finally:
            with self._grace_period():
                await self._disk.close(self._writer.close)
        self._disk.raise_postponed()
        return report

    def check_stream(self, stream: Stream) -> None:
        """Raises StateIncompatible if the output holds another stream, or was read with another credential."""
        known = self._writer.ledger.streams[stream.name]
        self._states[stream.name].use_salt(bytes.fromhex(self._writer.ledger.salt))
        identity = identity_with_credential(stream, self._writer.ledger.salt)
        check_compatible(
            stream.name,
            known.identity,
            identity,
            allow_credential_change=self._destination.allow_credential_change,
            way_out=self._destination.way_out(stream.name),
        )
        if known.identity != identity:
            self._new_identities[stream.name] = identity

    @property
    def needs_schema(self) -> bool:
        return self._destination.needs_schema

    def describe_stream(self, stream: Stream, schema: Mapping[str, Any] | None) -> None:
        described = schema_of(stream, schema, self._states[stream.name], self._clock.wall())
        self._disk.submit(partial(self._writer.describe_stream, stream.name, described))

    def mark_progress(self, stream: str) -> None:
        """Does nothing: the state of a stream advances when its commit is done."""

    def record_failure(self, stream: Stream, stream_slice: Slice, error: Exception) -> None:
        self._failures.append(describe_failure(stream, stream_slice, error, self._clock.wall()))

    def finish_stream(self, stream: str, read: ReadOutcome, parents: Mapping[str, StreamState]) -> None:
        if stream in self._samples or self._run_scope.is_range:
            return
        self._outcomes[stream] = read
        self._parent_states[stream] = {name: state.to_json() for name, state in parents.items()}
        self._missing_children[stream] = read.missing_children
        self._has_new_work.set()

    def _initial_state(self, stream: Stream) -> StreamState:
        """The state from which a stream is read: that of the output, which a sample leaves as it is."""
        if stream.name in self._run_scope.slices:
            return empty_state(identity_of(stream))
        state = self._writer.ledger.streams[stream.name].state
        return state.copy() if stream.name in self._samples else state

    def _select(self, stream: Stream) -> StreamSelection:
        scope = self._run_scope
        return StreamSelection(
            stream,
            scope.slices.get(stream.name),
            self._states[stream.name],
            scope.limit,
            state_store=self,
            raw_passthrough=True,
            replaces_surrogates=self._destination.surrogates == "replace",
            cursor_range=(scope.since, scope.until),
        )

    async def _read(self, scheduler: Scheduler) -> RunReport:
        """Read what is left, and commit everything that can be committed, even after an error or a cancellation."""
        raised: Exception | None = None
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._commit_when_due)
                    try:
                        await self._consume_pages(scheduler)
                    except Exception as error:
                        raised = error
                    tasks.cancel_scope.cancel()
            await self._commit_remaining()  # without a deadline, however slow the disk is
        finally:
            with self._grace_period():
                await self._commit_remaining()  # after a cancellation: what fits into the grace period
        if self._disk.failure is None and scheduler.fatal_error is None and not _is_resumed_later(raised):
            record = {"op": "end", "at": self._clock.wall(), "partial": self._run_scope.is_partial}
            self._disk.submit(partial(self._writer.end_run, record))
            self._disk.submit(partial(self._writer.maintain, is_end=True))
            await self._disk.join()
        self._shutdown_deadline = None
        if self._disk.failure is not None:
            raise self._disk.failure
        report = self._report(scheduler)
        if isinstance(raised, PartialFailure):
            raised.report = report
            raised.hint = f"the next run reads the failed slices again; they are in {self._failures_location()}"
        if raised is not None:
            raise raised
        return report

    def _grace_period(self) -> AbstractContextManager[None]:
        """A block for the final commits; all such blocks share one deadline."""
        self._shutdown_deadline = self._shutdown_deadline or anyio.current_time() + _SHUTDOWN_GRACE_S
        return self._disk.grace_period(self._shutdown_deadline)

    async def _consume_pages(self, scheduler: Scheduler) -> None:
        async with scheduler.pages() as pages:
            async for page in pages:
                self._add_page(page)
                await self._disk.wait_for_capacity()

    def _add_page(self, page: Page) -> None:
        is_truncated = self._run_scope.limit is not None and not page.is_last
        if page.stream in self._not_written or (
            cast(SliceCheckpoint, page.checkpoint).is_abandoned and not is_truncated
        ):
            return  # its slice failed, or starts over
        assert isinstance(page, EncodedPage)  # of a selection with raw_passthrough
        lines_by_kind = {"part": page.lines, "quarantined": page.quarantined_lines}
        chunks = [Chunk(kind, lines.data, len(lines)) for kind, lines in lines_by_kind.items() if lines]
        now = self._clock.monotonic()
        self._batcher.add_page(page, chunks, now, is_complete=page.is_last or is_truncated)
        if self._batcher.seconds_until_commit(now) == 0:
            self._start_commit(now)
        elif not self._has_new_work.is_set():
            self._has_new_work.set()
        while (spill := self._batcher.next_spill()) is not None:
            stream, batch_id, spilled = spill
            self._disk.submit(partial(self._writer.write, stream, batch_id, spilled), size=_size(spilled))

    async def _commit_when_due(self) -> None:
        """Commit on time even if no further page arrives."""
        while True:
            await self._has_new_work.wait()
            self._has_new_work.clear()
            delay = self._seconds_until_commit()
            if delay is not None and not self._is_committing:
                await self._clock.sleep(delay)
                self._start_commit(self._clock.monotonic())

    async def _commit_remaining(self) -> None:
        self._batcher.close_open_slices()
        self._submit_failures()
        await self._disk.join()
        while self._seconds_until_commit() is not None and self._disk.failure is None:
            self._start_commit(self._clock.monotonic(), is_last=True)
            await self._disk.join()

    def _seconds_until_commit(self) -> float | None:
        return self._batcher.seconds_until_commit(self._clock.monotonic(), has_more=bool(self._finishable_streams()))

    def _finishable_streams(self) -> list[str]:
        """Streams whose pages are all batched or committed, and that the writer has not finished."""
        return [name for name, read in self._outcomes.items() if read.is_fully_acknowledged]

    def _start_commit(self, now: float, *, is_last: bool = False) -> None:
        """Submit one commit, unless none is due or another one is in progress."""
        finishable = self._finishable_streams()
        delay = self._batcher.seconds_until_commit(now, has_more=bool(finishable))
        if self._is_committing or self._disk.failure is not None or delay is None:
            return
        if delay > 0 and not is_last:
            self._has_new_work.set()
            return
        self._is_committing = True
        self._submit_failures()
        for batch_id in self._batcher.pop_abandoned():
            self._disk.submit(partial(self._writer.drop, batch_id))
        batches = self._batcher.pop_batches(now)
        for name in finishable:
            del self._outcomes[name]
        if batches:
            payloads = {name: self._payload_of(name, batch) for name, batch in batches.items()}
            size = sum(_size(chunks) for payload in payloads.values() for chunks in payload.chunks.values())
            self._disk.submit(partial(self._writer.commit, payloads), partial(self._apply_commit, finishable), size)
        else:
            self._disk.submit(partial(self._finish_streams, finishable), self._end_commit)

    def _payload_of(self, name: str, batch: StreamBatch) -> CommitPayload:
        entry: dict[str, Any] = {}
        if name not in self._samples:
            state = self._states[name]
            entry["deltas"] = [state.delta_to_json(delta) for delta in batch.deltas]
            if (written := state.cursor.written_to_json()) is not None:
                entry["cursor"] = written
        if name in self._new_identities:
            entry["identity"] = self._new_identities.pop(name)
        return CommitPayload(entry, {batch_id: buffer.chunks for batch_id, buffer in batch.buffers.items()})

    def _apply_commit(self, finishable: Sequence[str], record: JournalRecord) -> None:
        self._writer.ledger.apply(record)
        for name, entry in record["streams"].items():
            report = self._reports.get(name) or self._new_report(name)
            self._reports[name] = report.with_commit(entry)
        self._disk.submit(partial(self._finish_streams, finishable), self._end_commit)

    def _finish_streams(self, names: Iterable[str]) -> None:
        for name in names:
            details = {"parents": self._parent_states[name], "missing": self._missing_children[name]}
            record = {"op": "finish", "stream": name, "at": self._clock.wall()}
            self._writer.finish_stream(record | {key: value for key, value in details.items() if value})
        self._writer.maintain()

    def _submit_failures(self) -> None:
        if self._failures:
            failures, self._failures = self._failures, []
            self._disk.submit(partial(self._writer.record_failures, failures))

    def _failures_location(self) -> str:
        path, table = self._writer.location_of(self._streams[0].name)
        return f"table _asyncstreams_errors of {path}" if table else f"{path.parent}/.asyncstreams/errors.jsonl"

    def _end_commit(self, _: None) -> None:
        self._is_committing = False
        self._has_new_work.set()

    def _new_report(self, name: str) -> WriteReport:
        return WriteReport(*self._writer.location_of(name))

    def _report(self, scheduler: Scheduler) -> RunReport:
        """The report of the run, with what was written of each stream."""
        run = scheduler.report()
        by_name = {report.stream: report for report in run.streams}
        streams: list[StreamReport] = []
        for name in (stream.name for stream in self._streams if stream.name not in run.unavailable):
            written = self._reports.get(name) or self._new_report(name)
            streams.append(replace(by_name.get(name) or StreamReport(name, 0, 0, 0, 0, 0), written=written))
        return replace(run, streams=tuple(streams))


def _is_resumed_later(error: Exception | None) -> bool:
    """Whether the run ended because a rate limit requires a longer wait than allowed: the next run continues it."""
    errors = error.errors if isinstance(error, PartialFailure) else (error,)
    return any(isinstance(cause, RateLimitWaitTooLong) for cause in errors)


def _size(chunks: Iterable[Chunk]) -> int:
    return sum(len(chunk.lines) for chunk in chunks)
