"""Reading of one slice: page, next token, next page, until the last one."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

from .._json import as_array, as_object
from ..errors import AsyncStreamsError, MalformedJSON, PaginationLoop
from ..messages import Response
from ..models import Page, Record, RequestContext, ResponseAction, Slice
from ..pagination.paginators import ends_without_token
from ..pagination.selectors import explain_miss, find_next_page_hint, select_path
from ..records.raw_records import are_raw
from ..state.slice_checkpoint import SliceCheckpoint
from ..state.stream_state import ResumePoint, StreamState
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
        self._fetcher = PageFetcher(run.stream, run.client, run.sender.wait_for_capacity, run.raw_reader)
        self._resets = 0
        self._is_finished = False
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

    async def pages(self) -> AsyncGenerator[tuple[Page, int]]:
        """Yield every page with its size in bytes, in order. Errors name stream, slice and page."""
        try:
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

    async def _fetch_next(self) -> ParsedPage:
        received: ReceivedPage | None = None
        if self._ahead is not None and self._ahead.is_next(self._token):
            # Speculative requests have their own slots.
            self._slot.release()
            received = await self._ahead.pop_next()
        return await self._fetcher.fetch(self._context(self._token), self._previous_url, self._slot, received)

    async def _receive(self, token: Any, slot: Slot) -> ReceivedPage:
        return await self._fetcher.receive(self._context(token), self._previous_url, slot)

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

    def _finish_response(self, records: list[Record], fetched: ParsedPage, count: int | None = None) -> Page:
        """The last page of a response; also determines the next token."""
        response = fetched.response
        previous_url = requested_url(response)
        if self._guard is not None:
            self._guard.check_page(records)
        count = self._count_sent(records, response) if count is None else count
        token = self._next_token(response, count)
        self._is_finished = token is None if self._stream.uses_paginator else not token
        if self._guard is None and not self._is_finished:
            self._guard = LoopGuard(self._stream, previous_url)
            self._guard.check_page(records)
        if self._is_finished and self._number == 0 and records:
            self._warn_if_more_pages(response)
        self._previous_url, self._token = previous_url, token
        if self._ahead is not None and not self._is_finished:
            if self._number == 0:
                self._ahead.start(fetched, count, token)
            self._ahead.observe_page(count, token)
        if self._drift is not None:
            self._drift.observe_page(self._number, self._visible_fields(records))
        return self._build_page(records, fetched, is_last=self._is_finished, token=None if self._is_finished else token)

    def _new_read_ahead(self, tasks: TaskGroup | None) -> ReadAhead | None:
        """A ReadAhead if the paginator can predict tokens and no record limit is set, or None."""
        paginator: Any = self._stream.paginator if self._stream.uses_paginator else None
        if (
            tasks is None
            or not self._run.reads_ahead
            or self._stream.streams_body
            or not hasattr(paginator, "token_at")
        ):
            return None
        return ReadAhead(paginator, self._receive, tasks, self._run.slots)

    def _warn_if_more_pages(self, response: Response) -> None:
        """Warn, once per stream, if the only page of a slice names a next page that pagination ignores."""
        paginator: Any = self._stream.paginator
        client = self._run.client
        if not self._stream.uses_paginator or client.warned_of_more_pages:
            return
        selector = getattr(paginator, "selector", None)
        if self._run.raw_reader is not None:
            if self._run.slices_done:
                return  # decoding costs time, and the first slices would have shown it
            with suppress(MalformedJSON):  # such as a number beyond a double, which raw passthrough copies unchanged
                response.json()
        why = None if selector is None else explain_miss(selector, response)
        if (
            why is None
            and (paginator is None or ends_without_token(paginator))
            and (more := find_next_page_hint(response))
        ):
            reader = "the stream has no paginator" if paginator is None else f"{paginator} does not read it"
            why = f"the response has {more}, but {reader}"
        if why is not None:
            client.warned_of_more_pages = True
            _log.warning("%s: the first page is treated as the only one: %s", self._stream.name, why)

    def _next_token(self, response: Response, count: int) -> Any:
        stream = self._stream
        if not stream.uses_paginator:
            return stream.next_page_token(response, response.context)
        if stream.paginator is None:
            return None
        current = stream.paginator.first() if self._token is None else self._token
        return stream.paginator.next(current, response, count)

    def _count_sent(self, records: list[Record], response: Response) -> int:
        """The number of records that the API sent, before a hand-written parse_response left any out."""
        if self._stream.uses_default_parser:
            return len(records)
        body = response.decoded_json
        path = self._stream.records_path
        if path is not None and body is not None:
            body = select_path(path, body)
        if path is None and (fields := as_object(body)) is not None:
            arrays = [found for value in fields.values() if (found := as_array(value)) and isinstance(found[0], dict)]
            body = arrays[0] if len(arrays) == 1 and len(arrays[0]) > len(records) else None
        found = as_array(body)
        return len(records) if found is None else len(found)

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
        chosen = checkpoint.filter_page(visible, response)
        if visible is records:
            return chosen
        wanted = set(map(id, chosen))
        return [record for record, fields in zip(records, visible, strict=True) if id(fields) in wanted]

    def _visible_fields(self, records: list[Record]) -> list[Record]:
        """The records, or for raw records their decoded keys and cursors."""
        raw = self._run.raw_reader
        return raw.decode_fields(records) if raw is not None and are_raw(records) else records

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
