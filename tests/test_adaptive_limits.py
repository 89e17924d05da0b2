"""What becomes of a server that tells nothing, and refuses, slows down or falls ill?"""

from __future__ import annotations

import asyncio
import io
import math
from collections.abc import Callable
from random import Random
from statistics import median
from typing import Any

import httpx
import pytest
from fake_api import Api, subclass, slices, collect_pages
from rich.console import Console

from asyncstreams import (
    HostUnavailable,
    HttpStream,
    PartialFailure,
    RequestContext,
    RetryScheduled,
    Source,
    WaitStarted,
)
from asyncstreams.progress import Progress
from asyncstreams.testing import Quota, VirtualClock

DOWN, PACED, PAUSE = "the host to respond again", "the rate learned from refusals", "the API's pause to end"
Fault = Callable[[httpx.Request], httpx.Response]


class Records(HttpStream):
    """A page of one record for each slice, with all defaults."""

    url_base = "https://api.test/"

    def path(self, context: RequestContext) -> Any:
        return (self.name, str(context.stream_slice.get("at", 0)))


def well(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json=[{"id": request.url.path}])


class Refusing(Api):
    """A token bucket that tells nothing but, where it is given, a Retry-After."""

    def __init__(
        self, clock: VirtualClock, quota: Quota, retry_after: str | None = None, seconds: float = 0.05
    ) -> None:
        meter, self.refused = quota.new_meter(), 0
        headers = {} if retry_after is None else {"Retry-After": retry_after}

        def answer(request: httpx.Request) -> httpx.Response:
            if meter.admit(clock.monotonic()).allowed:
                return well(request)
            self.refused += 1
            return httpx.Response(429, headers=headers)

        super().__init__(answer, seconds=seconds)


def refusing_once(retry_after: str | None = "30") -> Api:
    left = [httpx.Response(429, headers={} if retry_after is None else {"Retry-After": retry_after})]
    return Api(lambda request: left.pop() if left else well(request), seconds=0.05)


class Queueing(Api):
    """Answers so many a second, and everything beyond that ever later."""

    def __init__(self, rate: float) -> None:
        free_at, self.waits = 0.0, list[float]()

        def seconds(request: httpx.Request) -> float:
            nonlocal free_at
            now = asyncio.get_running_loop().time()
            free_at = max(free_at, now) + 1 / rate
            self.waits.append(0.05 + free_at - now)
            return self.waits[-1]

        super().__init__(well, seconds)


def sick(request: httpx.Request) -> httpx.Response:
    return httpx.Response(500)


def unavailable(request: httpx.Request) -> httpx.Response:
    return httpx.Response(503)


def unreachable(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("All connection attempts failed")


class Outage(Api):
    """Fails from one moment to another, in virtual seconds."""

    def __init__(
        self, clock: VirtualClock, begin: float, end: float, fault: Fault = sick, seconds: float = 0.2
    ) -> None:
        self.clock, self.begin, self.end = clock, begin, end
        clock.monotonic()
        self._offset = asyncio.get_running_loop().time() - clock.monotonic()
        super().__init__(lambda request: (fault if begin <= clock.monotonic() < end else well)(request), seconds)

    def during(self) -> int:
        return sum(self.begin <= time - self._offset < self.end - 0.2 for time in self.times)

    def first_after(self) -> float:
        return min(time - self._offset for time in self.times if time - self._offset > self.end) - self.end


@pytest.mark.parametrize("retry_after", ["1", None])
async def test_a_server_that_refuses_teaches_its_rate(virtual_clock: VirtualClock, retry_after: str | None) -> None:
    api = Refusing(virtual_clock, Quota(200, burst=50), retry_after)

    found = await Records(transport=api, clock=virtual_clock, seed=1).read(slices=slices(range(6000)))

    assert len({record["id"] for record in found}) == 6000
    assert api.refused < 6000 * 0.02
    assert virtual_clock.monotonic() < (6000 - 50) / 200 * 1.25


@pytest.mark.parametrize("seed", range(6))
async def test_while_a_rate_is_taught_pages_come_at_half_of_it(virtual_clock: VirtualClock, seed: int) -> None:
    api = Refusing(virtual_clock, Quota(200, per=1, burst=20, headers="none"), seconds=0.005)
    stream = Records(transport=api, clock=virtual_clock, seed=seed)

    records = await stream.read(slices=[{"at": number} for number in range(400)])

    assert len(records) == 400
    assert 0 < api.refused < 60
    assert virtual_clock.monotonic() < 400 / 200 * 1.7 + 1


async def test_a_server_that_answers_ever_more_slowly_is_not_pressed(virtual_clock: VirtualClock) -> None:
    api = Queueing(200)
    stream = Records(transport=api, clock=virtual_clock, max_concurrency=200)

    await stream.read(slices=slices(range(6000)))

    assert median(api.waits) < 0.15
    assert sorted(api.waits)[5940] < 0.4
    assert virtual_clock.monotonic() < 6000 / 200 * 1.2


async def test_answers_that_take_unlike_times_whatever_the_load_do_not_slow_it_down(
    virtual_clock: VirtualClock,
) -> None:
    random = Random(1)
    api = Api(well, seconds=lambda request: random.uniform(0.02, 0.14))

    await Records(transport=api, clock=virtual_clock).read(slices=slices(range(4000)))

    assert virtual_clock.monotonic() < 4000 * 0.08 / 32 * 2


async def test_whoever_knows_better_presses_it_at_once(virtual_clock: VirtualClock) -> None:
    api = Queueing(200)
    stream = Records(transport=api, clock=virtual_clock, max_concurrency=200, adaptive=False)

    await stream.read(slices=slices(range(6000)))

    assert api.peak_in_flight == 200
    assert median(api.waits) > 0.8


def sent_until(api: Api, seconds: float) -> int:
    return sum(time - api.request_times[0] < seconds for time in api.request_times)


async def test_it_begins_with_few_requests_and_finds_out_how_many_are_borne(virtual_clock: VirtualClock) -> None:
    api = Api(well, seconds=1)

    await Records(transport=api, clock=virtual_clock, max_concurrency=64).read(slices=slices(range(1000)))

    assert sent_until(api, 0.9) == 1
    assert 2 <= sent_until(api, 1.9) - 1 <= 5
    assert api.peak_in_flight == 64
    assert virtual_clock.monotonic() < 1000 / 64 + 8


@pytest.mark.parametrize("where", ["class", "stream", "source"])
async def test_without_adaptive_all_go_at_once(virtual_clock: VirtualClock, where: str) -> None:
    api = Api(well, seconds=1)
    kind = subclass(Records, adaptive=False) if where == "class" else Records
    stream = kind(transport=api, clock=virtual_clock, **{"adaptive": False} if where == "stream" else {})
    given = slices(range(100))

    if where == "source":
        await Source([stream], adaptive=False).read(slices={"records": given})
    else:
        await stream.read(slices=given)

    assert sent_until(api, 0.9) == 1
    assert sent_until(api, 1.9) == 33


@pytest.mark.parametrize(
    ("fault", "most", "adaptive"),
    [
        (sick, 32, True),
        (sick, 32, False),
        (unreachable, 32, True),
        (sick, 8, True),
        (unavailable, 4, True),
        (unavailable, 1, True),
        (unreachable, 1, True),
    ],
)
async def test_no_slice_fails_in_an_outage_and_it_goes_on_soon_after(
    virtual_clock: VirtualClock, fault: Fault, most: int, adaptive: bool
) -> None:
    api = Outage(virtual_clock, 10, 70, fault)
    stream = Records(transport=api, clock=virtual_clock, seed=1, adaptive=adaptive, max_concurrency=most)

    found = await stream.read(slices=slices(range(100 * most)))

    assert len({record["id"] for record in found}) == 100 * most
    assert 0 < api.during() <= 200
    assert api.first_after() < 6
    assert virtual_clock.monotonic() < 60 + 100 * 0.2 + 20


@pytest.mark.parametrize("fault", [sick, unreachable])
async def test_an_outage_beyond_the_patience_ends_it_and_says_how_long_it_was(
    virtual_clock: VirtualClock, fault: Fault
) -> None:
    api = Outage(virtual_clock, 5, math.inf, fault)
    stream = subclass(Records, outage_timeout=120)(transport=api, clock=virtual_clock, seed=1)

    with pytest.raises(HostUnavailable, match=r"for 1[23]\d s") as caught:
        await stream.read(slices=slices(range(4000)))

    assert "outage_timeout" in str(caught.value.hint)
    assert 125 < virtual_clock.monotonic() < 150
    assert len(api.request_times) - sent_until(api, 5) <= 200


async def down(source: Source, name: str, clock: VirtualClock) -> asyncio.Task[Any]:
    """A reading that has found its host to be down."""
    is_down = asyncio.Event()
    source.subscribe(lambda event: is_down.set() if isinstance(event, WaitStarted) and event.reason == DOWN else None)
    reading = asyncio.create_task(source.read(slices={name: slices(range(500))}))
    await is_down.wait()
    return reading


@pytest.mark.parametrize("after", [0.1, 1.5, 3.0, 7.0, 15.0])
async def test_whoever_leaves_in_an_outage_leaves_a_source_that_serves_later(
    virtual_clock: VirtualClock, after: float
) -> None:
    api = Outage(virtual_clock, 0, 60, seconds=2.0)

    async with Source([Records(transport=api)], clock=virtual_clock, seed=1) as source:
        reading = await down(source, "records", virtual_clock)
        await asyncio.sleep(after)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert (api.in_flight, virtual_clock.monotonic() < 60) == (0, True)
        await asyncio.sleep(61 - virtual_clock.monotonic())
        async with asyncio.timeout(60):
            found = await source.read(slices={"records": slices(range(40))})

    assert len(found["records"]) == 40


async def test_whoever_leaves_while_others_wait_does_not_take_the_probe_with_him(virtual_clock: VirtualClock) -> None:
    api = Outage(virtual_clock, 0, 60, seconds=2.0)

    async with Source([Records(transport=api)], clock=virtual_clock, seed=1) as source:
        leaving = await down(source, "records", virtual_clock)
        staying = asyncio.create_task(source.read(slices={"records": slices(range(40))}))
        await asyncio.sleep(2.5)
        assert api.in_flight == 1
        leaving.cancel()
        found = await staying

    assert len(found["records"]) == 40
    assert virtual_clock.monotonic() < 60 + 30


async def test_whoever_leaves_in_a_pause_leaves_a_source_that_serves_after_it(virtual_clock: VirtualClock) -> None:
    api = refusing_once()

    async with Source([Records(transport=api)], clock=virtual_clock) as source:
        reading = asyncio.create_task(source.read(slices={"records": slices(range(40))}))
        await asyncio.sleep(10)
        reading.cancel()
        found = await source.read(slices={"records": slices(range(40))})

    assert len(found["records"]) == 40
    assert api.request_times[1] - api.request_times[0] >= 30
    assert virtual_clock.monotonic() < 40


async def test_the_outage_of_one_origin_does_not_hold_back_a_stream_of_another(virtual_clock: VirtualClock) -> None:
    api, other = Outage(virtual_clock, 2, 300, unreachable), Api(well, seconds=0.2)
    streams = [
        subclass(Records, name="ill")(transport=api),
        subclass(Records, name="well", url_base="https://other.test/")(transport=other),
    ]

    found = await Source(streams, clock=virtual_clock, seed=1).read(
        slices={"ill": slices(range(2000)), "well": slices(range(2000))}
    )

    assert {name: len(records) for name, records in found.items()} == {"ill": 2000, "well": 2000}
    assert other.times[-1] - other.times[0] < 40
    assert virtual_clock.monotonic() > 300


@pytest.mark.parametrize("retry_after", [None, "1"])
async def test_one_refusal_at_first_does_not_slow_it_down_for_long(
    virtual_clock: VirtualClock, retry_after: str | None
) -> None:
    api = refusing_once(retry_after)

    await Records(transport=api, clock=virtual_clock, seed=1).read(slices=slices(range(5000)))

    assert len(api.request_times) == 5001
    assert virtual_clock.monotonic() < 5000 * 0.05 / 32 + 15


@pytest.mark.parametrize(
    ("make", "reason", "looked_at"),
    [
        pytest.param(lambda clock: refusing_once(), PAUSE, 10, id="pause"),
        pytest.param(lambda clock: Outage(clock, 0, 60), DOWN, 40, id="outage"),
        pytest.param(lambda clock: Refusing(clock, Quota(5, burst=20), "1"), PACED, 20, id="pace"),
    ],
)
async def test_what_is_waited_for_is_told_explained_and_shown(
    virtual_clock: VirtualClock, make: Callable[[VirtualClock], Api], reason: str, looked_at: float
) -> None:
    heard: list[Any] = []
    stream = Records(transport=make(virtual_clock), clock=virtual_clock, seed=1)
    stream.subscribe(heard.append)
    console = Console(file=io.StringIO(), width=200)
    reading = stream.pages(slices=slices(range(400)))

    with Progress(stream, console=console, clock=virtual_clock) as progress:
        async with reading as pages:
            taking = asyncio.create_task(anext_for_ever(pages))
            await asyncio.sleep(looked_at)
            text = reading.explain()
            console.print(progress.table())
            taking.cancel()
            await asyncio.wait([taking])

    told = [event for event in heard if isinstance(event, WaitStarted)]
    assert reason in {event.reason for event in told}
    assert len(told) < 100
    assert any(isinstance(event, RetryScheduled) for event in heard)
    assert reason in text
    # At a pace pages come all the time, and it is read.
    assert ("reading" if reason == PACED else f"s: {reason}") in console.file.getvalue()


async def anext_for_ever(pages: Any) -> None:
    async for _ in pages:
        pass


async def test_a_wait_in_an_outage_is_told_in_seconds(virtual_clock: VirtualClock) -> None:
    heard: list[Any] = []
    stream = Records(transport=Outage(virtual_clock, 0.5, 30), clock=virtual_clock, seed=1)
    stream.subscribe(heard.append)

    await collect_pages(stream.pages(slices=slices(range(80))))

    waits = [event.seconds for event in heard if isinstance(event, WaitStarted) and event.reason == DOWN]
    assert waits
    assert all(0 < seconds < math.inf for seconds in waits)


@pytest.mark.parametrize(("status", "seconds"), [(500, 30), (503, 180)])
async def test_a_page_that_is_broken_fails_in_time_though_it_is_the_last(
    virtual_clock: VirtualClock, status: int, seconds: float
) -> None:
    api = Api(lambda request: httpx.Response(status) if request.url.path.endswith("/9") else well(request))
    reading = Records(transport=api, clock=virtual_clock, seed=1).pages(slices=slices(range(10)))

    found, error = await collect_pages(reading, PartialFailure)

    assert (len(found), [one.status for one in error.errors]) == (9, [status])
    assert virtual_clock.monotonic() < seconds
