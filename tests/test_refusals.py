"""Meaning of a 403: throttling, a firewall, or a missing permission."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from asyncstreams import (
    HttpAvailabilityStrategy,
    HttpStatusError,
    HttpStream,
    PartialFailure,
    RateLimitWaitTooLong,
    RequestBlocked,
    Source,
    StreamUnavailable,
)
from asyncstreams.rate_limits.throttle_reasons import mentions_throttling

ROWS = httpx.Response(200, json=[{"id": 1}])
NGINX_PAGE = "<html><head><title>403 Forbidden</title></head><center><h1>403 Forbidden</h1></center></html>"
CLOUDFLARE_PAGE = "<!DOCTYPE html><html><title>Attention Required! | Cloudflare</title><h1>Sorry</h1></html>"


class Rows(HttpStream):
    url_base = "https://api.test/"
    max_server_wait = 120

    def path(self, context):
        return self.name


class Others(Rows):
    pass


def api(*answers: httpx.Response) -> httpx.MockTransport:
    """Answers requests for rows in turn, the last answer for good; other requests succeed."""
    left = list(answers)

    def respond(request: httpx.Request) -> httpx.Response:
        if request.url.path != "/rows":
            return ROWS
        answer = left.pop(0) if len(left) > 1 else left[0]
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    return httpx.MockTransport(respond)


def google(reason: str, message: str, domain: str = "usageLimits") -> dict[str, Any]:
    return {
        "error": {"code": 403, "message": message, "errors": [{"domain": domain, "reason": reason, "message": message}]}
    }


def page(html: str, status: int = 403, **headers: str) -> httpx.Response:
    return httpx.Response(status, html=html, headers=headers)


@pytest.mark.parametrize(
    "body",
    [
        google("rateLimitExceeded", "Queries per user per 100 seconds."),
        google("userRateLimitExceeded", "Slower, please."),
        google("quotaExceeded", "The request cannot be completed.", domain="youtube.quota"),
        google("rateLimitExceeded", "Exceeded rate limits.", domain="global"),
        {"error": {"status": "PERMISSION_DENIED", "details": [{"reason": "RATE_LIMIT_EXCEEDED", "domain": "a.b"}]}},
        {"error": {"code": 403, "status": "RESOURCE_EXHAUSTED", "message": "wait"}},
        [{"errorCode": "REQUEST_LIMIT_EXCEEDED", "message": "TotalRequests Limit exceeded."}],
        {"message": "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."},
        {"message": "You have triggered an abuse detection mechanism."},
        {"message": "You have reached the maximum number of API requests for today."},
        {"__type": "com.amazonaws.v1#ThrottlingException", "message": "no"},
        {"error": "Too many requests"},
        {"error": {"code": 17, "type": "OAuthException", "message": "(#17) Slow."}},
        {"fault": {"detail": {"errorcode": "policies.ratelimit.QuotaViolation"}}},
        {"status": "error", "errorType": "RATE_LIMIT", "message": "no"},
        {"Errors": [{"Code": 117, "ErrorCode": "CallRateExceeded", "Message": "no"}]},
        {"message": "You have crossed your limit for items. Please try again after some time"},
    ],
)
async def test_throttling_reason_of_a_vendor_is_waited_for(virtual_clock, body):
    stream = Rows(transport=api(httpx.Response(403, json=body), ROWS), clock=virtual_clock)

    records = await stream.read()

    assert records == [{"id": 1}]
    assert virtual_clock.monotonic() >= 60


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"error": {"code": 4, "type": "OAuthException", "fbtrace_id": "a", "message": "(#4) Limit reached"}}),
        (400, {"error": {"code": 80_000, "fbtrace_id": "a", "message": "(#80000) Too many calls."}}),
        (400, {"__type": "com.amazonaws.v1#ThrottlingException", "message": "Rate exceeded"}),
        (422, {"code": "rate_limit_exceeded"}),
    ],
)
async def test_throttling_code_beside_another_4xx_is_waited_for(virtual_clock, status, body):
    stream = Rows(transport=api(httpx.Response(status, json=body), ROWS), clock=virtual_clock)

    records = await stream.read()

    assert records == [{"id": 1}]
    assert virtual_clock.monotonic() > 0


@pytest.mark.parametrize(
    "body",
    [
        {"message": "the request limit is exceeded: limit must be at most 100"},
        {"error": {"code": 100, "type": "OAuthException", "message": "(#100) Unknown field"}},
        {"code": ["too_many_requests"], "message": "no"},
        {"code": "quotaExceeded", "message": "The storage is full"},
    ],
)
async def test_400_without_a_throttling_code_is_not_retried(virtual_clock, body):
    stream = Rows(transport=api(httpx.Response(400, json=body)), clock=virtual_clock)

    with pytest.raises(HttpStatusError):
        await stream.read()

    assert virtual_clock.monotonic() == 0


@pytest.mark.parametrize(
    "body",
    [
        {"message": "the scope rows:read is missing"},
        {"message": "You need admin permission to see the rate limit settings"},
        google("accessNotConfigured", "The API is not enabled: request limit of 0 exceeded."),
        google("storageQuotaExceeded", "The storage quota has been exceeded.", domain="global"),
        google("quotaExceeded", "The limit for this folder is exceeded.", domain="drive"),
        google("dailyLimitExceededUnreg", "Daily limit exceeded. Sign up to make more requests."),
        google("insufficientPermissions", "Insufficient Permission", domain="global"),
    ],
)
async def test_missing_permission_is_not_throttling(virtual_clock, body):
    stream = Rows(transport=api(httpx.Response(403, json=body)), clock=virtual_clock)

    with pytest.raises(StreamUnavailable):
        await stream.read()

    assert virtual_clock.monotonic() == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Quota exceeded for metric reads", True),
        ("Rate Limit hit", True),
        ("You are being rate limited.", True),
        ("Request was throttled. Expected available in 5 seconds.", True),
        ("Please reduce your request rate.", True),
        ("API call limit has been reached", True),
        ("Your disk quota is exceeded", False),
        ("The role may not read rate limits", False),
        ("Forbidden", False),
    ],
)
def test_throttling_is_recognised_in_words(text: str, expected: bool):
    assert mentions_throttling(text) is expected


async def test_soft_limit_beside_permission_error_waits_once(virtual_clock):
    headers = {"X-RateLimit-Limit": "10", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "60"}
    refused = httpx.Response(403, json={"message": "the scope is missing"}, headers=headers)
    stream = Rows(transport=api(refused), clock=virtual_clock)

    with pytest.raises(StreamUnavailable, match="the scope is missing"):
        await stream.read()

    assert 55 <= virtual_clock.monotonic() <= 65


async def test_used_up_quota_without_other_reason_goes_on_waiting(virtual_clock):
    headers = {"X-RateLimit-Limit": "10", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "60"}
    stream = Rows(transport=api(httpx.Response(403, headers=headers)), clock=virtual_clock)

    with pytest.raises(RateLimitWaitTooLong):
        await stream.read()

    assert virtual_clock.monotonic() > 400


@pytest.mark.parametrize(
    "response",
    [
        page(NGINX_PAGE),
        page(CLOUDFLARE_PAGE, Server="cloudflare"),
        page(CLOUDFLARE_PAGE, status=406),
        page("<html><title>Just a moment...</title></html>", status=409, **{"cf-mitigated": "challenge"}),
        page("<html><body>The requested URL was rejected. Your support ID is: 1</body></html>", status=200),
    ],
)
async def test_page_of_a_firewall_is_an_error_of_its_own(response):
    with pytest.raises(RequestBlocked, match="a page of a firewall or proxy") as caught:
        await Rows(transport=api(response)).read()

    assert caught.value.status == response.status_code
    assert "User-Agent" in (caught.value.hint or "")


@pytest.mark.parametrize("status", [400, 404])
async def test_html_page_of_another_status_is_no_firewall(status):
    with pytest.raises(HttpStatusError) as caught:
        await Rows(transport=api(page("<html><title>Oops</title></html>", status))).read()

    assert type(caught.value) is HttpStatusError


class EveryRefusal(HttpAvailabilityStrategy):
    """Takes each error for a missing permission, as strategies of connectors do."""

    def handle_http_error(self, stream, logger, source, error):
        return False, "no access"


@pytest.mark.parametrize("strategy", [HttpAvailabilityStrategy(), EveryRefusal()])
async def test_source_does_not_skip_a_blocked_stream(strategy):
    rows = Rows()
    rows.availability_strategy = strategy
    source = Source([rows, Others()], transport=api(page(CLOUDFLARE_PAGE)))

    with pytest.raises(PartialFailure) as caught:
        await source.read()

    assert [type(error) for error in caught.value.errors] == [RequestBlocked]
    assert caught.value.report.unavailable == {}


async def test_check_reports_a_blocked_stream_as_failed():
    source = Source([Rows()], transport=api(page(CLOUDFLARE_PAGE)))

    (check,) = (await source.check()).streams

    assert check.failed
    assert "firewall" in str(check.reason)
