"""Simulated servers that refuse, queue, fail and recover, with workers behind a Governor, in virtual time."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from random import Random
from typing import Protocol, cast

import httpx

from asyncstreams import RateLimit, Response
from asyncstreams.rate_limits.circuit_breaker import RETRY_COST
from asyncstreams.rate_limits.governor import Governor, HostState, Permit, PermitWaits, QuotaClient
from asyncstreams.rate_limits.loop_lag import LoopLag
from asyncstreams.rate_limits.quota_headers import reported_quotas
from asyncstreams.rate_limits.wait_reason import Wait, WaitReason
from asyncstreams.testing import VirtualClock

_REQUEST = httpx.Request("GET", "https://api.test/")
LATENCY = 0.05  # seconds
WALL = 1.8e9  # seconds since 1970 at the start
_SERVER_WAITS = (WaitReason.PAUSED, WaitReason.QUOTA)
_MAX_SERVER_WAITS = 4  # sum of the waits of a page, as a multiple of the longest
_TIMER_TOLERANCE_S = 1e-6


@dataclass(frozen=True, slots=True)
class Reply:
    """A server's response: status, seconds until it arrives, and headers that order a wait or report a quota."""

    status: int
    after: float
    retry_after: float | None = None
    headers: Response | None = None


class Server(Protocol):
    """A server that responds to a request sent at `now`, in seconds since the start."""

    def respond(self, now: float) -> Reply: ...


class TokenBucketServer:
    """A token bucket that answers 429 when it is empty, with or without a Retry-After. `rate` may change."""

    def __init__(self, random: Random, rate: float, burst: float, retry_after: float | None = 1.0) -> None:
        self._random, self.rate, self.burst, self._retry_after = random, rate, burst, retry_after
        self._tokens, self._updated_at = burst, 0.0

    def respond(self, now: float) -> Reply:
        self._tokens = min(self.burst, self._tokens + (now - self._updated_at) * self.rate)
        self._updated_at = now
        if self._tokens < 1:
            return Reply(429, jittered(self._random, LATENCY / 2), self._retry_after)
        self._tokens -= 1
        return Reply(200, jittered(self._random, LATENCY))


class QueueingServer:
    """One queue of `capacity` requests, served at `rate`; 503 when it is full. During `cut` the rate is a quarter."""

    def __init__(
        self, random: Random, rate: float, capacity: int = 60, cut: tuple[float, float] = (math.inf, math.inf)
    ) -> None:
        self._random, self._rate, self._capacity, self._cut = random, rate, capacity, cut
        self._free_at = 0.0

    def rate(self, now: float) -> float:
        return self._rate / 4 if self._cut[0] <= now < self._cut[1] else self._rate

    def respond(self, now: float) -> Reply:
        service_time = 1 / self.rate(now)
        waiting = max(0.0, self._free_at - now)
        if waiting / service_time > self._capacity:
            return Reply(503, jittered(self._random, LATENCY))
        self._free_at = max(now, self._free_at) + service_time
        return Reply(200, waiting + jittered(self._random, LATENCY))


class FixedWindowServer:
    """A quota in fixed windows, reported in headers whose reset is in whole seconds, from now or since 1970.

    Another client sends `foreign` requests a second. With `skew` the reset is a timestamp of a clock
    that is wrong by as many seconds. A share `moves` of the windows ends later than first reported.
    """

    def __init__(
        self,
        random: Random,
        limit: int,
        per: float,
        *,
        foreign: float = 0.0,
        skew: float | None = None,
        moves: float = 0.0,
    ) -> None:
        self._random, self._limit, self._per = random, limit, per
        self._foreign, self._skew, self._moves = foreign, skew, moves
        self._ends_at, self._remaining, self._updated_at = -math.inf, 0.0, 0.0
        self._has_moved = True

    def respond(self, now: float) -> Reply:
        if now >= self._ends_at:
            # If the reset is a timestamp, windows begin at whole seconds.
            starts_at = now if self._skew is None else math.floor(now)
            self._ends_at, self._remaining, self._updated_at = starts_at + self._per, self._limit, now
            self._has_moved = self._random.random() >= self._moves
        elif not self._has_moved and self._remaining < self._limit / 2:
            self._ends_at, self._has_moved = self._ends_at + self._random.uniform(0.0, self._per / 2), True
        self._remaining -= min(self._remaining, self._foreign * (now - self._updated_at))
        self._updated_at = now
        latency = jittered(self._random, LATENCY)
        is_admitted = self._remaining >= 1
        self._remaining -= is_admitted
        if is_admitted:
            return Reply(200, latency, headers=self._headers(now + latency / 2))
        return Reply(429, latency, max(1.0, math.ceil(self._ends_at - now)), self._headers(now + latency / 2))

    def _headers(self, now: float) -> Response:
        headers = {
            "RateLimit-Policy": f'"q";q={self._limit};w={self._per:.0f}',
            "RateLimit": f'"q";r={math.floor(self._remaining)};t={max(0, math.ceil(self._ends_at - now))}',
        }
        if self._skew is not None:
            headers = {
                "Date": format_datetime(datetime.fromtimestamp(WALL + now + self._skew, UTC), usegmt=True),
                "X-RateLimit-Limit": str(self._limit),
                "X-RateLimit-Remaining": str(math.floor(self._remaining)),
                "X-RateLimit-Reset": str(math.ceil(WALL + self._ends_at + self._skew)),
            }
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        return Response(200, headers=raw, stream=httpx.ByteStream(b""), request=_REQUEST)


class PausingServer:
    """Refuses a random share of requests with a pause of 1 s to 15 minutes, log-uniformly distributed."""

    def __init__(self, random: Random, share: float) -> None:
        self._random, self._share = random, share

    def respond(self, now: float) -> Reply:
        latency = jittered(self._random, LATENCY)
        if self._random.random() < self._share:
            return Reply(429, latency, float(round(10 ** self._random.uniform(0.0, 2.95))))
        return Reply(200, latency)


class FailingServer:
    """Fails a random share of requests, and all of them during the periods `down`."""

    def __init__(
        self, random: Random, share: float = 0.0, down: Sequence[tuple[float, float]] = (), latency: float = LATENCY
    ) -> None:
        self._random, self._share, self._down, self._latency = random, share, down, latency

    def respond(self, now: float) -> Reply:
        is_down = any(begin <= now < end for begin, end in self._down)
        failed = is_down or self._random.random() < self._share
        return Reply(500 if failed else 200, jittered(self._random, self._latency))


def jittered(random: Random, seconds: float) -> float:
    """A random value within a tenth of `seconds`."""
    return seconds * random.uniform(0.9, 1.1)


@dataclass(slots=True)
class SentRequest:
    """One request: its stream, when it was sent and answered, its try and the pause that the response ordered."""

    stream: str
    sent_at: float
    status: int
    done_at: float
    attempt: int
    ordered_pause: float | None


@dataclass
class SimulatedRun:
    """A run of workers that fetch pages from a simulated server through one governor."""

    seed: int
    make_server: Callable[[Random], Server]
    requests: int
    workers: int
    limits: tuple[RateLimit, ...] = ()
    adaptive: bool = True
    until: float = math.inf
    streams: tuple[tuple[str, float, int], ...] = ()
    """Names, weights and workers of several streams, instead of `workers` of one."""
    max_server_wait: float = math.inf
    """Seconds; a page that would have to wait longer for the server fails."""
    sent: list[SentRequest] = field(default_factory=list)
    failed_pages: int = 0

    def run(self) -> SimulatedRun:
        asyncio.run(self._run())
        return self

    @property
    def accepted(self) -> list[SentRequest]:
        """Requests with status 200."""
        return [request for request in self.sent if request.status == 200]

    def rate(self, begin: float, end: float) -> float:
        """Accepted requests a second from `begin` to `end`."""
        return sum(begin <= request.done_at < end for request in self.accepted) / (end - begin)

    def refused_share(self, begin: float = 0.0, end: float = math.inf) -> float:
        """Share of the requests sent from `begin` to `end` that were not accepted."""
        sent = [request for request in self.sent if begin <= request.sent_at < end]
        return sum(request.status != 200 for request in sent) / max(1, len(sent))

    @property
    def seconds(self) -> float:
        return max(request.done_at for request in self.accepted)

    async def _run(self) -> None:
        random = Random(self.seed)
        self._clock = VirtualClock()
        self._started_at = self._clock.monotonic()
        self._random = random
        self.server = self.make_server(random)
        self._remaining = self.requests
        clients = self.open_clients(random)
        async with asyncio.TaskGroup() as tasks:
            for governor, client, workers in clients:
                for _ in range(workers):
                    tasks.create_task(self._worker(governor, client))
        for governor, _, _ in clients:
            assert governor.in_flight == governor.host.in_flight == 0, "a permit was not released"

    def open_clients(self, random: Random) -> list[tuple[CheckedGovernor, QuotaClient, int]]:
        """The streams, each with its governor and its number of workers."""
        governor = self.new_governor(HostState(random))
        return [
            (
                governor,
                governor.add_client(name, weight, self.limits, adaptive=self.adaptive, accept_long_waits=False),
                workers,
            )
            for name, weight, workers in self.streams or (("stream", 1.0, self.workers),)
        ]

    def new_governor(self, host: HostState) -> CheckedGovernor:
        return CheckedGovernor(self._clock, self._random, LoopLag(), host)

    def stop(self) -> None:
        """Start no further page."""
        self._remaining = 0

    def now(self) -> float:
        return self._clock.monotonic() - self._started_at

    async def _worker(self, governor: CheckedGovernor, client: QuotaClient) -> None:
        while self._remaining > 0 and self.now() < self.until:
            self._remaining -= 1
            await self._fetch_page(governor, client)

    async def _fetch_page(self, governor: CheckedGovernor, client: QuotaClient) -> None:
        attempt, failures, refusals, cost, ordered = 0, 0, 0, 0.0, 0.0
        waits = BoundedWaits(self.max_server_wait)
        while True:
            try:
                async with governor.permit(client, waits=waits) as permit:
                    attempt += 1
                    reply = await self._send(permit, attempt)
            except WaitTooLong:
                self.failed_pages += 1
                return
            governor.check_invariants()
            if reply.status == 200:
                governor.record_success(permit, cost)
                return
            if reply.status == 429 or reply.retry_after is not None:
                governor.record_refusal(permit, has_retry_after=reply.retry_after is not None)
                wait = reply.retry_after
                refusals += 1
                pause = self._own_pause(refusals) if wait is None else wait
                governor.pause_for(pause, permit if wait is None and refusals == 1 else None)
                governor.check_invariants()
                ordered += pause
                if ordered > _MAX_SERVER_WAITS * self.max_server_wait:
                    self.failed_pages += 1
                    return
                continue
            cost += RETRY_COST
            if failures < 4 and governor.record_failure(permit, is_overload=reply.status == 503):
                governor.check_invariants()
                continue
            failures += 1
            if failures >= 5:
                self.failed_pages += 1
                return
            await asyncio.sleep(self._random.uniform(0.0, min(30.0, 0.25 * 2 ** (failures - 1))))

    async def _send(self, permit: Permit, attempt: int) -> Reply:
        """Send a request, and report its first byte."""
        governor, sent_at = permit.governor, self.now()
        reply = self.server.respond(sent_at)
        await asyncio.sleep(reply.after)
        self.sent.append(SentRequest(permit.client.name, sent_at, reply.status, self.now(), attempt, reply.retry_after))
        quotas = reported_quotas(reply.headers, WALL + self.now(), governor.host.server_clock) if reply.headers else ()
        governor.record_first_byte(permit, quotas)
        return reply

    def _own_pause(self, refusals: int) -> float:
        """Seconds of the pause after a refusal without Retry-After, as in RetryState."""
        minimum = self._random.uniform(0.5, 0.6)
        return max(minimum, self._random.uniform(0.0, min(60.0, 0.5 * 2.0 ** (refusals - 1))))


class WaitTooLong(Exception):
    """The server orders a longer wait than a page accepts."""


class BoundedWaits(PermitWaits):
    """Refuses waits for the server that are longer than `max_server_wait`."""

    def __init__(self, max_server_wait: float) -> None:
        self._max_server_wait = max_server_wait

    def track(self, wait: Wait, client: QuotaClient) -> AbstractContextManager[None]:
        """Raises WaitTooLong."""
        assert wait.reason, "a wait without a reason"
        if wait.reason in _SERVER_WAITS and self._max_server_wait < wait.seconds < math.inf:
            raise WaitTooLong
        return super().track(wait, client)

    def choose_client(self, client: QuotaClient) -> QuotaClient:
        cast(CheckedGovernor, client.governor).check_invariants()
        return client


class CheckedGovernor(Governor):
    """A Governor that checks its invariants whenever it issues a permit, and after each event."""

    def check_invariants(self) -> None:
        """Check that every wait ends: a response will come, or a timer is set for the next admission."""
        if self._queue and not self.host.in_flight:
            now = self.clock.monotonic()
            admissions = [self._admission_at(client, now) for client in self._queue]
            assert max(admissions) < math.inf, "a wait that nothing ends"
            assert self._timer is not None, "a wait without a timer"
            remaining = self._timer.when() - asyncio.get_running_loop().time()
            assert now + remaining <= min(admissions) + _TIMER_TOLERANCE_S, "a timer of another wait"
        assert 0 <= self.in_flight <= self.host.in_flight
        assert 0 <= self.host.circuit_breaker.budget <= 500

    def _admission_at(self, client: QuotaClient, now: float) -> float:
        """When all gates admit a request, the pause and those behind it."""
        resumes_at, self._pause.resumes_at = self._pause.resumes_at, 0.0
        at, _ = self._earliest_admission(client, now)
        self._pause.resumes_at = resumes_at
        return max(at, resumes_at)

    def _issue_permit(self, client: QuotaClient, now: float) -> Permit:
        assert not self.paused_for, "sent during a pause"
        limit = math.inf if self.host.circuit_breaker.is_down or not client.is_adaptive else self.host.concurrency.limit
        assert self.host.in_flight < max(1.0, limit), "beyond the concurrency limit"
        assert not self.host.circuit_breaker.is_down or self.host.circuit_breaker.probe_at <= now, "a second probe"
        assert self._quota_available_at(client, now) <= now, "beyond a reported quota"
        assert all(log.available_at(client.cost, now) <= now for log in client.window_logs), "beyond a declared limit"
        return super()._issue_permit(client, now)


def max_in_window(times: Sequence[float], per: float) -> int:
    """The largest number of times in any half-open span of `per` seconds."""
    largest, window = 0, deque[float]()
    for time in sorted(times):
        window.append(time)
        while window[0] <= time - per:
            window.popleft()
        largest = max(largest, len(window))
    return largest
