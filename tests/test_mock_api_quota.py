"""MockApi quotas: admission, reporting headers and refusals."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstreams import ConfigError, HttpStream, PageNumber, RequestContext
from asyncstreams.testing import BearerAuth, MockApi, Quota, Resource
from asyncstreams.testing.mock_api.quota import quota_header_lines

WALL = 1_767_225_600.0  # 2026-01-01T00:00:00Z


class Users(HttpStream):
    records_path = "data"
    paginator = PageNumber(size=10)

    def __init__(self, api: MockApi, **options: Any) -> None:
        self.url_base = api.url
        super().__init__(**options)

    def path(self, context: RequestContext) -> str:
        return "users"


def test_window_starts_with_first_request_and_refuses_at_limit() -> None:
    meter = Quota(2, per=10).new_meter()

    decisions = [meter.admit(now) for now in (100, 103, 105, 109.9, 110)]

    assert [decision.allowed for decision in decisions] == [True, True, False, False, True]
    assert [decision.remaining for decision in decisions] == [1, 0, 0, 0, 1]
    assert [round(decision.reset, 1) for decision in decisions] == [10, 7, 5, 0.1, 10]


def test_bucket_admits_its_burst_and_refills_at_its_rate() -> None:
    meter = Quota(2, per=1, burst=3).new_meter()

    decisions = [meter.admit(now) for now in (0, 0, 0, 0, 0.5, 0.5)]

    assert [decision.allowed for decision in decisions] == [True, True, True, False, True, False]
    assert decisions[3].wait == pytest.approx(0.5)


def test_queue_mode_admits_all_with_growing_delays() -> None:
    meter = Quota(10, per=1, mode="queue").new_meter()

    decisions = [meter.admit(0.0) for _ in range(4)] + [meter.admit(10.0)]

    assert all(decision.allowed for decision in decisions)
    assert [round(decision.wait, 6) for decision in decisions] == [0, 0.1, 0.2, 0.3, 0]


@given(
    limit=st.integers(1, 20),
    burst=st.none() | st.integers(1, 10),
    steps=st.lists(st.floats(0, 3), max_size=60),
)
def test_waiting_as_reported_is_admitted_within_the_limit(limit: int, burst: int | None, steps: list[float]) -> None:
    meter, now, allowed = Quota(limit, per=2, burst=burst).new_meter(), 0.0, 0

    for step in steps:
        now += step
        decision = meter.admit(now)
        allowed += decision.allowed
        if not decision.allowed:
            now += decision.wait
            assert meter.admit(now).allowed
            allowed += 1

    max_allowed = (now / 2 + 1) * limit if burst is None else burst + now / 2 * limit + 1e-6
    assert allowed <= max_allowed


@pytest.mark.parametrize(
    ("quota", "first_headers", "refused_headers"),
    [
        (
            Quota(3, per=60, headers="ratelimit"),
            {"RateLimit-Policy": '"default";q=3;w=60', "RateLimit": '"default";r=2;t=60'},
            {"RateLimit": '"default";r=0;t=50', "Retry-After": "50"},
        ),
        (
            Quota(3, per=60, headers="ratelimit-3"),
            {"RateLimit-Limit": "3", "RateLimit-Remaining": "2", "RateLimit-Reset": "60"},
            {"RateLimit-Remaining": "0", "RateLimit-Reset": "50", "Retry-After": "50"},
        ),
        (
            Quota(3, per=60),
            {"X-RateLimit-Limit": "3", "X-RateLimit-Remaining": "2", "X-RateLimit-Reset": "60"},
            {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "50", "Retry-After": "50"},
        ),
        (Quota(3, per=60, reset="epoch"), {"X-RateLimit-Reset": "1767225660"}, {"X-RateLimit-Reset": "1767225660"}),
        (Quota(3, per=60, reset="ms"), {"X-RateLimit-Reset": "1767225660000"}, {"Retry-After": "50"}),
        (
            Quota(3, per=60, reset="date", retry_after=False),
            {"X-RateLimit-Reset": "Thu, 01 Jan 2026 00:01:00 GMT"},
            {"X-RateLimit-Remaining": "0", "Retry-After": None},
        ),
        (
            Quota(3, per=60, headers="github", status=403),
            {
                "X-RateLimit-Limit": "3",
                "X-RateLimit-Remaining": "2",
                "X-RateLimit-Used": "1",
                "X-RateLimit-Reset": "1767225660",
            },
            {"X-RateLimit-Used": "3", "X-RateLimit-Remaining": "0", "Retry-After": None},
        ),
        (Quota(3, per=60, headers="retry-after"), {"X-RateLimit-Limit": None}, {"Retry-After": "50"}),
        (
            Quota(3, per=60, headers="retry-after-date"),
            {"Retry-After": None},
            {"Retry-After": "Thu, 01 Jan 2026 00:01:00 GMT"},
        ),
        (Quota(3, per=60, headers="none"), {"X-RateLimit-Limit": None}, {"Retry-After": None}),
    ],
    ids=lambda value: f"{value.headers}-{value.reset}" if isinstance(value, Quota) else None,
)
def test_quota_headers_of_each_dialect(
    quota: Quota, first_headers: dict[str, str | None], refused_headers: dict[str, str | None]
) -> None:
    meter = quota.new_meter()

    first = headers(quota_header_lines(quota, meter.admit(0.0), WALL))
    for _ in range(2):
        meter.admit(5.0)
    last = headers(quota_header_lines(quota, meter.admit(10.0), WALL + 10))

    assert {name: first.get(name) for name in first_headers} == first_headers
    assert {name: last.get(name) for name in refused_headers} == refused_headers


def headers(lines: bytes) -> httpx.Headers:
    pairs = [line.split(": ", 1) for line in lines.decode().splitlines()]
    return httpx.Headers([(name, value) for name, value in pairs])


def test_requests_beyond_the_quota_get_429(mock_api: MockApi) -> None:
    mock_api.add(Resource("users"))
    mock_api.add(Resource("items"))
    mock_api.add(Resource("free", quota=None))
    mock_api.add(Resource("own", quota=Quota(1, per=100, headers="retry-after-date")))
    mock_api.quota = Quota(2, per=100)

    answers = {name: [httpx.get(mock_api.url + name) for _ in range(3)] for name in ("users", "items", "free", "own")}

    assert {name: [response.status_code for response in responses] for name, responses in answers.items()} == {
        "users": [200, 200, 429],
        "items": [429, 429, 429],
        "free": [200, 200, 200],
        "own": [200, 429, 429],
    }
    assert answers["users"][0].headers["X-RateLimit-Remaining"] == "1"
    assert "more than 2 requests in 100 seconds" in answers["users"][2].text
    wait = parsedate_to_datetime(answers["own"][2].headers["Retry-After"]).timestamp() - time.time()
    assert 90 < wait < 102
    assert mock_api.counts.refused_by_quota == 6


def test_request_refused_by_auth_uses_no_quota(mock_api: MockApi) -> None:
    mock_api.add(Resource("users"))
    mock_api.auth, mock_api.quota = BearerAuth("a"), Quota(1, per=100)

    headers = [{"Authorization": f"Bearer {token}"} for token in "bbab"]
    statuses = [httpx.get(mock_api.url + "users", headers=header).status_code for header in headers]

    assert statuses == [401, 401, 200, 401]


async def test_stream_waits_for_next_window_and_reads_all() -> None:
    async with MockApi(Resource("users", 100), quota=Quota(5, per=1, headers="retry-after")) as api:
        records = await Users(api).read()

    assert [record["id"] for record in records] == api.ids("users")
    assert api.counts.by_status[429] == api.counts.refused_by_quota >= 1
    assert api.counts.seconds >= 1


async def test_queueing_api_responds_at_its_rate() -> None:
    async with MockApi(Resource("users", 100), quota=Quota(50, per=1, mode="queue", headers="none")) as api:
        stream = Users(api)
        stream.parallel_pages = False
        records = await stream.read()

    assert len(records) == 100
    assert api.counts.by_status == {200: 11}
    assert api.counts.queued_by_quota > 5
    assert api.counts.seconds >= 10 / 50


@pytest.mark.parametrize(
    "declare",
    [
        lambda: Quota(0),
        lambda: Quota(1, per=0),
        lambda: Quota(1, burst=0),
        lambda: Quota(1, headers="x"),  # type: ignore[arg-type]
        lambda: Quota(1, reset="x"),  # type: ignore[arg-type]
        lambda: Quota(1, mode="x"),  # type: ignore[arg-type]
    ],
)
def test_invalid_quota_is_rejected(declare: Any) -> None:
    with pytest.raises(ConfigError):
        declare()
