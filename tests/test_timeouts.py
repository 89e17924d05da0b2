"""Timeouts of slow servers and long bodies, in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from asyncstreams import HttpStream, StallTimeout, StreamReport, Timeouts, ndjson
from asyncstreams.testing import VirtualClock

LINE = b'{"id": 1, "name": "ab"}\n'


class SlowBody(httpx.AsyncByteStream):
    """A body of `count` lines, one every `interval` seconds."""

    def __init__(self, count: int, interval: float) -> None:
        self.count, self.interval = count, interval

    async def __aiter__(self):
        for _ in range(self.count):
            await asyncio.sleep(self.interval)
            yield LINE


def slow_transport(count: int, interval: float) -> httpx.MockTransport:
    return httpx.MockTransport(lambda request: httpx.Response(200, stream=SlowBody(count, interval)))


class Buffered(HttpStream):
    url_base = "https://api.example.com/"
    max_tries = 1

    def path(self, context):
        return "lines"

    def parse_response(self, response, context):
        return [{"line": line} for line in response.text.splitlines()]


class Streamed(Buffered):
    async def parse_response(self, response, context):
        async for record in ndjson(response):
            yield record


@pytest.mark.parametrize("kind", [Buffered, Streamed])
async def test_body_below_min_rate_for_30_s_is_a_stall(kind, virtual_clock):
    stream = kind(transport=slow_transport(count=1000, interval=1), clock=virtual_clock)

    with pytest.raises(StallTimeout, match=r"Timeouts\(min_rate="):
        await stream.read()

    assert 30 <= virtual_clock.monotonic() < 40


@pytest.mark.parametrize("kind", [Buffered, Streamed])
async def test_min_rate_of_0_allows_a_slow_body(kind, virtual_clock):
    stream = kind(transport=slow_transport(count=60, interval=1), clock=virtual_clock, timeouts=Timeouts(min_rate=0))

    assert len(await stream.read()) == 60


@pytest.mark.parametrize("kind", [Buffered, Streamed])
async def test_body_that_pauses_beyond_read_is_a_stall(kind, virtual_clock):
    stream = kind(transport=slow_transport(count=2, interval=31), clock=virtual_clock)

    with pytest.raises(StallTimeout, match=r"sent nothing for 30 s within the body"):
        await stream.read()


async def test_buffered_body_is_limited_by_total(virtual_clock):
    stream = Buffered(
        transport=slow_transport(count=400, interval=1), clock=virtual_clock, timeouts=Timeouts(min_rate=0)
    )

    with pytest.raises(StallTimeout, match=r"Timeouts\(total="):
        await stream.read()

    assert virtual_clock.monotonic() == pytest.approx(300, abs=1)


async def test_streamed_body_is_not_limited_by_total(virtual_clock):
    stream = Streamed(
        transport=slow_transport(count=400, interval=25), clock=virtual_clock, timeouts=Timeouts(min_rate=0)
    )

    assert len(await stream.read()) == 400
    assert virtual_clock.monotonic() > 9_000


async def test_time_of_a_slow_consumer_is_not_counted(virtual_clock):
    stream = Streamed(transport=slow_transport(count=3000, interval=0), clock=virtual_clock)
    count = 0

    async with stream.pages() as pages:
        async for page in pages:
            await virtual_clock.sleep(3600)
            count += len(page.records)

    assert count == 3000


async def test_silent_server_stalls_after_connect_plus_first_byte(virtual_clock):
    async def silent(request):
        await asyncio.sleep(10_000)

    stream = Buffered(transport=httpx.MockTransport(silent), clock=virtual_clock)

    with pytest.raises(StallTimeout, match=r"Timeouts\(first_byte="):
        await stream.read()

    assert virtual_clock.monotonic() == pytest.approx(70, abs=1)


async def test_timeout_of_the_caller_is_not_a_stall(virtual_clock):
    stream = Buffered(transport=slow_transport(count=1000, interval=1), clock=virtual_clock)
    virtual_clock.monotonic()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await stream.read()

    assert asyncio.current_task().cancelling() == 0


async def test_stall_leaves_no_pending_cancellation(virtual_clock):
    stream = Buffered(transport=slow_transport(count=2, interval=31), clock=virtual_clock)

    with pytest.raises(StallTimeout):
        await stream.read()

    await asyncio.sleep(1)
    assert asyncio.current_task().cancelling() == 0


class Numbered(HttpStream):
    """One page for each of `count` slices."""

    url_base = "https://api.example.com/"
    single_page = True
    max_concurrency = 1
    timeouts = Timeouts(connect=0.01)  # a mock does not say when it is connected
    count = 80

    def stream_slices(self, state: Any) -> Any:
        return [{"number": number} for number in range(self.count)]

    def path(self, context: Any) -> str:
        return f"items/{context.stream_slice['number']}"

    def parse_response(self, response: Any, context: Any) -> Any:
        return [{"id": context.stream_slice["number"]}]


def uneven_transport(seconds: float, silent: dict[str, list[float]]) -> httpx.MockTransport:
    """Responds after `seconds`; `silent` has other times for the tries of single paths."""

    async def respond(request: httpx.Request) -> httpx.Response:
        own = silent.get(request.url.path)
        await asyncio.sleep(own.pop(0) if own else seconds)
        return httpx.Response(200, json={})

    return httpx.MockTransport(respond)


async def seconds_and_report(stream: HttpStream, clock: VirtualClock) -> tuple[float, StreamReport]:
    began = clock.monotonic()
    async with stream.pages() as pages:
        async for _ in pages:
            pass
    return clock.monotonic() - began, pages.report.streams[0]


@pytest.mark.parametrize(("seconds", "limit"), [(0.1, 1.0), (0.5, 2.5)])
async def test_first_try_ends_early_where_others_were_fast(virtual_clock, seconds, limit):
    transport = uneven_transport(seconds, {"/items/60": [1_000.0]})

    took, report = await seconds_and_report(Numbered(transport=transport, clock=virtual_clock, seed=1), virtual_clock)

    assert 80 * seconds + limit <= took <= 80 * seconds + limit + 1.1  # with the backoff
    assert (report.records, report.early_timeouts) == (80, 1)


async def test_later_tries_have_the_full_limit(virtual_clock):
    transport = uneven_transport(0.1, {"/items/60": [50.0, 50.0]})

    took, report = await seconds_and_report(Numbered(transport=transport, clock=virtual_clock), virtual_clock)

    assert took > 50
    assert (report.records, report.early_timeouts) == (80, 1)


async def test_first_fifty_responses_have_the_full_limit(virtual_clock):
    transport = uneven_transport(0.1, {"/items/40": [50.0]})

    _, report = await seconds_and_report(Numbered(transport=transport, clock=virtual_clock), virtual_clock)

    assert report.early_timeouts == 0


@pytest.mark.parametrize("option", [{"adaptive_timeouts": False}, {"idempotent": False}, {"max_tries": 1}], ids=str)
async def test_first_try_has_the_full_limit_with(virtual_clock, option):
    transport = uneven_transport(0.1, {"/items/60": [50.0]})
    stream = type("Own", (Numbered,), option)(transport=transport, clock=virtual_clock)

    took, report = await seconds_and_report(stream, virtual_clock)

    assert took > 50
    assert (report.records, report.early_timeouts) == (80, 0)


async def test_early_end_of_a_try_does_not_lower_concurrency(virtual_clock):
    silent = {f"/items/{number}": [1_000.0] for number in range(100, 400, 20)}
    stream = type("Own", (Numbered,), {"count": 400, "max_concurrency": 20})(
        transport=uneven_transport(0.1, silent), clock=virtual_clock
    )

    took, report = await seconds_and_report(stream, virtual_clock)

    assert report.early_timeouts == len(range(100, 400, 20))
    assert took < 8  # one after the other the silent ones would take 15 s, and the others 40
