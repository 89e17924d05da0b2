"""May this be sent now: everything that draws on the same quota asks here, and is told when."""

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
from .circuit_breaker import RETRY, THROTTLE, CircuitBreaker
from .fair_queue import FairQueue, QueueEntry
from .header_values import ServerClock
from .loop_lag import LoopLag
from .quota_headers import ReportedQuota
from .quota_windows import QuotaWindows
from .sliding_window import SlidingWindowLog
from .smooth_limiter import SmoothLimiter
from .wait_reason import BUSY, DECLARED, DOWN, LONG, PACED, PAUSE, SHARED, TOLD, Wait

_LONGEST_SPREAD = 1.0
_SPREAD_SHARE = 0.1
_QUANTUM = 2  # requests that a stream may be ahead of another on the same quota


class QuotaClient(QueueEntry["Permit"]):
    """One stream, as it draws on a quota: its weight, and the limits that are declared for it."""

    __slots__ = ("cost", "in_flight", "is_adaptive", "is_patient", "logs", "name", "smooth", "spent", "window")

    def __init__(
        self,
        name: str,
        weight: float,
        cost: float,
        logs: Sequence[SlidingWindowLog],
        smooth: Sequence[SmoothLimiter],
        *,
        is_adaptive: bool,
        is_patient: bool,
    ) -> None:
        super().__init__(weight)
        self.in_flight = self.spent = self.window = 0
        self.name, self.cost, self.logs, self.smooth = name, cost, logs, smooth
        self.is_adaptive, self.is_patient = is_adaptive, is_patient


class Permit:
    """The right to send one request now; given back when its answer has been read."""

    __slots__ = ("client", "governor", "is_on_the_wire", "is_probe", "is_told", "number", "sent_at", "took")

    def __init__(self, governor: Governor, client: QuotaClient, sent_at: float, number: int) -> None:
        self.governor, self.client, self.sent_at, self.number = governor, client, sent_at, number
        self.is_on_the_wire = True
        self.is_told = self.is_probe = False
        self.took: float | None = None


class HostState:
    """What all quotas of one host and credential share: its health, and how much it bears at once."""

    def __init__(self, random: Random) -> None:
        self.in_flight = 0
        self.time = ServerClock()
        self.concurrency = ConcurrencyLimit()
        self.health = CircuitBreaker(random)
        self.governors: list[Governor] = []


class Governor:
    """One quota key's gate, limits and learnt pace, with its host's concurrency and health.

    A request passes when the gate is open, the host is not down, the quotas that the API tells of
    and those that are declared leave room beside what is on the wire, the learnt pace allows it,
    and fewer than the concurrency's limit are on the wire. Those who wait are let on by stream and
    weight. `repr` tells its state.
    """

    def __init__(self, clock: Clock, random: Random, lag: LoopLag, host: HostState) -> None:
        self._clock, self._random, self._lag, self.host = clock, random, lag, host
        host.governors.append(self)
        self._queue: FairQueue[QuotaClient] = FairQueue()
        self._closed_until = self._opens_at = self._spread = 0.0
        self._herd, self._herd_next = 0, 0.0
        self._logs: dict[RateLimit, SlidingWindowLog] = {}
        self._smooth: dict[RateLimit, SmoothLimiter] = {}
        self._clients: WeakSet[QuotaClient] = WeakSet()
        self._is_shared = False
        self._timer: asyncio.TimerHandle | None = None
        self.in_flight = 0
        self.pace = AdaptiveRate()
        self.windows = QuotaWindows()

    def client(
        self,
        name: str,
        weight: float = 1.0,
        limits: Sequence[RateLimit] = (),
        cost: float = 1.0,
        *,
        adaptive: bool,
        patient: bool = True,
    ) -> QuotaClient:
        """A stream that will draw on this quota; streams that declare equal limits share them.

        One that is not patient is sent away from the queue where the wait becomes a long one.
        """
        logs = [self._logs.setdefault(limit, SlidingWindowLog(limit)) for limit in limits]
        smooth = [self._smooth.setdefault(limit, SmoothLimiter(limit)) for limit in limits if limit.smooth]
        client = QuotaClient(name, weight, cost, logs, smooth, is_adaptive=adaptive, is_patient=patient)
        self._clients.add(client)
        self._is_shared = len(self._clients) > 1
        return client

    def close_for(self, seconds: float) -> None:
        """Let nothing pass for that long; a longer closure that stands already stays."""
        closed_until = self._clock.monotonic() + seconds
        if closed_until > self._closed_until:
            self._closed_until = closed_until
            # Those who were sent away together, also from other processes, do not come back together.
            self._spread = min(_LONGEST_SPREAD, seconds * _SPREAD_SHARE)
            self._opens_at = closed_until + self._random.uniform(0.0, self._spread / 2)
            self._herd = -1

    @property
    def closed_for(self) -> float:
        """Seconds until the gate opens; 0 where it is open."""
        return max(0.0, self._opens_at - self._clock.monotonic()) if self._opens_at else 0.0

    def wait(self, client: QuotaClient) -> Wait | None:
        """What keeps a request of this stream at the moment; None: nothing does."""
        now = self._clock.monotonic()
        at, reason = self._free_at(client, now)
        if reason is DOWN and at == math.inf:
            # A probe is on its way, and the next one goes at most so long after it.
            at = now + self.host.health.interval
        if at == math.inf:
            return Wait(at, reason, at)
        turn, kept_by = max((at, reason), self._turn_at(client, now))
        if turn > now:
            return Wait(turn - now, kept_by, at - now)
        return Wait(math.inf, BUSY, math.inf) if self._queue.lanes else None

    def acquire_nowait(self, client: QuotaClient) -> Permit | None:
        """A ticket, if nothing keeps the request and nobody waits; it is to be given back."""
        if self._queue.lanes or client.smooth:
            return None
        now = self._clock.monotonic()
        if self._free_at(client, now)[0] > now:
            return None
        self._queue.passed(client)
        return self._let_go(client, now)

    async def acquire(self, client: QuotaClient) -> Permit | None:
        """Wait for a ticket, which is to be given back; None: the wait has become a long one.

        First come, first served within a stream. Whoever is patient never gets None.
        """
        for spacing in client.smooth:
            await spacing.wait(client.cost)
        ticket = await self._turn(client)
        while ticket is not None and self.closed_for:
            # An answer has closed the gate since the turn was given.
            self._take_back(ticket)
            ticket = await self._turn(client, first=True)
        return ticket

    async def _turn(self, client: QuotaClient, *, first: bool = False) -> Permit | None:
        waiter: asyncio.Future[Permit | None] = self._queue.push(client, first=first)
        if self._timer is None:
            self._let_on()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                if (ticket := waiter.result()) is not None:
                    self._take_back(ticket)
            else:
                self._queue.forget(client, waiter)
            raise

    def release(self, ticket: Permit) -> None:
        """The request is off the wire."""
        if not ticket.is_on_the_wire:
            return
        if not ticket.is_told:
            self.windows.untold(ticket.sent_at)
        self._take_back(ticket)

    def _take_back(self, ticket: Permit) -> None:
        ticket.is_on_the_wire = False
        ticket.client.in_flight -= 1
        self.in_flight -= 1
        self.host.in_flight -= 1
        if ticket.is_probe:
            self.host.health.probed(self._clock.monotonic())
        self._host_changed()

    def first_byte(self, ticket: Permit, told: Sequence[ReportedQuota]) -> None:
        """An answer begins, and tells of these quotas."""
        now = self._clock.monotonic()
        if told:
            ticket.is_told = True
            self.windows.learn(told, ticket.sent_at, now)
        for log in ticket.client.logs:
            log.answered(now)
        lag = self._lag.ask()
        took = now - ticket.sent_at - lag
        # Where most of it was our own lateness, how long the server took is not known: it would seem an instant.
        ticket.took = took if took >= lag else None

    def succeeded(self, ticket: Permit, paid: float = 0.0) -> None:
        """The host answered, for good or ill; the page had paid so much for retries."""
        now = self._clock.monotonic()
        host = self.host
        if host.health.answered(now, paid or 1.0):
            host.concurrency.reopened()
        if self.pace.rate is not None:
            self.pace.succeeded(now, is_bound=bool(self._queue.lanes) and self.pace.free_at(now) > now)
        if ticket.client.is_adaptive and ticket.took is not None:
            # Refusals and failures are quick, and say nothing of how long an answer takes.
            host.concurrency.took(ticket.client.name, ticket.took, ticket.sent_at, now)
        # The ticket may be given back already, and counts among what was on the wire.
        host.concurrency.succeeded(host.in_flight + (not ticket.is_on_the_wire))
        self._host_changed()

    def refused(self, ticket: Permit, *, is_ordered: bool) -> None:
        """The server said: too much. `is_ordered`: and how long to wait."""
        now = self._clock.monotonic()
        host = self.host
        if host.health.answered(now, 0.0):
            host.concurrency.reopened()
        if not self.windows.is_known:
            self.pace.refused(ticket.sent_at, ticket.number)
        if not is_ordered:
            host.concurrency.overloaded(ticket.sent_at, now)
            host.health.retried(THROTTLE, now)
        self._host_changed()

    def failed(self, ticket: Permit, *, is_overload: bool) -> bool:
        """A request failed in passing and is to be sent again; whether the host is down, so that all wait for it."""
        now = self._clock.monotonic()
        if is_overload:
            self.host.concurrency.overloaded(ticket.sent_at, now)
        self.host.health.retried(RETRY, now)
        self._host_changed()
        return self.host.health.is_down

    def is_silent_since(self, moment: float) -> bool:
        """Whether the host has answered nobody since then, though it had before."""
        return -math.inf < self.host.health.answered_at <= moment

    @property
    def down_for(self) -> float:
        """Seconds since the host was found to be down; 0 where it is not."""
        since = self.host.health.down_since
        return 0.0 if since is None else self._clock.monotonic() - since

    def limits(self, client: QuotaClient) -> str:
        """What has been found of the limits that hold for a stream; empty where nothing has."""
        found: list[str] = []
        if client.is_adaptive:
            found.append(f"at most {self.host.concurrency.limit:.0f} on the wire at once")
        if self.pace.rate is not None:
            found.append(f"at most {self.pace.rate:.1f} requests a second")
        return ", ".join([*found, *self.windows.told(self._clock.monotonic())])

    def _free_at(self, client: QuotaClient, now: float) -> tuple[float, str]:
        """When a request may pass, and what keeps it until then."""
        at, reason = now, BUSY
        if self._opens_at > now:
            return self._opens_at, PAUSE
        if self._herd and self._herd_next > now:
            at, reason = self._herd_next, PAUSE
        host = self.host
        if host.health.is_down:
            if host.health.probe_at > at:
                at, reason = host.health.probe_at, DOWN
        elif client.is_adaptive and host.in_flight >= math.floor(host.concurrency.limit):
            return math.inf, BUSY
        if (other := self.windows.free_at(self.in_flight, now)) > at:
            at, reason = other, TOLD
        elif self._is_shared and self.windows.is_young(now) and self._is_ahead(client):
            return math.inf, SHARED
        for log in client.logs:
            if (other := log.free_at(client.cost, now)) > at:
                at, reason = other, DECLARED
        if self.pace.rate is not None and (other := self.pace.free_at(now)) > at:
            at, reason = other, PACED
        return at, reason

    def _let_go(self, client: QuotaClient, now: float) -> Permit:
        client.in_flight += 1
        client.spent += 1
        self.in_flight += 1
        self.host.in_flight += 1
        number = self.pace.passed(now)
        for log in client.logs:
            log.passed(client.cost, now)
        if self._herd:
            self._spread_herd(now)
        ticket = Permit(self, client, now, number)
        if self.host.health.is_down:
            ticket.is_probe = True
            self.host.health.probing()
        return ticket

    def _spread_herd(self, now: float) -> None:
        """The gate has opened: those who wait at it pass over the spread, and not at once."""
        if self._herd < 0:
            self._herd = len(self._queue) + 1
        self._herd -= 1
        if self._herd > 0:
            left = self._closed_until + self._spread - now
            self._herd_next = now + self._random.uniform(0.0, 2 * max(0.0, left) / self._herd)
            if left <= 0:
                self._herd = 0

    def _let_on(self) -> None:
        """Give tickets to those who wait, as long as anybody may pass; then look again when one may."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._clock.monotonic()
        while self._queue.lanes:
            soonest = math.inf
            for client in self._queue:
                at, _ = self._free_at(client, now)
                if at <= now:
                    if (waiter := self._queue.pop(client)) is not None:
                        waiter.set_result(self._let_go(client, now))
                    break
                if LONG <= at - now < math.inf and not client.is_patient:
                    self._queue.send_away(client)
                else:
                    soonest = min(soonest, at)
            else:
                if soonest == math.inf and self.windows.next_reset > now:
                    # An answer is waited for, which may take longer than that.
                    soonest = self.windows.next_reset
                if soonest < math.inf:
                    self._timer = asyncio.get_running_loop().call_later(soonest - now, self._look_again)
                return

    def _is_ahead(self, client: QuotaClient) -> bool:
        """Whether a stream with less than its share is on the wire, and may want more when its answer is here."""
        had = self._had(client)
        return any(
            other is not client and other.in_flight and self._had(other) + _QUANTUM / other.weight < had
            for other in self._clients
        )

    def _had(self, client: QuotaClient) -> float:
        """What a stream has had of this window, by weight."""
        if client.window != self.windows.resets:
            client.window, client.spent = self.windows.resets, 0
        return client.spent / client.weight

    def _turn_at(self, client: QuotaClient, now: float) -> tuple[float, str]:
        """When those who queue will have been let on, as far as rates tell, and what they are kept by."""
        ahead = self._queue.ahead_of(client)
        at, reason = now, BUSY
        if not ahead:
            return at, reason
        if self.pace.rate is not None:
            at, reason = max(now, self.pace.free_at(now)) + ahead / self.pace.rate, PACED
        for log in client.logs:
            units = ahead * client.cost
            spaced = now + units * log.limit.per / log.limit.limit if log.limit.smooth else now
            other = max(spaced, log.free_after(units, client.cost, now))
            if other > at:
                at, reason = other, DECLARED
        return at, reason

    def _host_changed(self) -> None:
        for governor in self.host.governors:
            if governor._queue.lanes:  # its own kind
                governor._let_on()

    def _look_again(self) -> None:
        self._timer = None
        self._let_on()

    def __repr__(self) -> str:
        wait = self.closed_for
        gate = f"closed for {wait:.1f} s" if wait else "open"
        down = f", host down for {self.down_for:.1f} s" if self.host.health.is_down else ""
        rate = "" if self.pace.rate is None else f", {self.pace.rate:.1f} a second"
        limit = self.host.concurrency.limit
        most = "" if limit == math.inf else f" of {limit:.0f}"
        return f"<Governor {gate}{down}, {self.in_flight}{most} on the wire{rate}, {len(self._queue)} waiting>"
