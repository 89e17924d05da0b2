"""Admission control for one quota: decides when each request may be sent."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from random import Random
from types import TracebackType
from weakref import WeakSet

from ..clock import Clock
from ..models import RateLimit
from ..protocols import RequestSlot
from .adaptive_concurrency import ConcurrencyLimit
from .adaptive_rate import AdaptiveRate
from .circuit_breaker import RETRY_COST, THROTTLE_COST, CircuitBreaker
from .fair_queue import FairQueue, QueueEntry
from .header_values import ServerClock
from .loop_lag import LoopLag
from .quota_headers import ReportedQuota
from .quota_windows import QuotaWindows
from .sliding_window import SlidingWindowLog, SmoothLimiter
from .wait_reason import LONG_WAIT_S, TURN_REASONS, Wait, WaitReason

_MAX_SPREAD_S = 1.0
_SPREAD_FRACTION = 0.1  # of the pause
_MAX_LEAD_REQUESTS = 2  # by which a stream may be ahead of another on the same quota
_NO_WAIT = Wait(0.0, WaitReason.CONCURRENCY, 0.0)
_SPACED = Wait(0.0, WaitReason.DECLARED_LIMIT, 0.0)
_WAKE_EARLY_S = 0.5  # before the end of a long wait, to queue with the other requests
_PROBE_INTERVAL_S = 1.0  # between checks of a host that is down


class QuotaClient(QueueEntry["Permit"]):
    """One stream's use of a quota: its weight, its declared limits and what it has spent."""

    __slots__ = (
        "accepts_long_waits",
        "cost",
        "governor",
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
        governor: Governor,
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
        self.governor = governor
        self.in_flight = self.spent_in_window = self.window_number = 0
        self.name, self.cost = name, cost
        self.quota_names: set[str] = set()
        self.window_logs, self.smooth_limiters = window_logs, smooth_limiters
        self.is_adaptive, self.accepts_long_waits = is_adaptive, accepts_long_waits


class Permit:
    """The right to send one request now; released when its response has been read.

    `latency` is the time to the first byte in seconds, None while it is unknown. `is_probe` marks the
    single request that is sent to a host that is down. `waited_s`: seconds until it was issued, of which `limited_s`
    for a limit, a pause or the host; `was_timed` if it was issued when a time had come, and not because of a response.
    `answered_at`: when its response began, None before.
    """

    __slots__ = (
        "answered_at",
        "client",
        "governor",
        "has_quota_report",
        "is_in_flight",
        "is_probe",
        "latency",
        "limited_s",
        "request_number",
        "sent_at",
        "waited_s",
        "was_timed",
    )

    def __init__(self, governor: Governor, client: QuotaClient, sent_at: float, request_number: int) -> None:
        self.governor, self.client, self.sent_at, self.request_number = governor, client, sent_at, request_number
        self.is_in_flight = True
        self.has_quota_report = self.is_probe = self.was_timed = False
        self.latency: float | None = None
        self.answered_at: float | None = None
        self.waited_s = self.limited_s = 0.0


class PermitWaits:
    """What the sender of a request does about its waits for a permit: here it accepts all of them."""

    def track(self, wait: Wait, client: QuotaClient) -> AbstractContextManager[None]:
        """Track a wait inside the block. Raises an error for a wait that the sender does not accept."""
        return nullcontext()

    def choose_client(self, client: QuotaClient) -> QuotaClient:
        """The client to go on with after a wait: the given one, or one whose quota has become better."""
        return client


_ANY_WAITS = PermitWaits()


class PermitRequest:
    """An async context manager that waits for a permit, and releases it at the end; see `Governor.permit`."""

    __slots__ = ("_client", "_permit", "_slot", "_waits")

    def __init__(self, client: QuotaClient, slot: RequestSlot | None, waits: PermitWaits) -> None:
        self._client, self._slot, self._waits = client, slot, waits

    async def __aenter__(self) -> Permit:
        client = self._client
        self._permit = permit = client.governor.acquire_nowait(client) or await self._wait(client)
        if self._slot is not None:
            self._slot.charge_request()
        return permit

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._permit.governor.release(self._permit)

    async def _wait(self, client: QuotaClient) -> Permit:
        clock = client.governor.clock
        began = wait_began = clock.monotonic()
        limited_s = 0.0
        while True:
            # A smooth limiter has a queue of its own.
            wait = client.governor.current_wait(client) or (_SPACED if client.smooth_limiters else _NO_WAIT)
            is_down = wait.reason is WaitReason.HOST_DOWN
            is_long = is_down or LONG_WAIT_S <= wait.seconds < math.inf
            with self._waits.track(wait, client):
                if client.accepts_long_waits or not is_long:
                    if (permit := await client.governor.acquire(client)) is not None:
                        now = clock.monotonic()
                        permit.waited_s = now - began
                        is_turn = wait.reason in TURN_REASONS and not permit.was_timed
                        permit.limited_s = limited_s + (0.0 if is_turn else now - wait_began)
                        return permit
                else:
                    async with nullcontext() if self._slot is None else self._slot.released():
                        seconds = min(wait.seconds, wait.min_seconds + LONG_WAIT_S) - _WAKE_EARLY_S
                        await clock.sleep(_PROBE_INTERVAL_S if is_down else seconds)
            now = clock.monotonic()
            limited_s += 0.0 if wait.reason in TURN_REASONS else now - wait_began
            wait_began = now
            client = self._waits.choose_client(client)


class HostState:
    """State shared by all quotas of one host and credential: concurrency limit and circuit breaker."""

    def __init__(self, random: Random) -> None:
        self.in_flight = 0
        self.server_clock = ServerClock()
        self.concurrency = ConcurrencyLimit()
        self.circuit_breaker = CircuitBreaker(random)
        self.governors: list[Governor] = []


class Pause:
    """The pause of a quota, after which the waiting requests are spread over a tenth of it, at most one second.

    `started_at`: when the pause in force began. Requests that were refused together, also those of other processes,
    must not return together; they are called the herd.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._until = self._spread = 0.0
        self._started_at = -math.inf
        self.resumes_at = 0.0
        """When the first request is admitted; 0 before the first pause."""
        self.is_ordered = False
        """Whether the last refusal said how long to wait."""
        self.is_spreading = False
        """Whether `admit` must be called for each request."""
        self.next_at = 0.0
        """When the next request of the herd is admitted."""
        self._herd_left: int | None = None

    def extend(self, seconds: float, now: float, sent_at: float | None = None) -> None:
        """Pause for `seconds`; a longer pause that is already in force stays.

        `sent_at`: of the request that was refused, if the pause is our own choice.
        """
        if sent_at is not None and sent_at <= self._started_at and now < self._until:
            return
        until = now + seconds
        if until > self._until:
            if now >= self._until:
                self._started_at = now
            self._until = until
            self._spread = min(_MAX_SPREAD_S, seconds * _SPREAD_FRACTION)
            resumes_at = until + self._random.uniform(0.0, self._spread / 2)
            self.resumes_at = max(self.resumes_at, resumes_at)  # timers are set for the former one
            self.is_spreading, self._herd_left = True, None

    def admit(self, now: float, waiting: int) -> None:
        """Record that a request of the herd is admitted, and `waiting` ones are left."""
        left = waiting if self._herd_left is None else self._herd_left - 1
        self._herd_left, self.is_spreading = left, left > 0
        if left > 0:
            seconds = self._until + self._spread - now
            self.next_at = now + self._random.uniform(0.0, 2 * max(0.0, seconds) / left)
            self.is_spreading = seconds > 0


class DeclaredLimits:
    """The declared limits of one quota, by their values: streams with equal ones share them."""

    def __init__(self) -> None:
        self._window_logs: dict[RateLimit, SlidingWindowLog] = {}
        self._smooth_limiters: dict[RateLimit, SmoothLimiter] = {}

    def window_logs(self, limits: Sequence[RateLimit]) -> list[SlidingWindowLog]:
        """The log of each limit."""
        return [self._window_logs.setdefault(limit, SlidingWindowLog(limit)) for limit in limits]

    def smooth_limiters(self, limits: Sequence[RateLimit]) -> list[SmoothLimiter]:
        """The limiter of each limit that is smooth."""
        return [self._smooth_limiters.setdefault(limit, SmoothLimiter(limit)) for limit in limits if limit.smooth]


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
        self.clock, self._lag, self.host = clock, lag, host
        host.governors.append(self)
        self._queue: FairQueue[QuotaClient] = FairQueue()
        self._pause = Pause(random)
        self._declared = DeclaredLimits()
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
        client = QuotaClient(
            self,
            name,
            weight,
            cost,
            self._declared.window_logs(limits),
            self._declared.smooth_limiters(limits),
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
        self._pause.extend(seconds, self.clock.monotonic(), None if refused is None else refused.sent_at)

    @property
    def requests_left(self) -> float:
        """Units that the reported quotas have left beside the requests in flight; infinity if none is known."""
        return self.quota_windows.least_remaining - self.in_flight

    @property
    def paused_for(self) -> float:
        """Seconds until the pause ends; 0 without a pause."""
        resumes_at = self._pause.resumes_at
        return max(0.0, resumes_at - self.clock.monotonic()) if resumes_at else 0.0

    @property
    def is_pause_ordered(self) -> bool:
        """Whether the API, and not a limit of our own, ordered the last pause."""
        return self._pause.is_ordered

    def current_wait(self, client: QuotaClient) -> Wait | None:
        """Why and how long a request of this stream would have to wait now; None if it would be admitted."""
        now = self.clock.monotonic()
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

    def permit(
        self, client: QuotaClient, slot: RequestSlot | None = None, waits: PermitWaits = _ANY_WAITS
    ) -> PermitRequest:
        """Hold a permit inside `async with`, which waits for it; then the request is charged to the slot.

        A client that does not accept long waits releases the slot for a wait of LONG_WAIT_S or longer, or while the
        host is down, and joins the queue near the end of the wait. `waits` tracks each wait, or refuses it by an error.
        """
        return PermitRequest(client, slot, waits)

    def acquire_nowait(self, client: QuotaClient) -> Permit | None:
        """A permit if the request is admitted now and no other request waits, or None.

        The caller must `release` the permit.
        """
        if self._queue.entries or client.smooth_limiters:
            return None
        now = self.clock.monotonic()
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
            self.host.circuit_breaker.finish_probe(self.clock.monotonic())
        self._admit_on_host()

    def record_first_byte(self, permit: Permit, quotas: Sequence[ReportedQuota]) -> None:
        """Record that a response has begun, with the quotas that its headers report."""
        permit.answered_at = now = self.clock.monotonic()
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
        now = self.clock.monotonic()
        return self._quota_available_at(client, now) > now

    def record_success(self, permit: Permit, refund: float = 0.0) -> None:
        """Record a final response of the host, success or not.

        `refund`: units of the retry budget that the page's earlier tries have cost.
        """
        now = self.clock.monotonic()
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
        now = self.clock.monotonic()
        host = self.host
        self._pause.is_ordered = has_retry_after
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
        now = self.clock.monotonic()
        if is_overload:
            self.host.concurrency.record_overload(permit.sent_at, now)
        self.host.circuit_breaker.record_retry(RETRY_COST, now)
        self._admit_on_host()
        return self.host.circuit_breaker.is_down

    def has_been_silent_since(self, moment: float) -> bool:
        """Whether the host has responded before `moment`, but not since."""
        return -math.inf < self.host.circuit_breaker.last_response_at <= moment

    @property
    def is_down_after_failure(self) -> bool:
        """Whether the host is down, or is once another failure is recorded."""
        return self.host.circuit_breaker.is_down or self.host.circuit_breaker.budget < RETRY_COST

    @property
    def down_for(self) -> float:
        """Seconds since the host was found to be down; 0 if it is up."""
        since = self.host.circuit_breaker.down_since
        return 0.0 if since is None else self.clock.monotonic() - since

    def describe_limits(self, client: QuotaClient) -> str:
        """The limits found so far for a stream, as text; empty if there are none."""
        found: list[str] = []
        if client.is_adaptive:
            found.append(f"at most {self.host.concurrency.limit:.0f} requests in flight")
        if self.adaptive_rate.rate is not None:
            found.append(f"at most {self.adaptive_rate.rate:.1f} requests a second")
        return ", ".join([*found, *self.quota_windows.describe(self.clock.monotonic())])

    def max_rate(self, client: QuotaClient) -> float | None:
        """Requests a second that the limits allow to a stream together; None if no limit is known."""
        rates = [log.limit.limit / log.limit.per / client.cost for log in client.window_logs]
        rates += [rate for rate in (self.adaptive_rate.rate, self.quota_windows.rate) if rate is not None]
        return min(rates, default=None)

    def _earliest_admission(self, client: QuotaClient, now: float) -> tuple[float, WaitReason]:
        """When a request may be admitted, and the reason for the wait until then."""
        at, reason = now, WaitReason.CONCURRENCY
        pause = self._pause
        if pause.resumes_at > now:
            return pause.resumes_at, WaitReason.PAUSED
        if pause.is_spreading and pause.next_at > now:
            at, reason = pause.next_at, WaitReason.PAUSED
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
        if self._pause.is_spreading:
            self._pause.admit(now, len(self._queue))
        permit = Permit(self, client, now, request_number)
        if self.host.circuit_breaker.is_down:
            permit.is_probe = True
            self.host.circuit_breaker.start_probe()
        return permit

    def _admit_waiting(self, *, timed: bool = False) -> None:
        """Issue permits while a waiting request may be admitted, then set a timer for the next one.

        `timed`: the timer calls it.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self.clock.monotonic()
        while self._queue.entries:
            earliest = math.inf
            for client in self._queue:
                at, _ = self._earliest_admission(client, now)
                if at <= now:
                    if (waiter := self._queue.pop(client)) is not None:
                        permit = self._issue_permit(client, now)
                        permit.was_timed = timed
                        waiter.set_result(permit)
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
        self._admit_waiting(timed=True)

    def __repr__(self) -> str:
        wait = self.paused_for
        pause = f"paused for {wait:.1f} s" if wait else "open"
        down = f", host down for {self.down_for:.1f} s" if self.host.circuit_breaker.is_down else ""
        rate = "" if self.adaptive_rate.rate is None else f", {self.adaptive_rate.rate:.1f} a second"
        limit = self.host.concurrency.limit
        max_in_flight = "" if limit == math.inf else f" of {limit:.0f}"
        return f"<Governor {pause}{down}, {self.in_flight}{max_in_flight} in flight{rate}, {len(self._queue)} waiting>"
