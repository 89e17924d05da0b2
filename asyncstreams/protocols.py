"""The seams: what rooms know of each other, and what a user's own part must look like."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
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
    Slice,
    Timeouts,
)


class Paginator(Protocol):
    """A way of paging, as pure functions: the same arguments, the same answer.

    A token is a JSON value, so that it can be kept and compared.
    """

    def first(self) -> Any:
        """The token of the first page; None where the first request needs none."""
        ...

    def next(self, token: Any, response: Response, count: int) -> Any:
        """The token of the page after `response`, which held `count` records; None at the end."""
        ...

    def apply(self, token: Any) -> PageRequest:
        """What the request of the page with this token needs; `token` may be None."""
        ...


class CountedPaginator(Paginator, Protocol):
    """One that can know the number of pages, so that they can be read side by side."""

    def page_count(self, response: Response, count: int) -> int | None:
        """The number of pages of the slice, as its first response, of `count` records, tells; None if it does not."""
        ...

    def token_at(self, number: int, response: Response) -> Any:
        """The token of page `number`, from 0, as the first response shows how to make it."""
        ...


Send: TypeAlias = Callable[[httpx.Request], Awaitable[Response]]


class Middleware(Protocol):
    """An extra link of the chain: sees a fresh request for each attempt, before it is signed."""

    async def __call__(self, request: Request, send: Send, /) -> httpx.Response: ...


@runtime_checkable
class MockRouter(Protocol):
    """A router that answers requests, as respx's does."""

    async def async_handler(self, request: httpx.Request) -> httpx.Response: ...


ParsedRecords: TypeAlias = Iterable[Record] | Awaitable[Iterable[Record]] | AsyncIterator[Record]


_SomeSlices: TypeAlias = Iterable[Slice] | Iterable[Mapping[str, Any]] | Iterable[None]
SliceInput: TypeAlias = (
    _SomeSlices
    | Awaitable[Iterable[Slice]]
    | Awaitable[Iterable[Mapping[str, Any]]]
    | AsyncIterable[Slice]
    | AsyncIterable[Mapping[str, Any]]
)


ValidationMode: TypeAlias = Literal["report", "quarantine", "fail", "off"]


class Transformer(Protocol):
    """What changes the records of a page, in place, by their schema."""

    @property
    def is_active(self) -> bool:
        """Whether it changes anything at all, so that a schema is needed."""
        ...

    def compiled(self, schema: Mapping[str, Any], /) -> Callable[[list[Record]], None] | None:
        """What changes a page; None where there is nothing to do for this schema."""
        ...


class Windows(Protocol):
    """What splits the line of a cursor; TimeWindows and NumberRanges do, and a class of your own may."""

    def intervals(self, cursor: CursorFormat, done: Intervals, now: float) -> Iterable[Interval]:
        """The intervals to read, in order, where `done` has been read; `now` in seconds since 1970."""
        ...

    def ends_at(self, cursor: CursorFormat, now: float) -> Point:
        """Where the line ends at this time: nothing from there on counts as read."""
        ...

    def lookback_of(self, cursor: CursorFormat) -> Point:
        """How much of what was read last is read again, for rows that come late."""
        ...

    def asked(self, cursor: CursorFormat, interval: Interval) -> tuple[Point, Point]:
        """What to ask the API for, so that it gives all of the interval."""
        ...


class RequestSlot(Protocol):
    """What a slice holds while it works, and gives back while it waits for anything but an answer."""

    async def ensure(self) -> None: ...

    def sent(self) -> None: ...

    def away(self) -> AbstractAsyncContextManager[None]: ...


class Stream(Protocol):
    """A stream as `http/` and `run/` know it: its declaration, and its hooks."""

    name: str
    url_base: str
    http_method: str
    paginator: Paginator | None
    records_path: str | None
    primary_key: PrimaryKey
    validation: ValidationMode
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
    body_limits: BodyLimits
    middleware: Sequence[Middleware]
    allowed_origins: tuple[str, ...]
    allow_insecure: bool
    clock: Clock
    use_cache: bool
    cache_ttl: float
    cache_filename: str
    cache_dir: str | PathLike[str] | None
    parent_fields: Sequence[str] | None
    incremental_dependency: bool
    cursor_field: CursorField
    cursor_format: str
    cursor_timezone: str | None
    windows: Windows | None
    state_checkpoint_interval: int | None

    @property
    def parents(self) -> Sequence[Stream]:
        """The streams whose records are its slices."""
        ...

    @property
    def streams_body(self) -> bool:
        """Whether `parse_response` wants the body while it is still arriving."""
        ...

    @property
    def uses_paginator(self) -> bool:
        """Whether `paginator` pages the stream, and not a `next_page_token` of the author's."""
        ...

    @property
    def uses_default_parser(self) -> bool:
        """Whether the records are what the body holds at `records_path`, and no `parse_response` of the author's."""
        ...

    @property
    def listeners(self) -> Sequence[Listener]:
        """Who is told of its readings."""
        ...

    async def probe(self) -> str | None:
        """Why the stream is unavailable, before anything of it is read; None: nothing is known against it."""
        ...

    def why_unavailable(self, error: HttpStatusError) -> str | None:
        """Whether the error of a stream's first request means that it is unavailable, and why; None: it does not."""
        ...

    def path(self, context: RequestContext) -> str | tuple[str | int, ...]: ...
    def request_params(self, context: RequestContext) -> ParamsInput | None: ...
    def request_headers(self, context: RequestContext) -> Mapping[str, str] | None: ...
    def request_json(self, context: RequestContext) -> Any: ...
    def request_data(self, context: RequestContext) -> Mapping[str, Any] | str | bytes | None: ...
    def request_kwargs(self, context: RequestContext) -> Mapping[str, Any]: ...
    def next_page_token(self, response: Response, context: RequestContext) -> Any: ...
    def stream_slices(self, state: Mapping[str, Any]) -> SliceInput: ...
    def partitions_of(self, stream_slice: Slice) -> Sequence[Mapping[str, Any]]: ...
    def split_slice(self, stream_slice: Slice, error: HttpStatusError) -> Sequence[Slice]: ...
    def parse_response(self, response: Response, context: RequestContext) -> ParsedRecords: ...
    def should_retry(self, response: Response) -> bool: ...
    def classify(self, response: Response, context: RequestContext) -> ResponseAction: ...
    def backoff_time(self, response: Response) -> float | None: ...
    def get_json_schema(self) -> Mapping[str, Any] | Awaitable[Mapping[str, Any] | None] | None: ...
