"""How is a slice read: request, parse, page, next token, until there is none."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable, Mapping
from contextlib import aclosing, contextmanager
from typing import Any, cast

from ..contracts import Stream
from ..errors import AsyncStreamsError, ConfigError, MalformedJSON, PaginationLoop
from ..exact_json import as_array, as_object
from ..http.chain import Chain
from ..http.outcome import unexpected_body
from ..http.retry import Tries
from ..messages import Request, Response
from ..model import Page, Record, RequestContext, ResponseAction, Slice
from ..paginators import ends_without_token
from ..redaction import safe_url
from ..selectors import misses, select_path, unused_next
from .guard import LoopGuard
from .validation import Validation

_PAGE_RECORDS = 1000
_PAGE_BYTES = 2**20
_MOST_RESETS = 3
_log = logging.getLogger("asyncstreams")


class SliceReader:
    """Reads one slice, page after page."""

    def __init__(
        self, stream: Stream, chain: Chain, validation: Validation, stream_slice: Slice, state: Mapping[str, Any]
    ) -> None:
        self._stream, self._chain, self._validation = stream, chain, validation
        self._slice, self._state = stream_slice, state
        self._number = 0
        self._token: Any = None
        self._came_from: str | None = None
        self._guard: LoopGuard | None = None
        self._resets = 0
        self._ended = False

    async def pages(self) -> AsyncGenerator[Page]:
        """Every page of the slice, in order; the errors that leave name slice and page."""
        with self._located():
            while not self._ended:
                if self._guard is not None and self._token is not None:
                    self._guard.token(self._number, self._token)
                page, more = await self._next()
                if page is not None:
                    yield page
                    self._number += 1
                if more is not None:
                    async with aclosing(more):
                        async for page in more:
                            yield page
                            self._number += 1

    async def _next(self) -> tuple[Page | None, AsyncGenerator[Page] | None]:
        """The next response's page and, where its body is still arriving, the pages after that."""
        tries = self._chain.tries(RequestContext(self._slice, self._token, self._state))
        while True:
            response, action = await self._chain.fetch(self._request, tries)
            if action is not ResponseAction.SUCCESS or response.status_code == 204:
                await response.aclose()
                if action is ResponseAction.RESET_PAGINATION:
                    self._reset()
                    return None, None
                self._ended = True
                return self._page([], is_last=True), None
            try:
                if response.has_body:
                    return self._completed(await self._records(response), response), None
                return await self._begun(response, tries)
            except AsyncStreamsError as error:
                own = _is_about(error, response)
                _locate(error, response, tries)
                if not own or not self._worth_another(error, tries):
                    raise
                await tries.failed(error)

    async def _begun(self, response: Response, tries: Tries) -> tuple[Page, AsyncGenerator[Page] | None]:
        """The first page of a body that is still arriving: until it is there, the request can be repeated."""
        pages = self._pieces(response, tries)
        try:
            return await anext(pages), pages
        except BaseException:
            await pages.aclose()
            raise

    async def _records(self, response: Response) -> list[Record]:
        """What `parse_response` makes of a whole body. Raises UnexpectedContent, MalformedJSON."""
        try:
            parsed = self._stream.parse_response(response, response.context)
            if inspect.isawaitable(parsed):
                parsed = await parsed
            if isinstance(parsed, AsyncIterable):
                records = [record async for record in parsed]
            else:
                records = self._checked_iterable(parsed)
        except MalformedJSON as error:
            if not _is_about(error, response):
                raise  # of a detail call's response, which has been tried as often as it may
            raise unexpected_body(self._stream, response, error) from None
        self._check_records(records)
        return records

    async def _pieces(self, response: Response, tries: Tries) -> AsyncGenerator[Page]:
        """Pages of a body that is still arriving: 1,000 records or 1 MiB each."""
        # The stream says that it streams because parse_response is an async generator.
        parsed = cast(AsyncGenerator[Record], self._stream.parse_response(response, response.context))
        batch: list[Record] = []
        count = 0
        begun = response.bytes_read
        try:
            async with aclosing(parsed):
                async for record in parsed:
                    # A full batch waits for the record after it, so that the last page knows that it is.
                    if batch and (len(batch) >= _PAGE_RECORDS or response.bytes_read - begun >= _PAGE_BYTES):
                        self._check_records(batch)
                        yield self._page(batch, is_last=False)
                        count += len(batch)
                        batch, begun = [], response.bytes_read
                    batch.append(record)
            self._check_records(batch)
            yield self._completed(batch, response, count + len(batch))
        except AsyncStreamsError as error:
            _locate(error, response, tries)
            raise
        finally:
            await response.aclose()

    def _request(self, context: RequestContext) -> Request:
        return self._chain.builder.page(context, self._came_from)

    def _completed(self, records: list[Record], response: Response, count: int | None = None) -> Page:
        """The page that ends a response; finds out what comes after it."""
        came_from = response.request.url_text if isinstance(response.request, Request) else str(response.url)
        if self._guard is None:
            self._guard = LoopGuard(self._stream, came_from)
        self._guard.page(records)
        token = self._following(response, self._count(records, response) if count is None else count)
        self._came_from, self._token = came_from, token
        self._ended = token is None if self._stream.pages_itself else not token
        if self._ended and self._number == 0 and records:
            self._warn_of_more(response)
        return self._page(records, is_last=self._ended)

    def _warn_of_more(self, response: Response) -> None:
        """Tell, once for a stream, that the only page does not look like the only one."""
        paginator: Any = self._stream.paginator
        if not self._stream.pages_itself or self._chain.told_of_more:
            return
        selector = getattr(paginator, "selector", None)
        why = None if selector is None else misses(selector, response)
        if why is None and (paginator is None or ends_without_token(paginator)) and (more := unused_next(response)):
            reader = "the stream has no paginator" if paginator is None else f"{paginator} does not look there"
            why = f"{reader}, but there is {more}"
        if why is not None:
            self._chain.told_of_more = True
            _log.warning("%s: the first page is taken for the only one: %s", self._stream.name, why)

    def _following(self, response: Response, count: int) -> Any:
        stream = self._stream
        if not stream.pages_itself:
            return stream.next_page_token(response, response.context)
        if stream.paginator is None:
            return None
        current = stream.paginator.first() if self._token is None else self._token
        return stream.paginator.next(current, response, count)

    def _count(self, records: list[Record], response: Response) -> int:
        """How many records the API sent, where parse_response may have left some out."""
        body = response.decoded_json
        path = self._stream.records_path
        if path is not None and body is not None:
            body = select_path(path, body)
        if path is None and (fields := as_object(body)) is not None:
            arrays = [found for value in fields.values() if (found := as_array(value)) and isinstance(found[0], dict)]
            body = arrays[0] if len(arrays) == 1 and len(arrays[0]) > len(records) else None
        found = as_array(body)
        return len(records) if found is None else len(found)

    def _page(self, records: list[Record], *, is_last: bool) -> Page:
        kept, quarantined = self._validation.page(records)
        return Page(self._stream.name, self._slice, self._number, kept, is_last, quarantined)

    def _reset(self) -> None:
        self._resets += 1
        if self._resets > _MOST_RESETS:
            raise PaginationLoop(f"asked to begin the slice anew more than {_MOST_RESETS} times")
        _log.warning(
            "%s: the slice is read from its first page again; %d pages come twice", self._stream.name, self._number
        )
        self._number, self._token, self._came_from, self._guard = 0, None, None, None

    def _worth_another(self, error: AsyncStreamsError, tries: Tries) -> bool:
        if not self._stream.idempotent:
            return False
        # Malformed JSON may have been cut without a sign of it: once more, and no more.
        return error.retryable or (isinstance(error, MalformedJSON) and tries.first_reread())

    def _checked_iterable(self, parsed: Iterable[Record]) -> list[Record]:
        if isinstance(parsed, list):
            return parsed
        if isinstance(parsed, Iterable) and not isinstance(parsed, Mapping | str | bytes):
            return list(parsed)
        single = isinstance(parsed, Mapping)
        raise ConfigError(
            f"{type(self._stream).__name__}.parse_response returned {_kind(cast(object, parsed))}: "
            "an iterable of dicts is needed",
            hint="return [record] for a single record" if single else "is there a `return` missing?",
        )

    def _check_records(self, records: list[Record]) -> None:
        if set(map(type, records)) <= {dict}:
            return
        for number, record in enumerate(records):
            if not isinstance(record, dict):
                raise ConfigError(
                    f"{type(self._stream).__name__}.parse_response gave {_kind(record)} as record {number}: "
                    "a dict is needed",
                    hint="`yield from` a list of records, not the list itself" if isinstance(record, list) else None,
                )

    @contextmanager
    def _located(self) -> Generator[None]:
        try:
            yield
        except AsyncStreamsError as error:
            error.locate(stream=self._stream.name, stream_slice=self._slice, page=self._number)
            raise
        except Exception as error:
            error.add_note(f"asyncstreams: in stream {self._stream.name!r}, slice {self._slice!r}, page {self._number}")
            raise


def _locate(error: AsyncStreamsError, response: Response, tries: Tries) -> None:
    if _is_about(error, response):
        method, url = response.request.method, _url(response)
        error.locate(tries=tries.sent, method=method, url=url, status=response.status_code)


def _is_about(error: AsyncStreamsError, response: Response) -> bool:
    """Whether an error out of `parse_response` is about its response, and not about a detail call's."""
    return error.url is None or error.url == _url(response)


def _url(response: Response) -> str:
    request = response.request
    return safe_url(request.url_text if isinstance(request, Request) else str(request.url))


def _kind(value: object) -> str:
    return type(value).__name__
