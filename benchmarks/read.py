"""CPU per 20 KB page of 100 records with cursor pages: asyncstreams and hand-written loops.

Each of the concurrent streams or slices follows its cursor: its next request begins when a page has been
decoded. The measurement includes the opening of connections.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator, Mapping
from typing import Any

import aiohttp
import httpx
import orjson
from page_rounds import Aim, Contender, Load, compare, run_workers
from server import RECORDS

from asyncstreams import Cursor, HttpStream, Page, RequestContext, Source

BASELINE, HTTPX = "hand-written aiohttp + orjson", "hand-written httpx + orjson"
STREAMS, SLICES = "asyncstreams, streams of a Source", "asyncstreams, slices of a stream"
RECORDS_OF_SLICES = "asyncstreams, slices, record by record"
AIMS = (
    Aim(STREAMS, {1: 0.95, 10: 1.0, 100: 1.0}),
    Aim(SLICES, {1: 0.95, 10: 1.0, 100: 1.0}),
    Aim(RECORDS_OF_SLICES, {1: 1.4, 10: 1.4, 100: 1.4}),
)


class Events(HttpStream):
    """A stream of slices with cursor pages."""

    url_base = "http://127.0.0.1/"
    records_path = "data"
    paginator = Cursor("meta.next")

    def __init__(self, load: Load, slices: int, name: str = "events") -> None:
        super().__init__(max_concurrency=load.workers)
        self.url_base = load.url
        self.name = name
        self.page_path = _path(load)
        self.kwargs = {"verify": str(load.certificate)} if load.certificate else {}
        self.slice_count = slices

    def stream_slices(self, state: Mapping[str, object]) -> Iterator[Mapping[str, int]]:
        return ({"number": number} for number in range(self.slice_count))

    def path(self, context: RequestContext) -> str:
        return self.page_path

    def request_kwargs(self, context: RequestContext) -> dict[str, Any]:
        return self.kwargs


async def read_streams(load: Load) -> int:
    streams = [Events(load, 1, f"events-{number}") for number in range(load.workers)]
    async with Source(streams, max_concurrency=load.workers).pages() as pages:
        return await _count_pages(pages)


async def read_slices(load: Load) -> int:
    async with Events(load, load.workers).pages() as pages:
        return await _count_pages(pages)


async def _count_pages(pages: AsyncIterable[Page]) -> int:
    count = 0
    async for page in pages:
        for _record in page.records:
            count += 1
    return count


async def read_records_of_slices(load: Load) -> int:
    count = 0
    async with Events(load, load.workers).records() as records:
        async for _record in records:
            count += 1
    return count


async def read_by_aiohttp(load: Load) -> int:
    connector = aiohttp.TCPConnector(limit=load.workers, ssl=_context(load) or True)
    url, count = load.url + _path(load), 0
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def job() -> None:
            nonlocal count
            params: dict[str, str] | None = {}
            while params is not None:
                async with session.get(url, params=params) as response:
                    response.raise_for_status()
                    body = orjson.loads(await response.read())
                for _record in body["data"]:
                    count += 1
                cursor = body["meta"]["next"]
                params = {"cursor": cursor} if cursor else None

        await run_workers(load, job)
    return count


async def read_by_httpx(load: Load) -> int:
    limits = httpx.Limits(max_connections=load.workers, max_keepalive_connections=load.workers)
    url, count = load.url + _path(load), 0
    async with httpx.AsyncClient(limits=limits, timeout=60, verify=_context(load) or False) as client:

        async def job() -> None:
            nonlocal count
            params: dict[str, str] | None = {}
            while params is not None:
                response = await client.get(url, params=params)
                response.raise_for_status()
                body = orjson.loads(response.content)
                for _record in body["data"]:
                    count += 1
                cursor = body["meta"]["next"]
                params = {"cursor": cursor} if cursor else None

        await run_workers(load, job)
    return count


def _path(load: Load) -> str:
    return f"events-{load.pages_per_worker}"


def _context(load: Load) -> ssl.SSLContext | None:
    return ssl.create_default_context(cafile=load.certificate) if load.certificate else None


def contender(name: str, read: Callable[[Load], Awaitable[int]]) -> Contender:
    async def measure(load: Load) -> float:
        began = time.process_time()
        count = await read(load)
        cpu = time.process_time() - began
        if count != load.pages * RECORDS:
            raise SystemExit(f"{name}: read {count} records, expected {load.pages * RECORDS}")
        return cpu

    return measure


CONTENDERS = {
    name: contender(name, read)
    for name, read in {
        BASELINE: read_by_aiohttp,
        STREAMS: read_streams,
        SLICES: read_slices,
        RECORDS_OF_SLICES: read_records_of_slices,
        HTTPX: read_by_httpx,
    }.items()
}

if __name__ == "__main__":
    compare(
        __doc__.splitlines()[0] if __doc__ else None,
        "streams",
        CONTENDERS,
        AIMS,
        ("asyncstreams", "msgspec", "aiohttp", "httpx", "orjson", "uvloop"),
        {"loops": ["asyncio"], "schemes": ["http"], "only": [BASELINE, "asyncstreams"]},
    )
