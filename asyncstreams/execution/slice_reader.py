"""Reading of one slice: page, next token, next page, until the last one."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import AsyncStreamsError, ConfigError, CursorMismatch, InvalidSlice, PaginationLoop, UnexpectedContent
from ..messages import Response, shown_url
from ..models import Page, RequestContext, ResponseAction, Slice, shorten
from ..parents.projection import IncompleteRecord
from ..records.raw_records import PageRecords, RawRecords, visible_fields
from ..state.slice_checkpoint import SliceCheckpoint
from ..state.stream_state import ResumePoint, StreamState
from .next_token import NextToken
from .page_fetcher import ParsedPage, ReceivedPage, RecordBatch, locate_error, requested_url
from .pagination_guard import DriftDetector, LoopGuard
from .read_ahead import ReadAhead
from .slots import Slot
from .stream_run import StreamRun

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

_MAX_RESETS = 3
_log = logging.getLogger("asyncstreams")


class SliceReader:
    """Reads the pages of one slice in order. Its user closes it."""

    def __init__(
        self,
        run: StreamRun,
        slot: Slot,
        stream_slice: Slice,
        tasks: TaskGroup | None,
        *,
        already_delivered: bool = False,
    ) -> None:
        self._run, self._slot, self._slice, self._tasks = run, slot, stream_slice, tasks
        self._resets = 0
        self._ahead: ReadAhead | None = None
        self._body: StreamedBody | None = None
        self.is_ignored = False
        """Whether an ignored response ended the slice."""
        self.delivered_pages = math.inf if already_delivered else 0
        """Number of first pages that an earlier run delivered; they are read again for child streams only."""
        self._checkpoint = None if already_delivered else run.checkpoint_for(stream_slice)
        self._state = run.selection.state
        resume: ResumePoint | None = None
        if self._checkpoint is not None:
            partition, resume = self._checkpoint.partitions[0], self._checkpoint.resume
            if partition and isinstance(self._state, StreamState):
                self._state = self._state.of(partition)
            if resume is not None and run.sender.replays_delivered:
                self.delivered_pages, resume = resume.number, None
        self._pagination = SlicePagination(run, resume)

    def next_range(self) -> Slice | None:
        """The range to read after this slice, once it has been read, if the cursor grows without end."""
        if self._checkpoint is None or not self._pagination.is_finished:
            return None
        return self._checkpoint.next_range()

    async def read_page(self) -> tuple[Page, int] | None:
        """The next page with its size in bytes; None after the last one. Errors name stream, slice and page."""
        stream = self._run.selection.stream
        try:
            while not self._pagination.is_finished:
                if self._body is not None:
                    return await self._next_batch(self._body)
                if stream.resolved.parent_fields is not None:
                    _check_parents(self._slice)
                pagination = self._pagination
                pagination.check_token()
                token, received = pagination.token, None
                if self._ahead is not None and self._ahead.is_next(token):
                    self._slot.release()  # speculative requests have their own slots
                    received = await self._ahead.pop_next()
                context = RequestContext(self._slice, token, self._state)
                url, number = pagination.last_url, pagination.number
                fetched = await self._run.fetcher.fetch(context, url, self._slot, number, received)
                if fetched.more is not None:
                    return self._open_body(fetched, fetched.more)
                if (page := self._complete_page(fetched)) is not None:
                    return page, fetched.size
        except AsyncStreamsError as error:
            number = self._pagination.number
            error.redact(self._run.client.secrets)
            declaration_fits = self._run.pagination.has_parsed_response or bool(stream.parents)
            if isinstance(error, ConfigError) and error.depends_on_data and declaration_fits:
                text = UnexpectedContent(error.message, hint=error.hint)
                text.locate(stream=stream.name, stream_slice=self._slice, page=number)
                raise text.locate(url=error.url, method=error.method, status=error.status, tries=error.tries) from error
            error.locate(stream=stream.name, stream_slice=self._slice, page=number)
            raise
        except Exception as error:
            number = self._pagination.number
            error.add_note(f"asyncstreams: in stream {stream.name!r}, slice {self._slice!r}, page {number}")
            raise
        return None

    async def close(self) -> None:
        """Discard what was fetched ahead or is still arriving. A slice that is not finished is abandoned."""
        if self._ahead is not None:
            self._ahead.discard()
        if self._checkpoint is not None and not self._pagination.is_finished:
            self._checkpoint.is_abandoned = True
        if self._body is not None:
            await self._body.more.aclose()

    async def _receive(self, token: Any, slot: Slot, page: int) -> ReceivedPage:
        context = RequestContext(self._slice, token, self._state)
        return await self._run.fetcher.receive(context, self._pagination.last_url, slot, page)

    def _complete_page(self, fetched: ParsedPage) -> Page | None:
        """The page of a complete response; None if the pagination is reset."""
        try:
            if fetched.action is ResponseAction.RESET_PAGINATION:
                self._restart()
                return None
            if fetched.action is not ResponseAction.SUCCESS or fetched.response.status_code == 204:
                self._pagination.finish()
                if fetched.action is ResponseAction.IGNORE:
                    self._log_ignored(fetched.response)
                return self._build_page([], fetched.response)
            return self._finish_response(fetched.records, fetched, len(fetched.records))
        except AsyncStreamsError as error:
            locate_error(error, fetched.response, fetched.retry)
            raise

    def _open_body(self, fetched: ParsedPage, more: AsyncGenerator[RecordBatch]) -> tuple[Page, int]:
        """The page of the first records of a body that is still arriving."""
        self._body = StreamedBody(fetched, more)
        self._run.pagination.mark_parsed()
        try:
            self._pagination.next.check_streamed(fetched.records, fetched.response)
            return self._build_page(fetched.records, fetched.response), fetched.size
        except AsyncStreamsError as error:
            locate_error(error, fetched.response, fetched.retry)
            raise

    async def _next_batch(self, body: StreamedBody) -> tuple[Page, int]:
        """The page of the next records of a body that is still arriving."""
        fetched = body.fetched
        try:
            batch = await body.next_batch()
            if not batch.is_last:
                return self._build_page(batch.records, fetched.response), batch.size
            self._body = None
            return self._finish_response(batch.records, fetched, body.count, is_complete=False), batch.size
        except AsyncStreamsError as error:
            locate_error(error, fetched.response, fetched.retry)
            raise

    def _finish_response(
        self, records: PageRecords, fetched: ParsedPage, record_count: int, *, is_complete: bool = True
    ) -> Page:
        """The page of a response; also finds the next token. If not `is_complete`, `records` are its last ones."""
        response, pagination = fetched.response, self._pagination
        if not self._run.pagination.has_parsed_response:
            self._run.pagination.mark_parsed()
        rows, count = pagination.next.find_rows(records, response, record_count)
        if not pagination.advance(records, rows, count, response, is_complete=is_complete):
            records = []
        if pagination.number == 0:
            self._expect_records(response, record_count if count is None else count)
        if not pagination.is_finished:
            if pagination.number == 0:
                self._start_ahead(fetched, count or 0)
            if self._ahead is not None:
                self._ahead.observe_page(pagination.number, count or 0, pagination.token)
        pagination.observe_records(records)
        return self._build_page(records, response)

    def _expect_records(self, response: Response, count: int) -> None:
        """Note how many records the slice has, if its first page of `count` rows shows it."""
        predictor = self._run.pagination.predictor
        if self._pagination.is_finished:
            self._run.bounds.expect_records(count)
        elif (total := self._pagination.next.extent.rows) is not None:
            self._run.bounds.expect_records(total)
        elif predictor is not None and (pages := predictor.page_count(response, count)) is not None:
            self._run.bounds.expect_records(pages * count)  # at most: the last page may be shorter

    def _start_ahead(self, first: ParsedPage, count: int) -> None:
        """Fetch pages ahead if the paginator can predict their tokens and no record limit is set."""
        predictor = self._run.pagination.predictor
        if predictor is not None and self._tasks is not None:
            self._ahead = ReadAhead(predictor, self._receive, self._tasks, self._run.slots)
            self._ahead.start(first, count, self._pagination.token)

    def _build_page(self, records: PageRecords, response: Response) -> Page:
        pagination = self._pagination
        number, is_last = pagination.number, pagination.is_finished
        checkpoint = self._checkpoint
        if number < self.delivered_pages:
            checkpoint = None  # replayed pages have none
        if checkpoint is not None:
            count, records = len(records), _filter_records(checkpoint, records, response)
            token = None if self._body is not None else pagination.token
            checkpoint.register_page(number, count, token, is_last=is_last)
        page = self._run.pages.build(self._slice, number, records, is_last=is_last, checkpoint=checkpoint)
        pagination.count_page()
        return page

    def _log_ignored(self, response: Response) -> None:
        self.is_ignored = True
        subject = f"the slice {shorten(str(self._slice))}" if self._slice else "the slice"
        _log.info(
            "%s: %s is ignored from page %d on: %s answered %d, and classify() returned IGNORE",
            self._run.stream.name,
            subject,
            self._pagination.number,
            shown_url(response.request),
            response.status_code,
        )

    def _restart(self) -> None:
        self._resets += 1
        if self._resets > _MAX_RESETS:
            raise PaginationLoop(f"reset the pagination of the slice more than {_MAX_RESETS} times")
        _log.warning(
            "%s: the pagination was reset, so %d pages of the slice are read twice",
            self._run.stream.name,
            self._pagination.number,
        )
        if self._ahead is not None:
            self._ahead.discard()
            self._ahead = None
        if self._checkpoint is not None:
            if self._checkpoint.has_progress:
                raise PaginationLoop(
                    "reset the pagination of the slice after a checkpoint within it",
                    hint="remove state_checkpoint_interval, since the pages of this API change between reads",
                )
            self._checkpoint.is_abandoned = True
            self._checkpoint = self._run.checkpoint_for(self._slice)
        self._pagination = SlicePagination(self._run)


class SlicePagination:
    """The position of one slice in its pages, from its start or a checkpoint on, and the checks that it moves on."""

    def __init__(self, run: StreamRun, resume: ResumePoint | None = None) -> None:
        self._run = run
        self.number = 0 if resume is None else resume.number
        """Number of the page that is read now."""
        self.token: Any = None if resume is None else resume.token
        self.last_url: str | None = None
        """The URL of the response that named the token."""
        self.is_finished = False
        self.next = NextToken(run, is_resumed=resume is not None)
        self._guard: LoopGuard | None = None
        self._drift: DriftDetector | None = None

    def check_token(self) -> None:
        """Check the token of the next page before it is requested. Raises PaginationLoop."""
        if self._guard is not None and self.token is not None:
            self._guard.check_token(self.number, self.token)

    def finish(self) -> None:
        """End the slice with the current page."""
        self.is_finished, self.token = True, None

    def advance(
        self, records: PageRecords, rows: Sequence[Any], count: int | None, response: Response, *, is_complete: bool
    ) -> bool:
        """Find the next token. False for the last page again, beyond the end of the pages. Raises PaginationLoop."""
        facts = self._run.pagination
        token = self.next.next_token(self.token, self.number, records, response, count)
        is_last = token is None if facts.uses_paginator else not token
        if self._guard is None:
            if is_last:  # the only page, of which nothing has to be remembered
                self.finish()
                return True
            has_rows = facts.uses_default_parser or rows is not records
            must_differ = self.number == 0 and self.next.must_pages_differ(has_rows=has_rows)
            self._guard = LoopGuard(self._run.stream, requested_url(response), must_differ=must_differ)
            self._drift = DriftDetector(self._run) if facts.may_drift else None
        is_equal = self._guard.check_page(rows, is_complete=is_complete)
        if is_last or (is_equal and self._repeats_last_page(records)):
            self.finish()
            return is_last
        self.last_url, self.token = requested_url(response), token
        return True

    def observe_records(self, records: PageRecords) -> None:
        """Compare the records of a response with those of earlier ones."""
        if self._drift is not None:
            self._drift.observe_page(self.number, visible_fields(records))

    def count_page(self) -> None:
        """Move on to the next page."""
        self.number += 1

    def _repeats_last_page(self, records: PageRecords) -> bool:
        """Whether a page that equals the one before it is the last one again, beyond the end of the pages."""
        stream = self._run.stream
        if not (stream.resolved.primary_key and self.next.guesses_pages):
            return False
        if self._drift is not None and not self._drift.repeats_last_page(visible_fields(records)):
            return False
        self._run.pagination.count_repeated_page()
        self._run.progress.warn_once(
            "repeated",
            f"page {self.number} repeats page {self.number - 1}: the API sends its last page again for numbers "
            "beyond it, so this is taken as the end, and the page is left out",
        )
        return True


class StreamedBody:
    """A response whose body is still arriving; `count` is the number of its records so far."""

    def __init__(self, fetched: ParsedPage, more: AsyncGenerator[RecordBatch]) -> None:
        self.fetched, self.more = fetched, more
        self.count = len(fetched.records)

    async def next_batch(self) -> RecordBatch:
        """The next records; the body is closed after the last ones."""
        batch = await anext(self.more)
        self.count += len(batch.records)
        if batch.is_last:
            await self.more.aclose()
        return batch


def _check_parents(stream_slice: Slice) -> None:
    """Raises InvalidSlice if a record of a parent lacks a field of `parent_fields`."""
    for record in (stream_slice.get("parent"), *(stream_slice.get("parents") or ())):
        if isinstance(record, IncompleteRecord):
            hint = "correct the name, or omit parent_fields to get the complete record in the slice"
            raise InvalidSlice(record.problem, hint=hint)


def _filter_records(checkpoint: SliceCheckpoint, records: PageRecords, response: Response) -> PageRecords:
    """The records of a page that belong to the slice."""
    if not checkpoint.filters_records:
        return records
    if not isinstance(records, RawRecords):
        return checkpoint.filter_page(records, response)
    fields = records.fields()
    try:
        chosen = checkpoint.filter_page(fields, response)
    except CursorMismatch:
        checkpoint.filter_page(records.decode(), response)  # whose error names a field like the missing one
        raise
    return records if chosen is fields else records.select(fields, chosen)
