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
)
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import httpx

from .cursors.cursor_format import CursorFormat
from .cursors.intervals import Interval, Intervals, Point
from .messages import Request, Response
from .models import (
    PageRequest,
    Record,
    Slice,
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
