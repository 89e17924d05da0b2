"""Retry decisions: what follows an attempt, the delays between tries, and what a page has used of its limits."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from enum import Flag, auto
from random import Random
from typing import NamedTuple, TypeAlias, assert_never

from ..clock import Clock
from ..declaration.stream import Stream
from ..errors import (
    AsyncStreamsError,
    ConfigError,
    HostUnavailable,
    MalformedJSON,
    MalformedResponse,
    StallTimeout,
)
from ..events import EventEmitter, RetryScheduled
from ..messages import Response
from ..models import Backoff, RequestContext, ResponseAction, shorten
from ..protocols import RequestSlot
from ..rate_limits.governor import Governor
from ..rate_limits.wait_reason import WaitReason
from .admission import WaitTracker, wait_too_long
from .timeouts import EarlyTimeout

_log = logging.getLogger("asyncstreams")
_THROTTLE_BACKOFF = Backoff(base=0.5, cap=60.0)
_MIN_PAUSE_S, _MAX_MIN_PAUSE_S = 0.5, 0.6  # because a server that refuses must not receive the next request at once
_MAX_SERVER_WAITS = 4  # sum of waits without a success, as a multiple of max_server_wait
_MAX_EXPONENT = 60
_GATEWAY_STATUSES = (502, 503, 504)  # sent by gateways in front of the API
_LONG_WAIT_S = 10.0
_MAX_OUTAGE_S = 120.0  # while the whole host is silent this long, no page runs out of tries


def full_jitter(failures: int, backoff: Backoff, random: Random) -> float:
    """Seconds to wait after `failures` in a row (from 1): uniform in [0, min(cap, base * 2**(failures-1))].

    Full jitter has no common minimum, so requests that failed together do not retry together
    (Brooker, "Exponential Backoff And Jitter", 2015).
    """
    ceiling = min(backoff.cap, backoff.base * 2.0 ** min(failures - 1, _MAX_EXPONENT))
    return random.uniform(0.0, ceiling)


class StreamBackoff:
    """Consecutive failures of an endpoint, shared by all slices of its stream.

    `failures` counts failures in a row. A request sent before the last increment does not
    increment it again: 32 requests that fail at once are one observation.
    """

    def __init__(self) -> None:
        self.failures = 0
        self._raised_at = -math.inf

    def record_failure(self, sent_at: float, now: float) -> None:
        """Record the failure of a request sent at `sent_at`; both times are on the monotonic clock."""
        if sent_at > self._raised_at:
            self.failures += 1
            self._raised_at = now

    def record_success(self) -> None:
        """Reset the count."""
        self.failures = 0

    def __repr__(self) -> str:
        return f"<StreamBackoff {self.failures} failures in a row>"


class Remedy(Flag):
    """What is tried once for each page."""

    NONE = 0
    REFRESH_AUTH = auto()
    """A new token after a refusal."""
    REREAD = auto()
    """Another request after JSON or HTTP that is malformed: it may be an undetected truncation."""
    QUOTA_WAIT = auto()
    """A wait for a quota that may not be the reason of a refusal."""


class ClassifiedResponse(NamedTuple):
    """A response that is used, and the action that `classify` chose for it."""

    response: Response
    action: ResponseAction


class Refusal(NamedTuple):
    """A response that is not used, and the action that `classify` chose for it."""

    response: Response
    action: ResponseAction
    error: AsyncStreamsError
    """Raised if the request is not repeated."""
    if_no_limit: AsyncStreamsError | None = None
    """Raised if a wait for the quota does not help; None if a limit is certainly the reason."""
    wait: float | None = None
    """Seconds of the author's `backoff_time`."""
    ordered: float | None = None
    """Seconds that the server orders, or that a used-up quota implies."""
    is_of_resource: bool = False
    """Whether only a resource of the quota is used up, so that streams that draw on others go on."""

    @property
    def is_host_failure(self) -> bool:
        """Whether the host failed, and ordered no wait."""
        return self.ordered is None

    @property
    def is_silent(self) -> bool:
        """Whether the API itself sent nothing."""
        return self.response.status_code in _GATEWAY_STATUSES

    @property
    def is_overload(self) -> bool:
        """Whether this is a sign of overload."""
        return self.response.status_code == 503


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt without a usable response. `was_received`: the server may have received the request."""

    error: AsyncStreamsError
    was_received: bool = True
    is_unread: bool = False
    """Whether a response has come whose body could not be parsed."""

    @property
    def is_host_failure(self) -> bool:
        """Whether there was no response."""
        return not self.is_unread

    @property
    def is_silent(self) -> bool:
        """Whether the API itself sent nothing."""
        return isinstance(self.error, HostUnavailable)

    @property
    def is_overload(self) -> bool:
        """Whether this is a sign of overload."""
        return isinstance(self.error, StallTimeout) and not isinstance(self.error, EarlyTimeout)


Outcome: TypeAlias = ClassifiedResponse | Refusal | Failure


@dataclass(frozen=True, slots=True)
class AttemptFacts:
    """What a decision depends on beside the outcome."""

    tries: int
    """Tries that the page has spent before this one."""
    max_tries: int
    time_left: float
    """Seconds of `max_time` that are left."""
    idempotent: bool
    remedies: Remedy = Remedy.NONE
    """Those that were used."""
    is_host_down: bool = False
    """Whether the host is down, or is with this failure."""
    is_in_outage: bool = False
    """Whether the host is silent, so that the page may have more tries."""
    has_spare_token: bool = False
    """Whether another token is left in place of one that is rejected."""
    can_switch_token: bool = False
    """Whether another token can be used while this one pauses."""


class Done(NamedTuple):
    """The response is used."""

    received: ClassifiedResponse


@dataclass(frozen=True, slots=True)
class RefreshAuth:
    """Repeat the request with a new token; `drops_token`: with another one of the list."""

    response: Response
    drops_token: bool = False
    remedy: Remedy = Remedy.NONE


@dataclass(frozen=True, slots=True)
class Retry:
    """Spend a try, and repeat the request after a wait."""

    error: AsyncStreamsError
    after: float | None
    """Seconds; None for those of our backoff, which are drawn at random."""
    is_ordered: bool = False
    """Whether the server ordered the wait, which then spends no time of the page."""
    max_wait: float = math.inf
    """The page gives up before a longer wait of its own."""
    remedy: Remedy = Remedy.NONE


@dataclass(frozen=True, slots=True)
class Throttle:
    """Pause the quota, and repeat the request afterwards, which spends no try; or at once with another token."""

    response: Response
    error: AsyncStreamsError
    after: float | None
    """Seconds; None for those of our backoff, which are drawn at random."""
    is_of_resource: bool = False
    """Whether the pause is left to the quotas that the response reports."""
    switches_token: bool = False
    remedy: Remedy = Remedy.NONE


@dataclass(frozen=True, slots=True)
class WaitForHost:
    """Repeat the request once the host has recovered, which spends no try."""

    remedy: Remedy = Remedy.NONE


@dataclass(frozen=True, slots=True)
class Fail:
    """Raise the error. `is_answer`: the host works; `gave_up`: the tries or the time are used up."""

    error: AsyncStreamsError
    is_answer: bool = False
    gave_up: bool = False


Decision: TypeAlias = Done | RefreshAuth | Retry | Throttle | WaitForHost | Fail
FINAL_ACTIONS = (ResponseAction.SUCCESS, ResponseAction.IGNORE, ResponseAction.RESET_PAGINATION)


def decide(outcome: Outcome, facts: AttemptFacts) -> Decision:
    """What follows an attempt. Pure: without I/O, clock and chance."""
    match outcome:
        case ClassifiedResponse():
            return Done(outcome)
        case Refusal(action=ResponseAction.FAIL | ResponseAction.REFRESH_AUTH):
            return _decide_rejection(outcome, facts)
        case Refusal():
            return _decide_refusal(outcome, facts)
        case Failure():
            return _decide_failure(outcome, facts)
        case _:
            assert_never(outcome)


def _decide_rejection(refusal: Refusal, facts: AttemptFacts) -> Decision:
    response = refusal.response
    if response.status_code == 401 and facts.has_spare_token:
        return RefreshAuth(response, drops_token=True)
    if refusal.action is ResponseAction.REFRESH_AUTH and Remedy.REFRESH_AUTH not in facts.remedies:
        return RefreshAuth(response, remedy=Remedy.REFRESH_AUTH)
    return Fail(refusal.error, is_answer=True)


def _decide_refusal(refusal: Refusal, facts: AttemptFacts) -> Decision:
    if refusal.if_no_limit is not None and Remedy.QUOTA_WAIT in facts.remedies:
        return Fail(refusal.if_no_limit, is_answer=True)
    if not facts.idempotent:
        return Fail(refusal.error)
    if refusal.action is ResponseAction.RETRY:
        return _repeat(refusal.error, facts, refusal.wait, refusal.ordered)
    return Throttle(
        refusal.response,
        refusal.error,
        refusal.ordered if refusal.wait is None else refusal.wait,
        refusal.is_of_resource,
        facts.can_switch_token,
        Remedy.NONE if refusal.if_no_limit is None else Remedy.QUOTA_WAIT,
    )


def _decide_failure(failure: Failure, facts: AttemptFacts) -> Decision:
    error, remedy = failure.error, Remedy.NONE
    if isinstance(error, MalformedJSON | MalformedResponse) and not error.retryable:
        remedy = Remedy.REREAD
    is_retryable = error.retryable or (remedy is Remedy.REREAD and remedy not in facts.remedies)
    if not is_retryable or (failure.was_received and not facts.idempotent):
        return Fail(error)
    return _repeat(error, facts, remedy=remedy)


def _repeat(
    error: AsyncStreamsError,
    facts: AttemptFacts,
    wait: float | None = None,
    ordered: float | None = None,
    remedy: Remedy = Remedy.NONE,
) -> Decision:
    """Another try, for `wait` of the author or `ordered` of the server, in seconds; None for our backoff."""
    if facts.tries + 1 >= facts.max_tries and not facts.is_in_outage:
        return Fail(error, gave_up=True)
    if ordered is None and facts.is_host_down:
        return WaitForHost(remedy)
    if (wait or 0.0) > facts.time_left:
        return Fail(error, gave_up=True)
    is_ordered = ordered is not None
    max_wait = math.inf if is_ordered else facts.time_left
    return Retry(error, ordered if is_ordered else wait, is_ordered, max_wait, remedy)


class PageTime:
    """The time of one page that counts against `max_time`, on the monotonic clock.

    `sent_at`: start of the current attempt. `ended_at`: when its response came, since the wait of the page for its
    consumer does not count; None before. `excluded_s`: seconds of waits that the server ordered.
    """

    __slots__ = ("ended_at", "excluded_s", "sent_at", "started_at")

    def __init__(self) -> None:
        self.started_at = self.sent_at = self.excluded_s = 0.0
        self.ended_at: float | None = None

    def elapsed(self, now: float) -> float:
        """Seconds that count."""
        return (now if self.ended_at is None else self.ended_at) - self.started_at - self.excluded_s


class RetryState:
    """Tries, time, remedies and server-ordered waits that one page has used.

    `slot` is released while the page waits. `page` is None for a detail request. `attempt` counts requests, `tries`
    failures that count against `max_tries`, and `throttles` refusals for rate limiting. `refused_by` are the governors
    of the tokens that have refused the page, and `budget_spent` the cost of its retries in the budget of the host.
    """

    __slots__ = (
        "_context",
        "_page",
        "attempt",
        "budget_spent",
        "refused_by",
        "remedies",
        "server_wait_s",
        "slot",
        "throttles",
        "time",
        "tries",
    )

    def __init__(self, context: RequestContext, slot: RequestSlot | None = None, page: int | None = None) -> None:
        self._context, self._page, self.slot = context, page, slot
        self.attempt = self.tries = self.throttles = 0
        self.time = PageTime()
        self.remedies = Remedy.NONE
        self.refused_by: frozenset[Governor] = frozenset()
        self.budget_spent = self.server_wait_s = 0.0

    def begin_attempt(self, now: float) -> RequestContext:
        """Start an attempt, and return its context, whose `attempt` counts from 1."""
        self.attempt += 1
        self.time.sent_at, self.time.ended_at = now, None
        if self.attempt > 1:
            return replace(self._context, attempt=self.attempt)
        self.time.started_at = now
        return self._context

    def may_outlast_outage(self, now: float) -> bool:
        """Whether tries are unlimited while the host is silent: with few pages an outage is detected late."""
        return now - self.time.started_at < _MAX_OUTAGE_S

    @property
    def subject(self) -> str:
        """The page and the slice, as text for logs."""
        page = "detail request" if self._page is None else f"page {self._page}"
        stream_slice = self._context.stream_slice
        return f"{page} of slice {shorten(str(stream_slice))}" if stream_slice else page


class RetryWaits:
    """The waits of one stream's pages between their attempts, with their events and log lines."""

    def __init__(
        self, stream: Stream, clock: Clock, random: Random, events: EventEmitter, wait_tracker: WaitTracker
    ) -> None:
        self._stream, self._clock, self._random = stream, clock, random
        self._events, self._wait_tracker = events, wait_tracker
        self._backoff = StreamBackoff()

    def record_success(self, retry: RetryState) -> None:
        """Record a response that is used: it stops the time of its page, and resets the backoff."""
        retry.time.ended_at = self._clock.monotonic()
        if self._backoff.failures:
            self._backoff.record_success()

    async def back_off(self, decision: Retry, retry: RetryState) -> None:
        """Spend a try, and wait for the next one.

        Raises the error of the decision if the wait is too long for the page, and RateLimitWaitTooLong as `throttle`.
        """
        error, delay = decision.error, decision.after
        self._spend_try(retry)
        if delay is None or decision.is_ordered:
            failures = max(retry.tries, self._backoff.failures)
            own = full_jitter(failures, self._stream.resolved.backoff, self._random)
            # An ordered wait has jitter, too, so that requests refused together do not retry together.
            delay = own if delay is None else max(own, delay) + self._random.uniform(0.0, min(1.0, 0.1 * delay))
        if delay > decision.max_wait:
            raise self._give_up(error, retry)
        if decision.is_ordered and decision.after is not None:
            self._spend_server_wait(error, decision.after, retry)
            retry.time.excluded_s += delay
        self._announce("retry", error, delay, retry)
        with self._wait_tracker.track(WaitReason.RETRY_BACKOFF, delay):
            async with nullcontext() if retry.slot is None else retry.slot.released():
                await self._clock.sleep(delay)

    def throttle(self, decision: Throttle, retry: RetryState) -> float:
        """Record a throttled attempt; return the seconds to pause.

        With another token, the pause is none of the page's waits. Raises RateLimitWaitTooLong for more than the
        stream's `max_server_wait`, or if the waits without a success add up to four times as much.
        """
        error, delay = decision.error, decision.after
        retry.throttles += 1
        own = full_jitter(retry.throttles, _THROTTLE_BACKOFF, self._random)
        if delay is None:
            delay = max(own, self._random.uniform(_MIN_PAUSE_S, _MAX_MIN_PAUSE_S))
        if not decision.switches_token:
            self._spend_server_wait(error, delay, retry)
            self._announce("pause", error, delay, retry)
        else:
            _log.warning(
                "%s: %s: this token pauses for %.0f s, and %s goes on with another one",
                self._stream.name,
                error.message,
                delay,
                retry.subject,
            )
        return delay

    def give_up(self, error: AsyncStreamsError, retry: RetryState) -> AsyncStreamsError:
        """The error of a page whose tries or time are used up, after a last one that failed."""
        self._spend_try(retry)
        return self._give_up(error, retry)

    def _spend_try(self, retry: RetryState) -> None:
        retry.tries += 1
        self._backoff.record_failure(retry.time.sent_at, self._clock.monotonic())

    def _give_up(self, error: AsyncStreamsError, retry: RetryState) -> AsyncStreamsError:
        self._log("give_up", error, None, retry)
        # A caller that catches it, such as a page with a detail request, must not retry it again.
        error.retryable = False
        return error.locate(tries=retry.attempt)

    def _spend_server_wait(self, error: AsyncStreamsError, delay: float, retry: RetryState) -> None:
        max_wait = self._stream.resolved.max_server_wait
        if delay > max_wait or retry.server_wait_s + delay > max_wait * _MAX_SERVER_WAITS:
            raise wait_too_long(self._stream, error.message, delay, self._clock.wall()).locate(
                status=error.status, tries=retry.attempt
            )
        retry.server_wait_s += delay

    def _announce(self, event: str, error: AsyncStreamsError, delay: float, retry: RetryState) -> None:
        self._events.emit(RetryScheduled(self._stream.name, error.message, delay, retry.attempt))
        self._log(event, error, delay, retry)

    def _log(self, event: str, error: AsyncStreamsError, delay: float | None, retry: RetryState) -> None:
        _log.log(
            # Giving up and long waits are logged at the default level.
            logging.WARNING if delay is None or delay >= _LONG_WAIT_S else logging.INFO,
            "%s: %s: %s (%s, %s, request %d of this page)",
            self._stream.name,
            event,
            error.message,
            retry.subject,
            "no try is left" if delay is None else f"next in {delay:.2f} s",
            retry.attempt,
            extra={"event": event, "stream": self._stream.name, "delay": delay, "attempt": retry.attempt},
        )


def checked_backoff_time(stream: Stream, hook: Callable[[], float | None]) -> float | None:
    """The seconds returned by the author's `backoff_time`; None for None and 0, as in the Airbyte CDK.

    Raises ConfigError for a value that is not a duration.
    """
    seconds = hook()
    if not seconds:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise ConfigError(f"{type(stream).__name__}.backoff_time returned {seconds!r}: must be seconds > 0, or None")
    return float(seconds)
