"""Is a limit that the API tells of used up and never exceeded, and is a refusal understood?"""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from fake_api import Api, subclass, slices, collect_pages

from asyncstreams import (
    HttpStatusError,
    HttpStream,
    PartialFailure,
    RateLimitWaitTooLong,
    RequestContext,
    RetryScheduled,
    Source,
    StreamUnavailable,
    WaitStarted,
)
from asyncstreams.testing import Quota, VirtualClock

Verdicts = list[tuple[Quota, int, float]]
Dialect = Callable[[Verdicts, float], dict[str, str]]
HOUR = 3600.0


class Records(HttpStream):
    """A page of one record for each slice, with all defaults."""

    url_base = "https://api.test/"

    def path(self, context: RequestContext) -> Any:
        return (self.name, str(context.stream_slice.get("at", 0)))


def http_date(seconds: float) -> str:
    return format_datetime(datetime.fromtimestamp(seconds, UTC), usegmt=True)


def standard(told: Verdicts, wall: float) -> dict[str, str]:
    names = ["burst", "hour", "day"]
    policies = (f'"{name}";q={quota.limit};w={quota.per:g}' for name, (quota, _, _) in zip(names, told, strict=False))
    states = (f'"{name}";r={left};t={math.ceil(reset)}' for name, (_, left, reset) in zip(names, told, strict=False))
    return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(states)}


def three_fields(told: Verdicts, wall: float, prefix: str = "RateLimit") -> dict[str, str]:
    [(quota, left, reset)] = told
    fields = {"Limit": quota.limit, "Remaining": left, "Reset": math.ceil(reset)}
    return {f"{prefix}-{name}": str(value) for name, value in fields.items()}


def epoch(told: Verdicts, wall: float) -> dict[str, str]:
    [(quota, left, reset)] = told
    return three_fields([(quota, left, wall + reset)], wall, "X-RateLimit") | {"Date": http_date(math.floor(wall))}


class Quoted(Api):
    """Enforces quotas in fixed windows, and tells of them on each answer, by a clock that is wrong by `skew`."""

    def __init__(
        self, clock: VirtualClock, dialect: Dialect, *quotas: Quota, skew: float = 0.0, latency: Any = 0.05
    ) -> None:
        self.meters = [quota.new_meter() for quota in quotas]
        self.refused = 0

        def answer(request: httpx.Request) -> httpx.Response:
            verdicts = [meter.admit(clock.monotonic()) for meter in self.meters]
            told = [(quota, one.remaining, one.reset) for quota, one in zip(quotas, verdicts, strict=True)]
            headers = dialect(told, clock.wall() + skew)
            if all(verdict.allowed for verdict in verdicts):
                return httpx.Response(200, json=[{"id": request.url.path}], headers=headers)
            self.refused += 1
            return httpx.Response(429, headers=headers)

        super().__init__(answer, seconds=latency)


def unlike(request: httpx.Request) -> float:
    return 0.02 + int(request.url.path.split("/")[-1]) % 7 / 50


def once(*refusals: httpx.Response, then: dict[str, str] | None = None) -> Api:
    """Answers so at first, one after the other, and well from then on."""
    left = list(refusals)

    def answer(request: httpx.Request) -> httpx.Response:
        return left.pop(0) if left else httpx.Response(200, json=[{"id": request.url.path}], headers=then)

    return Api(answer, seconds=0.1)


TEN = Quota(100, per=10)


@pytest.mark.parametrize("most", [1, 8, 50])
@pytest.mark.parametrize(
    ("dialect", "quotas", "skew", "ideal"),
    [
        pytest.param(standard, [TEN], 0, 90, id="RateLimit"),
        pytest.param(three_fields, [TEN], 0, 90, id="three-fields"),
        pytest.param(epoch, [TEN], 0, 90, id="epoch"),
        pytest.param(epoch, [TEN], 2.5 * HOUR, 90, id="epoch-of-a-clock-that-is-fast"),
        pytest.param(epoch, [TEN], -2.5 * HOUR, 90, id="epoch-of-a-clock-that-is-slow"),
        pytest.param(standard, [Quota(25, per=2), Quota(250, per=60)], 0, 3 * 60 + 18, id="two-windows"),
        pytest.param(standard, [Quota(50, per=1), TEN, Quota(400, per=100)], 0, 2 * 100 + 11, id="three-windows"),
    ],
)
async def test_a_told_quota_is_used_up_and_never_exceeded(
    virtual_clock: VirtualClock, dialect: Dialect, quotas: list[Quota], skew: float, ideal: float, most: int
) -> None:
    api = Quoted(virtual_clock, dialect, *quotas, skew=skew)

    found = await Records(transport=api, clock=virtual_clock, max_concurrency=most).read(slices=slices(range(1000)))

    assert len({record["id"] for record in found}) == 1000
    assert (api.refused, len(api.requested)) == (0, 1000)
    if most == 50:
        # Of points in time whole seconds are told: so much is lost in each window.
        ideal += 9 if dialect is epoch else 0
        assert ideal - 10 <= virtual_clock.monotonic() < ideal * 1.02 + 1


@pytest.mark.parametrize("adaptive", [False, True])
async def test_answers_that_overtake_each_other_do_not_blur_what_is_left(
    virtual_clock: VirtualClock, adaptive: bool
) -> None:
    api = Quoted(virtual_clock, standard, TEN, latency=unlike)
    stream = Records(transport=api, clock=virtual_clock, max_concurrency=50, adaptive=adaptive)

    await stream.read(slices=slices(range(1000)))

    assert (api.refused, len(api.requested)) == (0, 1000)
    assert virtual_clock.monotonic() < 90 * 1.02 + 1


@pytest.mark.parametrize("dialect", [standard, three_fields, epoch])
async def test_what_another_client_takes_of_the_quota_is_noticed(virtual_clock: VirtualClock, dialect: Dialect) -> None:
    api = Quoted(virtual_clock, dialect, TEN)

    async def other_client() -> None:
        while True:
            await asyncio.sleep(0.05)
            api.meters[0].admit(virtual_clock.monotonic())

    foreign = asyncio.create_task(other_client())
    found = await Records(transport=api, clock=virtual_clock, max_concurrency=50).read(slices=slices(range(600)))
    foreign.cancel()

    assert len({record["id"] for record in found}) == 600
    assert api.refused <= 20
    # Now and then one window more is needed, and is waited for.
    assert 60 < virtual_clock.monotonic() < 110


PLACES = pytest.mark.parametrize("most", [1, 32])


@PLACES
async def test_a_reset_beyond_max_server_wait_ends_the_stream_and_tells_when_to_come_back(
    virtual_clock: VirtualClock, most: int
) -> None:
    api = Quoted(virtual_clock, standard, Quota(30, per=2 * HOUR))
    stream = Records(transport=api, clock=virtual_clock, max_concurrency=most)

    found, error = await collect_pages(stream.pages(slices=slices(range(40))), (RateLimitWaitTooLong, PartialFailure))

    assert (len(found), len(api.requested)) == (30, 30)
    assert "2026-01-01 02:00:0" in str(error)
    assert "max_server_wait" in str(error)
    assert virtual_clock.monotonic() < 60


async def test_one_stream_that_may_not_wait_leaves_the_others_of_its_source_alone(virtual_clock: VirtualClock) -> None:
    api = Quoted(virtual_clock, standard, Quota(30, per=2 * HOUR))
    well = once()
    streams = [
        subclass(Records, name="limited")(transport=api),
        subclass(Records, name="free", url_base="https://other.test/")(transport=well),
    ]

    reading = Source(streams, clock=virtual_clock).pages(slices={n: slices(range(50)) for n in ("limited", "free")})
    found, error = await collect_pages(reading, anything=True)

    assert Counter(page.stream for page in found) == {"limited": 30, "free": 50}
    assert "02:00:0" in str(error)


def refused(status: int, body: Any = None, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, headers=named, content=json.dumps(body or {"message": "no"}))


def at_epoch(clock: VirtualClock, seconds: float) -> str:
    return str(math.ceil(clock.wall() + seconds))


def github(clock: VirtualClock, status: int = 403) -> httpx.Response:
    message = {"message": "API rate limit exceeded for user ID 1."}
    reset = at_epoch(clock, 120)
    return refused(status, message, X_RateLimit_Limit="60", X_RateLimit_Remaining="0", X_RateLimit_Reset=reset)


SECONDARY = refused(403, {"message": "You have exceeded a secondary rate limit. Please wait a few minutes."})


@pytest.mark.parametrize(
    ("refusal", "seconds"),
    [
        pytest.param(github, 120, id="403-of-github"),
        pytest.param(lambda clock: SECONDARY, 60, id="secondary-limit"),
        pytest.param(lambda clock: refused(403, Retry_After="90"), 90, id="403-with-retry-after"),
        pytest.param(
            lambda clock: refused(429, X_RateLimit_Remaining="0", X_RateLimit_Reset="40"), 40, id="429-with-reset"
        ),
        pytest.param(lambda clock: github(clock, 429), 120, id="429-with-epoch"),
        pytest.param(
            lambda clock: refused(429, RateLimit_Policy='"a";q=9;w=60', RateLimit='"a";r=0;t=40'), 40, id="429-standard"
        ),
        pytest.param(
            lambda clock: refused(429, Date=http_date(5e8), Retry_After=http_date(5e8 + 70)), 70, id="date-long-ago"
        ),
        pytest.param(
            lambda clock: refused(429, Date=http_date(2e9), Retry_After=http_date(2e9 + 70)), 70, id="date-far-ahead"
        ),
    ],
)
@pytest.mark.parametrize("others", [0, 12])
async def test_a_refusal_by_a_limit_is_waited_for_by_all_and_is_neither_a_failure_nor_a_lack_of_rights(
    virtual_clock: VirtualClock, refusal: Callable[[VirtualClock], httpx.Response], seconds: float, others: int
) -> None:
    api = once(*[httpx.Response(200, json=[])] * others, refusal(virtual_clock))
    stream = subclass(Records, max_tries=1)(transport=api, clock=virtual_clock)

    await stream.read(slices=slices(range(20)))

    assert len(api.requested) == 21
    first_after = min(time for time in api.request_times if time - api.request_times[0] > 10) - api.request_times[0]
    assert seconds - 0.001 <= first_after < seconds * 1.02 + 2.5


async def test_a_plain_403_at_first_is_a_stream_that_is_unavailable(virtual_clock: VirtualClock) -> None:
    api = once(*[refused(403, {"message": "Resource not accessible"})] * 3)

    with pytest.raises(StreamUnavailable, match="permission"):
        await Records(transport=api, clock=virtual_clock).read(slices=slices(range(3)))

    assert len(api.requested) == 1
    assert virtual_clock.monotonic() < 1


async def test_a_plain_403_later_is_a_failure_of_its_slice(virtual_clock: VirtualClock) -> None:
    api = once(httpx.Response(200, json=[]), refused(403, X_RateLimit_Remaining="55", X_RateLimit_Reset="40"))
    reading = Records(transport=api, clock=virtual_clock).pages(slices=slices("ab"), on_error="stop")

    _, error = await collect_pages(reading, HttpStatusError)

    assert (error.status, len(api.requested)) == (403, 2)
    assert virtual_clock.monotonic() < 1


@pytest.mark.parametrize(
    ("status", "told", "is_again"),
    [
        (400, "true", True),
        (409, "true", True),
        (503, "false", False),
        (429, "false", False),
        (400, "perhaps", False),
        (503, "perhaps", True),
    ],
)
async def test_stripe_says_whether_to_try_again(
    virtual_clock: VirtualClock, status: int, told: str, is_again: bool
) -> None:
    api = once(refused(status, Stripe_Should_Retry=told))

    _, error = await collect_pages(Records(transport=api, clock=virtual_clock).pages(), () if is_again else HttpStatusError)

    assert len(api.requested) == 1 + is_again
    assert is_again or error.status == status


@pytest.mark.parametrize("most", [8, 50])
@pytest.mark.parametrize("weight", [1, 3])
async def test_two_streams_share_a_told_quota_by_weight_and_not_by_number_of_slices(
    virtual_clock: VirtualClock, weight: int, most: int
) -> None:
    api = Quoted(virtual_clock, standard, Quota(100, per=10))
    streams = [subclass(Records, name="small")(), subclass(Records, name="large", weight=weight)()]
    source = Source(streams, transport=api, clock=virtual_clock, max_concurrency=most)

    given = {"small": slices(range(1000)), "large": slices(range(100_000))}
    async with source.pages(slices=given) as pages:
        async for _ in pages:
            if virtual_clock.monotonic() > 145:
                break

    asked = Counter(path.split("/")[0] for path in api.requested)
    assert api.refused == 0
    assert sum(asked.values()) >= 1400
    assert asked["large"] == pytest.approx(weight * asked["small"], rel=0.15)


@PLACES
async def test_a_wait_for_the_quota_is_told_and_explained(virtual_clock: VirtualClock, most: int) -> None:
    heard: list[Any] = []
    api = Quoted(virtual_clock, standard, Quota(20, per=60))
    stream = Records(transport=api, clock=virtual_clock, max_concurrency=most)
    stream.subscribe(heard.append)

    reading = stream.pages(slices=slices(range(40)))
    taking = asyncio.create_task(collect_pages(reading))
    await asyncio.sleep(30)
    text = reading.explain()
    await taking

    waits = [event for event in heard if isinstance(event, WaitStarted)]
    assert {event.reason for event in waits} == {"the API's quota to reset"}
    assert 55 < waits[0].seconds < 62
    assert "the API's quota to reset" in text
    assert not [event for event in heard if isinstance(event, RetryScheduled)]
