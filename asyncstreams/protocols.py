"""Protocols between the packages, and those that user code may implement."""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from os import PathLike
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import httpx

from .clock import Clock
from .cursors.cursor_format import CursorFormat
from .cursors.intervals import Interval, Intervals, Point
from .errors import HttpStatusError
from .events import Listener
from .messages import Request, Response
from .models import (
    Backoff,
    BodyLimits,
    CursorField,
    PageRequest,
    ParamsInput,
    PrimaryKey,
    RateLimit,
    Record,
    RequestContext,
    ResponseAction,
    Secret,
    Slice,
    Timeouts,
)


class Paginator(Protocol):
    """How one page leads to the next, as pure methods: equal arguments give equal results.

    A token is a JSON value, so that it can be stored and compared. `count` is the number of rows that the API sent,
    whatever `parse_response` made of them. A paginator whose `next` does not use it says so with the class attribute
    `counts_rows = False`; otherwise a stream whose rows cannot be counted is refused.
    """

    def first(self) -> Any:
        """The token of the first page, or None if the first request needs no token."""
        ...

    def next(self, token: Any, response: Response, count: int) -> Any:
        """The token of the page after `response`, which held `count` rows; None after the last page."""
        ...

    def apply(self, token: Any) -> PageRequest:
        """The URL, parameters, headers or body fields that request the page with this token, which may be None."""
        ...


class CountedPaginator(Paginator, Protocol):
    """A paginator that can compute every page token from the first response, so that pages are read concurrently."""

    def page_count(self, response: Response, count: int) -> int | None:
        """The number of pages of the slice according to its first response, of `count` rows; None if unknown."""
        ...

    def predict_tokens(self, response: Response) -> Callable[[int], Any]:
        """The token of each page as a function of its number, counted from 0.

        It is derived from the first response, which it does not keep. Raises ValueError if that does not show them.
        """
        ...


Send: TypeAlias = Callable[[httpx.Request], Awaitable[Response]]
"""Sends a request through the rest of the client; the `send` argument of a Middleware."""


class Middleware(Protocol):
    """A layer around each attempt: receives a fresh request before it is signed, and returns the response of `send`."""

    async def __call__(self, request: Request, send: Send, /) -> httpx.Response: ...


@runtime_checkable
class MockRouter(Protocol):
    """A router that answers requests in place of a transport, such as that of respx."""

    async def async_handler(self, request: httpx.Request) -> httpx.Response:
        """The response for a request."""
        ...


ParsedRecords: TypeAlias = Iterable[Record] | Awaitable[Iterable[Record]] | AsyncIterator[Record]
"""What `parse_response` may return: the records of a page, also as a coroutine or an async generator."""

_SliceIterable: TypeAlias = Iterable[Slice] | Iterable[Mapping[str, Any]] | Iterable[None]
SliceInput: TypeAlias = (
    _SliceIterable
    | Awaitable[Iterable[Slice]]
    | Awaitable[Iterable[Mapping[str, Any]]]
    | AsyncIterable[Slice]
    | AsyncIterable[Mapping[str, Any]]
)
"""What `stream_slices` may return, and `slices=` may be: slices or mappings, also as a coroutine or async iterable."""


ValidationMode: TypeAlias = Literal["report", "quarantine", "fail", "off"]
PartialDataMode: TypeAlias = Literal["fail", "warn"]
MissingRecords: TypeAlias = Literal["error", "empty"]
MissingChild: TypeAlias = Literal["skip", "fail"]


class Transformer(Protocol):
    """Converts the records of a page, in place, according to their schema."""

    @property
    def is_active(self) -> bool:
        """Whether the transformer changes anything; if not, it needs no schema."""
        ...

    def compile(self, schema: Mapping[str, Any], /) -> Callable[[list[Record]], None] | None:
        """A function that converts the records of a page, or None if this schema needs no conversion."""
        ...


class Windows(Protocol):
    """Divides the range of a cursor into intervals, as TimeWindows and NumberRanges do.

    Points are numbers on the cursor's line; see `CursorFormat.point`.
    """

    def intervals(self, cursor: CursorFormat, done: Intervals, now: float) -> Iterable[Interval]:
        """The intervals to read, in ascending order, given those already read; `now` in seconds since 1970."""
        ...

    def end_at(self, cursor: CursorFormat, now: float) -> Point:
        """The exclusive end of the range at the time `now`; nothing from there on counts as read.

        Infinity: the cursor grows without end, and what was seen counts as read.
        """
        ...

    def lookback_of(self, cursor: CursorFormat) -> Point:
        """How far before the end the next run reads again, to find rows that arrive late."""
        ...

    def query_bounds(self, cursor: CursorFormat, interval: Interval) -> tuple[Point, Point]:
        """The bounds to send to the API, so that its response contains the whole interval."""
        ...


class RequestSlot(Protocol):
    """The concurrency slot of a slice: held while requests are in flight, released during other waits."""

    async def ensure_acquired(self) -> None: ...

    def charge_request(self) -> None: ...

    def released(self) -> AbstractAsyncContextManager[None]: ...


class ParentPages(Protocol):
    """The records of the parents of one substream, as its run reads them."""

    def read_pages(self) -> AsyncGenerator[tuple[int, list[Record]]]:
        """Yield pages of parent records, each with the number of the parent stream. Raises LocalError."""
        ...


class Stream(Protocol):
    """The declaration and hooks of a stream, as the http and execution packages use them."""

    name: str
    url_base: str
    http_method: str
    paginator: Paginator | None
    single_page: bool
    records_path: str | None
    missing_records: MissingRecords
    primary_key: PrimaryKey
    validation: ValidationMode
    graphql_partial: PartialDataMode
    max_quarantined: int
    transformer: Transformer | None
    parallel_pages: bool
    max_concurrency: int
    rate_limit: RateLimit | Sequence[RateLimit] | None
    rate_limit_cost: float
    quota_group: str | None
    adaptive: bool
    outage_timeout: float
    max_failed_slices: int
    weight: float
    detect_loops: bool
    max_pages: int
    max_tries: int
    max_time: float
    max_server_wait: float
    backoff: Backoff
    idempotent: bool
    authenticator: httpx.Auth | None
    transport: httpx.AsyncBaseTransport | MockRouter | None
    timeouts: Timeouts
    adaptive_timeouts: bool
    body_limits: BodyLimits
    middleware: Sequence[Middleware]
    allowed_origins: tuple[str, ...]
    uncredentialed_origins: tuple[str, ...]
    cookies: bool
    allow_insecure: bool
    trust_env: bool
    clock: Clock
    use_cache: bool
    cache_ttl: float
    cache_filename: str
    cache_dir: str | PathLike[str] | None
    missing_child: MissingChild
    parent_fields: Sequence[str] | None
    parent_lookback: timedelta | str | None
    incremental_dependency: bool
    cursor_field: CursorField
    cursor_format: str | CursorFormat
    cursor_timezone: str | None
    windows: Windows | None
    keep_outside: bool
    state_checkpoint_interval: int | None

    @property
    def parents(self) -> Sequence[Stream]:
        """The streams whose records become the slices of this stream."""
        ...

    def read_parents_from(self, feed: ParentPages | None) -> None:
        """Make `stream_slices` use the pages of the parents that the run reads."""
        ...

    @property
    def streams_body(self) -> bool:
        """Whether `parse_response` reads the body while it arrives."""
        ...

    @property
    def uses_paginator(self) -> bool:
        """Whether `paginator` selects the next page, because `next_page_token` is not overridden."""
        ...

    @property
    def uses_default_parser(self) -> bool:
        """Whether the records are the array at `records_path`, because `parse_response` is not overridden."""
        ...

    @property
    def listeners(self) -> Sequence[Listener]:
        """Functions that are called with each event of the stream."""
        ...

    async def probe(self) -> str | None:
        """The reason why the stream is unavailable, found before it is read, or None."""
        ...

    def why_unavailable(self, error: HttpStatusError) -> str | None:
        """The reason why the stream is unavailable, given the error of its first request; otherwise None."""
        ...

    def path(self, context: RequestContext) -> str | Secret | tuple[str | int | Secret, ...]: ...
    def request_params(self, context: RequestContext) -> ParamsInput | None: ...
    def request_headers(self, context: RequestContext) -> Mapping[str, str | Secret] | None: ...
    def request_json(self, context: RequestContext) -> Any: ...
    def request_data(
        self, context: RequestContext
    ) -> Mapping[str, Any] | Sequence[tuple[str, Any]] | str | bytes | Secret | None: ...
    def request_kwargs(self, context: RequestContext) -> Mapping[str, Any]: ...
    def next_page_token(self, response: Response, context: RequestContext) -> Any: ...
    def stream_slices(self, state: Mapping[str, Any]) -> SliceInput: ...
    def partitions_of(self, stream_slice: Slice) -> Sequence[Mapping[str, Any]]: ...
    def children_of(self, stream_slice: Slice) -> Sequence[Mapping[str, Any]]: ...
    def split_slice(self, stream_slice: Slice, error: HttpStatusError) -> Sequence[Slice]: ...
    def parse_response(self, response: Response, context: RequestContext) -> ParsedRecords: ...
    def should_retry(self, response: Response) -> bool: ...
    def classify(self, response: Response, context: RequestContext) -> ResponseAction: ...
    def backoff_time(self, response: Response) -> float | None: ...
    def get_json_schema(self) -> Mapping[str, Any] | Awaitable[Mapping[str, Any] | None] | None: ...
