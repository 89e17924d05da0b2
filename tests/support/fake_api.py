"""What does a slow API see of a reading: what was asked, when, and how much at once?"""

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
    """Real seconds, for what neither ends nor waits: a virtual clock never gets to a timeout there."""

    def give_up(*_: object) -> None:
        raise AssertionError(f"still running after {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class Api(httpx.MockTransport):
    """Answers after so many seconds; keeps what was asked, when, and how much at once."""

    def __init__(self, answer: Responder, seconds: float | Callable[[httpx.Request], float] = 1.0) -> None:
        self.requested: list[str] = []
        self.request_times: list[float] = []
        self.in_flight = self.peak_in_flight = self.cancelled = 0

        async def handle(request: httpx.Request) -> httpx.Response:
            self.requested.append(page_key(request))
            self.request_times.append(asyncio.get_running_loop().time())
            self.in_flight += 1
            self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
            try:
                await asyncio.sleep(seconds(request) if callable(seconds) else seconds)
                return answer(request)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            finally:
                self.in_flight -= 1

        super().__init__(handle)


def page_key(request: httpx.Request) -> str:
    """Which page is meant: `a/0`."""
    return f"{request.url.path[1:]}/{request.url.params.get('page', 0)}"


def paged_api(count: int, **refused: int | Exception) -> Responder:
    """So many pages in each slice, of one record each; `refused` maps `a_1` to what comes in place of page a/1."""

    def answer(request: httpx.Request) -> httpx.Response:
        number = int(request.url.params.get("page", 0))
        fault = refused.get(page_key(request).replace("/", "_"))
        if isinstance(fault, Exception):
            raise fault
        following = number + 1 if number + 1 < count else None
        body = {"items": [{"id": page_key(request)}], "next": following}
        return httpx.Response(200, json=body) if fault is None else httpx.Response(fault)

    return answer


class Items(HttpStream):
    """`/a?page=1` for page 1 of slice a; each page tells the next one, so that none can be guessed."""

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
    """The same below its own name, for several in a Source."""

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
    reading: Any, error: type[BaseException] | tuple[type[BaseException], ...] = (), *, anything: bool = False
) -> tuple[list[Page], Any]:
    """All pages that are handed over, and the error that comes then: `error`, or `anything`.

    A deadlock is a TimeoutError here.
    """
    found: list[Page] = []
    try:
        async with asyncio.timeout(1e6), reading as pages:
            async for page in pages:
                found.append(page)  # noqa: PERF401  # those before the error are wanted too
    except (TimeoutError, UnboundLocalError):
        raise
    except BaseException as caught:
        if anything or isinstance(caught, error):
            return found, caught
        raise
    assert not error, f"no {error} was raised"
    return found, None


def record_ids(pages: list[Page]) -> list[Any]:
    return [record["id"] for page in pages for record in page.records]
