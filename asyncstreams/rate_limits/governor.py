"""Admission control for one quota: decides when each request may be sent."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from random import Random
from weakref import WeakSet

from ..clock import Clock
from ..models import RateLimit
from .adaptive_concurrency import ConcurrencyLimit
from .adaptive_rate import AdaptiveRate
from .circuit_breaker import RETRY_COST, THROTTLE_COST, CircuitBreaker
from .fair_queue import FairQueue, QueueEntry
from .header_values import ServerClock
from .loop_lag import LoopLag
from .quota_headers import ReportedQuota
from .quota_windows import QuotaWindows
from .sliding_window import SlidingWindowLog
from .smooth_limiter import SmoothLimiter
from .wait_reason import LONG_WAIT_S, Wait, WaitReason

_MAX_SPREAD_S = 1.0
_SPREAD_FRACTION = 0.1  # of the pause
_MAX_LEAD_REQUESTS = 2  # by which a stream may be ahead of another on the same quota


class QuotaClient(QueueEntry["Permit"]):
    """One stream's use of a quota: its weight, its declared limits and what it has spent."""

    __slots__ = (
        "accepts_long_waits",
        "cost",
        "in_flight",
        "is_adaptive",
        "name",
        "quota_names",
        "smooth_limiters",
        "spent_in_window",
        "window_logs",
        "window_number",
    )

    def __init__(
        self,
        name: str,
        weight: float,
        cost: float,
        window_logs: Sequence[SlidingWindowLog],
        smooth_limiters: Sequence[SmoothLimiter],
        *,
        is_adaptive: bool,
        accepts_long_waits: bool,
    ) -> None:
        super().__init__(weight)
        self.in_flight = self.spent_in_window = self.window_number = 0
        self.name, self.cost = name, cost
        self.quota_names: set[str] = set()
        self.window_logs, self.smooth_limiters = window_logs, smooth_limiters
        self.is_adaptive, self.accepts_long_waits = is_adaptive, accepts_long_waits


class Permit:
    """The right to send one request now; released when its response has been read.

    `latency` is the time to the first byte in seconds, None while it is unknown. `is_probe` marks the
    single request that is sent to a host that is down.
    """

    __slots__ = (
        "client",
        "governor",
        "has_quota_report",
        "is_in_flight",
        "is_probe",
        "latency",
        "request_number",
        "sent_at",
    )

    def __init__(self, governor: Governor, client: QuotaClient, sent_at: float, request_number: int) -> None:
        self.governor, self.client, self.sent_at, self.request_number = governor, client, sent_at, request_number
        self.is_in_flight = True
        self.has_quota_report = self.is_probe = False
        self.latency: float | None = None


class HostState:
    """State shared by all quotas of one host and credential: concurrency limit and circuit breaker."""

    def __init__(self, random: Random) -> None:
        self.in_flight = 0
        self.server_clock = ServerClock()
        self.concurrency = ConcurrencyLimit()
        self.circuit_breaker = CircuitBreaker(random)
        self.governors: list[Governor] = []


class Governor:
    """Admission control for one quota: decides when each request may be sent.

    A request is admitted when all of these hold:

    - the API has not ordered a pause (`pause_for`), and the host is not down (`CircuitBreaker`);
    - the server-reported quotas have units left beside the requests in flight (`QuotaWindows`);
    - the declared limits have room (`SlidingWindowLog`, `SmoothLimiter`);
    - the rate learned from refusals allows it (`AdaptiveRate`);
    - fewer requests are in flight to the host than `ConcurrencyLimit` allows, if the stream is adaptive.

    Waiting requests are admitted by stream and weight (`FairQueue`), and within a stream in the order
    in which they came. Times are seconds of `clock.monotonic()`. `repr` reports the current state.
    """

    def __init__(self, clock: Clock, random: Random, lag: LoopLag, host: HostState) -> None:
        self._clock, self._random, self._lag, self.host = clock, random, lag, host
        host.governors.append(self)
        self._queue: FairQueue[QuotaClient] = FairQueue()
        self._paused_until = self._resumes_at = self._spread = 0.0
        self._pause_started_at = -math.inf
        self._herd_left, self._herd_next_at = 0, 0.0
        self._window_logs: dict[RateLimit, SlidingWindowLog] = {}
        self._smooth_limiters: dict[RateLimit, SmoothLimiter] = {}
        self._clients: WeakSet[QuotaClient] = WeakSet()
        self._is_shared = False
        self._timer: asyncio.TimerHandle | None = None
        self.in_flight = 0
        self.adaptive_rate = AdaptiveRate()
        self.quota_windows = QuotaWindows()

    def add_client(
        self,
        name: str,
        weight: float = 1.0,
        limits: Sequence[RateLimit] = (),
        cost: float = 1.0,
        *,
        adaptive: bool,
        accept_long_waits: bool = True,
    ) -> QuotaClient:
        """Register a stream that draws on this quota; streams with equal declared limits share them.

        `cost`: units that one request takes of the declared limits. Without `accept_long_waits`, the
        stream's requests leave the queue when their wait becomes LONG_WAIT_S or longer.
        """
        window_logs = [self._window_logs.setdefault(limit, SlidingWindowLog(limit)) for limit in limits]
        smooth_limiters = [
            self._smooth_limiters.setdefault(limit, SmoothLimiter(limit)) for limit in limits if limit.smooth
        ]
        client = QuotaClient(
            name,
            weight,
            cost,
            window_logs,
            smooth_limiters,
            is_adaptive=adaptive,
            accepts_long_waits=accept_long_waits,
        )
        self._clients.add(client)
        self._is_shared = len(self._clients) > 1
        return client

    def pause_for(self, seconds: float, refused: Permit | None = None) -> None:
        """Admit no request for `seconds`; a longer pause that is already in force stays.

        With a `refused` request, the pause is our own choice, which a pause in force replaces that started after
        this request was sent. Otherwise many requests that are refused together would draw a longer one.
        Afterwards the waiting requests are spread over a tenth of the pause, at most one second.
        """
        now = self._clock.monotonic()
        if refused is not None and refused.sent_at <= self._pause_started_at and now < self._paused_until:
            return
        paused_until = now + seconds
        if paused_until > self._paused_until:
            if now >= self._paused_until:
                self._pause_started_at = now
            self._paused_until = paused_until
            # Requests that were refused together, also those of other processes, must not return together.
            self._spread = min(_MAX_SPREAD_S, seconds * _SPREAD_FRACTION)
            resumes_at = paused_until + self._random.uniform(0.0, self._spread / 2)
            self._resumes_at = max(self._resumes_at, resumes_at)  # timers are set for the former one
            self._herd_left = -1

    @property
    def requests_left(self) -> float:
        """Units that the reported quotas have left beside the requests in flight; infinity if none is known."""
        return self.quota_windows.least_remaining - self.in_flight

    @property
    def paused_for(self) -> float:
        """Seconds until the pause ends; 0 without a pause."""
        return max(0.0, self._resumes_at - self._clock.monotonic()) if self._resumes_at else 0.0

    def current_wait(self, client: QuotaClient) -> Wait | None:
        """Why and how long a request of this stream would have to wait now; None if it would be admitted."""
        now = self._clock.monotonic()
        at, reason = self._earliest_admission(client, now)
        if reason is WaitReason.HOST_DOWN and at == math.inf:
            # A probe is in flight; if it fails, the next one follows within this interval.
            at = now + self.host.circuit_breaker.probe_interval
        if at == math.inf:
            return Wait(at, reason, at)
        turn_at, turn_reason = max((at, reason), self._estimate_turn(client, now))
        if turn_at > now:
            return Wait(turn_at - now, turn_reason, at - now)
        return Wait(math.inf, WaitReason.CONCURRENCY, math.inf) if self._queue.entries else None

    def acquire_nowait(self, client: QuotaClient) -> Permit | None:
        """A permit if the request is admitted now and no other request waits, or None.

        The caller must `release` the permit.
        """
        if self._queue.entries or client.smooth_limiters:
            return None
        now = self._clock.monotonic()
        if self._earliest_admission(client, now)[0] > now:
            return None
        self._queue.charge(client)
        return self._issue_permit(client, now)

    async def acquire(self, client: QuotaClient) -> Permit | None:
        """Wait for a permit, which the caller must `release`; first come, first served within a stream.

        Returns None if the wait has become LONG_WAIT_S or longer, but never to a client that accepts
        long waits.
        """
        for limiter in client.smooth_limiters:
            await limiter.acquire(client.cost)
        permit = await self._wait_for_turn(client)
        while permit is not None and self.paused_for:
            # A response has started a pause since the permit was issued.
            self._return_permit(permit)
            permit = await self._wait_for_turn(client, first=True)
        return permit

    async def _wait_for_turn(self, client: QuotaClient, *, first: bool = False) -> Permit | None:
        was_waiting = bool(client.waiting)
        waiter: asyncio.Future[Permit | None] = self._queue.push(client, first=first)
        if self._timer is None or not (was_waiting or self.host.in_flight):
            # The timer was set for other streams: this one may be admitted earlier, and no response will show it.
            self._admit_waiting()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                if (permit := waiter.result()) is not None:
                    self._return_permit(permit)
            else:
                self._queue.remove(client, waiter)
            raise

    def release(self, permit: Permit) -> None:
        """Return a permit when its request is no longer in flight; further calls have no effect."""
        if not permit.is_in_flight:
            return
        if not permit.has_quota_report:
            self.quota_windows.record_unreported(permit.sent_at, permit.client)
        self._return_permit(permit)

    def _return_permit(self, permit: Permit) -> None:
        permit.is_in_flight = False
        permit.client.in_flight -= 1
        self.in_flight -= 1
        self.host.in_flight -= 1
        if permit.is_probe:
            self.host.circuit_breaker.finish_probe(self._clock.monotonic())
        self._admit_on_host()

    def record_first_byte(self, permit: Permit, quotas: Sequence[ReportedQuota]) -> None:
        """Record that a response has begun, with the quotas that its headers report."""
        now = self._clock.monotonic()
        if quotas:
            permit.has_quota_report = True
            self.quota_windows.update(quotas, permit.sent_at, now, permit.client)
            self.adaptive_rate.reported = self.quota_windows.rate
        for log in permit.client.window_logs:
            log.record_response(now)
        lag = self._lag.sample()
        latency = now - permit.sent_at - lag
        # If the event loop's own delay is the larger part, the server's latency is unknown.
        permit.latency = latency if latency >= lag else None

    def is_held_by_quota(self, client: QuotaClient) -> bool:
        """Whether the requests of a stream wait for a reported quota."""
        now = self._clock.monotonic()
        return self._quota_available_at(client, now) > now

    def record_success(self, permit: Permit, refund: float = 0.0) -> None:
        """Record a final response of the host, success or not.

        `refund`: units of the retry budget that the page's earlier tries have cost.
        """
        now = self._clock.monotonic()
        host = self.host
        if host.circuit_breaker.record_response(now, refund or 1.0):
            host.concurrency.restart()
        if self.adaptive_rate.rate is not None:
            is_limiting = bool(self._queue.entries) and self.adaptive_rate.available_at(now) > now
            self.adaptive_rate.record_success(now, is_limiting=is_limiting)
        if permit.client.is_adaptive and permit.latency is not None:
            # Refusals and failures are not counted: they are quick, whatever the load.
            host.concurrency.record_latency(permit.client.name, permit.latency, permit.sent_at, now)
        # The permit may be released already; its request still counts as one that was in flight.
        host.concurrency.record_success(host.in_flight + (not permit.is_in_flight))
        self._admit_on_host()

    def record_refusal(self, permit: Permit, *, has_retry_after: bool) -> None:
        """Record a refusal for rate limiting. `has_retry_after`: the server also said how long to wait."""
        now = self._clock.monotonic()
        host = self.host
        if host.circuit_breaker.record_response(now, 0.0):
            host.concurrency.restart()
        if not self.quota_windows.has_reset_for(permit.client):
            self.adaptive_rate.record_refusal(permit.sent_at, permit.request_number)
        if not has_retry_after:
            host.concurrency.record_overload(permit.sent_at, now)
            host.circuit_breaker.record_retry(THROTTLE_COST, now)
        self._admit_on_host()

    def record_failure(self, permit: Permit, *, is_overload: bool) -> bool:
        """Record a failure that will be retried. Returns whether the host is down, so that all requests wait.

        `is_overload`: the failure is a sign of overload, such as a 503 or a timeout.
        """
        now = self._clock.monotonic()
        if is_overload:
            self.host.concurrency.record_overload(permit.sent_at, now)
        self.host.circuit_breaker.record_retry(RETRY_COST, now)
        self._admit_on_host()
        return self.host.circuit_breaker.is_down

    def has_been_silent_since(self, moment: float) -> bool:
        """Whether the host has responded before `moment`, but not since."""
        return -math.inf < self.host.circuit_breaker.last_response_at <= moment

    @property
    def down_for(self) -> float:
        """Seconds since the host was found to be down; 0 if it is up."""
        since = self.host.circuit_breaker.down_since
        return 0.0 if since is None else self._clock.monotonic() - since

    def describe_limits(self, client: QuotaClient) -> str:
        """The limits found so far for a stream, as text; empty if there are none."""
        found: list[str] = []
        if client.is_adaptive:
            found.append(f"at most {self.host.concurrency.limit:.0f} requests in flight")
        if self.adaptive_rate.rate is not None:
            found.append(f"at most {self.adaptive_rate.rate:.1f} requests a second")
        return ", ".join([*found, *self.quota_windows.describe(self._clock.monotonic())])

    def _earliest_admission(self, client: QuotaClient, now: float) -> tuple[float, WaitReason]:
        """When a request may be admitted, and the reason for the wait until then."""
        at, reason = now, WaitReason.CONCURRENCY
        if self._resumes_at > now:
            return self._resumes_at, WaitReason.PAUSED
        if self._herd_left and self._herd_next_at > now:
            at, reason = self._herd_next_at, WaitReason.PAUSED
        host = self.host
        if host.circuit_breaker.is_down:
            if host.circuit_breaker.probe_at > at:
                at, reason = host.circuit_breaker.probe_at, WaitReason.HOST_DOWN
        elif client.is_adaptive and host.in_flight >= math.floor(host.concurrency.limit):
            return math.inf, WaitReason.CONCURRENCY
        if (other := self._quota_available_at(client, now)) > at:
            at, reason = other, WaitReason.QUOTA
        elif self._is_shared and self.quota_windows.has_window_in_first_half(now) and self._is_ahead(client):
            return math.inf, WaitReason.FAIR_SHARE
        for log in client.window_logs:
            if (other := log.available_at(client.cost, now)) > at:
                at, reason = other, WaitReason.DECLARED_LIMIT
        if self.adaptive_rate.rate is not None and (other := self.adaptive_rate.available_at(now)) > at:
            at, reason = other, WaitReason.ADAPTIVE_RATE
        return at, reason

    def _quota_available_at(self, client: QuotaClient, now: float) -> float:
        if self._is_shared and self.quota_windows.has_names:
            return self.quota_windows.available_at(self.in_flight, now, client, self._clients)
        return self.quota_windows.available_at(self.in_flight, now)

    def _issue_permit(self, client: QuotaClient, now: float) -> Permit:
        client.in_flight += 1
        client.spent_in_window += 1
        self.in_flight += 1
        self.host.in_flight += 1
        request_number = self.adaptive_rate.record_request(now)
        for log in client.window_logs:
            log.record_request(client.cost, now)
        if self._herd_left:
            self._spread_herd(now)
        permit = Permit(self, client, now, request_number)
        if self.host.circuit_breaker.is_down:
            permit.is_probe = True
            self.host.circuit_breaker.start_probe()
        return permit

    def _spread_herd(self, now: float) -> None:
        """After a pause, spread the waiting requests over `_spread` seconds."""
        if self._herd_left < 0:
            self._herd_left = len(self._queue) + 1
        self._herd_left -= 1
        if self._herd_left > 0:
            left = self._paused_until + self._spread - now
            self._herd_next_at = now + self._random.uniform(0.0, 2 * max(0.0, left) / self._herd_left)
            if left <= 0:
                self._herd_left = 0

    def _admit_waiting(self) -> None:
        """Issue permits while a waiting request may be admitted, then set a timer for the next one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._clock.monotonic()
        while self._queue.entries:
            earliest = math.inf
            for client in self._queue:
                at, _ = self._earliest_admission(client, now)
                if at <= now:
                    if (waiter := self._queue.pop(client)) is not None:
                        waiter.set_result(self._issue_permit(client, now))
                    break
                if LONG_WAIT_S <= at - now < math.inf and not client.accepts_long_waits:
                    self._queue.dismiss(client)
                else:
                    earliest = min(earliest, at)
            else:
                if not self._queue.entries:  # all were dismissed; a timer would hold up those that come later
                    return
                if earliest == math.inf and self.quota_windows.next_reset_at > now:
                    # The queue waits for a response, which may come later than the reset.
                    earliest = self.quota_windows.next_reset_at
                if earliest < math.inf:
                    self._timer = asyncio.get_running_loop().call_later(earliest - now, self._on_timer)
                return

    def _is_ahead(self, client: QuotaClient) -> bool:
        """Whether another stream has spent less by weight and, having requests in flight, may soon want more."""
        spent = self._spent_by_weight(client)
        return any(
            other is not client
            and other.in_flight
            and (not self.quota_windows.has_names or self.quota_windows.draw_on_one(client, other))
            and self._spent_by_weight(other) + _MAX_LEAD_REQUESTS / other.weight < spent
            for other in self._clients
        )

    def _spent_by_weight(self, client: QuotaClient) -> float:
        """Requests that a stream has sent in the current quota window, divided by its weight."""
        if client.window_number != self.quota_windows.reset_count:
            client.window_number, client.spent_in_window = self.quota_windows.reset_count, 0
        return client.spent_in_window / client.weight

    def _estimate_turn(self, client: QuotaClient, now: float) -> tuple[float, WaitReason]:
        """When the requests queued before this one will have been admitted, judging by the known rates, and why."""
        ahead = self._queue.ahead_of(client)
        at, reason = now, WaitReason.CONCURRENCY
        if not ahead:
            return at, reason
        if self.adaptive_rate.rate is not None:
            at, reason = (
                max(now, self.adaptive_rate.available_at(now)) + ahead / self.adaptive_rate.rate,
                WaitReason.ADAPTIVE_RATE,
            )
        for log in client.window_logs:
            units = ahead * client.cost
            spaced = now + units * log.limit.per / log.limit.limit if log.limit.smooth else now
            other = max(spaced, log.available_after(units, client.cost, now))
            if other > at:
                at, reason = other, WaitReason.DECLARED_LIMIT
        return at, reason

    def _admit_on_host(self) -> None:
        for governor in self.host.governors:
            if governor._queue.entries:  # a peer of the same class
                governor._admit_waiting()

    def _on_timer(self) -> None:
        self._timer = None
        self._admit_waiting()

    def __repr__(self) -> str:
        wait = self.paused_for
        pause = f"paused for {wait:.1f} s" if wait else "open"
        down = f", host down for {self.down_for:.1f} s" if self.host.circuit_breaker.is_down else ""
        rate = "" if self.adaptive_rate.rate is None else f", {self.adaptive_rate.rate:.1f} a second"
        limit = self.host.concurrency.limit
        max_in_flight = "" if limit == math.inf else f" of {limit:.0f}"
        return f"<Governor {pause}{down}, {self.in_flight}{max_in_flight} in flight{rate}, {len(self._queue)} waiting>"
