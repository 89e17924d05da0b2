"""Reads from servers without reported limits that refuse, slow down or fail."""

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
from fake_api import Api, collect_pages, slices, subclass
from rich.console import Console
from simulation import sample

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
from asyncstreams.rate_limits.wait_reason import WaitReason
from asyncstreams.testing import Quota, VirtualClock

Fault = Callable[[httpx.Request], httpx.Response]


class Records(HttpStream):
    """A page of one record for each slice, with all defaults."""

    url_base = "https://api.test/"

    def path(self, context: RequestContext) -> Any:
        return (self.name, str(context.stream_slice.get("at", 0)))


def respond_ok(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json=[{"id": request.url.path}])


class TokenBucketApi(Api):
    """A token bucket that reports no quota, only an optional Retry-After."""

    def __init__(
        self, clock: VirtualClock, quota: Quota, retry_after: str | None = None, latency: float = 0.05
    ) -> None:
        meter, self.refused = quota.new_meter(), 0
        headers = {} if retry_after is None else {"Retry-After": retry_after}

        def answer(request: httpx.Request) -> httpx.Response:
            if meter.admit(clock.monotonic()).allowed:
                return respond_ok(request)
            self.refused += 1
            return httpx.Response(429, headers=headers)

        super().__init__(answer, latency)


def api_refusing_once(retry_after: str | None = "30") -> Api:
    responses = [httpx.Response(429, headers={} if retry_after is None else {"Retry-After": retry_after})]
    return Api(lambda request: responses.pop() if responses else respond_ok(request), latency=0.05)


class QueueingApi(Api):
    """Serves `rate` requests a second; excess requests wait in a queue."""

    def __init__(self, rate: float) -> None:
        free_at, self.waits = 0.0, list[float]()

        def latency(request: httpx.Request) -> float:
            nonlocal free_at
            now = asyncio.get_running_loop().time()
            free_at = max(free_at, now) + 1 / rate
            self.waits.append(0.05 + free_at - now)
            return self.waits[-1]

        super().__init__(respond_ok, latency)


def respond_500(request: httpx.Request) -> httpx.Response:
    return httpx.Response(500)


def respond_503(request: httpx.Request) -> httpx.Response:
    return httpx.Response(503)


def refuse_connection(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("All connection attempts failed")


class OutageApi(Api):
    """Fails from `begin` to `end`, in virtual seconds."""

    def __init__(
        self, clock: VirtualClock, begin: float, end: float, fault: Fault = respond_500, latency: float = 0.2
    ) -> None:
        self.clock, self.begin, self.end = clock, begin, end
        clock.monotonic()
        self._offset = asyncio.get_running_loop().time() - clock.monotonic()
        super().__init__(lambda request: (fault if begin <= clock.monotonic() < end else respond_ok)(request), latency)

    def requests_during(self) -> int:
        return sum(self.begin <= time - self._offset < self.end - 0.2 for time in self.request_times)

    def seconds_to_first_after(self) -> float:
        return min(time - self._offset for time in self.request_times if time - self._offset > self.end) - self.end


@pytest.mark.parametrize("retry_after", ["1", None])
async def test_rate_is_learned_from_refusals(virtual_clock: VirtualClock, retry_after: str | None) -> None:
    api = TokenBucketApi(virtual_clock, Quota(200, burst=50), retry_after)

    records = await Records(transport=api, clock=virtual_clock, seed=1).read(slices=slices(range(6000)))

    assert len({record["id"] for record in records}) == 6000
    assert api.refused < 6000 * 0.02
    assert virtual_clock.monotonic() < (6000 - 50) / 200 * 1.25


@pytest.mark.simulation
@pytest.mark.parametrize("seed", range(sample(full=6, short=1)))
async def test_learning_costs_at_most_half_of_the_rate(virtual_clock: VirtualClock, seed: int) -> None:
    api = TokenBucketApi(virtual_clock, Quota(200, per=1, burst=20, headers="none"), latency=0.005)
    stream = Records(transport=api, clock=virtual_clock, seed=seed)

    records = await stream.read(slices=[{"at": number} for number in range(400)])

    assert len(records) == 400
    assert 0 < api.refused < 60
    assert virtual_clock.monotonic() < 400 / 200 * 1.7 + 1


async def test_queueing_server_is_not_overloaded(virtual_clock: VirtualClock) -> None:
    api = QueueingApi(200)
    stream = Records(transport=api, clock=virtual_clock, max_concurrency=200)

    await stream.read(slices=slices(range(6000)))

    assert median(api.waits) < 0.15
    assert sorted(api.waits)[5940] < 0.4
    assert virtual_clock.monotonic() < 6000 / 200 * 1.2


async def test_latency_that_varies_without_load_does_not_slow_down(
    virtual_clock: VirtualClock,
) -> None:
    random = Random(1)
    api = Api(respond_ok, latency=lambda request: random.uniform(0.02, 0.14))

    await Records(transport=api, clock=virtual_clock).read(slices=slices(range(4000)))

    assert virtual_clock.monotonic() < 4000 * 0.08 / 32 * 2


async def test_non_adaptive_stream_uses_max_concurrency(virtual_clock: VirtualClock) -> None:
    api = QueueingApi(200)
    stream = Records(transport=api, clock=virtual_clock, max_concurrency=200, adaptive=False)

    await stream.read(slices=slices(range(6000)))

    assert api.peak_in_flight == 200
    assert median(api.waits) > 0.8


def sent_until(api: Api, seconds: float) -> int:
    return sum(time - api.request_times[0] < seconds for time in api.request_times)


async def test_concurrency_grows_from_a_few_requests_to_the_limit(virtual_clock: VirtualClock) -> None:
    api = Api(respond_ok, latency=1)

    await Records(transport=api, clock=virtual_clock, max_concurrency=64).read(slices=slices(range(1000)))

    assert sent_until(api, 0.9) == 1
    assert 2 <= sent_until(api, 1.9) - 1 <= 5
    assert api.peak_in_flight == 64
    assert virtual_clock.monotonic() < 1000 / 64 + 8


@pytest.mark.parametrize("where", ["class", "stream", "source"])
async def test_adaptive_false_sends_all_at_once(virtual_clock: VirtualClock, where: str) -> None:
    api = Api(respond_ok, latency=1)
    stream_class = subclass(Records, adaptive=False) if where == "class" else Records
    stream = stream_class(transport=api, clock=virtual_clock, **{"adaptive": False} if where == "stream" else {})
    input_slices = slices(range(100))

    if where == "source":
        await Source([stream], adaptive=False).read(slices={"records": input_slices})
    else:
        await stream.read(slices=input_slices)

    assert sent_until(api, 0.9) == 1
    assert sent_until(api, 1.9) == 33


@pytest.mark.parametrize(
    ("fault", "max_concurrency", "adaptive"),
    [
        (respond_500, 32, True),
        (respond_500, 32, False),
        (refuse_connection, 32, True),
        (respond_500, 8, True),
        (respond_503, 4, True),
        (respond_503, 1, True),
        (refuse_connection, 1, True),
    ],
)
async def test_no_slice_fails_in_an_outage_and_reading_resumes(
    virtual_clock: VirtualClock, fault: Fault, max_concurrency: int, adaptive: bool
) -> None:
    api = OutageApi(virtual_clock, 10, 70, fault)
    stream = Records(transport=api, clock=virtual_clock, seed=1, adaptive=adaptive, max_concurrency=max_concurrency)

    records = await stream.read(slices=slices(range(100 * max_concurrency)))

    assert len({record["id"] for record in records}) == 100 * max_concurrency
    assert 0 < api.requests_during() <= 200
    assert api.seconds_to_first_after() < 6
    assert virtual_clock.monotonic() < 60 + 100 * 0.2 + 20


@pytest.mark.parametrize("fault", [respond_500, refuse_connection])
async def test_outage_beyond_outage_timeout_raises_host_unavailable(virtual_clock: VirtualClock, fault: Fault) -> None:
    api = OutageApi(virtual_clock, 5, math.inf, fault)
    stream = subclass(Records, outage_timeout=120)(transport=api, clock=virtual_clock, seed=1)

    with pytest.raises(HostUnavailable, match=r"for 1[23]\d s") as caught:
        await stream.read(slices=slices(range(4000)))

    assert "outage_timeout" in str(caught.value.hint)
    assert 125 < virtual_clock.monotonic() < 150
    assert len(api.request_times) - sent_until(api, 5) <= 200


async def reading_in_outage(source: Source, name: str, clock: VirtualClock) -> asyncio.Task[Any]:
    """A task that reads, once it has found its host to be down."""
    is_down = asyncio.Event()
    source.subscribe(
        lambda event: is_down.set() if isinstance(event, WaitStarted) and event.reason == WaitReason.HOST_DOWN else None
    )
    reading = asyncio.create_task(source.read(slices={name: slices(range(500))}))
    await is_down.wait()
    return reading


@pytest.mark.parametrize("after", [0.1, 1.5, 3.0, 7.0, 15.0])
async def test_source_works_after_read_cancelled_in_an_outage(virtual_clock: VirtualClock, after: float) -> None:
    api = OutageApi(virtual_clock, 0, 60, latency=2.0)

    async with Source([Records(transport=api)], clock=virtual_clock, seed=1) as source:
        reading = await reading_in_outage(source, "records", virtual_clock)
        await asyncio.sleep(after)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert (api.in_flight, virtual_clock.monotonic() < 60) == (0, True)
        await asyncio.sleep(61 - virtual_clock.monotonic())
        async with asyncio.timeout(60):
            records = await source.read(slices={"records": slices(range(40))})

    assert len(records["records"]) == 40


async def test_cancelled_read_does_not_lose_the_probe(virtual_clock: VirtualClock) -> None:
    api = OutageApi(virtual_clock, 0, 60, latency=2.0)

    async with Source([Records(transport=api)], clock=virtual_clock, seed=1) as source:
        cancelled = await reading_in_outage(source, "records", virtual_clock)
        other = asyncio.create_task(source.read(slices={"records": slices(range(40))}))
        await asyncio.sleep(2.5)
        assert api.in_flight == 1
        cancelled.cancel()
        records = await other

    assert len(records["records"]) == 40
    assert virtual_clock.monotonic() < 60 + 30


async def test_source_works_after_read_cancelled_in_a_pause(virtual_clock: VirtualClock) -> None:
    api = api_refusing_once()

    async with Source([Records(transport=api)], clock=virtual_clock) as source:
        reading = asyncio.create_task(source.read(slices={"records": slices(range(40))}))
        await asyncio.sleep(10)
        reading.cancel()
        records = await source.read(slices={"records": slices(range(40))})

    assert len(records["records"]) == 40
    assert api.request_times[1] - api.request_times[0] >= 30
    assert virtual_clock.monotonic() < 40


async def test_outage_of_one_origin_does_not_delay_another(virtual_clock: VirtualClock) -> None:
    api, other = OutageApi(virtual_clock, 2, 300, refuse_connection), Api(respond_ok, latency=0.2)
    streams = [
        subclass(Records, name="failing")(transport=api),
        subclass(Records, name="healthy", url_base="https://other.test/")(transport=other),
    ]

    by_stream = await Source(streams, clock=virtual_clock, seed=1).read(
        slices={"failing": slices(range(2000)), "healthy": slices(range(2000))}
    )

    assert {name: len(records) for name, records in by_stream.items()} == {"failing": 2000, "healthy": 2000}
    assert other.request_times[-1] - other.request_times[0] < 40
    assert virtual_clock.monotonic() > 300


@pytest.mark.parametrize("retry_after", [None, "1"])
async def test_single_initial_refusal_does_not_slow_down_for_long(
    virtual_clock: VirtualClock, retry_after: str | None
) -> None:
    api = api_refusing_once(retry_after)

    await Records(transport=api, clock=virtual_clock, seed=1).read(slices=slices(range(5000)))

    assert len(api.request_times) == 5001
    assert virtual_clock.monotonic() < 5000 * 0.05 / 32 + 15


@pytest.mark.parametrize(
    ("make", "reason", "seconds"),
    [
        pytest.param(lambda clock: api_refusing_once(), "the API's pause to end", 10, id="pause"),
        pytest.param(lambda clock: OutageApi(clock, 0, 60), "the host to respond again", 40, id="outage"),
        pytest.param(
            lambda clock: TokenBucketApi(clock, Quota(5, burst=20), "1"),
            "the rate learned from refusals",
            40,
            id="pace",
        ),
    ],
)
async def test_waits_are_in_events_explain_and_progress(
    virtual_clock: VirtualClock, make: Callable[[VirtualClock], Api], reason: str, seconds: float
) -> None:
    events: list[Any] = []
    stream = Records(transport=make(virtual_clock), clock=virtual_clock, seed=1)
    stream.subscribe(events.append)
    console = Console(file=io.StringIO(), width=200)
    reading = stream.pages(slices=slices(range(400)))

    with Progress(stream, console=console, clock=virtual_clock) as progress:
        async with reading as pages:
            reading_task = asyncio.create_task(drain(pages))
            await asyncio.sleep(seconds)
            text = reading.explain()
            console.print(progress.table())
            reading_task.cancel()
            await asyncio.wait([reading_task])

    waits = [event for event in events if isinstance(event, WaitStarted)]
    assert reason in {event.reason for event in waits}
    assert len(waits) < 100
    assert any(isinstance(event, RetryScheduled) for event in events)
    assert reason in text
    # With an adaptive rate pages keep arriving, so the status is "reading".
    assert ("reading" if reason == WaitReason.ADAPTIVE_RATE else f"s for {reason}") in console.file.getvalue()


async def drain(pages: Any) -> None:
    async for _ in pages:
        pass


async def test_wait_in_an_outage_reports_seconds(virtual_clock: VirtualClock) -> None:
    events: list[Any] = []
    stream = Records(transport=OutageApi(virtual_clock, 0.5, 30), clock=virtual_clock, seed=1)
    stream.subscribe(events.append)

    await collect_pages(stream.pages(slices=slices(range(80))))

    waits = [
        event.seconds for event in events if isinstance(event, WaitStarted) and event.reason == WaitReason.HOST_DOWN
    ]
    assert waits
    assert all(0 < seconds < math.inf for seconds in waits)


@pytest.mark.parametrize(("status", "seconds"), [(500, 30), (503, 180)])
async def test_last_page_that_keeps_failing_fails_in_time(
    virtual_clock: VirtualClock, status: int, seconds: float
) -> None:
    api = Api(lambda request: httpx.Response(status) if request.url.path.endswith("/9") else respond_ok(request))
    reading = Records(transport=api, clock=virtual_clock, seed=1).pages(slices=slices(range(10)))

    records, error = await collect_pages(reading, PartialFailure)

    assert (len(records), [failure.status for failure in error.errors]) == (9, [status])
    assert virtual_clock.monotonic() < seconds
