"""The task that writes an output: one commit after the other, each when it is due."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio

from ..clock import Clock
from ..destinations.ledger import JournalRecord
from ..destinations.writer_protocol import Chunk, CommitPayload, DestinationWriter, FailedSlice, StoredRun, StreamSchema
from ..execution.report import WriteReport
from ..models import Page
from ..state.stream_selection import ReadOutcome
from ..state.stream_state import StreamState
from .commit_batcher import CommitBatcher, StreamBatch
from .disk_executor import DiskExecutor, is_scope_cancelled
from .run_recording import save_run

_MAX_QUEUED_BYTES = 16 * 2**20


@dataclass(slots=True)
class StreamExtraction:
    """One stream of an extraction: what its commits contain, and what they have written.

    `state` is that of the ledger, unless the stream `is_sample`: then the run does not move the state of the output.
    `new_identity` goes into the next commit. `outcome` is the result of a stream that was read completely and is not
    finished yet, `parents` are the states of its parents.
    """

    name: str
    state: StreamState
    report: WriteReport
    is_sample: bool = False
    new_identity: Mapping[str, Any] | None = None
    outcome: ReadOutcome | None = None
    parents: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def is_finishable(self) -> bool:
        """Whether all pages of a complete stream are batched or committed, and the writer has not finished it."""
        return self.outcome is not None and self.outcome.is_fully_acknowledged

    def pop_payload(self, batch: StreamBatch) -> CommitPayload:
        """What a commit of this batch contains."""
        entry: dict[str, Any] = {}
        if not self.is_sample:
            entry["deltas"] = [self.state.delta_to_json(delta) for delta in batch.deltas]
            if (written := self.state.cursor.written_to_json()) is not None:
                entry["cursor"] = written
        if self.new_identity is not None:
            entry["identity"], self.new_identity = self.new_identity, None
        return CommitPayload(entry, {batch_id: buffer.chunks for batch_id, buffer in batch.buffers.items()})

    def add_commit(self, entry: Mapping[str, Any]) -> None:
        """Count what a commit has written, by its entry in the journal."""
        self.report = self.report.with_commit(entry)

    def complete(self, outcome: ReadOutcome, parents: Mapping[str, Any]) -> None:
        """Note that the stream was read completely."""
        self.outcome, self.parents = outcome, parents

    def pop_finish(self, now: float) -> JournalRecord:
        """The journal record that finishes the stream; `now` in seconds since 1970."""
        assert self.outcome is not None
        details = {"parents": self.parents, "missing": self.outcome.missing_children}
        self.outcome = None
        record = {"op": "finish", "stream": self.name, "at": now}
        return record | {key: value for key, value in details.items() if value}


@dataclass(slots=True)
class DiskBatch:
    """What the next job of the disk thread writes; a commit follows the lines that were spilled before it."""

    schemas: list[tuple[str, StreamSchema]] = field(default_factory=list[tuple[str, StreamSchema]])
    spills: list[tuple[str, Hashable, Sequence[Chunk]]] = field(
        default_factory=list[tuple[str, Hashable, Sequence[Chunk]]]
    )
    failures: list[FailedSlice] = field(default_factory=list[FailedSlice])
    abandoned: Sequence[Hashable] = ()
    payloads: Mapping[str, CommitPayload] = field(default_factory=dict[str, CommitPayload])
    run: StoredRun | None = None
    """The record of the run so far, if it is due."""
    size: int = 0
    """Bytes of the lines."""

    def add_spill(self, stream: str, batch_id: Hashable, chunks: Sequence[Chunk]) -> None:
        self.spills.append((stream, batch_id, chunks))
        self.size += _size(chunks)

    def add_commit(self, abandoned: Sequence[Hashable], payloads: Mapping[str, CommitPayload]) -> None:
        """`abandoned` are the batch ids of spilled lines to discard."""
        self.abandoned, self.payloads = abandoned, payloads
        self.size += sum(_size(chunks) for payload in payloads.values() for chunks in payload.chunks.values())

    def write(self, writer: DestinationWriter) -> JournalRecord | None:
        """Write everything; return the record of the commit, if there is one."""
        for stream, schema in self.schemas:
            writer.describe_stream(stream, schema)
        for stream, batch_id, chunks in self.spills:
            writer.write(stream, batch_id, chunks)
        if self.failures:
            writer.record_failures(self.failures)
        for batch_id in self.abandoned:
            writer.drop(batch_id)
        if self.run is not None:
            save_run(writer, self.run)
        return writer.commit(self.payloads) if self.payloads else None


class CommitLoop:
    """Writes the pages of a run, in one task.

    The reading side adds pages and never waits for the disk, except in `wait_for_capacity`. `streams` are those to be
    committed; the caller adds them before their first page.
    """

    def __init__(self, writer: DestinationWriter, disk: DiskExecutor, batcher: CommitBatcher, clock: Clock) -> None:
        self._writer, self._disk, self._batcher, self._clock = writer, disk, batcher, clock
        self.streams: dict[str, StreamExtraction] = {}
        self._next = DiskBatch()
        self._written_bytes = 0
        self._has_written = asyncio.Event()
        self._pause: anyio.CancelScope | None = None
        self._is_timed = False
        self._is_ending = False
        self._end_record: JournalRecord | None = None

    def add_page(self, page: Page, chunks: Iterable[Chunk], *, is_complete: bool) -> None:
        """Add the lines of a page. `is_complete`: they may be committed even if no state change covers them."""
        now = self._clock.monotonic()
        self._batcher.add_page(page, chunks, now, is_complete=is_complete)
        while (spill := self._batcher.next_spill()) is not None:
            self._next.add_spill(*spill)
        delay = self._batcher.seconds_until_commit(now)
        if delay == 0 or self._next.spills or not (delay is None or self._is_timed):
            self._wake()

    def describe_stream(self, stream: str, schema: StreamSchema) -> None:
        """Pass a schema to the writer, before the lines of the next page."""
        self._next.schemas.append((stream, schema))

    def record_run(self, run: StoredRun) -> None:
        """Store the record of the run together with the next commit."""
        self._next.run = run

    def record_failure(self, failure: FailedSlice) -> None:
        """Write a failed slice together with the next commit."""
        self._next.failures.append(failure)

    def finish_stream(self, stream: str, outcome: ReadOutcome, parents: Mapping[str, Any]) -> None:
        """Finish a stream that was read completely, as soon as all its pages are committed."""
        self.streams[stream].complete(outcome, parents)
        self._wake()

    @property
    def is_full(self) -> bool:
        """Whether the lines that are queued or being written have more than 16 MiB."""
        return self._next.size + self._written_bytes > _MAX_QUEUED_BYTES

    async def wait_for_capacity(self) -> None:
        """Wait while the loop is full."""
        while self.is_full:
            self._has_written.clear()
            await self._has_written.wait()

    def end(self, end_record: JournalRecord | None) -> None:
        """Commit what remains, since no further page comes; then record the end of the run, if it is complete."""
        self._batcher.close_open_slices()
        self._is_ending, self._end_record = True, end_record
        self._wake()

    async def run(self) -> None:
        """Commit whenever a commit is due, also if no further page arrives, until everything is committed."""
        while (delay := self._seconds_until_commit()) is not None or not self._is_ending:
            if delay == 0 or self._is_ending:
                await self._commit()
            elif self._next.spills:
                await self._write()
            else:
                await self._sleep(delay)
        if self._next.failures:
            await self._write()
        if self._end_record is not None:
            await self._disk.complete(partial(self._end, {**self._end_record, "at": self._clock.wall()}))

    def _seconds_until_commit(self) -> float | None:
        has_more = any(stream.is_finishable for stream in self.streams.values())
        return self._batcher.seconds_until_commit(self._clock.monotonic(), has_more=has_more)

    async def _commit(self) -> None:
        """Write the next batch, apply it to the ledger and the reports, and finish the streams that it completes."""
        finished = [stream for stream in self.streams.values() if stream.is_finishable]
        self._add_commit()
        record = await self._write()
        if record is not None:
            self._writer.ledger.apply(record)
            for name, entry in record["streams"].items():
                self.streams[name].add_commit(entry)
        await self._disk.complete(partial(self._finish, [stream.pop_finish(self._clock.wall()) for stream in finished]))

    def _add_commit(self) -> None:
        abandoned = self._batcher.pop_abandoned()  # their covered lines join the batches
        batches = self._batcher.pop_batches(self._clock.monotonic())
        payloads = {name: self.streams[name].pop_payload(batch) for name, batch in batches.items()}
        self._next.add_commit(abandoned, payloads)

    async def _write(self) -> JournalRecord | None:
        """Write the next batch; nothing holds its lines any longer when this returns."""
        batch, self._next = self._next, DiskBatch()
        self._written_bytes = batch.size
        record = await self._disk.complete(partial(batch.write, self._writer))
        self._written_bytes = 0
        self._has_written.set()
        return record

    def _finish(self, records: Sequence[JournalRecord]) -> None:
        for record in records:
            self._writer.finish_stream(record)
        self._writer.maintain()

    def _end(self, record: JournalRecord) -> None:
        self._writer.end_run(record)
        self._writer.maintain(is_end=True)

    async def _sleep(self, delay: float | None) -> None:
        """Wait until the next commit is due, until `_wake`, or until the task is cancelled."""
        with anyio.CancelScope() as self._pause:
            self._is_timed = delay is not None
            try:
                await (anyio.sleep_forever() if delay is None else self._clock.sleep(delay))
            except asyncio.CancelledError:
                if is_scope_cancelled():
                    raise
        self._pause, self._is_timed = None, False

    def _wake(self) -> None:
        if self._pause is not None:
            self._pause.cancel()


def _size(chunks: Iterable[Chunk]) -> int:
    return sum(len(chunk.lines) for chunk in chunks)
