"""Status of a run: explained waits, events of cancelled slices, and lazy decoding."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from fake_api import Api, Items, NamedItems, paged_api, slices, subclass

from asyncstreams import (
    Backoff,
    Oauth2Authenticator,
    PageNumber,
    SliceFinished,
    Source,
    StreamFinished,
    WaitStarted,
)

NAMES = ["one", "two", "three", "four", "five"]


async def explain_after(run, seconds):
    """The explanation of a run after some seconds."""
    async with run as pages:

        async def consume() -> None:
            async for _ in pages:
                pass

        consumer = asyncio.create_task(consume())
        await asyncio.sleep(seconds)
        text = run.explain()
        consumer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consumer
    return text


async def test_explain_shows_a_retry_wait(virtual_clock):
    stream = subclass(Items, max_tries=5, backoff=Backoff(base=1e6, cap=1e6), max_time=1e9)
    api = Api(paged_api(1, items_0=500))

    text = await explain_after(stream(api, virtual_clock).pages(), 10)

    assert "1 request waits for the next try, " in text


async def test_explain_shows_a_pause_and_its_remaining_time(virtual_clock):
    answer = paged_api(1)

    def refuse_most(request: httpx.Request) -> httpx.Response:
        return answer(request) if request.url.path == "/a" else httpx.Response(429, headers={"Retry-After": "60"})

    run = Items(Api(refuse_most), virtual_clock).pages(slices=slices("abcd"))

    text = await explain_after(run, 12)

    assert "3 requests wait for the API's pause to end, " in text
    assert 45 < float(text.rpartition(" s more")[0].rpartition(" ")[2]) < 65


async def test_shared_pause_emits_one_event(virtual_clock):
    answer = paged_api(1)
    refused: set[str] = set()

    def refuse_once(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/a" or request.url.path in refused:
            return answer(request)
        refused.add(request.url.path)
        return httpx.Response(429, headers={"Retry-After": "60"})

    events: list[object] = []
    stream = Items(Api(refuse_once), virtual_clock)
    stream.subscribe(events.append)

    found = await stream.read(slices=slices("abcdefgh"))

    assert len(found) == 8
    assert [type(event) for event in events].count(WaitStarted) == 1


async def test_cancelled_slices_are_reported_in_start_order(virtual_clock):
    events: list[object] = []
    api = Api(paged_api(3), latency=lambda request: 1 if request.url.path.endswith("/0") else 1000)
    source = Source([NamedItems(name, api, virtual_clock) for name in NAMES])
    source.subscribe(events.append)

    async with source.pages(slices={name: slices(range(4)) for name in NAMES}) as pages:
        for _ in range(15):
            await anext(pages)
        await asyncio.sleep(10)

    cancelled = {name: [] for name in NAMES}
    for event in events:
        if isinstance(event, SliceFinished) and event.error is not None:
            cancelled[event.stream].append(event.stream_slice["at"])
    assert list(cancelled.values()) == [[1, 2, 3]] * 5
    assert [event.stream for event in events if isinstance(event, StreamFinished)] == NAMES


@pytest.mark.parametrize("concurrent", ["slices", "pages"])
async def test_unconsumed_pages_stay_undecoded(virtual_clock, concurrent):
    decoded = 0

    class DecodingItems(Items):
        paginator = PageNumber(start=0, total_pages="pages") if concurrent == "pages" else None

        def parse_response(self, response, context):
            nonlocal decoded
            decoded += 1
            return [dict(record) for record in response.json()["items"]]

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"items": [{"id": str(request.url)}], "pages": 30})

    api = Api(answer, latency=0.1)
    stream = DecodingItems(api, virtual_clock)

    async with stream.pages(slices=slices(range(30)) if concurrent == "slices" else slices("a")) as pages:
        await anext(pages)
        await asyncio.sleep(100)
        requested, decoded_early = len(api.requested), decoded
        rest = [page async for page in pages]

    assert requested >= 20
    assert decoded_early <= 6
    assert len(rest) == 29
    assert decoded == 30


async def test_simultaneous_responses_are_decoded_one_by_one(virtual_clock):
    """Across many runs, each consumer gets its page before the next page is decoded."""
    log: list[str] = []

    class DecodingItems(Items):
        paginator = None

        def parse_response(self, response, context):
            log.append("decoded")
            return response.json()["items"]

    async def read(stream: Items) -> None:
        async with stream.pages() as pages:
            while await anext(pages, None) is not None:
                log.append("consumed")

    api = Api(paged_api(1))
    async with asyncio.TaskGroup() as tasks:
        for _ in range(50):
            tasks.create_task(read(DecodingItems(api, virtual_clock)))

    assert log.count("consumed") == log.count("decoded") == 50
    ahead = [log[:n].count("decoded") - log[:n].count("consumed") for n in range(len(log))]
    assert max(ahead) <= 2


async def test_cancelled_token_request_ends_within_ten_seconds(virtual_clock):
    requested = asyncio.Event()

    async def never_respond(request: httpx.Request) -> httpx.Response:
        requested.set()
        await asyncio.sleep(200)
        raise AssertionError("not cancelled in time")

    auth = Oauth2Authenticator("https://api.test/token", client_id="id", client_secret="secret")
    stream = subclass(Items, paginator=None)(httpx.MockTransport(never_respond), virtual_clock, authenticator=auth)
    run = asyncio.create_task(stream.read())
    await requested.wait()

    cancelled_at = virtual_clock.monotonic()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run

    assert 9 < virtual_clock.monotonic() - cancelled_at < 11
