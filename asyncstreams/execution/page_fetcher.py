"""How is one page fetched and parsed, and fetched again where that may help?"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import NamedTuple, cast

from ..errors import AsyncStreamsError, ConfigError, MalformedJSON
from ..http.client import HttpClient
from ..http.response_errors import unexpected_body
from ..http.retry import RetryState
from ..messages import Request, Response
from ..models import Record, RequestContext, ResponseAction
from ..protocols import ParsedRecords, RequestSlot, Stream
from ..records.raw_records import RawReader
from ..redaction import safe_url

_PAGE_RECORDS = 1000
_PAGE_BYTES = 2**20


class RecordBatch(NamedTuple):
    """Records of a body that is still arriving; `size` in bytes."""

    records: list[Record]
    size: int
    is_last: bool


class ReceivedPage(NamedTuple):
    """The response to the request of a page, as it came."""

    response: Response
    action: ResponseAction
    tries: RetryState

    @property
    def size(self) -> int:
        """Bytes of its body."""
        return len(self.response.content) if self.response.has_body else 0


class ParsedPage(NamedTuple):
    """What the request of a page came to: its first records and, while its body still arrives, what follows."""

    response: Response
    action: ResponseAction
    records: list[Record]
    tries: RetryState
    size: int = 0
    more: AsyncGenerator[RecordBatch] | None = None


class PageFetcher:
    """Fetches the pages of one stream; each by itself, in any order."""

    def __init__(
        self, stream: Stream, chain: HttpClient, room: Callable[[], Awaitable[None]], raw: RawReader | None = None
    ) -> None:
        self._stream, self._chain, self._room, self._raw = stream, chain, room, raw

    async def arrive(self, context: RequestContext, came_from: str | None, place: RequestSlot | None) -> ReceivedPage:
        """The response for this context; `came_from` is the URL whose response gave its token."""
        tries = self._chain.tries(context, place)
        return await self._again(came_from, tries)

    async def fetch(
        self, context: RequestContext, came_from: str | None, place: RequestSlot, arrived: ReceivedPage | None = None
    ) -> ParsedPage:
        """The page of this context, from the response that has `arrived` where there is one."""
        if arrived is None:
            await place.ensure()
            arrived = await self.arrive(context, came_from, place)
        while True:
            response, action, tries = arrived
            if action is not ResponseAction.SUCCESS or response.status_code == 204:
                await response.aclose()
                return ParsedPage(response, action, [], tries)
            try:
                if response.has_body:
                    return ParsedPage(response, action, await self._records(response), tries, arrived.size)
                return await self._begun(response, action, tries)
            except AsyncStreamsError as error:
                own = _is_about(error, response)
                located(error, response, tries)
                if not own or not self._worth_another(error, tries):
                    raise
                tries.place = place
                await tries.failed(error)
                await place.ensure()
                arrived = await self._again(came_from, tries)

    async def _again(self, came_from: str | None, tries: RetryState) -> ReceivedPage:
        builder = self._chain.builder
        return ReceivedPage(*await self._chain.fetch(lambda attempt: builder.page(attempt, came_from), tries), tries)

    async def _begun(self, response: Response, action: ResponseAction, tries: RetryState) -> ParsedPage:
        """The first records of a body that is still arriving: until they are there, the request can be repeated."""
        batches = self._batches(response, tries)
        try:
            first = await anext(batches)
        except BaseException:
            await batches.aclose()
            raise
        if first.is_last:
            await batches.aclose()
        return ParsedPage(response, action, first.records, tries, first.size, None if first.is_last else batches)

    async def _records(self, response: Response) -> list[Record]:
        """What `parse_response` makes of a whole body. Raises UnexpectedContent, MalformedJSON."""
        await self._room()
        if self._raw is not None and (lines := self._raw.records(response)) is not None:
            return cast("list[Record]", lines)
        try:
            parsed = self._stream.parse_response(response, response.context)
            records = cast("list[Record]", parsed) if type(parsed) is list else await self._listed(parsed)
        except MalformedJSON as error:
            if not _is_about(error, response):
                raise  # of a detail call's response, which has been tried as often as it may
            raise unexpected_body(self._stream, response, error) from None
        if not self._stream.uses_default_parser:
            self._check_records(records)
        return records

    async def _listed(self, parsed: ParsedRecords) -> list[Record]:
        """What an author's parse_response gave, as a list."""
        if inspect.isawaitable(parsed):
            parsed = await parsed
        if isinstance(parsed, AsyncIterable):
            return [record async for record in parsed]
        return self._checked_iterable(parsed)

    async def _batches(self, response: Response, tries: RetryState) -> AsyncGenerator[RecordBatch]:
        """The records of a body that is still arriving, 1,000 or 1 MiB at once."""
        # The stream says that it streams because parse_response is an async generator.
        parsed = cast(AsyncGenerator[Record], self._stream.parse_response(response, response.context))
        batch: list[Record] = []
        begun = response.bytes_read
        try:
            async with aclosing(parsed):
                async for record in parsed:
                    # A full batch waits for the record after it, so that the last one knows that it is.
                    if batch and (len(batch) >= _PAGE_RECORDS or response.bytes_read - begun >= _PAGE_BYTES):
                        self._check_records(batch)
                        yield RecordBatch(batch, response.bytes_read - begun, False)
                        batch, begun = [], response.bytes_read
                    batch.append(record)
            self._check_records(batch)
            yield RecordBatch(batch, response.bytes_read - begun, True)
        except AsyncStreamsError as error:
            located(error, response, tries)
            raise
        finally:
            await response.aclose()

    def _worth_another(self, error: AsyncStreamsError, tries: RetryState) -> bool:
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


def url_of(response: Response) -> str:
    """Where a response came from, as it was asked for."""
    request = response.request
    return request.url_text if isinstance(request, Request) else str(request.url)


def located(error: AsyncStreamsError, response: Response, tries: RetryState) -> None:
    if _is_about(error, response):
        url, status = safe_url(url_of(response)), response.status_code
        error.locate(tries=tries.sent, method=response.request.method, url=url, status=status)


def _is_about(error: AsyncStreamsError, response: Response) -> bool:
    """Whether an error out of `parse_response` is about its response, and not about a detail call's."""
    return error.url is None or error.url == safe_url(url_of(response))


def _kind(value: object) -> str:
    return type(value).__name__
