"""Server-reported quotas in reads, and refusals."""

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
from fake_api import Api, collect_pages, slices, subclass

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

QuotaStates = list[tuple[Quota, int, float]]
HeaderStyle = Callable[[QuotaStates, float], dict[str, str]]
HOUR = 3600.0


class Records(HttpStream):
    """A page of one record for each slice, with all defaults."""

    url_base = "https://api.test/"

    def path(self, context: RequestContext) -> Any:
        return (self.name, str(context.stream_slice.get("at", 0)))


def http_date(seconds: float) -> str:
    return format_datetime(datetime.fromtimestamp(seconds, UTC), usegmt=True)


def ietf_headers(states: QuotaStates, wall: float) -> dict[str, str]:
    names = ["burst", "hour", "day"]
    policies = (f'"{name}";q={quota.limit};w={quota.per:g}' for name, (quota, _, _) in zip(names, states, strict=False))
    fields = (
        f'"{name}";r={remaining};t={math.ceil(reset)}'
        for name, (_, remaining, reset) in zip(names, states, strict=False)
    )
    return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(fields)}


def counter_headers(states: QuotaStates, wall: float, prefix: str = "RateLimit") -> dict[str, str]:
    [(quota, remaining, reset)] = states
    fields = {"Limit": quota.limit, "Remaining": remaining, "Reset": math.ceil(reset)}
    return {f"{prefix}-{name}": str(value) for name, value in fields.items()}


def epoch_headers(states: QuotaStates, wall: float) -> dict[str, str]:
    [(quota, remaining, reset)] = states
    return counter_headers([(quota, remaining, wall + reset)], wall, "X-RateLimit") | {
        "Date": http_date(math.floor(wall))
    }


class QuotaApi(Api):
    """Enforces quotas in fixed windows and reports them with each response; its clock is wrong by `skew` seconds."""

    def __init__(
        self, clock: VirtualClock, header_style: HeaderStyle, *quotas: Quota, skew: float = 0.0, latency: Any = 0.05
    ) -> None:
        self.meters = [quota.new_meter() for quota in quotas]
        self.refused = 0

        def answer(request: httpx.Request) -> httpx.Response:
            decisions = [meter.admit(clock.monotonic()) for meter in self.meters]
            states = [
                (quota, decision.remaining, decision.reset) for quota, decision in zip(quotas, decisions, strict=True)
            ]
            headers = header_style(states, clock.wall() + skew)
            if all(decision.allowed for decision in decisions):
                return httpx.Response(200, json=[{"id": request.url.path}], headers=headers)
            self.refused += 1
            return httpx.Response(429, headers=headers)

        super().__init__(answer, latency=latency)


def varying_latency(request: httpx.Request) -> float:
    return 0.02 + int(request.url.path.split("/")[-1]) % 7 / 50


def api_with_refusals(*refusals: httpx.Response, then: dict[str, str] | None = None) -> Api:
    """Responds with `refusals` first, in order, and with 200 from then on."""
    remaining = list(refusals)

    def answer(request: httpx.Request) -> httpx.Response:
        return remaining.pop(0) if remaining else httpx.Response(200, json=[{"id": request.url.path}], headers=then)

    return Api(answer, latency=0.1)


TEN = Quota(100, per=10)


@pytest.mark.parametrize("max_concurrency", [1, 8, 50])
@pytest.mark.parametrize(
    ("header_style", "quotas", "skew", "ideal"),
    [
        pytest.param(ietf_headers, [TEN], 0, 90, id="RateLimit"),
        pytest.param(counter_headers, [TEN], 0, 90, id="three-fields"),
        pytest.param(epoch_headers, [TEN], 0, 90, id="epoch"),
        pytest.param(epoch_headers, [TEN], 2.5 * HOUR, 90, id="epoch-of-a-clock-that-is-fast"),
        pytest.param(epoch_headers, [TEN], -2.5 * HOUR, 90, id="epoch-of-a-clock-that-is-slow"),
        pytest.param(ietf_headers, [Quota(25, per=2), Quota(250, per=60)], 0, 3 * 60 + 18, id="two-windows"),
        pytest.param(ietf_headers, [Quota(50, per=1), TEN, Quota(400, per=100)], 0, 2 * 100 + 11, id="three-windows"),
    ],
)
async def test_reported_quota_is_used_up_and_not_exceeded(
    virtual_clock: VirtualClock,
    header_style: HeaderStyle,
    quotas: list[Quota],
    skew: float,
    ideal: float,
    max_concurrency: int,
) -> None:
    api = QuotaApi(virtual_clock, header_style, *quotas, skew=skew)

    records = await Records(transport=api, clock=virtual_clock, max_concurrency=max_concurrency).read(
        slices=slices(range(1000))
    )

    assert len({record["id"] for record in records}) == 1000
    assert (api.refused, len(api.requested)) == (0, 1000)
    if max_concurrency == 50:
        # Timestamps have whole seconds, so up to a second is lost in each window.
        ideal += 9 if header_style is epoch_headers else 0
        assert ideal - 10 <= virtual_clock.monotonic() < ideal * 1.02 + 1


@pytest.mark.parametrize("adaptive", [False, True])
async def test_overtaking_responses_do_not_exceed_the_quota(virtual_clock: VirtualClock, adaptive: bool) -> None:
    api = QuotaApi(virtual_clock, ietf_headers, TEN, latency=varying_latency)
    stream = Records(transport=api, clock=virtual_clock, max_concurrency=50, adaptive=adaptive)

    await stream.read(slices=slices(range(1000)))

    assert (api.refused, len(api.requested)) == (0, 1000)
    assert virtual_clock.monotonic() < 90 * 1.02 + 1


@pytest.mark.parametrize("header_style", [ietf_headers, counter_headers, epoch_headers])
async def test_units_used_by_another_client_are_noticed(virtual_clock: VirtualClock, header_style: HeaderStyle) -> None:
    api = QuotaApi(virtual_clock, header_style, TEN)

    async def other_client() -> None:
        while True:
            await asyncio.sleep(0.05)
            api.meters[0].admit(virtual_clock.monotonic())

    foreign = asyncio.create_task(other_client())
    records = await Records(transport=api, clock=virtual_clock, max_concurrency=50).read(slices=slices(range(600)))
    foreign.cancel()

    assert len({record["id"] for record in records}) == 600
    assert api.refused <= 20
    # Sometimes one more window is needed.
    assert 60 < virtual_clock.monotonic() < 110


CONCURRENCIES = pytest.mark.parametrize("max_concurrency", [1, 32])


@CONCURRENCIES
async def test_reset_beyond_max_server_wait_ends_the_stream(virtual_clock: VirtualClock, max_concurrency: int) -> None:
    api = QuotaApi(virtual_clock, ietf_headers, Quota(30, per=2 * HOUR))
    stream = Records(transport=api, clock=virtual_clock, max_concurrency=max_concurrency)

    records, error = await collect_pages(stream.pages(slices=slices(range(40))), (RateLimitWaitTooLong, PartialFailure))

    assert (len(records), len(api.requested)) == (30, 30)
    assert "2026-01-01 02:00:0" in str(error)
    assert "max_server_wait" in str(error)
    assert virtual_clock.monotonic() < 60


async def test_too_long_wait_of_one_stream_does_not_affect_others(virtual_clock: VirtualClock) -> None:
    api = QuotaApi(virtual_clock, ietf_headers, Quota(30, per=2 * HOUR))
    healthy = api_with_refusals()
    streams = [
        subclass(Records, name="limited")(transport=api),
        subclass(Records, name="free", url_base="https://other.test/")(transport=healthy),
    ]

    reading = Source(streams, clock=virtual_clock).pages(slices={n: slices(range(50)) for n in ("limited", "free")})
    records, error = await collect_pages(reading, any_error=True)

    assert Counter(page.stream for page in records) == {"limited": 30, "free": 50}
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
            lambda clock: refused(429, RateLimit_Policy='"a";q=9;w=60', RateLimit='"a";r=0;t=40'),
            40,
            id="429-standard",
        ),
        pytest.param(
            lambda clock: refused(429, Date=http_date(5e8), Retry_After=http_date(5e8 + 70)), 70, id="date-long-ago"
        ),
        pytest.param(
            lambda clock: refused(429, Date=http_date(2e9), Retry_After=http_date(2e9 + 70)), 70, id="date-far-ahead"
        ),
    ],
)
@pytest.mark.parametrize("earlier_responses", [0, 12])
async def test_rate_limit_refusal_pauses_all_requests(
    virtual_clock: VirtualClock,
    refusal: Callable[[VirtualClock], httpx.Response],
    seconds: float,
    earlier_responses: int,
) -> None:
    api = api_with_refusals(*[httpx.Response(200, json=[])] * earlier_responses, refusal(virtual_clock))
    stream = subclass(Records, max_tries=1)(transport=api, clock=virtual_clock)

    await stream.read(slices=slices(range(20)))

    assert len(api.requested) == 21
    first_after = min(time for time in api.request_times if time - api.request_times[0] > 10) - api.request_times[0]
    assert seconds - 0.001 <= first_after < seconds * 1.02 + 2.5


@pytest.mark.parametrize("status", [404, 409, 413, 420, 423, 429, 477, 500, 503])
@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After": "20"},
        {"Retry-After": "2026-01-01T00:00:20Z"},
        {"Retry-After-Ms": "20000"},
        {"X-RateLimit-Retry-After": "20"},
    ],
    ids=" ".join,
)
async def test_ordered_wait_is_kept_with_any_error(
    virtual_clock: VirtualClock, status: int, headers: dict[str, str]
) -> None:
    api = api_with_refusals(httpx.Response(status, headers=headers))

    await Records(transport=api, clock=virtual_clock).read()

    first, second = api.request_times
    assert 19 <= second - first < 25


@pytest.mark.parametrize("status", [401, 407])
async def test_error_of_a_credential_does_not_wait(virtual_clock: VirtualClock, status: int) -> None:
    api = api_with_refusals(*[httpx.Response(status, headers={"Retry-After": "20"})] * 9)

    await collect_pages(Records(transport=api, clock=virtual_clock).pages(), any_error=True)

    assert virtual_clock.monotonic() < 20


@pytest.mark.parametrize(
    ("status", "body", "waits"),
    [
        (429, {"retry_after": 20}, True),
        (503, {"retry_after_ms": 20_000}, True),
        (403, {"message": "rate limit exceeded", "error": {"retryAfter": 20}}, True),
        (500, {"retry_after": 20}, False),
    ],
)
async def test_wait_in_the_body_of_a_refusal_is_kept(
    virtual_clock: VirtualClock, status: int, body: dict[str, Any], waits: bool
) -> None:
    api = api_with_refusals(refused(status, body))

    await Records(transport=api, clock=virtual_clock).read()

    first, second = api.request_times
    assert (19 <= second - first < 25) is waits


async def test_wait_in_a_body_beyond_max_server_wait_ends_the_stream(virtual_clock: VirtualClock) -> None:
    api = api_with_refusals(refused(429, {"retry_after": 20_000}))

    with pytest.raises(RateLimitWaitTooLong, match="20,000 s"):
        await Records(transport=api, clock=virtual_clock).read()


class ResourceApi(Api):
    """Reports a quota for each resource, the first segment of the path; that of `search` is 3 in a minute."""

    def __init__(self, clock: VirtualClock, header: str) -> None:
        meters = {"search": Quota(3, per=60).new_meter(), "core": Quota(5000, per=3600).new_meter()}
        self.refused = 0

        def answer(request: httpx.Request) -> httpx.Response:
            resource = request.url.path.split("/")[1]
            decision = meters[resource].admit(clock.monotonic())
            reset = str(math.ceil(decision.reset))
            headers = {"X-RateLimit-Remaining": str(decision.remaining), "X-RateLimit-Reset": reset, header: resource}
            if header == "policy":
                headers = {"RateLimit": f'"{resource}";r={decision.remaining};t={reset}'}
            self.refused += not decision.allowed
            return httpx.Response(200 if decision.allowed else 429, json=[{"id": 1}], headers=headers)

        super().__init__(answer, 0.05)


@pytest.mark.parametrize("header", ["X-RateLimit-Resource", "X-RateLimit-Bucket", "policy"])
async def test_quota_of_a_resource_delays_its_own_streams_only(virtual_clock: VirtualClock, header: str) -> None:
    api = ResourceApi(virtual_clock, header)
    source = Source([subclass(Records, name=name)() for name in ("search", "core")], transport=api, clock=virtual_clock)

    await source.read(slices={"search": slices(range(8)), "core": slices(range(40))})

    times = dict(zip(api.requested, api.request_times, strict=True))
    began = min(times.values())
    assert max(time for page, time in times.items() if page.startswith("core")) - began < 5
    assert 120 < max(times.values()) - began < 130


async def test_rate_that_the_server_reports_is_kept_after_a_refusal(virtual_clock: VirtualClock) -> None:
    meter = Quota(1, per=2, burst=4).new_meter()
    refusals = 0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal refusals
        is_admitted = meter.admit(virtual_clock.monotonic()).allowed
        refusals += not is_admitted
        headers = {"x-amzn-RateLimit-Limit": "0.5"}
        return httpx.Response(200 if is_admitted else 429, json=[{"id": 1}], headers=headers)

    api = Api(answer, 0.05)

    await Records(transport=api, clock=virtual_clock).read(slices=slices(range(40)))

    assert refusals <= 12
    assert virtual_clock.monotonic() < 90


async def test_429_with_a_reset_alone_waits_for_it(virtual_clock: VirtualClock) -> None:
    api = api_with_refusals(refused(429, X_RateLimit_Reset="45"))

    await Records(transport=api, clock=virtual_clock).read(slices=slices("a"))

    assert 45 <= virtual_clock.monotonic() < 50


async def test_initial_plain_403_is_stream_unavailable(virtual_clock: VirtualClock) -> None:
    api = api_with_refusals(*[refused(403, {"message": "Resource not accessible"})] * 3)

    with pytest.raises(StreamUnavailable, match="permission"):
        await Records(transport=api, clock=virtual_clock).read(slices=slices(range(3)))

    assert len(api.requested) == 1
    assert virtual_clock.monotonic() < 1


async def test_later_plain_403_fails_its_slice(virtual_clock: VirtualClock) -> None:
    api = api_with_refusals(
        httpx.Response(200, json=[]), refused(403, X_RateLimit_Remaining="55", X_RateLimit_Reset="40")
    )
    reading = Records(transport=api, clock=virtual_clock).pages(slices=slices("ab"), on_error="stop")

    _, error = await collect_pages(reading, HttpStatusError)

    assert (error.status, len(api.requested)) == (403, 2)
    assert virtual_clock.monotonic() < 1


@pytest.mark.parametrize(
    ("status", "header", "is_retried"),
    [
        (400, "true", True),
        (409, "true", True),
        (503, "false", False),
        (429, "false", False),
        (400, "perhaps", False),
        (503, "perhaps", True),
    ],
)
async def test_stripe_should_retry_header_decides(
    virtual_clock: VirtualClock, status: int, header: str, is_retried: bool
) -> None:
    api = api_with_refusals(refused(status, Stripe_Should_Retry=header))

    _, error = await collect_pages(
        Records(transport=api, clock=virtual_clock).pages(), () if is_retried else HttpStatusError
    )

    assert len(api.requested) == 1 + is_retried
    assert is_retried or error.status == status


@pytest.mark.parametrize("max_concurrency", [8, 50])
@pytest.mark.parametrize("weight", [1, 3])
async def test_quota_is_shared_by_weight_not_by_slices(
    virtual_clock: VirtualClock, weight: int, max_concurrency: int
) -> None:
    api = QuotaApi(virtual_clock, ietf_headers, Quota(100, per=10))
    streams = [subclass(Records, name="small")(), subclass(Records, name="large", weight=weight)()]
    source = Source(streams, transport=api, clock=virtual_clock, max_concurrency=max_concurrency)

    input_slices = {"small": slices(range(1000)), "large": slices(range(100_000))}
    async with source.pages(slices=input_slices) as pages:
        async for _ in pages:
            if virtual_clock.monotonic() > 145:
                break

    asked = Counter(path.split("/")[0] for path in api.requested)
    assert api.refused == 0
    assert sum(asked.values()) >= 1400
    assert asked["large"] == pytest.approx(weight * asked["small"], rel=0.15)


@CONCURRENCIES
async def test_wait_for_the_quota_is_reported_and_explained(virtual_clock: VirtualClock, max_concurrency: int) -> None:
    events: list[Any] = []
    api = QuotaApi(virtual_clock, ietf_headers, Quota(20, per=60))
    stream = Records(transport=api, clock=virtual_clock, max_concurrency=max_concurrency)
    stream.subscribe(events.append)

    reading = stream.pages(slices=slices(range(40)))
    reading_task = asyncio.create_task(collect_pages(reading))
    await asyncio.sleep(30)
    text = reading.explain()
    await reading_task

    waits = [event for event in events if isinstance(event, WaitStarted)]
    assert {event.reason for event in waits} == {"the API's quota to reset"}
    assert 55 < waits[0].seconds < 62
    assert "the API's quota to reset" in text
    assert not [event for event in events if isinstance(event, RetryScheduled)]
