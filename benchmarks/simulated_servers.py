"""Servers that refuse, queue, fail and recover, and workers that ask them through a Governor, in virtual time."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from random import Random
from typing import Protocol

import httpx

from asyncstreams import RateLimit, Response
from asyncstreams.rate_limits.circuit_breaker import RETRY
from asyncstreams.rate_limits.governor import Governor, HostState, Permit, QuotaClient
from asyncstreams.rate_limits.loop_lag import LoopLag
from asyncstreams.rate_limits.quota_headers import told_quotas
from asyncstreams.rate_limits.wait_reason import DOWN, LONG
from asyncstreams.testing import VirtualClock

_REQUEST = httpx.Request("GET", "https://api.test/")
LATENCY = 0.05
WALL = 1.8e9
_LOOK, _EARLY = 1.0, 0.5


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server does with a request: its status after so many seconds, and what it says besides."""

    status: int
    after: float
    retry_after: float | None = None
    headers: Response | None = None


class Server(Protocol):
    """Is asked at a moment, in seconds from the beginning; keeps its own books."""

    def ask(self, now: float) -> Reply: ...


class Refusing:
    """A token bucket: beyond it 429, with a Retry-After or without. `rate` may change."""

    def __init__(self, random: Random, rate: float, burst: float, retry_after: float | None = 1.0) -> None:
        self._random, self.rate, self.burst, self._retry_after = random, rate, burst, retry_after
        self._tokens, self._seen = burst, 0.0

    def ask(self, now: float) -> Reply:
        self._tokens = min(self.burst, self._tokens + (now - self._seen) * self.rate)
        self._seen = now
        if self._tokens < 1:
            return Reply(429, jittered(self._random, LATENCY / 2), self._retry_after)
        self._tokens -= 1
        return Reply(200, jittered(self._random, LATENCY))


class Queueing:
    """One queue of so many places, served at `rate`; 503 where it is full. Between `cut` the rate is a quarter."""

    def __init__(
        self, random: Random, rate: float, places: int = 60, cut: tuple[float, float] = (math.inf, math.inf)
    ) -> None:
        self._random, self._rate, self._places, self._cut = random, rate, places, cut
        self._free_at = 0.0

    def rate(self, now: float) -> float:
        return self._rate / 4 if self._cut[0] <= now < self._cut[1] else self._rate

    def ask(self, now: float) -> Reply:
        each = 1 / self.rate(now)
        waiting = max(0.0, self._free_at - now)
        if waiting / each > self._places:
            return Reply(503, jittered(self._random, LATENCY))
        self._free_at = max(now, self._free_at) + each
        return Reply(200, waiting + jittered(self._random, LATENCY))


class Windowed:
    """So many in fixed windows, told in headers whose reset is in whole seconds: from now, or since 1970.

    `foreign` requests a second come besides, the clock is wrong by `skew` seconds, and of `moves` windows
    each one ends later by a random part than it was told.
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
        self._ends, self._left, self._seen = -math.inf, 0.0, 0.0
        self._moved = True

    def ask(self, now: float) -> Reply:
        if now >= self._ends:
            # Where the reset is a moment, windows begin with whole seconds.
            begins = now if self._skew is None else math.floor(now)
            self._ends, self._left, self._seen = begins + self._per, self._limit, now
            self._moved = self._random.random() >= self._moves
        elif not self._moved and self._left < self._limit / 2:
            self._ends, self._moved = self._ends + self._random.uniform(0.0, self._per / 2), True
        self._left -= min(self._left, self._foreign * (now - self._seen))
        self._seen = now
        latency = jittered(self._random, LATENCY)
        admitted = self._left >= 1
        self._left -= admitted
        if admitted:
            return Reply(200, latency, headers=self._told(now + latency / 2))
        return Reply(429, latency, max(1.0, math.ceil(self._ends - now)), self._told(now + latency / 2))

    def _told(self, now: float) -> Response:
        headers = {
            "RateLimit-Policy": f'"q";q={self._limit};w={self._per:.0f}',
            "RateLimit": f'"q";r={math.floor(self._left)};t={max(0, math.ceil(self._ends - now))}',
        }
        if self._skew is not None:
            headers = {
                "Date": format_datetime(datetime.fromtimestamp(WALL + now + self._skew, UTC), usegmt=True),
                "X-RateLimit-Limit": str(self._limit),
                "X-RateLimit-Remaining": str(math.floor(self._left)),
                "X-RateLimit-Reset": str(math.ceil(WALL + self._ends + self._skew)),
            }
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        return Response(200, headers=raw, stream=httpx.ByteStream(b""), request=_REQUEST)


class Ordering:
    """Refuses by chance, and orders a pause of anything from a second to a quarter of an hour, as often as not long."""

    def __init__(self, random: Random, share: float) -> None:
        self._random, self._share = random, share

    def ask(self, now: float) -> Reply:
        latency = jittered(self._random, LATENCY)
        if self._random.random() < self._share:
            return Reply(429, latency, float(round(10 ** self._random.uniform(0.0, 2.95))))
        return Reply(200, latency)


class Failing:
    """Fails a share of requests by chance, and all of them between `down`."""

    def __init__(
        self, random: Random, share: float = 0.0, down: Sequence[tuple[float, float]] = (), latency: float = LATENCY
    ) -> None:
        self._random, self._share, self._down, self._latency = random, share, down, latency

    def ask(self, now: float) -> Reply:
        is_down = any(begin <= now < end for begin, end in self._down)
        failed = is_down or self._random.random() < self._share
        return Reply(500 if failed else 200, jittered(self._random, self._latency))


def jittered(random: Random, seconds: float) -> float:
    """Give or take a tenth."""
    return seconds * random.uniform(0.9, 1.1)


@dataclass(slots=True)
class Sent:
    """One request: whose it was, when it went and when its answer came, and the pause that this ordered."""

    stream: str
    at: float
    status: int
    done: float
    tried: int
    ordered: float | None


@dataclass
class World:
    """Workers of some streams, each asking for page after page, of a server through one governor."""

    seed: int
    make: Callable[[Random], Server]
    requests: int
    workers: int
    limits: tuple[RateLimit, ...] = ()
    adaptive: bool = True
    until: float = math.inf
    streams: tuple[tuple[str, float, int], ...] = ()
    """Names, weights and workers of several, in place of one."""
    sent: list[Sent] = field(default_factory=list)
    failed: int = 0

    def run(self) -> World:
        asyncio.run(self._run())
        return self

    @property
    def admitted(self) -> list[Sent]:
        return [one for one in self.sent if one.status == 200]

    def rate(self, begin: float, end: float) -> float:
        """Answers a second between two moments."""
        return sum(begin <= one.done < end for one in self.admitted) / (end - begin)

    def refused(self, begin: float = 0.0, end: float = math.inf) -> float:
        """The share of requests sent between two moments that were refused."""
        sent = [one for one in self.sent if begin <= one.at < end]
        return sum(one.status != 200 for one in sent) / max(1, len(sent))

    @property
    def seconds(self) -> float:
        return max(one.done for one in self.admitted)

    async def _run(self) -> None:
        random = Random(self.seed)
        self._clock = VirtualClock()
        self._zero = self._clock.monotonic()
        self._random = random
        self.server = self.make(random)
        self.governor = Watched(self._clock, random, LoopLag(), HostState(random))
        self._left = self.requests
        streams = self.streams or (("stream", 1.0, self.workers),)
        async with asyncio.TaskGroup() as tasks:
            for name, weight, workers in streams:
                client = self.governor.client(name, weight, self.limits, adaptive=self.adaptive, patient=False)
                for _ in range(workers):
                    tasks.create_task(self._worker(client))
        assert self.governor.in_flight == self.governor.host.in_flight == 0, "a ticket did not come back"

    def end(self) -> None:
        """Begin no page more."""
        self._left = 0

    def now(self) -> float:
        return self._clock.monotonic() - self._zero

    async def _worker(self, client: QuotaClient) -> None:
        while self._left > 0 and self.now() < self.until:
            self._left -= 1
            await self._page(client)

    async def _page(self, client: QuotaClient) -> None:
        tried, spent, paid = 0, 0, 0.0
        governor = self.governor
        while True:
            ticket = await self._ticket(client)
            tried += 1
            at = self.now()
            reply = self.server.ask(at)
            await asyncio.sleep(reply.after)
            self.sent.append(Sent(client.name, at, reply.status, self.now(), tried, reply.retry_after))
            told = told_quotas(reply.headers, WALL + self.now(), governor.host.time) if reply.headers else ()
            governor.first_byte(ticket, told)
            governor.release(ticket)
            governor.look()
            if reply.status == 200:
                governor.succeeded(ticket, paid)
                return
            if reply.status == 429 or reply.retry_after is not None:
                governor.refused(ticket, is_ordered=reply.retry_after is not None)
                wait = reply.retry_after
                governor.close_for(max(0.5, self._random.uniform(0.0, 1.0)) if wait is None else wait)
                continue
            paid += RETRY
            if spent < 4 and governor.failed(ticket, is_overload=reply.status == 503):
                continue
            spent += 1
            if spent >= 5:
                self.failed += 1
                return
            await asyncio.sleep(self._random.uniform(0.0, min(30.0, 0.25 * 2 ** (spent - 1))))

    async def _ticket(self, client: QuotaClient) -> Permit:
        """As the wire does it."""
        governor = self.governor
        while (ticket := governor.acquire_nowait(client)) is None:
            wait = governor.wait(client)
            if wait is None or (wait.reason is not DOWN and (wait.seconds < LONG or wait.seconds == math.inf)):
                if (ticket := await governor.acquire(client)) is not None:
                    return ticket
                continue
            assert wait.reason, "a wait without a reason"
            await asyncio.sleep((_LOOK if wait.reason is DOWN else min(wait.seconds, wait.soonest + LONG)) - _EARLY)
            governor.look()
        return ticket


class Watched(Governor):
    """Holds what must hold whenever a request passes, and after each event."""

    def look(self) -> None:
        """Nobody waits for nothing: an answer will come, or a timer is set."""
        assert not self._queue or self.host.in_flight or self._timer is not None, "a wait that nothing ends"
        assert 0 <= self.in_flight <= self.host.in_flight
        assert 0 <= self.host.health.budget <= 500

    def _let_go(self, client: QuotaClient, now: float) -> Permit:
        assert not self.closed_for, "sent while the gate was closed"
        bound = math.inf if self.host.health.is_down or not client.is_adaptive else self.host.concurrency.limit
        assert self.host.in_flight < max(1.0, bound), "beyond the limit"
        assert not self.host.health.is_down or self.host.health.probe_at <= now, "a second probe"
        assert self.windows.free_at(self.in_flight, now) <= now, "beyond what the API tells"
        assert all(log.free_at(client.cost, now) <= now for log in client.logs), "beyond what is declared"
        return super()._let_go(client, now)


def most_in_a_window(times: Sequence[float], per: float) -> int:
    """The largest number of moments in any half-open span of `per` seconds."""
    most, window = 0, deque[float]()
    for time in sorted(times):
        window.append(time)
        while window[0] <= time - per:
            window.popleft()
        most = max(most, len(window))
    return most
