"""One extraction: the pages of a run become files or tables, and are committed together with the state."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import partial
from typing import Any, cast

import anyio
import anyio.lowlevel

from ..clock import Clock
from ..declaration.stream import Stream
from ..destinations.base import Destination
from ..destinations.writer_protocol import Chunk, FailedSlice
from ..errors import AsyncStreamsError, PartialFailure, RateLimitWaitTooLong
from ..event_log.recorder import describe_error
from ..event_log.run_record import RunRecord
from ..execution.report import RunReport, StreamReport, WriteReport
from ..execution.scheduler import OpenClient, Scheduler
from ..models import Page, Slice
from ..records.json_lines import EncodedPage
from ..redaction import MASK, cut_queries
from ..state.compatibility import check_compatible, identity_of, identity_with_credential, use_declared_cursor
from ..state.slice_checkpoint import SliceCheckpoint
from ..state.stream_selection import ReadOutcome, StreamSelection
from ..state.stream_state import StreamState, empty_state
from .commit_batcher import CommitBatcher
from .commit_loop import CommitLoop, StreamExtraction
from .disk_executor import DiskExecutor, ProtectedTask
from .plan import plan_extraction, schema_of
from .run_recording import RunRecording, last_whole_run, save_run, stored_run, threshold_missed
from .run_scope import RunScope

_SHUTDOWN_GRACE_S = 10.0
_log = logging.getLogger("asyncstreams")


class Extraction:
    """One extraction into one destination; a StateStore whose state advances with the commits."""

    def __init__(
        self,
        to: Destination,
        streams: Sequence[Stream],
        clock: Clock,
        scope: RunScope,
        recording: RunRecording | None = None,
    ) -> None:
        self._destination, self._streams, self._clock, self._scope = to, streams, clock, scope
        self._recording = recording
        self._scheduler: Scheduler | None = None
        self._raised: BaseException | None = None
        """The error of the read, or the cancellation that ended it."""
        self._writer, self._disk = to.new_writer(), DiskExecutor()
        batcher = CommitBatcher(clock.monotonic(), to.commit_bytes, commit_each_slice=to.fsync == "full")
        self._commits = CommitLoop(self._writer, self._disk, batcher, clock)
        self._writing = ProtectedTask(self._commit_and_close)
        self._has_begun = False

    async def run(self, open_client: OpenClient, max_concurrency: int, *, stop_on_error: bool) -> RunReport:
        """Read and commit all streams.

        Raises what reading raises, OutputLocked, OutputMissing, OutputWriteError, StateCorrupt and StateIncompatible;
        commits that are done stay.
        """
        raised: BaseException | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._writing.run, tasks.cancel_scope)
            try:
                # A task that is cancelled before its first step never runs: nothing may be open until then.
                await anyio.lowlevel.checkpoint()
                selections = await self._begin()
                self._scheduler = scheduler = Scheduler(
                    selections, open_client, max_concurrency, stop_on_error=stop_on_error, store=self._commits
                )
                self._raised = raised = await self._consume_pages(scheduler)
                is_end = scheduler.fatal_error is None and not _is_resumed_later(raised)
                self._commits.end({"op": "end", "partial": self._scope.is_partial} if is_end else None)
                await self._writing.wait()  # however slow the disk is
            except asyncio.CancelledError as error:
                self._raised = error
                raise
            except BaseException as error:
                self._raised = raised = error  # raised outside of the task group, which would wrap it
            finally:
                self._commits.end(None)
                self._writing.limit(_SHUTDOWN_GRACE_S)  # after a cancellation: what fits into the grace period
        if self._writing.failure is not None:
            raise self._writing.failure
        report = None if self._scheduler is None else self._report(self._scheduler)
        if isinstance(raised, PartialFailure):
            raised.report = report
            raised.hint = f"the next run reads the failed slices again; they are in {self._failures_location()}"
        if raised is not None:
            raise raised
        assert report is not None
        if self._recording is not None and (missed := self._recording.missed):
            raise threshold_missed(missed, report)
        return report

    def check_stream(self, stream: Stream) -> None:
        """Raises StateIncompatible if the output holds another stream, or was read with another credential."""
        salt, known = self._writer.ledger.salt, self._writer.ledger.streams[stream.name]
        extracted = self._commits.streams[stream.name]
        extracted.state.use_salt(bytes.fromhex(salt))
        identity = identity_with_credential(stream, salt)
        check_compatible(
            stream.name,
            known.identity,
            identity,
            allow_credential_change=self._destination.allow_credential_change,
            way_out=self._destination.way_out(stream.name),
        )
        if known.identity != identity:
            extracted.new_identity = identity

    @property
    def needs_schema(self) -> bool:
        return self._destination.needs_schema

    def describe_stream(self, stream: Stream, schema: Mapping[str, Any] | None) -> None:
        state = self._commits.streams[stream.name].state
        self._commits.describe_stream(stream.name, schema_of(stream, schema, state, self._clock.wall()))

    def mark_progress(self, stream: str) -> None:
        """Does nothing: the state of a stream advances when its commit is done."""

    def record_failure(self, stream: Stream, stream_slice: Slice, error: Exception) -> None:
        self._commits.record_failure(_describe_failure(stream, stream_slice, error, self._clock.wall()))

    def finish_stream(self, stream: str, read: ReadOutcome, parents: Mapping[str, StreamState]) -> None:
        if not (self._commits.streams[stream].is_sample or self._scope.is_range):
            self._commits.finish_stream(stream, read, {name: state.to_json() for name, state in parents.items()})

    async def _begin(self) -> Sequence[StreamSelection]:
        """Open the output, and record the start of the run; return what to read."""
        began_at = self._clock.wall()
        await self._disk.run(partial(self._writer.open, began_at))
        plan = plan_extraction(self._destination, self._streams, self._writer.ledger, self._scope, began_at)
        await self._disk.run(partial(self._writer.begin_run, plan.begin_record))
        for stream in plan.to_read:
            name, is_sample = stream.name, stream.name in plan.samples
            _log.info("%s: writing to %s (%s)", name, self._destination.path, type(self._destination).__name__)
            if reason := plan.not_written.get(name, ""):
                _log.warning("%s: its records are read, but not written: %s", name, reason)
            state = self._initial_state(stream, is_sample=is_sample)
            use_declared_cursor(state, stream)
            report = WriteReport(*self._writer.location_of(name), not_written_because=reason)
            self._commits.streams[name] = StreamExtraction(name, state, report, is_sample)
        recording = self._recording
        if recording is not None:
            recording.resumed = plan.resumed
            if recording.uses_last:
                recording.last = await self._disk.run(partial(last_whole_run, self._writer))
            if recording.is_stored:
                await self._disk.run(partial(save_run, self._writer, stored_run(recording.so_far())))
            self._has_begun = True
        return [self._select(stream) for stream in plan.to_read]

    def _initial_state(self, stream: Stream, *, is_sample: bool) -> StreamState:
        """The state from which a stream is read: that of the output, which a sample leaves as it is."""
        if stream.name in self._scope.slices:
            return empty_state(identity_of(stream))
        state = self._writer.ledger.streams[stream.name].state
        return state.copy() if is_sample else state

    def _select(self, stream: Stream) -> StreamSelection:
        return StreamSelection(
            stream,
            self._scope.slices.get(stream.name),
            self._commits.streams[stream.name].state,
            self._scope.limit,
            state_store=self,
            raw_passthrough=True,
            replaces_surrogates=self._destination.surrogates == "replace",
            cursor_range=(self._scope.since, self._scope.until),
        )

    async def _consume_pages(self, scheduler: Scheduler) -> Exception | None:
        """Pass all pages to the commits; return the error of the read, if any."""
        try:
            async with scheduler.pages() as pages:
                async for page in pages:
                    self._add_page(page)
                    if self._recording is not None and (record := self._recording.pop_due()) is not None:
                        self._commits.record_run(stored_run(record))
                    await self._commits.wait_for_capacity()
        except Exception as error:
            return error
        return None

    def _add_page(self, page: Page) -> None:
        is_truncated = self._scope.limit is not None and not page.is_last
        if self._commits.streams[page.stream].report.not_written_because or (
            cast(SliceCheckpoint, page.checkpoint).is_abandoned and not is_truncated
        ):
            return  # its slice failed, or starts over
        assert isinstance(page, EncodedPage)  # of a selection with raw_passthrough
        lines_by_kind = {"part": page.lines, "quarantined": page.quarantined_lines}
        chunks = [Chunk(kind, lines.data, len(lines)) for kind, lines in lines_by_kind.items() if lines]
        self._commits.add_page(page, chunks, is_complete=page.is_last or is_truncated)

    async def _commit_and_close(self) -> None:
        """Write all commits, then release the output."""
        try:
            await self._commits.run()
        except BaseException as error:
            self._raised = error
            raise
        finally:
            self._writing.limit(_SHUTDOWN_GRACE_S)
            record: RunRecord | None = None
            try:
                record = self._finish_recording()
            finally:
                await self._disk.close(partial(self._save_and_close, record))

    def _finish_recording(self) -> RunRecord | None:
        """The record of the run, which has ended; None if none is stored."""
        recording = self._recording
        if recording is None or not self._has_begun:
            return None
        report = RunReport(()) if self._scheduler is None else self._report(self._scheduler)
        record = recording.finish(report, self._raised, is_resumed_later=_is_resumed_later(self._raised))
        return record if recording.is_stored else None

    def _save_and_close(self, record: RunRecord | None) -> None:
        try:
            if record is not None:
                save_run(self._writer, stored_run(record))
        finally:
            self._writer.close()

    def _failures_location(self) -> str:
        path, table = self._writer.location_of(self._streams[0].name)
        return f"table _asyncstreams_errors of {path}" if table else f"{path.parent}/.asyncstreams/errors.jsonl"

    def _report(self, scheduler: Scheduler) -> RunReport:
        """The report of the run, with what was written of each stream."""
        run = scheduler.report()
        by_name = {report.stream: report for report in run.streams}
        streams: list[StreamReport] = []
        for name in (stream.name for stream in self._streams if stream.name not in run.unavailable):
            extracted = self._commits.streams.get(name)  # an earlier run has read the others
            written = (
                WriteReport(*self._writer.location_of(name), was_read=True) if extracted is None else extracted.report
            )
            streams.append(replace(by_name.get(name) or StreamReport(name, 0, 0, 0, 0, 0), written=written))
        return replace(run, streams=tuple(streams), record=None if self._recording is None else self._recording.result)


def _is_resumed_later(error: BaseException | None) -> bool:
    """Whether the run ended because a rate limit requires a longer wait than allowed: the next run continues it."""
    errors = error.errors if isinstance(error, PartialFailure) else (error,)
    return any(isinstance(cause, RateLimitWaitTooLong) for cause in errors)


def _describe_failure(stream: Stream, stream_slice: Slice, error: Exception, now: float) -> FailedSlice:
    """A failed slice by its partition keys, without records and secrets; `now` in seconds since 1970."""
    keys = {**stream_slice.partition, **stream_slice.labels}
    if stream_slice.interval is not None:
        keys.setdefault("interval", list(stream_slice.interval))
    time = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    if isinstance(error, AsyncStreamsError):
        return FailedSlice(stream.name, _plain(keys), error.page, error.status, error.message, time)
    return FailedSlice(stream.name, _plain(keys), None, None, describe_error(error), time)


def _plain(value: Any) -> Any:
    """The value as JSON, without secrets and the queries of URLs."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return cut_queries(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in cast(Mapping[object, object], value).items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in cast("list[Any]", value)]
    if isinstance(value, date):
        return value.isoformat()
    return MASK if hasattr(value, "reveal") else f"<{type(value).__name__}>"
