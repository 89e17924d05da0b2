"""Quotas parsed from response headers of many APIs, valid and malformed."""

from __future__ import annotations

import gc
import math
import re
import tracemalloc

import httpx
import pytest
from _pytest.mark import ParameterSet
from hypothesis import given
from hypothesis import strategies as st
from simulation import examples

from asyncstreams import Response
from asyncstreams.rate_limits.quota_headers import (
    QuotaScope,
    ReportedQuota,
    asks_to_wait,
    exhausted_for,
    reported_quotas,
    reset_without_state,
)
from asyncstreams.rate_limits.retry_after import backoff_seconds, retry_after, should_retry

often = examples(full=300, short=60)
WALL = 1_767_225_600.0  # 2026-01-01T00:00:00Z
DATE = "Date: Thu, 01 Jan 2026 00:00:00 GMT"
HOUR, DAY = 3600, 86_400

QuotaNumbers = tuple[float, float | None, float | None, float | None]


def make_response(*lines: str, status: int = 200) -> Response:
    headers = [tuple(part.strip().encode() for part in line.split(":", 1)) for line in lines]
    request = httpx.Request("GET", "https://api.example.com/")
    return Response(status, headers=headers, stream=httpx.ByteStream(b""), request=request)


def parse_quotas(*lines: str, wall: float = WALL) -> tuple[ReportedQuota, ...]:
    return reported_quotas(make_response(*lines), wall)


def quota_numbers(*lines: str, wall: float = WALL) -> list[QuotaNumbers]:
    """Remaining units, seconds to the reset, limit and window of each quota, sorted."""
    found = [(quota.remaining, quota.resets_in, quota.limit, quota.window) for quota in parse_quotas(*lines, wall=wall)]
    return sorted(found, key=str)


@pytest.mark.parametrize(
    ("lines", "seconds"),
    [
        (["X-RateLimit-Reset: 1767225630"], 30),
        (["X-RateLimit-Reset: 30", "X-RateLimit-Limit: 100"], 30),
        (["RateLimit-Reset: 30"], 30),
        (["X-RateLimit-Reset-After: 1.5", "X-RateLimit-Reset: 2"], 2),
        (["X-Acme-RateLimit-Reset: 2026-01-01T00:00:30Z"], 30),
        (["X-Rate-Limit-Time-Reset-Ms: 1500"], 1.5),
        (["X-RateLimit-Reset: 30", "X-RateLimit-Remaining: 5"], None),
        (["X-RateLimit-Reset: 0"], None),
        (["X-RateLimit-Reset: soon"], None),
        (["X-RateLimit-Limit: 30"], None),
    ],
)
def test_reset_counts_where_no_remaining_units_are_reported(lines: list[str], seconds: float | None) -> None:
    assert reset_without_state(make_response(*lines), WALL) == seconds


# Remaining units, seconds to the reset, limit and window of each quota; then headers from the API's documentation.
VENDORS = """
GitHub = 4999 300 5000 - | x-ratelimit-limit: 5000 | x-ratelimit-remaining: 4999 | x-ratelimit-reset: 1767225900
    x-ratelimit-used: 1 | x-ratelimit-resource: core
GitLab = 0 30 60 -
    RateLimit-Limit: 60 | RateLimit-Name: throttle_authenticated_web | RateLimit-Observed: 67 | RateLimit-Remaining: 0
    RateLimit-Reset: 1767225630 | RateLimit-ResetTime: Thu, 01 Jan 2026 00:00:30 GMT | Retry-After: 30
GitLab, date = 20 30 60 -
    RateLimit-Limit: 60 | RateLimit-Remaining: 20 | RateLimit-ResetTime: Thu, 01 Jan 2026 00:00:30 GMT
Okta = 598 60 600 - | X-Rate-Limit-Limit: 600 | X-Rate-Limit-Remaining: 598 | X-Rate-Limit-Reset: 1767225660
Twitter = 899 900 900 - | x-rate-limit-limit: 900 | x-rate-limit-remaining: 899 | x-rate-limit-reset: 1767226500
Reddit = 597 360 600 - | X-Ratelimit-Used: 3 | X-Ratelimit-Remaining: 597.0 | X-Ratelimit-Reset: 360
Discord = 0 64.57 5 - | X-RateLimit-Limit: 5 | X-RateLimit-Remaining: 0 | X-RateLimit-Reset: 1767225664.57
    X-RateLimit-Reset-After: 64.57 | X-RateLimit-Bucket: abcd1234
Zendesk = 699 - 700 -, 699 41 700 - | X-Rate-Limit: 700 | X-Rate-Limit-Remaining: 699 | ratelimit-limit: 700
    ratelimit-remaining: 699 | ratelimit-reset: 41
Zendesk, of an endpoint = 99 41 100 - | Zendesk-RateLimit-Endpoint: total=100; remaining=99; resets=41
HubSpot = 98 - 100 10, 9 - 10 1, 249999 - 250000 86400
    X-HubSpot-RateLimit-Max: 100 | X-HubSpot-RateLimit-Remaining: 98 | X-HubSpot-RateLimit-Interval-Milliseconds: 10000
    X-HubSpot-RateLimit-Secondly: 10 | X-HubSpot-RateLimit-Secondly-Remaining: 9 | X-HubSpot-RateLimit-Daily: 250000
    X-HubSpot-RateLimit-Daily-Remaining: 249999
Kong = 4 47 5 -, 4 - 5 60, 900 - 1000 2592000
    RateLimit-Limit: 5 | RateLimit-Remaining: 4 | RateLimit-Reset: 47 | X-RateLimit-Limit-Minute: 5
    X-RateLimit-Remaining-Minute: 4 | X-RateLimit-Limit-Month: 1000 | X-RateLimit-Remaining-Month: 900
OpenAI = 59 1 60 -, 149984 360 150000 -
    x-ratelimit-limit-requests: 60 | x-ratelimit-remaining-requests: 59 | x-ratelimit-reset-requests: 1s
    x-ratelimit-limit-tokens: 150000 | x-ratelimit-remaining-tokens: 149984 | x-ratelimit-reset-tokens: 6m0s
Anthropic = 49 12 50 -, 0 60 40000 -
    anthropic-ratelimit-requests-limit: 50 | anthropic-ratelimit-requests-remaining: 49
    anthropic-ratelimit-requests-reset: 2026-01-01T00:00:12Z | anthropic-ratelimit-input-tokens-limit: 40000
    anthropic-ratelimit-input-tokens-remaining: 0 | anthropic-ratelimit-input-tokens-reset: 2026-01-01T00:01:00Z
Klaviyo = 699 59 700 60, 75 - 75 1
    RateLimit-Limit: 75, 75;w=1, 700;w=60 | RateLimit-Remaining: 699 | RateLimit-Reset: 59
BigCommerce = 6 3 25 5 | X-Rate-Limit-Requests-Left: 6 | X-Rate-Limit-Requests-Quota: 25
    X-Rate-Limit-Time-Reset-Ms: 3000 | X-Rate-Limit-Time-Window-Ms: 5000
Xero = 59 - - 60, 4999 - - 86400, 9999 - - 60
    X-MinLimit-Remaining: 59 | X-DayLimit-Remaining: 4999 | X-AppMinLimit-Remaining: 9999
Sentry = 38 30 40 - | X-Sentry-Rate-Limit-Limit: 40 | X-Sentry-Rate-Limit-Remaining: 38
    X-Sentry-Rate-Limit-Reset: 1767225630
Etsy = 9 - 10 1, 9999 - 10000 86400
    x-limit-per-second: 10 | x-remaining-this-second: 9 | x-limit-per-day: 10000 | x-remaining-today: 9999
Contentful = 35883 - 36000 3600, 9 - 10 1 | X-Contentful-RateLimit-Hour-Limit: 36000
    X-Contentful-RateLimit-Hour-Remaining: 35883 | X-Contentful-RateLimit-Second-Limit: 10
    X-Contentful-RateLimit-Second-Remaining: 9 | X-Contentful-RateLimit-Reset: 0
Contentful, used up = 0 1200 36000 3600 | X-Contentful-RateLimit-Hour-Limit: 36000
    X-Contentful-RateLimit-Hour-Remaining: 0 | X-Contentful-RateLimit-Reset: 1200
Strava = 186 - 200 -, 1464 - 2000 -, 0 - 100 -, 466 - 1000 - | X-RateLimit-Limit: 200,2000 | X-RateLimit-Usage: 14,536
    X-ReadRateLimit-Limit: 100,1000 | X-ReadRateLimit-Usage: 102,534
Salesforce = 89982 - 100000 86400 | Sforce-Limit-Info: api-usage=10018/100000
Salesforce, with an app = 4975 - 5000 86400, 233 - 250 86400
    Sforce-Limit-Info: api-usage=25/5000, per-app-api-usage=17/250(appName=sample-connected-app)
Atlassian Data Center = 98 - 10 60 | X-RateLimit-Limit: 100 | X-RateLimit-Remaining: 98 | X-RateLimit-FillRate: 10
    X-RateLimit-Interval-Seconds: 60 | Retry-After: 0
Atlassian Cloud = 349 600 350 -
    X-RateLimit-Limit: 350 | X-RateLimit-Remaining: 349 | X-RateLimit-Reset: 2026-01-01T00:10Z
Freshdesk = 4998 - 5000 - | X-RateLimit-Total: 5000 | X-RateLimit-Remaining: 4998 | X-RateLimit-Used-CurrentRequest: 2
Draft 03 = 9 1 10 1, 50 - 50 60, 1000 - 1000 3600
    RateLimit-Limit: 10, 10;w=1, 50;w=60, 1000;w=3600 | RateLimit-Remaining: 9 | RateLimit-Reset: 1
Draft 03, with a comment = 50 30 100 60
    RateLimit-Limit: 100, 100;w=60;comment="x" | RateLimit-Remaining: 50 | RateLimit-Reset: 30
Draft 06 = 50 30 100 60 | RateLimit-Limit: 100 | RateLimit-Remaining: 50 | RateLimit-Reset: 30
    RateLimit-Policy: 100;w=60;burst=1000;comment="x"
Draft 07 = 50 5 100 10 | RateLimit: limit=100, remaining=50, reset=5 | RateLimit-Policy: 100;w=10
Draft 08 = 50 30 100 60 | RateLimit: "default";r=50;t=30 | RateLimit-Policy: "default";q=100;w=60
Draft 08, several policies = 0 7 100 60, 900 3000 1000 86400 | RateLimit: "burst";r=0;t=7, "daily";r=900;t=3000
    RateLimit-Policy: "burst";q=100;w=60,"daily";q=1000;w=86400;comment="of a day"
Draft 08, the binding policy = 1 7 100 60, 1000 - 1000 86400
    RateLimit: "burst";r=1;t=7 | RateLimit-Policy: "burst";q=100;w=60,"daily";q=1000;w=86400
Draft 08, without policies = 50 30 - - | RateLimit: "default";r=50;t=30
Draft 08, without a reset = 50 - - - | RateLimit: "default";r=50
Draft 08, policies alone = 100 - 100 60 | RateLimit-Policy: "default";q=100;w=60
Draft 08, partitions = 50 30 100 60, 500 - 500 60 | RateLimit: "user";r=50;t=30;pk=:cHsdsRa894==:
    RateLimit-Policy: "user";q=100;w=60;pk=:cHsdsRa894==:, "user";q=500;w=60;pk=:b3RoZXI=:
Draft 08, bytes = 5000 3 10000 10 | RateLimit: "b";r=5000;t=3 | RateLimit-Policy: "b";q=10000;w=10;qu="content-bytes"
Draft 08, concurrent requests = 5 1 9 2
    RateLimit: "c";r=0, "d";r=5;t=1 | RateLimit-Policy: "c";q=10;qu="concurrent-requests", "d";q=9;w=2
No quota = | Content-Type: application/json | Server: nginx
"""

SPECIAL = """
Limit of 0, of a vendor = | X-RateLimit-Limit: 0 | X-RateLimit-Remaining: 0 | X-RateLimit-Reset: 30
Limit of 0, draft 06 = | RateLimit-Limit: 0 | RateLimit-Remaining: 0
Limit of 0, a policy alone = | RateLimit-Policy: "d";q=0;w=60
Limit of 0, Salesforce = | Sforce-Limit-Info: api-usage=0/0
Limit of 0, Shopify = | X-Shopify-Shop-Api-Call-Limit: 0/0
Lines of states = 1 2 - -, 3 4 - - | RateLimit: "a";r=1;t=2 | RateLimit: "b";r=3;t=4
Lines of policies = 1 2 7 8, 5 - 5 6
    RateLimit: "a";r=1;t=2 | RateLimit-Policy: "b";q=5;w=6 | RateLimit-Policy: "a";q=7;w=8
Lines of a dictionary = 1 2 9 - | RateLimit: limit=9 | RateLimit: remaining=1 | RateLimit: reset=2
Lines of limits = 8 1 9 1, 99 - 99 60
    RateLimit-Limit: 9 | RateLimit-Limit: 9;w=1, 99;w=60 | RateLimit-Remaining: 8 | RateLimit-Reset: 1
Lines of counters = 1 - 9 -, 2 - 8 -
    X-RateLimit-Limit: 9 | X-RateLimit-Limit: 8 | X-RateLimit-Remaining: 1 | X-RateLimit-Remaining: 2
Counters on a line = 1 3 9 -, 2 30 8 -
    X-RateLimit-Limit: 9, 8 | X-RateLimit-Remaining: 1, 2 | X-RateLimit-Reset: 3, 30
Lines of usage = 8 - 9 86400, 4 - 5 86400 | Sforce-Limit-Info: api-usage=1/9 | Sforce-Limit-Info: per-app-api-usage=1/5
A window of 0 in a policy = 5 - 9 - | RateLimit: "d";r=5 | RateLimit-Policy: "d";q=9;w=0
A window of 0, HubSpot = 5 - - - | X-HubSpot-RateLimit-Remaining: 5 | X-HubSpot-RateLimit-Interval-Milliseconds: 0
Short durations = 7 0.012 - -, 8 7.66 - - | x-ratelimit-remaining-requests: 7 | x-ratelimit-reset-requests: 12ms
    x-ratelimit-remaining-tokens: 8 | x-ratelimit-reset-tokens: 7.66s
A reset within a long window = 7 1000000 9 2592000 | RateLimit: "m";r=7;t=1000000 | RateLimit-Policy: "m";q=9;w=2592000
A reset beyond a short window = 7 - 9 60 | RateLimit: "m";r=7;t=1000000 | RateLimit-Policy: "m";q=9;w=60
"""


def cases(table: str) -> list[ParameterSet]:
    found = []
    for entry in re.split(r"\n(?=\S)", table.strip()):
        first, *lines = re.split(r" \| |\n +", entry)
        title, _, expected = first.rpartition("=")
        quotas = [tuple(None if n == "-" else float(n) for n in text.split()) for text in expected.split(",") if text]
        found.append(pytest.param(lines, sorted(quotas, key=str), id=title.strip()))
    return found


each_vendor = pytest.mark.parametrize(("lines", "expected"), cases(VENDORS))


@each_vendor
def test_quotas_of_real_apis_are_parsed_with_distinct_names(lines: list[str], expected: list[QuotaNumbers]) -> None:
    assert quota_numbers(DATE, *lines) == expected
    assert len({quota.name for quota in parse_quotas(DATE, *lines)}) == len(expected)


@pytest.mark.parametrize(("lines", "expected"), cases(SPECIAL))
def test_special_cases_are_parsed(lines: list[str], expected: list[QuotaNumbers]) -> None:
    assert quota_numbers(*lines) == expected
    assert asks_to_wait(make_response(*lines), WALL) is False


@pytest.mark.parametrize(
    "headers",
    ["RateLimit: limit=0, remaining=0, reset=5", 'RateLimit: "d";r=0;t=5 | RateLimit-Policy: "d";q=0;w=60']
    + ["Zendesk-RateLimit-Endpoint: total=0; remaining=0; resets=41"],
)
def test_limit_of_0_means_no_limit(headers: str) -> None:
    assert parse_quotas(*headers.split(" | ")) == ()


@pytest.mark.parametrize("case", ["lower", "upper", "title"])
@each_vendor
def test_header_names_are_case_insensitive(lines: list[str], expected: list[QuotaNumbers], case: str) -> None:
    changed = [getattr(name, case)() + ":" + value for name, _, value in (line.partition(":") for line in lines)]

    assert quota_numbers(DATE, *changed) == expected


@each_vendor
def test_cached_response_reports_no_quota(lines: list[str], expected: list[QuotaNumbers]) -> None:
    assert (parse_quotas(DATE, "Age: 17", *lines), len(parse_quotas(DATE, *lines))) == ((), len(expected))


@pytest.mark.parametrize(("used", "left"), [("32/40", 8), ("40/40", 0), ("1/40", 39), ("45/40", 0)])
def test_shopify_bucket_refills_2_units_a_second(used: str, left: float) -> None:
    ((remaining, resets_in, limit, window),) = quota_numbers(f"X-Shopify-Shop-Api-Call-Limit: {used}")

    assert (remaining, resets_in, limit / window) == (left, 0.5, 2)


@pytest.mark.parametrize("what", ["x-ratelimit-resource", "x-ratelimit-bucket", "ratelimit-name"])
def test_quota_name_contains_header_and_resource(what: str) -> None:
    header = what.rpartition("-")[0]

    (quota,) = parse_quotas(f"{header}-remaining: 5", f"{what}: search")

    assert re.fullmatch(f"{header}.+search", quota.name)


@pytest.mark.parametrize(
    ("lines", "scope"),
    [
        (["X-RateLimit-Remaining: 5"], QuotaScope.CREDENTIAL),
        (["X-RateLimit-Remaining: 5", "X-RateLimit-Resource: search"], QuotaScope.RESOURCE),
        (["X-RateLimit-Remaining: 5", "X-RateLimit-Bucket: abcd"], QuotaScope.RESOURCE),
        (['RateLimit: "search";r=5;t=9'], QuotaScope.POLICY),
        (["RateLimit: limit=9, remaining=5, reset=9"], QuotaScope.CREDENTIAL),
    ],
)
def test_quota_has_the_scope_that_the_headers_name(lines: list[str], scope: QuotaScope) -> None:
    (quota,) = parse_quotas(*lines)

    assert quota.scope is scope


@pytest.mark.parametrize(("value", "rate"), [("0.5", 0.5), ("15", 15), ("0.0000001", None), ("0", None), ("x", None)])
def test_amazon_limit_is_a_rate_and_no_number_of_units(value: str, rate: float | None) -> None:
    quotas = parse_quotas(f"x-amzn-RateLimit-Limit: {value}")

    assert [quota.rate for quota in quotas] == ([] if rate is None else [rate])
    assert exhausted_for(make_response(f"x-amzn-RateLimit-Limit: {value}"), WALL) is None


def test_quota_name_is_the_policy_and_differs_by_partition() -> None:
    plain, one, other = (
        parse_quotas(f'RateLimit: "user";r=5{more}')[0].name for more in ("", ";pk=:b25l:", ";pk=:dHdv:")
    )

    assert plain == "user"
    assert one.startswith("user")
    assert len({plain, one, other}) == 3


@pytest.mark.parametrize(
    "headers",
    ['RateLimit: "{}";r=5', 'RateLimit-Policy: "{}";q=5', "Zendesk-RateLimit-{}: remaining=5; total=9"]
    + ["RateLimit-Remaining: 5 | RateLimit-Name: {}", "X-RateLimit-Remaining: 5 | X-RateLimit-Bucket: {}"],
)
def test_quota_names_have_a_bounded_length(headers: str) -> None:
    assert [len(quota.name) <= 100 for quota in parse_quotas(*headers.format("a" * 9999).split(" | "))] == [True]


def test_partitions_share_the_policy_of_their_name() -> None:
    states = 'RateLimit: "user";r=5;t=30;pk=:b25l:, "user";r=50;t=30;pk=:dHdv:'

    assert quota_numbers(states, 'RateLimit-Policy: "user";q=100;w=60') == [(5, 30, 100, 60), (50, 30, 100, 60)]


def test_long_names_that_differ_at_the_end_stay_distinct() -> None:
    first, second = parse_quotas(f'RateLimit: "{"a" * 100}1";r=5;t=9, "{"a" * 100}2";r=7;t=9')

    assert first.name != second.name


each_reset_form = pytest.mark.parametrize(
    "reset",
    ["1767225900", "1767225900.0", "1767225900000", "300", "300.0", "Thu, 01 Jan 2026 00:05:00 GMT"]
    + ["2026-01-01T00:05:00Z", "2026-01-01T00:05Z", "2026-01-01T00:05:00.000Z", "2026-01-01T00:05:00"]
    + ["2026-01-01T01:05:00+01:00", "2025-12-31T19:05:00-05:00", "5m", "5m0s", "300s", "4m60.0s", "300000ms", "0h5m"],
)


@each_reset_form
@pytest.mark.parametrize("skew", [0, HOUR, -HOUR, 400 * DAY, -400 * DAY])
def test_reset_is_relative_to_the_date_header(reset: str, skew: float) -> None:
    lines = ["X-RateLimit-Remaining: 7", f"X-RateLimit-Reset: {reset}"]

    assert quota_numbers(*lines, DATE, wall=WALL + skew) == [(7, 300, None, None)]


@each_reset_form
@pytest.mark.parametrize("date", ["X-Date: none", "Date:", "Date: yesterday", "Date: Wed, 99 Foo 2026 00:00:00 GMT"])
def test_without_a_date_header_the_local_clock_counts(reset: str, date: str) -> None:
    assert quota_numbers("X-RateLimit-Remaining: 7", f"X-RateLimit-Reset: {reset}", date) == [(7, 300, None, None)]


@pytest.mark.parametrize(
    "reset",
    ["", " ", "-5", "+5", "nan", "inf", "1e3", "0x10", "soon", "1_0", "m", "5x", "5 s", "1;2", "\u0663\u0663"]
    + ["9" * 400, "1" * 10_000, "é", "\x00", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-13-01T00:00:00Z"]
    + ["1767222000", "1767222000000", "2025-12-31T23:00:00Z", "Wed, 31 Dec 2025 23:00:00 GMT", "1000000001"]
    + ["90000", "1767315660", "1767315660000", "2026-01-02T01:01:00Z", "Fri, 02 Jan 2026 01:01:00 GMT", "26h0m0s"],
)
def test_malformed_past_or_absurd_reset_is_none(reset: str) -> None:
    assert quota_numbers("X-RateLimit-Remaining: 7", f"X-RateLimit-Reset: {reset}", DATE) == [(7, None, None, None)]


@pytest.mark.parametrize(
    "value",
    ["", " ", "-1", "+1", "nan", "NaN", "inf", "-inf", "Infinity", "1e309", "1e3", "1_0", "0x10", "many", "5;6", "a,b"]
    + ["9" * 400, "x" * 10_000, "\u0663\u0663", "½", "\x00", "1.2.3", "1.", "[5]", '{"a":1}', "null", "true"],
)
def test_non_number_reports_no_quota(value: str) -> None:
    assert parse_quotas(f"X-RateLimit-Remaining: {value}") == ()
    assert quota_numbers("X-RateLimit-Remaining: 7", f"X-RateLimit-Limit: {value}") == [(7, None, None, None)]


MALFORMED_STATES = ["", "5", '"d"', '"d";t=5', '"d";r=-1;t=5', '"d";r="5"', '"d";r=?1', '"d";r=1e3', '"d";r=nan']
MALFORMED_STATES += ['("d";r=5)', '"d;r=5', f'"d";r={"9" * 16}', f'"d";r=5, {"(" * 10_000}', '"é";r=5', '"d";r=5,']
MALFORMED_STATES += ['"d" ;r=5', '"d";R=5', "limit=9, remaining=-5", "remaining=x", "limit=9", "remaining=(1 2)"]


@pytest.mark.parametrize(
    "line",
    [f"RateLimit: {value}" for value in MALFORMED_STATES]
    + [f"RateLimit-Policy: {value}" for value in ("x", '"d"', '"d";q=-5;w=1', '"d";w=60', '"d";q=9;w=1,')]
    + [f"Sforce-Limit-Info: {value}" for value in ("5", "api-usage=a/b", "api-usage=-1/5", "api-usage=1/inf")]
    + [f"X-Shopify-Shop-Api-Call-Limit: {value}" for value in ("3", "/", "3/4/5", "1/" * 5000)]
    + [f"Zendesk-RateLimit-Endpoint: {value}" for value in ("", "total=9", "remaining=x; total=9", "remaining=-1")],
)
def test_malformed_fields_report_no_quota(line: str) -> None:
    assert parse_quotas(line) == ()


def test_many_sets_of_header_names_do_not_grow_memory() -> None:
    def memory_after(sets: range) -> int:
        for number in sets:
            parse_quotas(
                f"X-Trace-{number}-{'x' * 200}: 1", f"X-RateLimit-Remaining: {number}", "X-RateLimit-Limit: 99999"
            )
            parse_quotas(f'RateLimit: "p{number}";r=5;t=9', f'RateLimit-Policy: "p{number}{"x" * 200}";q=9;w=60')
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = memory_after(range(600))
        after = memory_after(range(600, 2000))
    finally:
        tracemalloc.stop()

    assert after - before < 200_000


NAMES = sorted({name.lower().encode() for name in re.findall(r"([\w-]+): ", VENDORS + DATE + "| Age: 1")})
counts = st.integers(-1, 10**17) | st.integers(0, 99)
texts = (
    st.text(alphabet='0123456789.,;:=-+/eE "rtqwpkmsh()TZGMTJan', max_size=60)
    | (st.integers() | st.floats() | st.datetimes()).map(str)
    | st.builds('"{}";r={};t={};q={};w={}'.format, *[counts] * 5)
    | st.builds("{}={}/{}".format, st.text(max_size=80), counts, counts)
    | st.sampled_from(["9" * 400, "1," * 5000, '"x";r=1,' * 2000 + '"x";r=1', "x" * 10_000, "1e309", "nan"])
)
values = st.binary(max_size=60) | texts.map(lambda text: text.encode("utf-8", "surrogatepass"))
raw_headers = st.lists(st.tuples(st.sampled_from(NAMES) | st.binary(max_size=100), values), max_size=8)


@often
@given(headers=raw_headers, wall=st.floats(0, 1e11))
def test_garbage_gives_no_impossible_numbers(headers: list[tuple[bytes, bytes]], wall: float) -> None:
    request = httpx.Request("GET", "https://api.example.com/")
    response = Response(200, headers=headers, stream=httpx.ByteStream(b""), request=request)

    quotas = reported_quotas(response, wall)

    for quota in quotas:
        assert 0 <= quota.remaining < math.inf
        assert all(n is None or 0 <= n < math.inf for n in (quota.resets_in, quota.limit, quota.window))
        assert 0 < len(quota.name) <= 100
    used_up = any(quota.remaining < 1 for quota in quotas)
    assert asks_to_wait(response, wall) is (used_up or retry_after(response, wall) is not None)
    assert should_retry(response) is None


@often
@given(seconds=st.integers(1, DAY), skew=st.floats(-DAY, DAY), unit=st.sampled_from([1, 1000]))
def test_timestamp_reset_is_relative_to_the_server_clock(seconds: int, skew: float, unit: int) -> None:
    reset = f"X-RateLimit-Reset: {(int(WALL) + seconds) * unit}"

    assert quota_numbers("X-RateLimit-Remaining: 7", reset, DATE, wall=WALL + skew) == [(7, seconds, None, None)]


WITH_WAIT = ["Retry-After: 30", "Retry-After: Thu, 01 Jan 2026 00:02:00 GMT", "X-RateLimit-Remaining: 0"]
WITH_WAIT += ["X-RateLimit-Remaining: 0 | X-RateLimit-Reset: 1767225900", "X-Shopify-Shop-Api-Call-Limit: 40/40"]
WITH_WAIT += ['RateLimit: "a";r=9, "b";r=0;t=7', "Retry-After: 30 | X-RateLimit-Remaining: 9"]
WITHOUT_WAIT = ["Server: nginx", "Retry-After: 0", "Retry-After: soon", "X-RateLimit-Remaining: 9"]
WITHOUT_WAIT += ["X-RateLimit-Remaining: -1", 'RateLimit: "a";r=1, "b";r=9', 'RateLimit-Policy: "a";q=9;w=1']
WITHOUT_WAIT += ["X-RateLimit-Remaining: 0 | Age: 17", "X-RateLimit-Remaining: 0 | X-RateLimit-Limit: 0"]


@pytest.mark.parametrize("status", [200, 403, 429, 503])
@pytest.mark.parametrize("headers", WITH_WAIT + WITHOUT_WAIT)
def test_asks_to_wait_for_retry_after_or_used_up_quota(headers: str, status: int) -> None:
    assert asks_to_wait(make_response(*headers.split(" | "), status=status), WALL) is (headers in WITH_WAIT)


@pytest.mark.parametrize(("value", "expected"), [("true", True), ("false", False), ("", None), ("maybe", None)])
def test_should_retry_reads_the_stripe_header(value: str, expected: bool | None) -> None:
    assert should_retry(make_response(f"Stripe-Should-Retry: {value}", status=409)) is expected


@pytest.mark.parametrize("value", ["", "-5", "nan", "inf", "1e3", "soon", "\u0663", "x" * 10_000])
def test_backoff_seconds_reads_the_kinto_header(value: str) -> None:
    assert backoff_seconds(make_response("Backoff: 30")) == 30
    assert backoff_seconds(make_response(f"Backoff: {value}")) is None
