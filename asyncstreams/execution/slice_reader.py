"""Reading of one slice: page, next token, next page, until the last one."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from ..errors import AsyncStreamsError, ConfigError, CursorMismatch, InvalidSlice, PaginationLoop, UnexpectedContent
from ..messages import Response, shown_url
from ..models import Page, Record, RequestContext, ResponseAction, Slice, shorten
from ..parents.projection import IncompleteRecord
from ..records.raw_records import are_raw
from ..state.slice_checkpoint import SliceCheckpoint
from ..state.stream_state import ResumePoint, StreamState
from .next_token import NextToken
from .page_fetcher import PageFetcher, ParsedPage, ReceivedPage, RecordBatch, locate_error, requested_url
from .pagination_guard import DriftDetector, LoopGuard, may_drift
from .read_ahead import ReadAhead
from .slots import Slot
from .stream_run import StreamRun

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

_MAX_RESETS = 3
_log = logging.getLogger("asyncstreams")


class SliceReader:
    """Reads the pages of one slice in order."""

    def __init__(
        self,
        run: StreamRun,
        slot: Slot,
        stream_slice: Slice,
        tasks: TaskGroup | None,
        *,
        already_delivered: bool = False,
    ) -> None:
        self._run, self._stream, self._slice, self._slot = run, run.stream, stream_slice, slot
        self._tasks = tasks
        self._fetcher = PageFetcher(
            run.stream, run.client, run.sender.wait_for_capacity, run.raw_reader, run.on_surrogates
        )
        self._resets = 0
        self._is_finished = False
        self.is_ignored = False
        """Whether an ignored response ended the slice."""
        self.delivered_pages = math.inf if already_delivered else 0
        """Number of first pages that an earlier run delivered; they are read again for child streams only."""
        self._checkpoint = None if already_delivered else run.checkpoint_for(stream_slice)
        self._state = run.state
        if self._checkpoint is not None and isinstance(run.state, StreamState) and self._checkpoint.partitions[0]:
            self._state = run.state.of(self._checkpoint.partitions[0])
        resume = None if self._checkpoint is None else self._checkpoint.resume
        if resume is not None and run.sender.replays_delivered:
            self.delivered_pages, resume = resume.number, None
        self._start(resume)

    def _start(self, resume: ResumePoint | None = None) -> None:
        """Prepare to read from the first page, or from the page after the last checkpoint."""
        self._ahead = self._new_read_ahead(self._tasks) if resume is None else None
        self._drift = DriftDetector(self._run) if may_drift(self._stream) else None
        self._number = 0 if resume is None else resume.number
        self._token: Any = None if resume is None else resume.token
        self._previous_url: str | None = None
        self._guard: LoopGuard | None = None
        self._next = NextToken(self._run, is_resumed=resume is not None)

    def next_range(self) -> Slice | None:
        """The range to read after this slice, once it has been read, if the cursor grows without end."""
        return self._checkpoint.next_range() if self._checkpoint is not None and self._is_finished else None

    async def pages(self) -> AsyncGenerator[tuple[Page, int]]:
        """Yield every page with its size in bytes, in order. Errors name stream, slice and page."""
        try:
            self._check_parents()
            while not self._is_finished:
                if self._guard is not None and self._token is not None:
                    self._guard.check_token(self._number, self._token)
                fetched = await self._fetch_next()
                if fetched.more is None:
                    if (page := self._complete_page(fetched)) is not None:
                        size = fetched.size
                        # Only the consumer keeps a page. Otherwise each slice that waits for its next page would
                        # keep the last one in memory, beyond the reach of the processor's caches.
                        del fetched
                        yield page, size
                        self._number += 1
                        del page
                    continue
                async with aclosing(self._streamed_pages(fetched, fetched.more)) as pages:
                    async for sized in pages:
                        yield sized
                        self._number += 1
        except AsyncStreamsError as error:
            error.redact(self._run.client.secrets)
            declaration_fits = self._run.has_parsed_response or bool(self._stream.parents)
            if isinstance(error, ConfigError) and error.depends_on_data and declaration_fits:
                text = UnexpectedContent(error.message, hint=error.hint)
                text.locate(stream=self._stream.name, stream_slice=self._slice, page=self._number)
                raise text.locate(url=error.url, method=error.method, status=error.status, tries=error.tries) from error
            error.locate(stream=self._stream.name, stream_slice=self._slice, page=self._number)
            raise
        except Exception as error:
            error.add_note(f"asyncstreams: in stream {self._stream.name!r}, slice {self._slice!r}, page {self._number}")
            raise
        finally:
            if self._ahead is not None:
                self._ahead.discard()
            if self._checkpoint is not None and not self._is_finished:
                self._checkpoint.is_abandoned = True

    def _check_parents(self) -> None:
        """Raises InvalidSlice if a record of a parent lacks a field of `parent_fields`."""
        if self._stream.parent_fields is None:
            return
        for record in (self._slice.get("parent"), *(self._slice.get("parents") or ())):
            if isinstance(record, IncompleteRecord):
                hint = "correct the name, or omit parent_fields to get the complete record in the slice"
                raise InvalidSlice(record.problem, hint=hint)

    async def _fetch_next(self) -> ParsedPage:
        received: ReceivedPage | None = None
        if self._ahead is not None and self._ahead.is_next(self._token):
            # Speculative requests have their own slots.
            self._slot.release()
            received = await self._ahead.pop_next()
        context = self._context(self._token)
        return await self._fetcher.fetch(context, self._previous_url, self._slot, self._number, received)

    async def _receive(self, token: Any, slot: Slot, page: int) -> ReceivedPage:
        return await self._fetcher.receive(self._context(token), self._previous_url, slot, page)

    def _context(self, token: Any) -> RequestContext:
        return RequestContext(self._slice, token, self._state)

    def _complete_page(self, fetched: ParsedPage) -> Page | None:
        """The page of a complete response; None if the pagination is reset."""
        try:
            if fetched.action is ResponseAction.RESET_PAGINATION:
                self._restart()
                return None
            if fetched.action is not ResponseAction.SUCCESS or fetched.response.status_code == 204:
                self._is_finished = True
                if fetched.action is ResponseAction.IGNORE:
                    self._log_ignored(fetched.response)
                return self._build_page([], fetched, is_last=True)
            return self._finish_response(fetched.records, fetched)
        except AsyncStreamsError as error:
            locate_error(error, fetched.response, fetched.retry)
            raise

    async def _streamed_pages(
        self, fetched: ParsedPage, more: AsyncGenerator[RecordBatch]
    ) -> AsyncGenerator[tuple[Page, int]]:
        """Yield the pages of a body that is still arriving."""
        try:
            async with aclosing(more):
                count = len(fetched.records)
                self._run.has_parsed_response = True
                self._next.check_streamed(fetched.records, fetched.response)
                yield self._build_page(fetched.records, fetched, is_last=False), fetched.size
                async for batch in more:
                    count += len(batch.records)
                    if batch.is_last:
                        yield self._finish_response(batch.records, fetched, count), batch.size
                    else:
                        yield self._build_page(batch.records, fetched, is_last=False), batch.size
        except AsyncStreamsError as error:
            locate_error(error, fetched.response, fetched.retry)
            raise

    def _finish_response(self, records: list[Record], fetched: ParsedPage, streamed: int | None = None) -> Page:
        """The last page of a response; also determines the next token. `streamed` is the number of all its records."""
        response = fetched.response
        self._run.has_parsed_response = True
        previous_url = requested_url(response)
        rows, count = self._next.find_rows(records, response, len(records) if streamed is None else streamed)
        token = self._next.next_token(self._token, self._number, records, response, count)
        self._is_finished = token is None if self._stream.uses_paginator else not token
        if self._repeats_last_page(rows, records, previous_url, is_complete=streamed is None):
            self._is_finished, records, token = True, [], None
        self._previous_url, self._token = previous_url, token
        if self._ahead is not None and not self._is_finished:
            if self._number == 0:
                self._ahead.start(fetched, count or 0, token)
            self._ahead.observe_page(self._number, count or 0, token)
        if self._drift is not None:
            self._drift.observe_page(self._number, self._visible_fields(records))
        return self._build_page(records, fetched, is_last=self._is_finished, token=None if self._is_finished else token)

    def _repeats_last_page(self, rows: Sequence[Any], records: list[Record], url: str, *, is_complete: bool) -> bool:
        """Whether a page is the last one again, beyond the end of the pages. Raises PaginationLoop."""
        if self._guard is None:
            if not self._is_finished:
                has_rows = self._stream.uses_default_parser or rows is not records
                must_differ = self._number == 0 and self._next.must_pages_differ(has_rows=has_rows)
                self._guard = LoopGuard(self._stream, url, must_differ=must_differ)
                self._guard.check_page(rows, is_complete=is_complete)
            return False
        if not self._guard.check_page(rows, is_complete=is_complete):
            return False
        if self._is_finished or not (self._stream.primary_key and self._next.guesses_pages):
            return False
        if self._drift is not None and not self._drift.repeats_last_page(self._visible_fields(records)):
            return False
        self._run.repeated_pages += 1
        self._run.warn_once(
            "repeated",
            f"{self._stream.name}: page {self._number} repeats page {self._number - 1}: the API sends its last page "
            "again for numbers beyond it, so this is taken as the end, and the page is left out",
        )
        return True

    def _new_read_ahead(self, tasks: TaskGroup | None) -> ReadAhead | None:
        """A ReadAhead if the paginator can predict tokens and no record limit is set, or None."""
        paginator: Any = self._stream.paginator if self._stream.uses_paginator else None
        if (
            tasks is None
            or not self._run.reads_ahead
            or self._stream.streams_body
            or not hasattr(paginator, "predict_tokens")
        ):
            return None
        return ReadAhead(paginator, self._receive, tasks, self._run.slots)

    def _build_page(self, records: list[Record], fetched: ParsedPage, *, is_last: bool, token: Any = None) -> Page:
        checkpoint = (
            self._checkpoint if self._number >= self.delivered_pages else None
        )  # replayed pages have no checkpoint
        if checkpoint is not None:
            count, records = len(records), self._filter_records(checkpoint, records, fetched.response)
            checkpoint.register_page(self._number, count, token, is_last=is_last)
        records, quarantined = self._run.prepare_records(*self._run.validator.validate_page(records))
        return Page(self._stream.name, self._slice, self._number, records, is_last, quarantined, checkpoint)

    def _filter_records(self, checkpoint: SliceCheckpoint, records: list[Record], response: Response) -> list[Record]:
        """The records of a page that belong to the slice."""
        if not checkpoint.filters_records:
            return records
        visible = self._visible_fields(records)
        try:
            chosen = checkpoint.filter_page(visible, response)
        except CursorMismatch:
            raw = self._run.raw_reader
            if raw is not None and are_raw(records):  # the error names a field like the missing one
                checkpoint.filter_page(raw.decode_records(records), response)
            raise
        if visible is records:
            return chosen
        wanted = set(map(id, chosen))
        return [record for record, fields in zip(records, visible, strict=True) if id(fields) in wanted]

    def _visible_fields(self, records: list[Record]) -> list[Record]:
        """The records, or for raw records their decoded keys and cursors."""
        raw = self._run.raw_reader
        return raw.decode_fields(records) if raw is not None and are_raw(records) else records

    def _log_ignored(self, response: Response) -> None:
        self.is_ignored = True
        subject = f"the slice {shorten(str(self._slice))}" if self._slice else "the slice"
        _log.info(
            "%s: %s is ignored from page %d on: %s answered %d, and classify() returned IGNORE",
            self._stream.name,
            subject,
            self._number,
            shown_url(response.request),
            response.status_code,
        )

    def _restart(self) -> None:
        self._resets += 1
        if self._resets > _MAX_RESETS:
            raise PaginationLoop(f"reset the pagination of the slice more than {_MAX_RESETS} times")
        _log.warning(
            "%s: the pagination was reset, so %d pages of the slice are read twice", self._stream.name, self._number
        )
        if self._ahead is not None:
            self._ahead.discard()
        if self._checkpoint is not None:
            if self._checkpoint.has_progress:
                raise PaginationLoop(
                    "reset the pagination of the slice after a checkpoint within it",
                    hint="remove state_checkpoint_interval, since the pages of this API change between reads",
                )
            self._checkpoint.is_abandoned = True
            self._checkpoint = self._run.checkpoint_for(self._slice)
        self._start()
