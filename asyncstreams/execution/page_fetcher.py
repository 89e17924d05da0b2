"""Fetching and parsing of single pages."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from functools import partial
from typing import NamedTuple, cast

from .._json import as_object, has_lone_surrogate, replace_surrogates
from ..content.error_text import shown_keys
from ..declaration.stream import Stream
from ..errors import AsyncStreamsError, ConfigError, InvalidSlice, MalformedJSON
from ..http.client import HttpClient
from ..http.response_errors import concerns_response, unexpected_body_error
from ..http.retry import ClassifiedResponse, RetryState
from ..messages import Request, Response, shown_url
from ..models import Record, RequestContext, ResponseAction, shorten
from ..protocols import ParsedRecords, RequestSlot
from ..records.raw_records import PageRecords, RawReader

_MAX_BATCH_RECORDS = 1000
_MAX_BATCH_BYTES = 2**20


class RecordBatch(NamedTuple):
    """Some records of a body that is still arriving; `size` is in bytes."""

    records: list[Record]
    size: int
    is_last: bool


class ReceivedPage(NamedTuple):
    """The response for a page, not decoded yet."""

    received: ClassifiedResponse
    retry: RetryState


class ParsedPage(NamedTuple):
    """The records of a page. While its body is still arriving, `records` is the first batch and `more` the rest."""

    response: Response
    action: ResponseAction
    records: PageRecords
    retry: RetryState
    size: int = 0
    more: AsyncGenerator[RecordBatch] | None = None


class PageFetcher:
    """Fetches the pages of one stream, independently of each other and in any order."""

    def __init__(
        self,
        stream: Stream,
        client: HttpClient,
        wait_for_capacity: Callable[[], Awaitable[None]],
        raw: RawReader | None = None,
        on_surrogates: Callable[[], None] | None = None,
    ) -> None:
        self._stream, self._client, self._wait_for_capacity, self._raw = stream, client, wait_for_capacity, raw
        self._on_surrogates = on_surrogates

    async def receive(
        self, context: RequestContext, previous_url: str | None, slot: RequestSlot | None, page: int
    ) -> ReceivedPage:
        """Send the request of a page; `previous_url` is the URL of the response that named its token."""
        retry = RetryState(context, slot, page)
        return ReceivedPage(await self._client.receive(partial(self._build, previous_url), retry), retry)

    def fetch(
        self,
        context: RequestContext,
        previous_url: str | None,
        slot: RequestSlot,
        page: int,
        fetched: ReceivedPage | None = None,
    ) -> Awaitable[ParsedPage]:
        """Fetch and parse a page, or parse `fetched` if its response is here already."""
        received = None
        if fetched is None:
            retry = RetryState(context, slot, page)
        else:
            received, retry = fetched
            retry.slot = slot
        return self._client.fetch(partial(self._build, previous_url), retry, partial(self._parse, retry), received)

    def _build(self, previous_url: str | None, context: RequestContext) -> Request:
        try:
            request = self._client.builder.build_page_request(context, previous_url)
        except (ConfigError, LookupError, TypeError, AttributeError, ValueError) as error:
            if (invalid := _as_invalid_slice(self._stream, context, error)) is None:
                raise
            raise invalid from error
        if self._on_surrogates is not None:
            request.extensions["asyncstreams"].on_surrogates = self._on_surrogates
        return request

    async def _parse(self, retry: RetryState, received: ClassifiedResponse) -> ParsedPage:
        """The page of a response. Raises AsyncStreamsError for a body that cannot be parsed."""
        response, action = received
        if action is not ResponseAction.SUCCESS or response.status_code == 204:
            await response.aclose()
            return ParsedPage(response, action, [], retry)
        if response.has_body:
            records = await self._parse_body(response)
            return ParsedPage(response, action, records, retry, len(response.content))
        return await self._open_stream(response, action, retry)

    async def _open_stream(self, response: Response, action: ResponseAction, retry: RetryState) -> ParsedPage:
        """Parse the first batch of a body that is still arriving. Before that, the request can be repeated."""
        batches = self._parse_batches(response, retry)
        try:
            first = await anext(batches)
        except BaseException:
            await batches.aclose()
            raise
        if first.is_last:
            await batches.aclose()
        return ParsedPage(response, action, first.records, retry, first.size, None if first.is_last else batches)

    async def _parse_body(self, response: Response) -> PageRecords:
        """The records of a complete body, from `parse_response`. Raises UnexpectedContent and MalformedJSON."""
        await self._wait_for_capacity()
        if self._raw is not None and (raw := self._raw.extract_records(response)) is not None:
            return raw
        try:
            parsed = self._stream.parse_response(response, response.context)
            records = cast("list[Record]", parsed) if type(parsed) is list else await self._to_list(parsed)
        except MalformedJSON as error:
            if not concerns_response(error, response):
                raise  # about the response of a detail call, whose own retries are used up
            raise unexpected_body_error(self._stream, response, error) from None
        return records if self._stream.uses_default_parser else self._checked(records)

    async def _to_list(self, parsed: ParsedRecords) -> list[Record]:
        """The result of a hand-written parse_response, as a list."""
        if inspect.isawaitable(parsed):
            parsed = await parsed
        if isinstance(parsed, AsyncIterable):
            return [record async for record in parsed]
        return self._list_from_iterable(parsed)

    async def _parse_batches(self, response: Response, retry: RetryState) -> AsyncGenerator[RecordBatch]:
        """Yield the records of a body that is still arriving, up to 1,000 records or 1 MiB per batch."""
        # `streams_body` is true because parse_response is an async generator.
        parsed = cast(AsyncGenerator[Record], self._stream.parse_response(response, response.context))
        batch: list[Record] = []
        offset = response.bytes_read
        try:
            async with aclosing(parsed):
                async for record in parsed:
                    # A full batch is held back until the next record, so that `is_last` is known.
                    if batch and (len(batch) >= _MAX_BATCH_RECORDS or response.bytes_read - offset >= _MAX_BATCH_BYTES):
                        yield RecordBatch(self._checked(batch), response.bytes_read - offset, False)
                        batch, offset = [], response.bytes_read
                    batch.append(record)
            yield RecordBatch(self._checked(batch), response.bytes_read - offset, True)
        except AsyncStreamsError as error:
            locate_error(error, response, retry)
            raise
        finally:
            await response.aclose()

    def _list_from_iterable(self, parsed: Iterable[Record]) -> list[Record]:
        if isinstance(parsed, list):
            return parsed
        if isinstance(parsed, Iterable) and not isinstance(parsed, Mapping | str | bytes):
            return list(parsed)
        single = isinstance(parsed, Mapping)
        raise ConfigError(
            f"{type(self._stream).__name__}.parse_response returned {_type_name(cast(object, parsed))}: "
            "an iterable of dicts is required",
            hint="return [record] for a single record" if single else "check for a missing `return`",
        ).of_data()

    def _checked(self, records: list[Record]) -> list[Record]:
        """The result of a hand-written parse_response, with lone surrogates replaced if that is asked for."""
        self._check_records(records)
        if self._on_surrogates is not None and has_lone_surrogate(records):
            self._on_surrogates()
            records = replace_surrogates(records)
        return records

    def _check_records(self, records: list[Record]) -> None:
        if set(map(type, records)) <= {dict}:
            return
        for number, record in enumerate(records):
            if not isinstance(record, dict):
                raise ConfigError(
                    f"{type(self._stream).__name__}.parse_response returned {_type_name(record)} as record {number}: "
                    "a dict is required",
                    hint="use `yield from` for a list of records" if isinstance(record, list) else None,
                ).of_data()


def _as_invalid_slice(stream: Stream, context: RequestContext, error: Exception) -> InvalidSlice | None:
    """The error of a slice, or of a page token, whose values make no request; None if the declaration may be wrong."""
    stream_slice = context.stream_slice
    if isinstance(error, ConfigError):
        has_values = bool(stream_slice) or context.next_page_token is not None
        return InvalidSlice(error.message, hint=error.hint) if error.depends_on_data and has_values else None
    parent = stream_slice.get("parent") or next(iter(stream_slice.get("parents") or ()), None)
    if not stream.parents or (record := as_object(parent)) is None:
        return None
    kind = type(error).__name__
    if isinstance(error, KeyError):
        problem = f"a hook found no key {shorten(repr(error.args[0] if error.args else ''))}"
    else:  # the text of a ValueError may be a value
        problem = f"a hook raised {kind}" + ("" if isinstance(error, ValueError) else f": {shorten(str(error))}")
    return InvalidSlice(
        f"{problem}; the record of its parent has the keys {shown_keys(record)}",
        hint="filter such parents in stream_slices, or handle them in the hook",
    )


def requested_url(response: Response) -> str:
    """The URL of a response, exactly as it was requested."""
    request = response.request
    return request.url_text if isinstance(request, Request) else str(request.url)


def locate_error(error: AsyncStreamsError, response: Response, retry: RetryState) -> None:
    if concerns_response(error, response):
        url, status = shown_url(response.request), response.status_code
        error.locate(tries=retry.attempt, method=response.request.method, url=url, status=status)


def _type_name(value: object) -> str:
    return type(value).__name__
