"""A slow HTTP API that records its requests, and streams that read it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from asyncstreams import (
    Backoff,
    Cursor,
    HttpStream,
    Page,
    RequestContext,
)

Responder = Callable[[httpx.Request], httpx.Response]


@contextmanager
def real_timeout(seconds: int) -> Iterator[None]:
    """Fail after real seconds: code that neither ends nor waits never reaches a timeout of a virtual clock."""

    def fail(*_: object) -> None:
        raise AssertionError(f"still running after {seconds} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class Api(httpx.MockTransport):
    """Responds after `latency` seconds; records requested pages, request times and requests in flight."""

    def __init__(self, respond: Responder, latency: float | Callable[[httpx.Request], float] = 1.0) -> None:
        self.requested: list[str] = []
        self.request_times: list[float] = []
        self.in_flight = self.peak_in_flight = self.cancelled = 0

        async def handle(request: httpx.Request) -> httpx.Response:
            self.requested.append(page_key(request))
            self.request_times.append(asyncio.get_running_loop().time())
            self.in_flight += 1
            self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
            try:
                await asyncio.sleep(latency(request) if callable(latency) else latency)
                return respond(request)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            finally:
                self.in_flight -= 1

        super().__init__(handle)


def page_key(request: httpx.Request) -> str:
    """The page of a request, such as `a/0`."""
    return f"{request.url.path[1:]}/{request.url.params.get('page', 0)}"


def paged_api(count: int, **faults: int | Exception) -> Responder:
    """`count` pages of one record in each slice; `faults` maps `a_1` to the status or error of page a/1."""

    def respond(request: httpx.Request) -> httpx.Response:
        number = int(request.url.params.get("page", 0))
        fault = faults.get(page_key(request).replace("/", "_"))
        if isinstance(fault, Exception):
            raise fault
        following = number + 1 if number + 1 < count else None
        body = {"items": [{"id": page_key(request)}], "next": following}
        return httpx.Response(200, json=body) if fault is None else httpx.Response(fault)

    return respond


class Items(HttpStream):
    """`/a?page=1` for page 1 of slice a; each page names the next one, so none can be predicted."""

    url_base = "https://api.test/"
    records_path = "items"
    paginator: Any = Cursor("next", param="page")
    backoff = Backoff(base=0, cap=0)
    max_tries = 1
    adaptive = False

    def __init__(self, api: Api, clock: Any, **options: Any) -> None:
        super().__init__(transport=api, clock=clock, **options)

    def path(self, context: RequestContext) -> str:
        return str(context.stream_slice.get("at", self.name))


class NamedItems(Items):
    """Items below the name of the stream, for several streams in one Source."""

    def __init__(self, name: str, api: Api, clock: Any, **options: Any) -> None:
        self.name = name
        super().__init__(api, clock, **options)

    def path(self, context: RequestContext) -> Any:
        return (self.name, str(context.stream_slice.get("at", 0)))


def slices(names: Any) -> list[dict[str, Any]]:
    return [{"at": name} for name in names]


def subclass(kind: type[Items], **attributes: Any) -> type[Any]:
    return type(kind.__name__, (kind,), attributes)


async def collect_pages(
    read: Any, error: type[BaseException] | tuple[type[BaseException], ...] = (), *, any_error: bool = False
) -> tuple[list[Page], Any]:
    """All delivered pages, and the final error: an `error`, or any with `any_error`. A deadlock raises TimeoutError."""
    found: list[Page] = []
    try:
        async with asyncio.timeout(1e6), read as pages:
            async for page in pages:
                found.append(page)  # noqa: PERF401  # pages before the error are kept
    except (TimeoutError, UnboundLocalError):
        raise
    except BaseException as caught:
        if any_error or isinstance(caught, error):
            return found, caught
        raise
    assert not error, f"no {error} was raised"
    return found, None


def record_ids(pages: list[Page]) -> list[Any]:
    return [record["id"] for page in pages for record in page.records]
