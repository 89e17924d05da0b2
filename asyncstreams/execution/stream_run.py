"""Per-run state of one stream: shared services and progress counters."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias, cast

import anyio

from ..errors import InvalidSlice
from ..http.client import HttpClient
from ..models import Page, QuarantinedRecord, Record, Slice
from ..pagination.paginators import PaginatorTraits
from ..records.json_lines import encode_quarantined, encode_records, encoding_error
from ..records.raw_records import RawReader, has_unmodified_records, reason_to_decode
from ..records.record_validation import RecordValidator
from ..state.incremental import plan_incremental
from ..state.slice_checkpoint import SliceCheckpoint
from ..state.stream_selection import StreamSelection
from ..state.stream_state import StreamState
from .missing_children import MissingChildren
from .page_queue import PageQueueSender
from .parent_coordinator import ParentFeed, ParentPageSender
from .report import StreamReport
from .slots import Slot, StreamSlots

_log = logging.getLogger("asyncstreams")
PageSender: TypeAlias = PageQueueSender | ParentPageSender
Quarantined: TypeAlias = tuple[QuarantinedRecord, ...]


class ActiveSlice(NamedTuple):
    """A slice that is being read, the `number`th of its stream, from 1.

    `first_page_read` is set once its first page is read or the slice ends. One that was `already_delivered` by an
    earlier run is read for child streams only. One with a `problem` fails.
    """

    number: int
    stream_slice: Slice
    slot: Slot
    first_page_read: anyio.Event | None = None
    already_delivered: bool = False
    problem: InvalidSlice | None = None


class StreamRun:
    """The services that the slices of one stream share, and the counters of its progress.

    `pages`, `records` and `quarantined` count what was delivered to the consumer, and those with `read_` what was
    read. Only the tasks of the stream change it.
    """

    def __init__(
        self,
        selection: StreamSelection,
        client: HttpClient,
        validator: RecordValidator,
        slots: StreamSlots,
        sender: PageSender,
        feed: ParentFeed | None = None,
        max_records: int | None = None,
        *,
        is_preview: bool = False,
    ) -> None:
        self.stream, self.state = selection.stream, selection.state
        self.client, self.validator, self.slots, self.sender = client, validator, slots, sender
        self.selection, self.feed = selection, feed
        now = selection.stream.clock.wall()
        self.incremental = plan_incremental(
            self.stream,
            self.state,
            now,
            has_state_store=selection.has_state_store,
            state_for_children=sender.children_state,
            schema=validator.json_schema,
            cursor_range=selection.cursor_range,
        )
        self.not_raw_because = (
            reason_to_decode(self.stream, has_schema=validator.has_schema) if selection.raw_passthrough else ""
        )
        self.raw_reader = RawReader(self.stream) if self.not_raw_because is None else None
        self._is_decoded = has_unmodified_records(self.stream)
        self.on_surrogates = self._warn_of_surrogates if selection.replaces_surrogates else None
        """Called when lone surrogates of a response are replaced; None: they are an error."""
        self.remaining_records = max_records
        self.is_preview = is_preview or max_records is not None
        """Whether the stream is not read to its end, so that undeclared pages are not an error."""
        self.reads_ahead = max_records is None and selection.stream.parallel_pages
        self.pages = self.records = self.quarantined = 0
        self.read_pages = self.read_records = self.read_quarantined = 0
        self.slices_started = self.slices_done = self.slices_ignored = self.pending_checkpoints = 0
        known = self.state if isinstance(self.state, StreamState) else None
        self.children = (
            MissingChildren(self.stream, known) if self.stream.parents and self.stream.missing_child == "skip" else None
        )
        self.started_at = client.clock.monotonic()
        self.failed: list[tuple[Slice, Exception]] = []
        self.has_read_page = self.stopped_early = self.drift_reported = False
        self.has_parsed_response = False
        """Whether one response has been parsed, so that the declaration fits the API."""
        self.pagination = PaginatorTraits.of(self.stream.paginator, uses_paginator=self.stream.uses_paginator)
        self.has_counted_rows = False
        """Whether the rows of one page have been counted, so that the paginator fits the API."""
        self.repeated_pages = 0
        self._warnings: set[str] = set()
        self._cancelled: list[tuple[ActiveSlice, BaseException]] = []

    def warn_once(self, kind: str, message: str) -> None:
        """Log the first warning of its kind."""
        if kind not in self._warnings:
            self._warnings.add(kind)
            _log.warning("%s", message)

    def _warn_of_surrogates(self) -> None:
        message = f"{self.stream.name}: lone surrogates are written as U+FFFD (surrogates='replace')"
        self.warn_once("surrogates", message)

    def has_warned(self, kind: str) -> bool:
        """Whether a warning of this kind has been logged."""
        return kind in self._warnings

    def checkpoint_for(self, stream_slice: Slice) -> SliceCheckpoint | None:
        """A new checkpoint of a slice; None if no state is kept and no records are filtered by cursor."""
        state_store, state = self.selection.state_store, self.state
        if not isinstance(state, StreamState) or (state_store is None and self.incremental is None):
            return None
        return SliceCheckpoint(
            self.stream,
            state,
            state_store,
            self.sender.children_state,
            self.incremental,
            stream_slice,
            self._count_pending,
        )

    @property
    def report(self) -> StreamReport:
        """What has been delivered so far."""
        numbers = self.pages, self.records, self.quarantined, self.slices_done, len(self.failed), self.slices_ignored
        return StreamReport(
            self.stream.name,
            *numbers,
            raw_passthrough=self.raw_reader is not None,
            not_raw_because=self.not_raw_because or "",
            repeated_pages=self.repeated_pages,
            missing=self.slices_missing,
            missing_children=self.missing_children,
            outside_window=0 if self.incremental is None else self.incremental.outside_window,
            left_for_next_run=0 if self.incremental is None else self.incremental.left_for_next_run,
            left_from=None if self.incremental is None else self.incremental.left_from,
            early_timeouts=self.client.early_timeouts,
        )

    @property
    def is_fully_acknowledged(self) -> bool:
        """Whether the stream was read completely and no checkpoint is pending."""
        return not (self.pending_checkpoints or self.failed or self.stopped_early)

    @property
    def slices_missing(self) -> int:
        """Number of slices that were left out, because their children are refused or missing."""
        return 0 if self.children is None else self.children.count

    @property
    def missing_children(self) -> Mapping[str, int]:
        """The first of these slices, as texts, with the status of each."""
        return {} if self.children is None else dict(self.children.named)

    def _count_pending(self, change: int) -> None:
        self.pending_checkpoints += change

    def explain(self) -> str:
        """Describe the progress of the stream and what its requests wait for."""
        open_slices = self.slices_started - self.slices_done - self.slices_ignored - self.slices_missing
        open_slices -= len(self.failed)
        failed = f", {self.slices_ignored:,} ignored" if self.slices_ignored else ""
        failed += f", {self.slices_missing:,} missing" if self.slices_missing else ""
        failed += f", {len(self.failed)} failed" if self.failed else ""
        parents = self._describe_parents()
        waits = "".join(f"; {text}" for text in (self.client.describe_limits(), str(self.client.wait_tracker)) if text)
        return (
            f"{self.stream.name}: {open_slices} slices open, {self.slots.held} of {self.slots.max_slots} slots in use; "
            f"{self.slices_done:,} slices done{parents}{failed}, {self.pages:,} pages, {self.records:,} records" + waits
        )

    def _describe_parents(self) -> str:
        if self.feed is None:
            return ""
        return f" of {self.feed.parent_count:,} parents" + ("" if self.feed.is_complete else " so far")

    async def wait_for_demand(self, slot: Slot) -> bool:
        """Wait until it is decided whether another page is needed. If not, mark the stream as stopped early."""
        await self.sender.wait_for_demand(slot)
        if not self.sender.has_demand:
            self.stopped_early = True
            return False
        return True

    def count_read(self, page: Page) -> None:
        """Count a page that was read, and is about to be delivered."""
        self.has_read_page = True
        self.read_pages += 1
        self.read_records += len(page.records)
        self.read_quarantined += len(page.quarantined)

    def record_cancelled(self, active: ActiveSlice, error: BaseException) -> None:
        """Note that a slice was cancelled."""
        self._cancelled.append((active, error))

    def cancelled_slices(self) -> Iterable[tuple[Slice, BaseException]]:
        """The cancelled slices with their errors, in the order in which they were started."""
        cancelled = sorted(self._cancelled, key=lambda entry: entry[0].number)
        return [(active.stream_slice, error) for active, error in cancelled]

    def prepare_records(self, records: list[Record], quarantined: Quarantined) -> tuple[list[Record], Quarantined]:
        """Encode the records for raw passthrough, if requested. Raises `encoding_error`."""
        if not self.selection.raw_passthrough:
            return records, quarantined
        try:
            lines = cast("list[Record]", encode_records(records, is_json=self._is_decoded))
            return lines, cast(Quarantined, encode_quarantined(quarantined)) if quarantined else ()
        except TypeError as error:
            failure = encoding_error(error, [*records, *(entry.record for entry in quarantined)])
        raise failure

    def apply_limit(self, page: Page) -> Page:
        """Truncate a page to the remaining records of the limit, and count them."""
        assert self.remaining_records is not None
        page = page.truncate(self.remaining_records)
        self.remaining_records -= len(page.records)
        return page

    def count_delivered(self, page: Page) -> None:
        """Count a page that the consumer received."""
        self.pages += 1
        self.records += len(page.records)
        self.quarantined += len(page.quarantined)
