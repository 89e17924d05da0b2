"""How is a slice read: page, next token, next page, until there is none."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

from anyio.abc import TaskGroup

from .._json import as_array, as_object
from ..errors import AsyncStreamsError, MalformedJSON, PaginationLoop
from ..messages import Response
from ..models import Page, Record, RequestContext, ResponseAction, Slice
from ..pagination.paginators import ends_without_token
from ..pagination.selectors import misses, select_path, unused_next
from ..records.raw_records import are_raw
from ..state.slice_checkpoint import SliceCheckpoint
from ..state.stream_state import ResumePoint, StreamState
from .page_fetcher import PageFetcher, ParsedPage, ReceivedPage, RecordBatch, located, url_of
from .pagination_guard import DriftDetector, LoopGuard, may_move
from .read_ahead import ReadAhead
from .slots import Slot
from .stream_run import StreamRun

_MOST_RESETS = 3
_log = logging.getLogger("asyncstreams")


class SliceReader:
    """Reads one slice, page after page."""

    def __init__(
        self,
        run: StreamRun,
        place: Slot,
        stream_slice: Slice,
        tasks: TaskGroup | None,
        *,
        is_known: bool = False,
    ) -> None:
        self._run, self._stream, self._slice, self._place = run, run.stream, stream_slice, place
        self._tasks = tasks
        self._fetcher = PageFetcher(run.stream, run.chain, run.lane.room, run.raw)
        self._resets = 0
        self._ended = False
        self.known = math.inf if is_known else 0
        """How many of the first pages were handed over in an earlier run, and are read for children only."""
        self._promise = None if is_known else run.promise(stream_slice)
        self._state = run.state
        if self._promise is not None and isinstance(run.state, StreamState) and self._promise.partitions[0]:
            self._state = run.state.of(self._promise.partitions[0])
        resume = None if self._promise is None else self._promise.resume
        if resume is not None and run.lane.wants_known:
            self.known, resume = resume.number, None
        self._begin(resume)

    def _begin(self, resume: ResumePoint | None = None) -> None:
        """Stand before the first page, or before the one that an earlier run did not come to."""
        self._ahead = self._ahead_of(self._tasks) if resume is None else None
        self._moved = DriftDetector(self._run) if may_move(self._stream) else None
        self._number = 0 if resume is None else resume.number
        self._token: Any = None if resume is None else resume.token
        self._came_from: str | None = None
        self._guard: LoopGuard | None = None

    async def pages(self) -> AsyncGenerator[tuple[Page, int]]:
        """Every page of the slice with its size in bytes, in order; the errors that leave name slice and page."""
        try:
            while not self._ended:
                if self._guard is not None and self._token is not None:
                    self._guard.token(self._number, self._token)
                fetched = await self._next()
                if fetched.more is None:
                    if (page := self._whole(fetched)) is not None:
                        size = fetched.size
                        # Nobody but the consumer keeps a page: while all slices wait for their next one, the
                        # last of each would be in memory, each too cold for the processor's caches.
                        del fetched
                        yield page, size
                        self._number += 1
                        del page
                    continue
                async with aclosing(self._arriving(fetched, fetched.more)) as pages:
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
                self._ahead.drop()
            if self._promise is not None and not self._ended:
                self._promise.is_over = True

    async def _next(self) -> ParsedPage:
        arrived: ReceivedPage | None = None
        if self._ahead is not None and self._ahead.has(self._token):
            # Those who fetch ahead have places of their own.
            self._place.give()
            arrived = await self._ahead.take()
        return await self._fetcher.fetch(self._context(self._token), self._came_from, self._place, arrived)

    async def _arrive(self, token: Any, place: Slot) -> ReceivedPage:
        return await self._fetcher.arrive(self._context(token), self._came_from, place)

    def _context(self, token: Any) -> RequestContext:
        return RequestContext(self._slice, token, self._state)

    def _whole(self, fetched: ParsedPage) -> Page | None:
        """The page of a response that is all here; None where paging begins anew."""
        try:
            if fetched.action is ResponseAction.RESET_PAGINATION:
                self._reset()
                return None
            if fetched.action is not ResponseAction.SUCCESS or fetched.response.status_code == 204:
                self._ended = True
                return self._page([], fetched, is_last=True)
            return self._completed(fetched.records, fetched)
        except AsyncStreamsError as error:
            located(error, fetched.response, fetched.tries)
            raise

    async def _arriving(
        self, fetched: ParsedPage, more: AsyncGenerator[RecordBatch]
    ) -> AsyncGenerator[tuple[Page, int]]:
        """The pages of a body that is still arriving."""
        try:
            async with aclosing(more):
                count = len(fetched.records)
                yield self._page(fetched.records, fetched, is_last=False), fetched.size
                async for batch in more:
                    count += len(batch.records)
                    if batch.is_last:
                        yield self._completed(batch.records, fetched, count), batch.size
                    else:
                        yield self._page(batch.records, fetched, is_last=False), batch.size
        except AsyncStreamsError as error:
            located(error, fetched.response, fetched.tries)
            raise

    def _completed(self, records: list[Record], fetched: ParsedPage, count: int | None = None) -> Page:
        """The page that ends a response; finds out what comes after it."""
        response = fetched.response
        came_from = url_of(response)
        if self._guard is not None:
            self._guard.page(records)
        count = self._count(records, response) if count is None else count
        token = self._following(response, count)
        self._ended = token is None if self._stream.uses_paginator else not token
        if self._guard is None and not self._ended:
            self._guard = LoopGuard(self._stream, came_from)
            self._guard.page(records)
        if self._ended and self._number == 0 and records:
            self._warn_of_more(response)
        self._came_from, self._token = came_from, token
        if self._ahead is not None and not self._ended:
            if self._number == 0:
                self._ahead.begin(fetched, count, token)
            self._ahead.went_on(count, token)
        if self._moved is not None:
            self._moved.page(self._number, self._looked_at(records))
        return self._page(records, fetched, is_last=self._ended, token=None if self._ended else token)

    def _ahead_of(self, tasks: TaskGroup | None) -> ReadAhead | None:
        """Pages side by side: where the paginator can tell what comes, and a limit does not ask for fewer."""
        paginator: Any = self._stream.paginator if self._stream.uses_paginator else None
        if (
            tasks is None
            or not self._run.reads_ahead
            or self._stream.streams_body
            or not hasattr(paginator, "token_at")
        ):
            return None
        return ReadAhead(paginator, self._arrive, tasks, self._run.share)

    def _warn_of_more(self, response: Response) -> None:
        """Tell, once for a stream, that the only page does not look like the only one."""
        paginator: Any = self._stream.paginator
        chain = self._run.chain
        if not self._stream.uses_paginator or chain.told_of_more:
            return
        selector = getattr(paginator, "selector", None)
        if self._run.raw is not None:
            if self._run.done:
                return  # it costs a decoding, and the first slices would have told
            with suppress(MalformedJSON):  # such as a number that no double holds, which is written as it came
                response.json()
        why = None if selector is None else misses(selector, response)
        if why is None and (paginator is None or ends_without_token(paginator)) and (more := unused_next(response)):
            reader = "the stream has no paginator" if paginator is None else f"{paginator} does not look there"
            why = f"{reader}, but there is {more}"
        if why is not None:
            chain.told_of_more = True
            _log.warning("%s: the first page is taken for the only one: %s", self._stream.name, why)

    def _following(self, response: Response, count: int) -> Any:
        stream = self._stream
        if not stream.uses_paginator:
            return stream.next_page_token(response, response.context)
        if stream.paginator is None:
            return None
        current = stream.paginator.first() if self._token is None else self._token
        return stream.paginator.next(current, response, count)

    def _count(self, records: list[Record], response: Response) -> int:
        """How many records the API sent, where parse_response may have left some out."""
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

    def _page(self, records: list[Record], fetched: ParsedPage, *, is_last: bool, token: Any = None) -> Page:
        promise = self._promise if self._number >= self.known else None  # else nothing is owed
        if promise is not None:
            count, records = len(records), self._chosen(promise, records, fetched.response)
            promise.made(self._number, count, token, is_last=is_last)
        records, quarantined = self._run.taken(*self._run.validation.page(records))
        return Page(self._stream.name, self._slice, self._number, records, is_last, quarantined, promise)

    def _chosen(self, promise: SliceCheckpoint, records: list[Record], response: Response) -> list[Record]:
        """Of the records of a page those that belong to the slice."""
        if not promise.chooses:
            return records
        looked_at = self._looked_at(records)
        chosen = promise.chosen(looked_at, response)
        if looked_at is records:
            return chosen
        wanted = set(map(id, chosen))
        return [record for record, one in zip(records, looked_at, strict=True) if id(one) in wanted]

    def _looked_at(self, records: list[Record]) -> list[Record]:
        """The records or, of those that were not made, what may be looked at."""
        raw = self._run.raw
        return raw.fields(records) if raw is not None and are_raw(records) else records

    def _reset(self) -> None:
        self._resets += 1
        if self._resets > _MOST_RESETS:
            raise PaginationLoop(f"asked to begin the slice anew more than {_MOST_RESETS} times")
        _log.warning(
            "%s: the slice is read from its first page again; %d pages come twice", self._stream.name, self._number
        )
        if self._ahead is not None:
            self._ahead.drop()
        if self._promise is not None:
            if self._promise.has_moved:
                raise PaginationLoop(
                    "asked to begin the slice anew, though a state has moved within it",
                    hint="remove state_checkpoint_interval: this API's pages are not the same twice",
                )
            self._promise.is_over = True
            self._promise = self._run.promise(self._slice)
        self._begin()
