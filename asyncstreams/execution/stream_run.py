"""Per-run state of one stream: the services that its slices share, and its progress."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import anyio

from .._json import as_object
from ..declaration.stream import Stream
from ..errors import InvalidSlice
from ..http.client import HttpClient
from ..messages import Response
from ..models import Page, Slice
from ..pagination.paginators import PaginatorTraits
from ..pagination.undeclared import has_sign_headers
from ..protocols import CountedPaginator
from ..records.json_lines import page_counts
from ..records.raw_records import PageRecords
from ..records.record_validation import PageBuilder, RecordValidator
from ..state.incremental import IncrementalPlan, plan_incremental
from ..state.slice_checkpoint import SliceCheckpoint
from ..state.stream_selection import StreamSelection
from ..state.stream_state import StreamState
from .missing_children import MissingChildren
from .page_fetcher import PageFetcher
from .page_queue import PageQueueSender
from .parent_coordinator import ParentFeed, ParentPageSender
from .report import StreamReport
from .slots import Slot, StreamSlots

_log = logging.getLogger("asyncstreams")
PageSender: TypeAlias = PageQueueSender | ParentPageSender


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


@dataclass(frozen=True, slots=True)
class StreamRun:
    """What the slices of one stream share during one run; `feed` and `children` only in a substream."""

    selection: StreamSelection
    client: HttpClient
    fetcher: PageFetcher
    pages: PageBuilder
    incremental: IncrementalPlan | None
    slots: StreamSlots
    sender: PageSender
    bounds: ReadBounds
    pagination: PaginationFacts
    progress: StreamProgress
    feed: ParentFeed | None
    children: MissingChildren | None

    @classmethod
    def create(
        cls,
        selection: StreamSelection,
        client: HttpClient,
        validator: RecordValidator,
        slots: StreamSlots,
        sender: PageSender,
        feed: ParentFeed | None = None,
        max_records: int | None = None,
        *,
        is_preview: bool = False,
    ) -> StreamRun:
        """The state of a run that begins now."""
        stream, state = selection.stream, selection.state
        progress = StreamProgress(stream.name, client.clock.monotonic())
        pages = PageBuilder(stream, validator, encodes=selection.raw_passthrough)
        on_surrogates = None
        if selection.replaces_surrogates:
            message = "lone surrogates are written as U+FFFD (surrogates='replace')"
            on_surrogates = partial(progress.warn_once, "surrogates", message)
        known = state if isinstance(state, StreamState) else None
        leaves_out = stream.parents and stream.resolved.missing_child == "skip"
        return cls(
            selection,
            client,
            PageFetcher(stream, client, sender.wait_for_capacity, pages.raw_reader, on_surrogates),
            pages,
            plan_incremental(
                stream,
                state,
                stream.resolved.clock.wall(),
                has_state_store=selection.has_state_store,
                state_for_children=sender.children_state,
                schema=validator.json_schema,
                cursor_range=selection.cursor_range,
            ),
            slots,
            sender,
            ReadBounds(max_records, is_preview=is_preview),
            PaginationFacts(stream, reads_ahead=max_records is None and stream.resolved.parallel_pages),
            progress,
            feed,
            MissingChildren(stream, known) if leaves_out else None,
        )

    @property
    def stream(self) -> Stream:
        return self.selection.stream

    @property
    def report(self) -> StreamReport:
        """What has been delivered so far."""
        progress, plan = self.progress, self.incremental
        delivered = progress.delivered
        return StreamReport(
            self.stream.name,
            delivered.pages,
            delivered.records,
            delivered.quarantined,
            progress.slices_done,
            len(progress.failures),
            progress.slices_ignored,
            raw_passthrough=self.pages.raw_reader is not None,
            not_raw_because=self.pages.not_raw_because,
            repeated_pages=self.pagination.repeated_pages,
            missing=self.slices_missing,
            missing_children=self.missing_children,
            outside_window=0 if plan is None else plan.outside_window,
            left_for_next_run=0 if plan is None else plan.left_for_next_run,
            left_from=None if plan is None else plan.left_from,
            early_timeouts=self.client.early_timeouts,
        )

    @property
    def is_fully_acknowledged(self) -> bool:
        """Whether the stream was read completely and no checkpoint is pending."""
        return self.progress.is_fully_acknowledged

    @property
    def slices_finished(self) -> int:
        """Number of slices that were read, ignored, left out, or that failed."""
        progress = self.progress
        return progress.slices_done + progress.slices_ignored + self.slices_missing + len(progress.failures)

    @property
    def slices_known(self) -> int | None:
        """Number of all slices; None while it is unknown."""
        if self.bounds.slices_known is None and self.feed is not None and self.feed.is_complete:
            batch = self.stream.resolved.parent_batch_size or 1
            return max(-(-self.feed.parent_count // batch), self.progress.slices_started)
        known = self.bounds.slices_known
        return None if known is None else max(known, self.progress.slices_started)

    @property
    def records_expected(self) -> int | None:
        """Records of all slices that were started, as the API reports them; None if it does not for one of them."""
        started = self.progress.slices_started
        return self.bounds.records_expected if self.bounds.slices_with_total >= started > 0 else None

    @property
    def slices_missing(self) -> int:
        """Number of slices that were left out, because their children are refused or missing."""
        return 0 if self.children is None else self.children.count

    @property
    def missing_children(self) -> Mapping[str, int]:
        """The first of these slices, as texts, with the status of each."""
        return {} if self.children is None else dict(self.children.named)

    def explain(self) -> str:
        """Describe the progress of the stream and what its requests wait for."""
        progress, failures = self.progress, len(self.progress.failures)
        failed = f", {progress.slices_ignored:,} ignored" if progress.slices_ignored else ""
        failed += f", {self.slices_missing:,} missing" if self.slices_missing else ""
        failed += f", {failures} failed" if failures else ""
        parents = ""
        if self.feed is not None:
            parents = f" of {self.feed.parent_count:,} parents" + ("" if self.feed.is_complete else " so far")
        waits = "".join(f"; {text}" for text in (self.client.describe_limits(), str(self.client.wait_tracker)) if text)
        return (
            f"{self.stream.name}: {progress.slices_started - self.slices_finished} slices open, {self.slots.held} of "
            f"{self.slots.max_slots} slots in use; {progress.slices_done:,} slices done{parents}{failed}, "
            f"{progress.delivered.pages:,} pages, {progress.delivered.records:,} records" + waits
        )

    def checkpoint_for(self, stream_slice: Slice) -> SliceCheckpoint | None:
        """A new checkpoint of a slice; None if no state is kept and no records are filtered by cursor."""
        stream, state, store = self.selection.stream, self.selection.state, self.selection.state_store
        if (store is None and self.incremental is None) or not isinstance(state, StreamState):
            return None
        children_state, count_pending = self.sender.children_state, self.progress.count_pending
        return SliceCheckpoint(stream, state, store, children_state, self.incremental, stream_slice, count_pending)

    async def wait_for_demand(self, slot: Slot) -> bool:
        """Wait until it is decided whether another page is needed. If not, mark the stream as stopped early."""
        await self.sender.wait_for_demand(slot)
        if not self.sender.has_demand:
            self.progress.stop_early()
            return False
        return True


class PageCounts:
    """Numbers of pages, of their records and of their quarantined records."""

    def __init__(self) -> None:
        self.pages = self.records = self.quarantined = 0

    def add(self, page: Page) -> None:
        records, quarantined = page_counts(page)
        self.pages += 1
        self.records += records
        self.quarantined += quarantined


class StreamProgress:
    """What has become of the pages and slices of one stream so far: counters, failures and warnings.

    `read` counts the pages that were read, and `delivered` those that the consumer received.
    """

    def __init__(self, name: str, started_at: float) -> None:
        self._name, self.started_at = name, started_at
        self.read, self.delivered = PageCounts(), PageCounts()
        self.slices_started = self.slices_done = self.slices_ignored = 0
        self.failures: list[tuple[Slice, Exception]] = []
        self.stopped_early = False
        """Whether slices were not started, or not read to their end, although none of them failed."""
        self._pending_checkpoints = 0
        self._cancelled: list[tuple[ActiveSlice, BaseException]] = []
        self._warnings: set[str] = set()

    @property
    def is_complete(self) -> bool:
        """Whether all slices that were started were read, and none is left out."""
        return not (self.failures or self.stopped_early)

    @property
    def is_fully_acknowledged(self) -> bool:
        """Whether the stream was read completely and no checkpoint is pending."""
        return self.is_complete and not self._pending_checkpoints

    def start_slices(self, count: int = 1) -> int:
        """Count slices that start, or parts beyond the first; the number of all so far."""
        self.slices_started += count
        return self.slices_started

    def finish_slice(self, *, is_ignored: bool) -> None:
        """Count a slice that was read completely, or ended by an ignored response."""
        if is_ignored:
            self.slices_ignored += 1
        else:
            self.slices_done += 1

    def record_failure(self, stream_slice: Slice, error: Exception) -> None:
        self.failures.append((stream_slice, error))

    def record_cancelled(self, active: ActiveSlice, error: BaseException) -> None:
        """Note that a slice was cancelled."""
        self._cancelled.append((active, error))

    def pop_cancelled(self) -> Sequence[tuple[Slice, BaseException]]:
        """Remove the cancelled slices: each with its error, in the order in which they were started."""
        cancelled, self._cancelled = sorted(self._cancelled, key=lambda entry: entry[0].number), []
        return [(active.stream_slice, error) for active, error in cancelled]

    def count_pending(self, change: int) -> None:
        """Count the checkpoints that are not acknowledged yet."""
        self._pending_checkpoints += change

    def stop_early(self) -> None:
        """Note that some slices are not started, or not read to their end."""
        self.stopped_early = True

    def warn_once(self, kind: str, message: str) -> None:
        """Log the first warning of its kind."""
        if kind not in self._warnings:
            self._warnings.add(kind)
            _log.warning("%s: %s", self._name, message)

    def has_warned(self, kind: str) -> bool:
        """Whether a warning of this kind has been logged."""
        return kind in self._warnings


class ReadBounds:
    """How much of a stream is read: at most `remaining` more records, or None for all.

    `slices_known` is the number of all slices, None while it is unknown. The first pages of `slices_with_total` slices
    have shown that they hold `records_expected` records together. Of a preview, pages that the stream does not declare
    are no error.
    """

    def __init__(self, max_records: int | None, *, is_preview: bool) -> None:
        self.remaining = max_records
        self.is_limited = max_records is not None
        self.is_preview = is_preview or self.is_limited
        self.slices_known: int | None = None
        self.records_expected = self.slices_with_total = 0

    @property
    def is_reached(self) -> bool:
        """Whether no further record is needed."""
        return self.remaining is not None and self.remaining <= 0

    def know_slices(self, count: int) -> None:
        """Note how many slices there are in all."""
        self.slices_known = count

    def expect_records(self, count: int) -> None:
        """Add the records of one slice, as its first page reports them."""
        self.records_expected += count
        self.slices_with_total += 1

    def apply(self, page: Page) -> Page:
        """Truncate a page to the remaining records of the limit, and count them."""
        if self.remaining is None:
            return page
        page = page.truncate(self.remaining)
        self.remaining -= page_counts(page)[0]
        return page


class PaginationFacts:
    """What the declaration of a stream says about its pages, and what its responses have shown so far."""

    def __init__(self, stream: Stream, *, reads_ahead: bool) -> None:
        self.uses_paginator, self.uses_default_parser = stream.uses_paginator, stream.uses_default_parser
        self.traits = PaginatorTraits.of(stream.resolved.paginator, uses_paginator=stream.uses_paginator)
        paginator: Any = stream.resolved.paginator if stream.uses_paginator else None
        is_counted = hasattr(paginator, "predict_tokens")
        self.predictor: CountedPaginator | None = (
            paginator if is_counted and reads_ahead and not stream.streams_body else None
        )
        """The paginator, if it predicts the tokens of pages that are read ahead."""
        self.may_drift = is_counted and isinstance(stream.resolved.primary_key, str)
        """Whether rows can move between pages: they are counted, and rows have keys."""
        self.has_parsed_response = False
        """Whether one response has been parsed, so that the declaration fits the API."""
        self.has_counted_rows = False
        """Whether the rows of one page have been counted, so that the paginator fits the API."""
        self.repeated_pages = 0
        self._end_fields: dict[str, Any] | None = None
        self._end_count = 0

    def mark_parsed(self) -> None:
        self.has_parsed_response = True

    def mark_counted(self) -> None:
        self.has_counted_rows = True

    def count_repeated_page(self) -> None:
        """Count a page beyond the end that repeats the last one."""
        self.repeated_pages += 1

    def is_known_end(self, records: PageRecords, response: Response, count: int = 0) -> bool:
        """Whether a response with equal fields beside its records, and no more rows, was searched for further pages."""
        fields = _other_fields(records, response)
        return fields is not None and count >= self._end_count and fields == self._end_fields

    def remember_end(self, records: PageRecords, response: Response, count: int = 0) -> None:
        """Remember a response of `count` rows that has no sign of further pages."""
        self._end_fields, self._end_count = _other_fields(records, response), count


def _other_fields(records: PageRecords, response: Response) -> dict[str, Any] | None:
    """The fields of a body beside its records; None if records or signs of further pages may be elsewhere, too."""
    body = as_object(response.decoded_json)
    if body is None or has_sign_headers(response.layout):
        return None
    fields = {name: value for name, value in body.items() if value is not records}
    return fields if len(fields) < len(body) else None
