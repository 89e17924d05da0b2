"""The jobs of substreams.py: parents and their children, read by streams and by hand-written scripts.

Each process runs one job. The last line of its output is JSON with the measurement, without the imports.
UVLOOP=1 selects uvloop instead of the event loop of asyncio.
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
from aiohttp_script import Api
from job import peak_mb

from asyncstreams import HttpStream, HttpSubStream, PageNumber, RequestContext, Slice, Source

CHILDREN = ("orders", "visits", "notes")
CONNECTIONS = 100
PAGE_SIZE = 100
BATCH_SIZE = 1_000
_get_id = itemgetter("id")


class Customers(HttpStream):
    """The parents, in numbered pages. The first page has the number of pages."""

    records_path = "data"
    paginator = PageNumber(size=PAGE_SIZE, total_pages="meta.pages")

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(**options)
        self.url_base = url

    def path(self, context: RequestContext) -> str:
        return "customers"


class CustomerChild(HttpSubStream):
    """A child with one request for each parent."""

    records_path = "data"
    parent_fields = ("id",)

    def __init__(self, name: str, customers: Customers) -> None:
        self.name, self.url_base = name, customers.url_base
        super().__init__(customers)

    def path(self, context: RequestContext) -> tuple[Any, ...]:
        return ("customers", context.stream_slice["parent"]["id"], self.name)


class ParentCounter(HttpSubStream):
    """Sums the ids of all parents, in slices of one or of `batch` parents, and sends no requests."""

    def __init__(
        self, customers: Customers, fields: tuple[str, ...] | None = ("id",), batch: int | None = None
    ) -> None:
        self.url_base, self.parent_fields, self.parent_batch_size = customers.url_base, fields, batch
        super().__init__(customers)
        self.ids = 0

    def path(self, context: RequestContext) -> str:
        raise AssertionError("this stream has no slices")

    async def stream_slices(self, state: Mapping[str, Any]) -> AsyncGenerator[Slice]:
        async for slice_ in super().stream_slices(state):
            if self.parent_batch_size is None:
                self.ids += slice_["parent"]["id"]
            else:
                self.ids += sum(map(_get_id, slice_["parents"]))
        for empty in ():
            yield empty


class BatchedChild(HttpSubStream):
    """One request for 1,000 parents, without concurrency. It is slower than the parent, so the parent log grows."""

    records_path = "data"
    parent_fields = ("id",)
    parent_batch_size = BATCH_SIZE
    max_concurrency = 1

    def __init__(self, customers: Customers) -> None:
        self.url_base = customers.url_base
        super().__init__(customers)
        self.ids = 0

    def path(self, context: RequestContext) -> str:
        self.ids += sum(parent["id"] for parent in context.stream_slice["parents"])
        return "sums"


async def read_by_streams(url: str, _: str | None) -> Counter[str]:
    customers = Customers(url)
    streams = [customers, *(CustomerChild(name, customers) for name in CHILDREN)]
    return await count_records(Source(streams, max_concurrency=CONNECTIONS))


async def count_records(source: Source, slices: Mapping[str, Any] | None = None) -> Counter[str]:
    found = Counter[str]()
    async with source.pages(slices=slices) as pages:
        async for page in pages:
            found[page.stream] += len(page.records)
            found["ids of " + page.stream] += sum(record["id"] for record in page.records)
    return found


async def read_by_slices(url: str, _: str | None) -> Counter[str]:
    """Only the children, of given parents: this measures requests and slices without the parent stream."""
    customers = Customers(url)
    count = (await customers.request("customers", params={"per_page": 1})).json()["meta"]["pages"]
    slices = {name: [{"parent": {"id": number}} for number in range(1, count + 1)] for name in CHILDREN}
    return await count_records(
        Source([CustomerChild(name, customers) for name in CHILDREN], max_concurrency=CONNECTIONS), slices
    )


async def read_by_workers(url: str, _: str | None) -> Counter[str]:
    """Workers and a queue, without limits and checks. Each page of parents queues its children."""
    found = Counter[str]()
    todo: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        api = Api(session)

        async def get(name: str, path: str) -> Any:
            body = await api.fetch(url + path)
            _add_counts(found, name, body["data"])
            if name == "customers":
                for request in _child_requests(body["data"]):
                    todo.put_nowait(request)
            return body

        async def worker() -> None:
            while True:
                await get(*await todo.get())
                todo.task_done()

        first = await get(*_page_request(1))
        for number in range(2, first["meta"]["pages"] + 1):
            todo.put_nowait(_page_request(number))
        async with asyncio.TaskGroup() as tasks:
            workers = [tasks.create_task(worker()) for _ in range(CONNECTIONS)]
            await todo.join()
            for task in workers:
                task.cancel()
    return found


async def read_by_protocol(url: str, _: str | None) -> Counter[str]:
    """Protocol callbacks and a parser in C: the limit of this machine, the server and one event loop."""
    parser_of = importlib.import_module("httptools").HttpResponseParser
    loop, at = asyncio.get_running_loop(), urlsplit(url)
    found = Counter[str]()
    todo = deque([_page_request(1)])
    idle: list[Connection] = []
    end: asyncio.Future[None] = loop.create_future()

    class Connection(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport: Any = transport

        def connection_lost(self, exc: Exception | None) -> None:
            if not end.done():
                end.set_exception(exc or ConnectionError("the server closed a connection"))

        def send_request(self, name: str, path: str) -> None:
            self.name, self.pieces, self.parser = name, list[bytes](), parser_of(self)
            self.transport.write(f"GET {at.path}{path} HTTP/1.1\r\nHost: {at.netloc}\r\n\r\n".encode())

        def data_received(self, data: bytes) -> None:
            self.parser.feed_data(data)

        def on_body(self, piece: bytes) -> None:
            self.pieces.append(piece)

        def on_message_complete(self) -> None:
            body = orjson.loads(b"".join(self.pieces))
            _add_counts(found, self.name, body["data"])
            if self.name == "customers":
                if found["customers"] == len(body["data"]):  # this is the first page
                    todo.extend(map(_page_request, range(2, body["meta"]["pages"] + 1)))
                todo.extend(_child_requests(body["data"]))
            idle.append(self)
            send_requests()

    def send_requests() -> None:
        while todo and idle:
            idle.pop().send_request(*todo.popleft())
        if len(idle) == CONNECTIONS and not end.done():
            end.set_result(None)

    for _number in range(CONNECTIONS):
        _transport, connection = await loop.create_connection(Connection, at.hostname, at.port)
        idle.append(connection)
    send_requests()
    await end
    for connection in idle:
        connection.transport.close()
    return found


async def read_through_log(url: str, folder: str | None) -> Counter[str]:
    """All parents, read by a child that counts them and by a slower one. `folder` caches the parent log."""
    customers = Customers(url)
    customers.use_cache, customers.cache_dir = folder is not None, folder
    counter, batched = ParentCounter(customers), BatchedChild(customers)
    found = Counter[str]()
    async with Source([counter, batched]).pages() as pages:
        async for page in pages:
            found[page.stream] += len(page.records)
    if counter.ids != batched.ids:
        raise SystemExit("the children did not get the same parents")
    return found + Counter({"ids of customers": counter.ids})


def _page_request(number: int) -> tuple[str, str]:
    """The stream name and path of a page of parents."""
    return "customers", f"customers?page={number}&per_page={PAGE_SIZE}"


def _child_requests(records: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The stream names and paths of the children of parent records."""
    return [(child, f"customers/{record['id']}/{child}") for record in records for child in CHILDREN]


def _add_counts(found: Counter[str], name: str, records: list[Any]) -> None:
    found[name] += len(records)
    found["ids of " + name] += sum(map(_get_id, records))


JOBS: dict[str, Callable[[str, str | None], Awaitable[Counter[str]]]] = {
    "streams": read_by_streams,
    "slices": read_by_slices,
    "workers": read_by_workers,
    "protocol": read_by_protocol,
    "log": read_through_log,
}


async def measure(job: Callable[[str, str | None], Awaitable[Counter[str]]], url: str, folder: str | None) -> Any:
    wall, cpu = time.perf_counter(), time.process_time()
    found = await job(url, folder)
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "found": found}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("job", choices=JOBS)
    parser.add_argument("url", help="base URL of the API, with a slash at the end")
    parser.add_argument("--folder", help="folder of the parent cache (default: no cache)")
    args = parser.parse_args()
    with_uvloop = os.environ.get("UVLOOP") == "1"
    factory = importlib.import_module("uvloop").new_event_loop if with_uvloop else None
    with asyncio.Runner(loop_factory=factory) as runner:
        measurement = runner.run(measure(JOBS[args.job], args.url, args.folder))
    packages = ["asyncstreams", "msgspec", "aiohttp", "orjson", *(["uvloop"] if with_uvloop else [])]
    versions = {"Python": platform.python_version(), **{name: version(name) for name in packages}}
    print(json.dumps({**measurement, "peak_mb": peak_mb(), "versions": versions}))


if __name__ == "__main__":
    main()
