"""What is left of a storm of cancelled requests over real sockets, and do those who are cut off end in one order?"""

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
from fake_api import slices, real_timeout

from asyncstreams import HttpStream, Request, RequestContext, Send, Source
from asyncstreams.testing import MockApi, Resource

CANCELLED = int(os.environ.get("ASYNCSTREAMS_STORM", "2000"))
"""Requests that are cancelled in all; the storm of 20,000 takes half a minute."""
MOST = 48
PAGES = 3


@pytest.fixture(autouse=True)
def nothing_is_told() -> Iterator[None]:
    with real_timeout(60 + CANCELLED // 100), warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture(scope="module")
def api() -> Iterator[MockApi]:
    with MockApi(Resource("items", 10 * PAGES), process=True, latency=(0.001, 0.03), seed=1) as served:
        yield served


class Counted(HttpStream):
    """Knows how many of its requests were cancelled on their way."""

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

    async def count(self, request: Request, send: Send) -> httpx.Response:
        try:
            return await send(request)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


def counted(api: MockApi) -> Counted:
    stream = Counted(max_concurrency=MOST)
    stream.url_base = api.url
    stream.middleware = (stream.count,)
    return stream


GIVEN = {"items": slices(range(2 * MOST))}


async def timed_out(source: Source, turn: int) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(0.01 + 0.001 * (turn % 30)):
            await source.read(slices=GIVEN)


async def broken_off(source: Source, turn: int) -> None:
    async with source.pages(slices=GIVEN) as pages:
        left = 1 + turn % 7
        async for _ in pages:
            left -= 1
            if not left:
                break


async def cancelled_from_outside(source: Source, turn: int) -> None:
    reading = asyncio.create_task(source.read(slices=GIVEN))
    await asyncio.sleep(0.01 + 0.001 * (turn % 30))
    reading.cancel()
    with suppress(asyncio.CancelledError):
        await reading


async def all_of_them_together(source: Source, turn: int) -> None:
    async with asyncio.TaskGroup() as tasks:
        for shape in (timed_out, broken_off, cancelled_from_outside):
            tasks.create_task(shape(source, turn))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@asynccontextmanager
async def nothing_left_over() -> AsyncIterator[None]:
    """At the end there are as many descriptors and tasks as at the beginning."""
    await asyncio.sleep(0)
    before, tasks = descriptors(), asyncio.all_tasks()
    yield
    await asyncio.sleep(0)  # a transport that was closed gives its socket back in the next turn
    assert (descriptors(), asyncio.all_tasks()) == (before, tasks)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors are counted in /proc")
@pytest.mark.parametrize("shape", [timed_out, broken_off, cancelled_from_outside, all_of_them_together])
async def test_source_reads_everything_after_many_cancellations(
    api: MockApi, shape: Callable[[Source, int], Awaitable[None]]
) -> None:
    stream = counted(api)
    turn = 0

    async with nothing_left_over():
        before, tasks = descriptors(), asyncio.all_tasks()
        async with Source([stream]) as source:
            while stream.cancelled < CANCELLED // 4:
                await shape(source, turn)
                turn += 1
                assert asyncio.all_tasks() == tasks
                assert descriptors() <= before + 3 * MOST
            async with asyncio.timeout(30):
                found = await source.read(slices=GIVEN)

    ids = sorted(record["id"] for record in found["items"])
    assert ids == sorted(api.ids("items") * 2 * MOST)
    assert turn >= 5


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors are counted in /proc")
async def test_connections_of_cancelled_requests_are_closed(api: MockApi) -> None:
    stream = counted(api)

    async with Source([stream]) as source:
        for turn in range(25, 30):
            await timed_out(source, turn)
        async with asyncio.timeout(10):
            while await asyncio.to_thread(lambda: api.counts.in_flight) > 0:  # noqa: ASYNC110  # another process's
                await asyncio.sleep(0.01)

        assert stream.cancelled > 50
        assert await asyncio.to_thread(lambda: api.counts.open_connections) <= MOST


LEAVER = """
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
    def begun(seed: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", LEAVER]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    running = [begun(seed) for seed in ("0", "1", "2", "random")]
    told = [process.communicate(timeout=60) for process in running]

    assert [process.returncode for process in running] == [0] * 4, told[0][1]
    ways = [part.splitlines() for part in told[0][0].split("way ")[1:]]
    assert [way[0] for way in ways] == ["break", "error", "cancel"]
    for lines in ways:
        assert sum(line.startswith("page ") for line in lines) == 40
        assert sum(" StreamFinished " in line for line in lines) == 6
        assert sum(" SliceFinished " in line and line.endswith("CancelledError") for line in lines) >= 6
    for other, _ in told[1:]:
        assert other.splitlines() == told[0][0].splitlines()
