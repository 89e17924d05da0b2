"""The jobs of substreams.py: parents and what belongs to each of them, by streams and by hand.

One job a process. The last line of what it prints is JSON: what the reading took, not the imports. The
loop is uvloop's where UVLOOP=1 says so, and asyncio's own else.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import platform
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from importlib.metadata import version
from operator import itemgetter
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson
from job import peak_mb

from asyncstreams import HttpStream, HttpSubStream, PageNumber, RequestContext, Slice, Source

CHILDREN = ("orders", "visits", "notes")
CONNECTIONS = 100
PAGE_SIZE = 100
BATCH = 1_000
_ID = itemgetter("id")


class Customers(HttpStream):
    """The parents: numbered pages, and the first one tells how many there are."""

    records_path = "data"
    paginator = PageNumber(size=PAGE_SIZE, total_pages="meta.pages")

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(**options)
        self.url_base = url

    def path(self, context: RequestContext) -> str:
        return "customers"


class OfCustomer(HttpSubStream):
    """One request for each parent."""

    records_path = "data"
    parent_fields = ("id",)

    def __init__(self, name: str, customers: Customers) -> None:
        self.name, self.url_base = name, customers.url_base
        super().__init__(customers)

    def path(self, context: RequestContext) -> tuple[Any, ...]:
        return ("customers", context.stream_slice["parent"]["id"], self.name)


class Passed(HttpSubStream):
    """Looks at every parent, in a slice of its own or of `batch`, and asks for nothing."""

    def __init__(
        self, customers: Customers, fields: tuple[str, ...] | None = ("id",), batch: int | None = None
    ) -> None:
        self.url_base, self.parent_fields, self.parent_batch_size = customers.url_base, fields, batch
        super().__init__(customers)
        self.ids = 0

    def path(self, context: RequestContext) -> str:
        raise AssertionError("there is no slice")

    async def stream_slices(self, state: Mapping[str, Any]) -> AsyncGenerator[Slice]:
        async for one in super().stream_slices(state):
            if self.parent_batch_size is None:
                self.ids += one["parent"]["id"]
            else:
                self.ids += sum(map(_ID, one["parents"]))
        for none in ():
            yield none


class InBatches(HttpSubStream):
    """One request for a thousand parents, one after the other: slower than the parent, so that the log grows."""

    records_path = "data"
    parent_fields = ("id",)
    parent_batch_size = BATCH
    max_concurrency = 1

    def __init__(self, customers: Customers) -> None:
        self.url_base = customers.url_base
        super().__init__(customers)
        self.ids = 0

    def path(self, context: RequestContext) -> str:
        self.ids += sum(parent["id"] for parent in context.stream_slice["parents"])
        return "sums"


async def by_streams(url: str, _: str | None) -> Counter[str]:
    customers = Customers(url)
    streams = [customers, *(OfCustomer(name, customers) for name in CHILDREN)]
    return await found_in(Source(streams, max_concurrency=CONNECTIONS))


async def found_in(source: Source, slices: Mapping[str, Any] | None = None) -> Counter[str]:
    found = Counter[str]()
    async with source.pages(slices=slices) as pages:
        async for page in pages:
            found[page.stream] += len(page.records)
            found["ids of " + page.stream] += sum(record["id"] for record in page.records)
    return found


async def by_slices(url: str, _: str | None) -> Counter[str]:
    """The children alone, of parents that are known: what remains are requests and slices."""
    customers = Customers(url)
    count = (await customers.request("customers", params={"per_page": 1})).json()["meta"]["pages"]
    slices = {name: [{"parent": {"id": number}} for number in range(1, count + 1)] for name in CHILDREN}
    return await found_in(
        Source([OfCustomer(name, customers) for name in CHILDREN], max_concurrency=CONNECTIONS), slices
    )


async def by_hand(url: str, _: str | None) -> Counter[str]:
    """Workers and a queue: no retries, no limits, no checks; everything of a page is queued when it has come."""
    found = Counter[str]()
    todo: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def get(name: str, path: str) -> Any:
            async with session.get(url + path) as response:
                response.raise_for_status()
                body = orjson.loads(await response.read())
            _count(found, name, body["data"])
            if name == "customers":
                for request in _of_customers(body["data"]):
                    todo.put_nowait(request)
            return body

        async def worker() -> None:
            while True:
                await get(*await todo.get())
                todo.task_done()

        first = await get(*_page(1))
        for number in range(2, first["meta"]["pages"] + 1):
            todo.put_nowait(_page(number))
        async with asyncio.TaskGroup() as tasks:
            workers = [tasks.create_task(worker()) for _ in range(CONNECTIONS)]
            await todo.join()
            for one in workers:
                one.cancel()
    return found


async def by_protocol(url: str, _: str | None) -> Counter[str]:
    """Callbacks, a parser in C and nothing else: what this machine, the server and one event loop allow."""
    parser_of = importlib.import_module("httptools").HttpResponseParser
    loop, at = asyncio.get_running_loop(), urlsplit(url)
    found = Counter[str]()
    todo = deque([_page(1)])
    idle: list[Connection] = []
    end: asyncio.Future[None] = loop.create_future()

    class Connection(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport: Any = transport

        def connection_lost(self, exc: Exception | None) -> None:
            if not end.done():
                end.set_exception(exc or ConnectionError("the server has closed a connection"))

        def ask(self, name: str, path: str) -> None:
            self.name, self.pieces, self.parser = name, list[bytes](), parser_of(self)
            self.transport.write(f"GET {at.path}{path} HTTP/1.1\r\nHost: {at.netloc}\r\n\r\n".encode())

        def data_received(self, data: bytes) -> None:
            self.parser.feed_data(data)

        def on_body(self, piece: bytes) -> None:
            self.pieces.append(piece)

        def on_message_complete(self) -> None:
            body = orjson.loads(b"".join(self.pieces))
            _count(found, self.name, body["data"])
            if self.name == "customers":
                if found["customers"] == len(body["data"]):  # the first page, which tells how many there are
                    todo.extend(map(_page, range(2, body["meta"]["pages"] + 1)))
                todo.extend(_of_customers(body["data"]))
            idle.append(self)
            begin()

    def begin() -> None:
        while todo and idle:
            idle.pop().ask(*todo.popleft())
        if len(idle) == CONNECTIONS and not end.done():
            end.set_result(None)

    for _number in range(CONNECTIONS):
        _transport, connection = await loop.create_connection(Connection, at.hostname, at.port)
        idle.append(connection)
    begin()
    await end
    for connection in idle:
        connection.transport.close()
    return found


async def through_log(url: str, folder: str | None) -> Counter[str]:
    """All parents by a child that looks at each of them, and by one that lags behind; `folder` keeps the log."""
    customers = Customers(url)
    customers.use_cache, customers.cache_dir = folder is not None, folder
    passed, in_batches = Passed(customers), InBatches(customers)
    found = Counter[str]()
    async with Source([passed, in_batches]).pages() as pages:
        async for page in pages:
            found[page.stream] += len(page.records)
    if passed.ids != in_batches.ids:
        raise SystemExit("the children do not have the same parents")
    return found + Counter({"ids of customers": passed.ids})


def _page(number: int) -> tuple[str, str]:
    """The request for a page of parents."""
    return "customers", f"customers?page={number}&per_page={PAGE_SIZE}"


def _of_customers(records: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The requests for their children."""
    return [(child, f"customers/{record['id']}/{child}") for record in records for child in CHILDREN]


def _count(found: Counter[str], name: str, records: list[Any]) -> None:
    found[name] += len(records)
    found["ids of " + name] += sum(map(_ID, records))


JOBS: dict[str, Callable[[str, str | None], Awaitable[Counter[str]]]] = {
    "streams": by_streams,
    "slices": by_slices,
    "hand": by_hand,
    "bare": by_protocol,
    "log": through_log,
}


async def measured(job: Callable[[str, str | None], Awaitable[Counter[str]]], url: str, folder: str | None) -> Any:
    wall, cpu = time.perf_counter(), time.process_time()
    found = await job(url, folder)
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "found": found}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("job", choices=JOBS)
    parser.add_argument("url", help="of the API, with the slash at its end")
    parser.add_argument("--folder", help="where parents are kept between runs; they are not without it")
    told = parser.parse_args()
    with_uvloop = os.environ.get("UVLOOP") == "1"
    factory = importlib.import_module("uvloop").new_event_loop if with_uvloop else None
    with asyncio.Runner(loop_factory=factory) as runner:
        figures = runner.run(measured(JOBS[told.job], told.url, told.folder))
    packages = ["asyncstreams", "msgspec", "aiohttp", "orjson", *(["uvloop"] if with_uvloop else [])]
    versions = {"Python": platform.python_version(), **{name: version(name) for name in packages}}
    print(json.dumps({**figures, "peak_mb": peak_mb(), "versions": versions}))


if __name__ == "__main__":
    main()
