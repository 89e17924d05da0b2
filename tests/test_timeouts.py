"""Is a server that is too slow given up, and one that is only long not? In virtual time."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from asyncstreams import HttpStream, StallTimeout, Timeouts, ndjson

LINE = b'{"id": 1, "name": "ab"}\n'


class Drip(httpx.AsyncByteStream):
    """A body of `pieces` lines, one every `every` seconds."""

    def __init__(self, pieces: int, every: float) -> None:
        self.pieces, self.every = pieces, every

    async def __aiter__(self):
        for _ in range(self.pieces):
            await asyncio.sleep(self.every)
            yield LINE


def dripping(pieces: int, every: float) -> httpx.MockTransport:
    return httpx.MockTransport(lambda request: httpx.Response(200, stream=Drip(pieces, every)))


class Whole(HttpStream):
    url_base = "https://api.example.com/"
    max_tries = 1

    def path(self, context):
        return "lines"

    def parse_response(self, response, context):
        return [{"line": line} for line in response.text.splitlines()]


class Streamed(Whole):
    async def parse_response(self, response, context):
        async for record in ndjson(response):
            yield record


@pytest.mark.parametrize("kind", [Whole, Streamed])
async def test_a_body_that_trickles_for_half_a_minute_is_given_up(kind, virtual_clock):
    stream = kind(transport=dripping(pieces=1000, every=1), clock=virtual_clock)

    with pytest.raises(StallTimeout, match=r"Timeouts\(min_rate="):
        await stream.read()

    assert 30 <= virtual_clock.monotonic() < 40


@pytest.mark.parametrize("kind", [Whole, Streamed])
async def test_a_min_rate_of_0_lets_a_body_trickle(kind, virtual_clock):
    stream = kind(transport=dripping(pieces=60, every=1), clock=virtual_clock, timeouts=Timeouts(min_rate=0))

    assert len(await stream.read()) == 60


@pytest.mark.parametrize("kind", [Whole, Streamed])
async def test_a_body_that_pauses_is_given_up(kind, virtual_clock):
    stream = kind(transport=dripping(pieces=2, every=31), clock=virtual_clock)

    with pytest.raises(StallTimeout, match=r"stopped in mid-body for 30 s"):
        await stream.read()


async def test_a_whole_body_has_a_limit_in_all(virtual_clock):
    stream = Whole(transport=dripping(pieces=400, every=1), clock=virtual_clock, timeouts=Timeouts(min_rate=0))

    with pytest.raises(StallTimeout, match=r"Timeouts\(total="):
        await stream.read()

    assert virtual_clock.monotonic() == pytest.approx(300, abs=1)


async def test_a_streamed_body_may_take_hours(virtual_clock):
    stream = Streamed(transport=dripping(pieces=400, every=25), clock=virtual_clock, timeouts=Timeouts(min_rate=0))

    assert len(await stream.read()) == 400
    assert virtual_clock.monotonic() > 9_000


async def test_the_time_of_a_slow_consumer_is_not_the_servers(virtual_clock):
    stream = Streamed(transport=dripping(pieces=3000, every=0), clock=virtual_clock)
    found = 0

    async with stream.pages() as pages:
        async for page in pages:
            await virtual_clock.sleep(3600)
            found += len(page.records)

    assert found == 3000


async def test_a_server_that_never_answers_is_given_up_after_connect_and_first_byte(virtual_clock):
    async def silent(request):
        await asyncio.sleep(10_000)

    stream = Whole(transport=httpx.MockTransport(silent), clock=virtual_clock)

    with pytest.raises(StallTimeout, match=r"Timeouts\(first_byte="):
        await stream.read()

    assert virtual_clock.monotonic() == pytest.approx(70, abs=1)


async def test_a_timeout_around_a_reading_is_the_callers_and_not_a_stall(virtual_clock):
    stream = Whole(transport=dripping(pieces=1000, every=1), clock=virtual_clock)
    virtual_clock.monotonic()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await stream.read()

    assert asyncio.current_task().cancelling() == 0


async def test_a_stall_leaves_nothing_of_its_cancellation_behind(virtual_clock):
    stream = Whole(transport=dripping(pieces=2, every=31), clock=virtual_clock)

    with pytest.raises(StallTimeout):
        await stream.read()

    await asyncio.sleep(1)
    assert asyncio.current_task().cancelling() == 0
