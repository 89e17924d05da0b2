"""Declared rate limits: kept in every window and used in full."""

from __future__ import annotations

import asyncio
import math
import signal
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import httpx
import pytest
from fake_api import Api, Items, NamedItems, Responder, collect_pages, page_key, paged_api, slices, subclass

from asyncstreams import (
    ConfigError,
    PageNumber,
    RateLimit,
    Source,
    TokenAuthenticator,
    WaitStarted,
)
from asyncstreams.testing import VirtualClock


def max_within(seconds: float, times: list[float]) -> int:
    """The largest number of requests in any half-open span of `seconds`."""
    return max(bisect_left(times, begin + seconds) - n for n, begin in enumerate(times))


def gaps(times: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(times)]


def span(times: list[float]) -> float:
    return times[-1] - times[0]


def failing_at_first(answer: Responder, every: int) -> Responder:
    """`answer`, but the first try of every `every`-th page is a 500."""
    attempts: Counter[str] = Counter()

    def sometimes(request: httpx.Request) -> httpx.Response:
        attempts[page_key(request)] += 1
        fails = attempts[page_key(request)] == 1 and len(attempts) % every == 0
        return httpx.Response(500) if fails else answer(request)

    return sometimes


def api_with_total(count: int) -> Responder:
    """`count` pages that report their total, so that they are fetched concurrently."""

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"items": [{"id": page_key(request)}], "pages": count})

    return answer


def times_of_stream(name: str, api: Api) -> list[float]:
    return [time for asked, time in zip(api.requested, api.request_times, strict=True) if asked.startswith(f"{name}/")]


async def test_retries_count_against_the_limit(virtual_clock: VirtualClock) -> None:
    api = Api(failing_at_first(paged_api(1), every=5), latency=0.2)
    stream = subclass(Items, rate_limit=RateLimit(100, per=60), max_tries=5)(api, virtual_clock)

    records = await stream.read(slices=slices(range(250)))

    assert len(records) == 250
    assert len(api.request_times) == 300
    assert max_within(60, api.request_times) == 100
    assert 120 <= span(api.request_times) < 120 * 1.01 + 1


async def test_concurrent_pages_keep_the_limit(virtual_clock: VirtualClock) -> None:
    api = Api(failing_at_first(api_with_total(90), every=9), latency=0.5)
    stream = subclass(
        Items,
        paginator=PageNumber(start=0, total_pages="pages"),
        rate_limit=RateLimit(20, per=10),
        max_tries=5,
    )(api, virtual_clock)

    records = await stream.read(slices=slices("a"))

    assert len(records) == 90
    assert api.peak_in_flight > 10
    assert max_within(10, api.request_times) == 20


async def test_several_limits_hold_together(virtual_clock: VirtualClock) -> None:
    api = Api(paged_api(1), latency=0.05)
    stream = subclass(Items, rate_limit=[RateLimit(10, per=1), RateLimit(50, per=60)])(api, virtual_clock)

    await stream.read(slices=slices(range(120)))

    assert max_within(1, api.request_times) == 10
    assert max_within(60, api.request_times) == 50
    assert 120 <= span(api.request_times) < 124


@pytest.mark.parametrize("smooth", [False, True])
async def test_limit_works_with_large_loop_time_and_virtual_clock(virtual_clock: VirtualClock, smooth: bool) -> None:
    loop: Any = asyncio.get_running_loop()
    loop.time = lambda: 1e7

    for rate in (7, 30):
        api = Api(paged_api(1), latency=0.3)
        stream = subclass(Items, rate_limit=RateLimit(10 * rate, per=10, smooth=smooth))(api, virtual_clock)
        reading = asyncio.create_task(stream.read(slices=slices(range(20 * rate + 1))))
        loop.add_signal_handler(signal.SIGALRM, reading.cancel)
        signal.alarm(5)
        await asyncio.wait([reading])
        signal.alarm(0)

        assert not reading.cancelled(), "busy loop for 5 s"
        assert 20 <= span(api.request_times) < 22


@pytest.mark.parametrize(
    "cost",
    [1.0, 4.0],
)
async def test_smooth_limit_spaces_requests_evenly(virtual_clock: VirtualClock, cost: float) -> None:
    api = Api(failing_at_first(paged_api(1), every=5), latency=0.05)
    limit = RateLimit(20 * cost, per=1, smooth=True)
    stream = subclass(Items, rate_limit=limit, rate_limit_cost=cost, max_tries=5)(api, virtual_clock)

    await stream.read(slices=slices(range(25)))

    assert len(api.request_times) == 30
    # A late request does not delay the next one; no request is early.
    early = [began - api.request_times[0] - number * 0.05 for number, began in enumerate(api.request_times)]
    assert min(early) > -0.05 * 0.2
    assert 29 * 0.05 * 0.98 < span(api.request_times) < 29 * 0.05 * 1.02 + 1


@pytest.mark.parametrize(("cost", "max_requests"), [(5, 20), (0.5, 200), (30, 3), (100, 1), (250, 1)])
async def test_request_takes_its_cost_of_the_limit(virtual_clock: VirtualClock, cost: float, max_requests: int) -> None:
    api = Api(paged_api(1), latency=0.05)
    stream = subclass(Items, rate_limit=RateLimit(100, per=60), rate_limit_cost=cost)(api, virtual_clock)

    await stream.read(slices=slices(range(2 * max_requests + 1)))

    assert max_within(60, api.request_times) == max_requests
    assert 120 <= span(api.request_times) < 125


async def test_wait_for_the_limit_does_not_count_as_page_time(
    virtual_clock: VirtualClock,
) -> None:
    api = Api(failing_at_first(paged_api(1), every=2))
    stream = subclass(Items, rate_limit=RateLimit(1, per=5000), max_tries=2)(api, virtual_clock, seed=1)

    await stream.read(slices=slices(range(4)))

    assert span(api.request_times) >= 5 * 5000


TWENTY = RateLimit(20, per=60)


async def read_both(clock: VirtualClock, one: dict[str, Any], other: dict[str, Any]) -> tuple[Api, float]:
    """Read two streams of twenty slices each. Returns the API and the seconds."""
    api = Api(paged_api(1), latency=0.1)
    kinds = subclass(NamedItems, **{"rate_limit": TWENTY} | one), subclass(NamedItems, **{"rate_limit": TWENTY} | other)
    streams = [kind(name, api, clock) for kind, name in zip(kinds, ("one", "other"), strict=True)]
    await Source(streams).read(slices={name: slices(range(20)) for name in ("one", "other")})
    return api, clock.monotonic()


async def test_streams_with_equal_limits_share_them(virtual_clock: VirtualClock) -> None:
    token = TokenAuthenticator("a")

    api, seconds = await read_both(
        virtual_clock,
        {"authenticator": token, "quota_group": "x"},
        {"authenticator": token, "quota_group": "x", "rate_limit": [RateLimit(20.0, 60.0)]},
    )

    assert len(api.request_times) == 40
    assert max_within(60, api.request_times) == 20
    assert seconds > 60


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param({}, {"quota_group": "search"}, id="label"),
        pytest.param({}, {"authenticator": TokenAuthenticator("b")}, id="with-credential"),
        pytest.param(
            {"authenticator": TokenAuthenticator("a")}, {"authenticator": TokenAuthenticator("b")}, id="credential"
        ),
        pytest.param({}, {"url_base": "https://other.test/"}, id="host"),
        pytest.param({}, {"url_base": "https://api.test:8443/"}, id="port"),
        pytest.param({}, {"rate_limit": RateLimit(20, per=59)}, id="another-limit"),
    ],
)
async def test_other_quotas_have_their_own_limit(
    virtual_clock: VirtualClock, one: dict[str, Any], other: dict[str, Any]
) -> None:
    api, seconds = await read_both(virtual_clock, one, other)

    assert len(api.request_times) == 40
    assert seconds < 10


@pytest.mark.parametrize("weight", [1, 3])
async def test_limit_is_shared_by_weight_not_by_slices(virtual_clock: VirtualClock, weight: float) -> None:
    api = Api(paged_api(1), latency=0.1)
    kind = subclass(NamedItems, rate_limit=RateLimit(20, per=10))
    small, large = kind("small", api, virtual_clock), subclass(kind, weight=weight)("large", api, virtual_clock)

    input_slices = {"small": slices(range(300)), "large": slices(range(30_000))}
    async with Source([small, large]).pages(slices=input_slices) as pages:
        async for _ in pages:
            if virtual_clock.monotonic() > 200:
                break

    assert len(times_of_stream("large", api)) == pytest.approx(weight * len(times_of_stream("small", api)), rel=0.25)


async def test_requests_count_in_the_next_read_of_an_open_source(virtual_clock: VirtualClock) -> None:
    api = Api(paged_api(1), latency=0.1)
    source = Source([subclass(NamedItems, rate_limit=TWENTY)("one", api, virtual_clock)])

    async with source:
        for _ in range(3):
            await source.read(slices={"one": slices(range(15))})

    assert len(api.request_times) == 45
    assert max_within(60, api.request_times) == 20


async def test_cancelled_waiter_uses_none_of_the_limit(virtual_clock: VirtualClock) -> None:
    api = Api(paged_api(1), latency=0.1)
    source = Source([subclass(NamedItems, rate_limit=TWENTY)("one", api, virtual_clock)], max_concurrency=40)

    async with source:
        reading = asyncio.create_task(source.read(slices={"one": slices(range(100))}))
        await asyncio.sleep(30)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        asked = len(api.request_times)
        await asyncio.sleep(40)
        again = asyncio.create_task(source.read(slices={"one": slices(range(20))}))
        await asyncio.sleep(5)

    assert asked == 20
    assert again.done()
    assert len(again.result()["one"]) == 20


async def test_source_limit_applies_to_streams_without_their_own(
    virtual_clock: VirtualClock,
) -> None:
    api = Api(paged_api(1), latency=0.1)
    streams = [NamedItems("one", api, virtual_clock), NamedItems("two", api, virtual_clock)]
    own = subclass(NamedItems, rate_limit=RateLimit(1))("own", api, virtual_clock, rate_limit=RateLimit(1000))

    names = ("one", "two", "own")
    await Source([*streams, own], rate_limit=TWENTY).read(slices={name: slices(range(15)) for name in names})

    assert max_within(60, sorted([*times_of_stream("one", api), *times_of_stream("two", api)])) == 20
    assert span(times_of_stream("own", api)) < 5


@pytest.mark.parametrize("value", [5, 0.5, "100/60", [RateLimit(5), "10 per second"], [5], True, {"n": 5}])
async def test_invalid_limit_is_rejected_with_an_example(virtual_clock: VirtualClock, value: Any) -> None:
    api = Api(paged_api(1))

    with pytest.raises(ConfigError, match=r"rate_limit.*RateLimit") as as_attribute:
        await subclass(Items, rate_limit=value)(api, virtual_clock).read()
    with pytest.raises(ConfigError, match=r"rate_limit.*RateLimit"):
        await Items(api, virtual_clock, rate_limit=value).read()

    assert "RateLimit(100, per=60)" in str(as_attribute.value)
    assert api.requested == []


@pytest.mark.parametrize(
    "make_limit",
    [
        lambda: RateLimit(0),
        lambda: RateLimit(-5, per=60),
        lambda: RateLimit(10, per=0),
        lambda: RateLimit(math.nan),
        lambda: RateLimit(math.inf),
        lambda: RateLimit(10, per=math.inf),
    ],
)
def test_zero_negative_or_infinite_limit_is_rejected(make_limit: Callable[[], RateLimit]) -> None:
    with pytest.raises(ConfigError, match=r"RateLimit\(.*above 0"):
        make_limit()


@pytest.mark.parametrize("name", ["rate_limit_cost", "outage_timeout"])
@pytest.mark.parametrize("value", [0, -1, "5", None, math.nan])
async def test_rate_limit_cost_and_outage_timeout_must_be_above_0(
    virtual_clock: VirtualClock, name: str, value: Any
) -> None:
    api = Api(paged_api(1))

    with pytest.raises(ConfigError, match=rf"Items\.{name}.*above 0"):
        await subclass(Items, **{name: value})(api, virtual_clock).read()

    assert api.requested == []


async def test_wait_for_the_limit_is_reported_once_and_explained(virtual_clock: VirtualClock) -> None:
    api = Api(paged_api(1), latency=0.1)
    events: list[Any] = []
    stream = subclass(Items, rate_limit=TWENTY)(api, virtual_clock)
    stream.subscribe(events.append)

    reading = stream.pages(slices=slices(range(60)))
    reading_task = asyncio.create_task(collect_pages(reading))
    await asyncio.sleep(30)
    text = reading.explain()
    await reading_task

    waits = [event for event in events if isinstance(event, WaitStarted)]
    assert "the declared rate_limit" in text
    assert {event.reason for event in waits} == {"the declared rate_limit"}
    assert 55 < waits[0].seconds < 62
    assert len(waits) <= 4
