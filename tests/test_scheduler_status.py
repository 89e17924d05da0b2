"""What a run tells of itself: why it waits, how it was cut off, and what it decodes meanwhile."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from fake_api import Api, Items, NamedItems, subclass, slices, paged_api

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


async def explained_after(reading, seconds):
    """What the reading says of itself so long after its first request."""
    async with reading as pages:

        async def take() -> None:
            async for _ in pages:
                pass

        taking = asyncio.create_task(take())
        await asyncio.sleep(seconds)
        text = reading.explain()
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
    return text


async def test_it_explains_that_it_waits_for_another_try(virtual_clock):
    stream = subclass(Items, max_tries=5, backoff=Backoff(base=1e6, cap=1e6), max_time=1e9)
    api = Api(paged_api(1, items_0=500))

    text = await explained_after(stream(api, virtual_clock).pages(), 10)

    assert "1 request waits for the next try, " in text


async def test_it_explains_that_it_waits_for_the_gate_and_for_how_long(virtual_clock):
    answer = paged_api(1)

    def refuse_some(request: httpx.Request) -> httpx.Response:
        return answer(request) if request.url.path == "/a" else httpx.Response(429, headers={"Retry-After": "60"})

    reading = Items(Api(refuse_some), virtual_clock).pages(slices=slices("abcd"))

    text = await explained_after(reading, 12)

    assert "3 requests wait for the API's pause to end, " in text
    assert 45 < float(text.rpartition(" s more")[0].rpartition(" ")[2]) < 65


async def test_a_pause_that_many_wait_for_is_told_once(virtual_clock):
    answer = paged_api(1)
    refused: set[str] = set()

    def refuse_once(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/a" or request.url.path in refused:
            return answer(request)
        refused.add(request.url.path)
        return httpx.Response(429, headers={"Retry-After": "60"})

    heard: list[object] = []
    stream = Items(Api(refuse_once), virtual_clock)
    stream.subscribe(heard.append)

    found = await stream.read(slices=slices("abcdefgh"))

    assert len(found) == 8
    assert [type(event) for event in heard].count(WaitStarted) == 1


async def test_slices_that_are_cut_off_are_told_in_the_order_in_which_they_began(virtual_clock):
    heard: list[object] = []
    api = Api(paged_api(3), seconds=lambda request: 1 if request.url.path.endswith("/0") else 1000)
    source = Source([NamedItems(name, api, virtual_clock) for name in NAMES])
    source.subscribe(heard.append)

    async with source.pages(slices={name: slices(range(4)) for name in NAMES}) as pages:
        for _ in range(15):
            await anext(pages)
        await asyncio.sleep(10)

    cut_off = {name: [] for name in NAMES}
    for event in heard:
        if isinstance(event, SliceFinished) and event.error is not None:
            cut_off[event.stream].append(event.stream_slice["at"])
    assert list(cut_off.values()) == [[1, 2, 3]] * 5
    assert [event.stream for event in heard if isinstance(event, StreamFinished)] == NAMES


@pytest.mark.parametrize("side_by_side", ["slices", "pages"])
async def test_pages_that_nobody_takes_wait_undecoded(virtual_clock, side_by_side):
    decoded = 0

    class Watched(Items):
        paginator = PageNumber(start=0, total_pages="pages") if side_by_side == "pages" else None

        def parse_response(self, response, context):
            nonlocal decoded
            decoded += 1
            return [dict(record) for record in response.json()["items"]]

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"items": [{"id": str(request.url)}], "pages": 30})

    api = Api(answer, seconds=0.1)
    stream = Watched(api, virtual_clock)

    async with stream.pages(slices=slices(range(30)) if side_by_side == "slices" else slices("a")) as pages:
        await anext(pages)
        await asyncio.sleep(100)
        asked, seen = len(api.requested), decoded
        rest = [page async for page in pages]

    assert asked >= 20
    assert seen <= 6
    assert len(rest) == 29
    assert decoded == 30


async def test_answers_that_come_together_are_decoded_one_after_the_other_as_they_are_taken(virtual_clock):
    """Over many readings: each consumer has its page before the next one is decoded."""
    log: list[str] = []

    class Watched(Items):
        paginator = None

        def parse_response(self, response, context):
            log.append("decoded")
            return response.json()["items"]

    async def read(stream: Items) -> None:
        async with stream.pages() as pages:
            while await anext(pages, None) is not None:
                log.append("taken")

    api = Api(paged_api(1))
    async with asyncio.TaskGroup() as tasks:
        for _ in range(50):
            tasks.create_task(read(Watched(api, virtual_clock)))

    assert log.count("taken") == log.count("decoded") == 50
    ahead = [log[:n].count("decoded") - log[:n].count("taken") for n in range(len(log))]
    assert max(ahead) <= 2


async def test_leaving_hears_a_token_request_out_but_no_longer_than_ten_seconds(virtual_clock):
    asked = asyncio.Event()

    async def never(request: httpx.Request) -> httpx.Response:
        asked.set()
        await asyncio.sleep(200)
        raise AssertionError("nobody waits so long")

    auth = Oauth2Authenticator("https://api.test/token", client_id="id", client_secret="secret")
    stream = subclass(Items, paginator=None)(httpx.MockTransport(never), virtual_clock, authenticator=auth)
    reading = asyncio.create_task(stream.read())
    await asked.wait()

    left = virtual_clock.monotonic()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading

    assert 9 < virtual_clock.monotonic() - left < 11
