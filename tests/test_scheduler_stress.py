"""Many cancelled requests over real sockets: no leaks, and reproducible final events."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
from fake_api import real_timeout, slices

from asyncstreams import HttpStream, Request, RequestContext, Send, Source
from asyncstreams.testing import MockApi, Resource

CANCELLED = int(os.environ.get("ASYNCSTREAMS_STORM", "2000"))
"""Total number of cancelled requests; 20,000 take half a minute."""
MAX_CONCURRENCY = 48
PAGES = 3


@pytest.fixture(autouse=True)
def fail_on_hang_or_warning() -> Iterator[None]:
    with real_timeout(60 + CANCELLED // 100), warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture(scope="module")
def api() -> Iterator[MockApi]:
    with MockApi(Resource("items", 10 * PAGES), process=True, latency=(0.001, 0.03), seed=1) as served:
        yield served


class CountingItems(HttpStream):
    """Counts its cancelled requests."""

    name = "items"
    records_path = "data"
    adaptive = False
    cancelled = 0

    def path(self, context: RequestContext) -> str:
        return "items"

    def request_params(self, context: RequestContext) -> dict[str, Any]:
        return {"slice": context.stream_slice["at"], "page": context.next_page_token or 1, "page_size": 10}

    def next_page_token(self, response: Any, context: RequestContext) -> int | None:
        number = context.next_page_token or 1
        return number + 1 if number < PAGES else None

    async def count_cancelled(self, request: Request, send: Send) -> httpx.Response:
        try:
            return await send(request)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


def counting_stream(api: MockApi) -> CountingItems:
    stream = CountingItems(max_concurrency=MAX_CONCURRENCY)
    stream.url_base = api.url
    stream.middleware = (stream.count_cancelled,)
    return stream


SLICES = {"items": slices(range(2 * MAX_CONCURRENCY))}


async def time_out(source: Source, attempt: int) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(0.01 + 0.001 * (attempt % 30)):
            await source.read(slices=SLICES)


async def break_early(source: Source, attempt: int) -> None:
    async with source.pages(slices=SLICES) as pages:
        remaining = 1 + attempt % 7
        async for _ in pages:
            remaining -= 1
            if not remaining:
                break


async def cancel_task(source: Source, attempt: int) -> None:
    task = asyncio.create_task(source.read(slices=SLICES))
    await asyncio.sleep(0.01 + 0.001 * (attempt % 30))
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def all_together(source: Source, attempt: int) -> None:
    async with asyncio.TaskGroup() as tasks:
        for leave in (time_out, break_early, cancel_task):
            tasks.create_task(leave(source, attempt))


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


@asynccontextmanager
async def no_leaks() -> AsyncIterator[None]:
    """Assert that the block leaves no file descriptor and no task behind."""
    await asyncio.sleep(0)
    before, tasks = open_fds(), asyncio.all_tasks()
    yield
    await asyncio.sleep(0)  # a closed transport releases its socket in the next iteration of the loop
    assert (open_fds(), asyncio.all_tasks()) == (before, tasks)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="file descriptors are counted in /proc")
@pytest.mark.parametrize("leave", [time_out, break_early, cancel_task, all_together])
async def test_source_reads_everything_after_many_cancellations(
    api: MockApi, leave: Callable[[Source, int], Awaitable[None]]
) -> None:
    stream = counting_stream(api)
    attempt = 0

    async with no_leaks():
        before, tasks = open_fds(), asyncio.all_tasks()
        async with Source([stream]) as source:
            while stream.cancelled < CANCELLED // 4:
                await leave(source, attempt)
                attempt += 1
                assert asyncio.all_tasks() == tasks
                assert open_fds() <= before + 3 * MAX_CONCURRENCY
            async with asyncio.timeout(30):
                found = await source.read(slices=SLICES)

    ids = sorted(record["id"] for record in found["items"])
    assert ids == sorted(api.ids("items") * 2 * MAX_CONCURRENCY)
    assert attempt >= 5


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="file descriptors are counted in /proc")
async def test_connections_of_cancelled_requests_are_closed(api: MockApi) -> None:
    stream = counting_stream(api)

    async with Source([stream]) as source:
        for attempt in range(25, 30):
            await time_out(source, attempt)
        async with asyncio.timeout(10):
            while await asyncio.to_thread(lambda: api.counts.in_flight) > 0:  # noqa: ASYNC110  # a counter of another process
                await asyncio.sleep(0.01)

        assert stream.cancelled > 50
        assert await asyncio.to_thread(lambda: api.counts.open_connections) <= MAX_CONCURRENCY


SCRIPT = """
import asyncio

import httpx

from asyncstreams import HttpStream, PageNumber, Source
from asyncstreams.testing import VirtualClock


class Items(HttpStream):
    url_base = "https://api.test/"
    records_path = "items"
    paginator = PageNumber(start=0)

    def __init__(self, name, **options):
        self.name = name
        super().__init__(**options)

    def stream_slices(self, state):
        return ({"at": n} for n in range(9))

    def path(self, context):
        return (self.name, str(context.stream_slice["at"]))


async def answer(request):
    await asyncio.sleep(0.1 + len(request.url.path) % 5)
    if request.url.path.endswith("/3") and request.url.params["page"] == "2":
        return httpx.Response(500)
    return httpx.Response(200, json={"items": [{"id": 1, "page": request.url.params["page"]}]})


async def leave(way, pages):
    seen = 0
    async for page in pages:
        print("page", page.stream, page.stream_slice["at"], page.number)
        seen += 1
        if seen == 40:
            if way == "error":
                raise LookupError
            if way == "cancel":
                asyncio.current_task().cancel()
                await asyncio.sleep(1)
            return


async def main(way):
    clock = VirtualClock()
    clock.monotonic()
    names = ["zeta", "alpha", "mid", "omega", "beta", "kappa"]
    source = Source(
        [Items(name, transport=httpx.MockTransport(answer)) for name in names],
        clock=clock, seed=5, max_concurrency=16,
    )
    source.subscribe(lambda event: print(clock.monotonic(), type(event).__name__, event.stream,
        getattr(event, "stream_slice", ""), getattr(event, "number", ""), getattr(event, "delay", ""),
        type(getattr(event, "error", None)).__name__))
    try:
        async with source.pages() as pages:
            await leave(way, pages)
    except (LookupError, asyncio.CancelledError) as error:
        print(type(error).__name__)


for way in ("break", "error", "cancel"):
    print("way", way)
    asyncio.run(main(way))
"""


def test_same_seed_gives_same_events_on_early_exit() -> None:
    def start_process(seed: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", SCRIPT]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    running = [start_process(seed) for seed in ("0", "1", "2", "random")]
    outputs = [process.communicate(timeout=60) for process in running]

    assert [process.returncode for process in running] == [0] * 4, outputs[0][1]
    parts = [part.splitlines() for part in outputs[0][0].split("way ")[1:]]
    assert [part[0] for part in parts] == ["break", "error", "cancel"]
    for lines in parts:
        assert sum(line.startswith("page ") for line in lines) == 40
        assert sum(" StreamFinished " in line for line in lines) == 6
        assert sum(" SliceFinished " in line and line.endswith("CancelledError") for line in lines) >= 6
    for other, _ in outputs[1:]:
        assert other.splitlines() == outputs[0][0].splitlines()
