"""Servers drawn at random, as combinations of statuses, Retry-After, quota headers and resets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from random import Random
from typing import NamedTuple

import httpx
from simulated_servers import WALL, CheckedGovernor, Reply, SimulatedRun

from asyncstreams import RateLimit, Response
from asyncstreams.rate_limits.governor import HostState, QuotaClient
from asyncstreams.rate_limits.retry_after import retry_after

MAX_SERVER_WAIT_S = 60.0
"""Longest wait that a client of these servers accepts; a far reset is much later."""
_REQUEST = httpx.Request("GET", "https://api.test/")
_FAR_RESETS_S = (3600.0, 86_400.0)
_HOSTILE_S = 60.0
_OUTAGE_STATUSES = (500, 502, 503)


class QuotaState(NamedTuple):
    """The quota that a server reports; `moment` is the time of the reset in seconds since 1970."""

    limit: int
    remaining: int
    resets_in: float
    moment: float
    per: float
    resource: str


class RandomReply(NamedTuple):
    """A response: status, seconds until it arrives, and headers."""

    status: int
    after: float
    headers: Mapping[str, str]


Headers = Callable[[QuotaState], dict[str, str]]


def _counters(prefix: str, reset: Callable[[QuotaState], str] | None) -> Headers:
    def headers(state: QuotaState) -> dict[str, str]:
        numbers = {f"{prefix}-Limit": f"{state.limit}", f"{prefix}-Remaining": f"{state.remaining}"}
        return numbers if reset is None else {**numbers, f"{prefix}-Reset": reset(state)}

    return headers


def _http_date(moment: float) -> str:
    return format_datetime(datetime.fromtimestamp(math.ceil(moment), UTC), usegmt=True)


def _iso_date(moment: float) -> str:
    return f"{datetime.fromtimestamp(math.ceil(moment), UTC):%Y-%m-%dT%H:%M:%SZ}"


def _seconds(state: QuotaState) -> str:
    return f"{math.ceil(state.resets_in)}"


QUOTA_FORMS: Mapping[str, Headers] = {
    "ietf": lambda state: {
        "RateLimit-Policy": f'"q";q={state.limit};w={math.ceil(state.per)}',
        "RateLimit": f'"q";r={state.remaining};t={_seconds(state)}',
    },
    "ietf, two policies": lambda state: {
        "RateLimit-Policy": f'"burst";q=1000;w=1, "q";q={state.limit};w={math.ceil(state.per)}',
        "RateLimit": f'"burst";r=900;t=1, "q";r={state.remaining};t={_seconds(state)}',
    },
    "ietf 07": lambda state: {
        "RateLimit": f"limit={state.limit}, remaining={state.remaining}, reset={_seconds(state)}"
    },
    "ietf 03": _counters("RateLimit", _seconds),
    "seconds": _counters("X-RateLimit", _seconds),
    "since 1970": _counters("X-RateLimit", lambda state: f"{math.ceil(state.moment)}"),
    "milliseconds": _counters("X-RateLimit", lambda state: f"{math.ceil(state.moment) * 1000}"),
    "http date": _counters("X-RateLimit", lambda state: _http_date(state.moment)),
    "iso date": _counters("X-Rate-Limit", lambda state: _iso_date(state.moment)),
    "duration": _counters("X-RateLimit", lambda state: f"{math.ceil(state.resets_in)}s"),
    "without reset": _counters("X-RateLimit", None),
    "by resource": lambda state: {
        **_counters("X-RateLimit", lambda state: f"{math.ceil(state.moment)}")(state),
        "X-RateLimit-Resource": state.resource,
    },
    "by bucket": lambda state: {
        **_counters("X-RateLimit", None)(state),
        "X-RateLimit-Reset-After": f"{state.resets_in:.3f}",
        "X-RateLimit-Bucket": state.resource,
    },
    "kong": lambda state: {
        "X-RateLimit-Limit-Minute": f"{state.limit}",
        "X-RateLimit-Remaining-Minute": f"{state.remaining}",
    },
    "shopify": lambda state: {"X-Shopify-Shop-Api-Call-Limit": f"{state.limit - state.remaining}/{state.limit}"},
    "zendesk": lambda state: {
        "Zendesk-RateLimit-Tickets": f"total={state.limit}; remaining={state.remaining}; resets={_seconds(state)}"
    },
    "hubspot": lambda state: {
        "X-HubSpot-RateLimit-Max": f"{state.limit}",
        "X-HubSpot-RateLimit-Remaining": f"{state.remaining}",
        "X-HubSpot-RateLimit-Interval-Milliseconds": f"{math.ceil(state.per * 1000)}",
    },
}
"""Headers in which servers report a quota."""

RETRY_AFTER_FORMS: Mapping[str, Callable[[float, float], dict[str, str]]] = {
    "none": lambda seconds, wall: {},
    "zero": lambda seconds, wall: {"Retry-After": "0"},
    "seconds": lambda seconds, wall: {"Retry-After": f"{math.ceil(seconds)}"},
    "http date": lambda seconds, wall: {"Retry-After": _http_date(wall + seconds)},
    "iso date": lambda seconds, wall: {"Retry-After": _iso_date(wall + seconds)},
    "milliseconds": lambda seconds, wall: {"Retry-After-Ms": f"{math.ceil(seconds * 1000)}"},
    "of the quota": lambda seconds, wall: {"X-RateLimit-Retry-After": f"{math.ceil(seconds)}"},
}
"""Headers in which servers order a wait of some seconds."""


class RandomServer:
    """A server drawn at random: how it refuses, what it orders, and which quotas it reports.

    Its quota may be enforced or only reported, its reset near or far. It may refuse requests at random, or
    all of them for some seconds, and it may be down for some seconds. After a minute it answers every request.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self.forms = random.sample(sorted(QUOTA_FORMS), random.choice((0, 1, 1, 1, 2)))
        self.is_far = random.random() < 0.5
        self._per = random.choice(_FAR_RESETS_S) if self.is_far else random.uniform(0.3, 20.0)
        self._limit = random.choice((5, 20, 100, 5000))
        self.is_enforced = random.random() < 0.5
        self._resources = random.choice((("core",), ("core", "search")))
        self._remaining = dict.fromkeys(self._resources, float(self._limit))
        self._ends_at = self._per
        self.retry_after = random.choice(sorted(RETRY_AFTER_FORMS))
        self._pause = random.choice((0.2, 1.0, 2.0, 5.0, 30.0, 7200.0 if random.random() < 0.2 else 1.0))
        self._refusal_status = random.choice((429, 429, 429, 503))
        self._refused_share = random.choice((0.0, 0.02, 0.2))
        self._refused_span = random.choice(((0.0, 0.0), (0.2, 0.6), (0.5, 6.0)))
        self._down_span = random.choice(((0.0, 0.0), (0.0, 0.0), (1.0, random.uniform(2.0, 20.0))))
        self._failed_share = random.choice((0.0, 0.0, 0.1))
        self._reports_in_refusals = random.random() < 0.5
        self._latency = 10 ** random.uniform(-3.0, -0.3)
        self._reports_date = random.random() < 0.7

    def respond(self, now: float) -> RandomReply:
        """The response to a request sent at `now`, in seconds since the start."""
        random = self._random
        if now >= self._ends_at:
            self._ends_at = now + self._per
            self._remaining = dict.fromkeys(self._resources, float(self._limit))
        after = self._latency * random.uniform(0.5, 1.5)
        is_down = self._down_span[0] <= now < self._down_span[1] or random.random() < self._failed_share
        if is_down and now < _HOSTILE_S:
            return RandomReply(random.choice(_OUTAGE_STATUSES), after, {})
        resource = random.choice(self._resources)
        is_used_up = self.is_enforced and self._remaining[resource] < 1
        in_span = self._refused_span[0] <= now < self._refused_span[1]
        is_refused = (is_used_up or in_span or random.random() < self._refused_share) and now < _HOSTILE_S
        if not is_refused:
            self._remaining[resource] = max(0.0, self._remaining[resource] - 1)
        headers = {"Date": _http_date(math.floor(WALL + now))} if self._reports_date else {}
        if not is_refused or self._reports_in_refusals:
            headers |= self._quota_headers(resource, now)
        if is_refused:
            seconds = self._ends_at - now if is_used_up else self._pause
            headers |= RETRY_AFTER_FORMS[self.retry_after](seconds, WALL + now)
        return RandomReply(self._refusal_status if is_refused else 200, after, headers)

    def _quota_headers(self, resource: str, now: float) -> dict[str, str]:
        resets_in = max(0.0, self._ends_at - now)
        remaining = math.floor(self._remaining[resource])
        state = QuotaState(self._limit, remaining, resets_in, WALL + now + resets_in, self._per, resource)
        headers: dict[str, str] = {}
        for form in self.forms:
            headers |= QUOTA_FORMS[form](state)
        return headers

    def __repr__(self) -> str:
        quota = f"{self._limit} per {self._per:.1f} s{'' if self.is_enforced else ', not enforced'}"
        return (
            f"<RandomServer {quota}, reported as {self.forms}, {self._refusal_status} with Retry-After "
            f"{self.retry_after} of {self._pause:g} s, refuses {self._refused_share:g} and in {self._refused_span}, "
            f"fails {self._failed_share:g} and in {self._down_span}, {self._latency:.3f} s>"
        )


class RandomRun(SimulatedRun):
    """Several streams, adaptive and not, with one or more tokens and quotas, that read from a random server.

    Some streams declare limits. A page whose wait would be too long fails.
    """

    def __init__(self, seed: int, requests: int = 60) -> None:
        super().__init__(seed, _ReplyingServer, requests, 0, max_server_wait=MAX_SERVER_WAIT_S)

    def open_clients(self, random: Random) -> list[tuple[CheckedGovernor, QuotaClient, int]]:
        """Streams of one to three credentials; some share the quota of another, and some only its host."""
        clients: list[tuple[CheckedGovernor, QuotaClient, int]] = []
        for _ in range(random.choice((1, 1, 2, 3))):
            host = HostState(random)
            governors = [self.new_governor(host) for _ in range(random.choice((1, 1, 2)))]
            for number in range(random.choice((1, 2, 3))):
                governor = random.choice(governors)
                limits = random.choice(((), (), (RateLimit(5, per=1),), (RateLimit(20, per=10),)))
                client = governor.add_client(
                    f"{number}",
                    random.choice((1.0, 3.0)),
                    limits,
                    adaptive=random.random() < 0.7,
                    accept_long_waits=random.random() < 0.2,
                )
                clients.append((governor, client, random.choice((1, 4, 16))))
        return clients


class _ReplyingServer:
    """A random server whose replies contain the wait that the client reads from the headers."""

    def __init__(self, random: Random) -> None:
        self._server = RandomServer(random)

    def respond(self, now: float) -> Reply:
        status, after, headers = self._server.respond(now)
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        response = Response(status, headers=raw, stream=httpx.ByteStream(b""), request=_REQUEST)
        return Reply(status, after, retry_after(response, WALL + now), response)

    def __repr__(self) -> str:
        return repr(self._server)
