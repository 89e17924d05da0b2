"""Retry decisions: delays between tries, and the tries, time and waits of one page."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from random import Random

from ..errors import AsyncStreamsError, ConfigError, RateLimitWaitTooLong
from ..events import EventEmitter, RetryScheduled
from ..models import Backoff, RequestContext, shorten
from ..protocols import RequestSlot, Stream
from ..rate_limits.governor import Governor
from ..rate_limits.wait_reason import WaitReason
from .session import Session
from .wait_tracker import WaitTracker

_log = logging.getLogger("asyncstreams")
_THROTTLE_BACKOFF = Backoff(base=0.5, cap=60.0)
_MIN_PAUSE_S, _MAX_MIN_PAUSE_S = 0.5, 0.6  # because a server that refuses must not receive the next request at once
_MAX_SERVER_WAITS = 4  # sum of waits without a success, as a multiple of max_server_wait
_MAX_EXPONENT = 60
_YEAR_S = 366 * 86_400
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


class RetryState:
    """Tries, time and server-ordered waits that one page has used."""

    def __init__(
        self,
        stream: Stream,
        context: RequestContext,
        session: Session,
        backoff: StreamBackoff,
        events: EventEmitter,
        wait_tracker: WaitTracker,
        slot: RequestSlot | None,
        page: int | None = None,
    ) -> None:
        self._stream, self._backoff, self._events, self._wait_tracker = stream, backoff, events, wait_tracker
        self._clock, self._random = session.clock, session.random
        self._context = context
        self._page = page
        self.slot = slot
        self.attempt = 0
        self.auth_refreshed = False
        self.refused_by: set[Governor] = set()
        """The governors of the tokens that have refused this page."""
        self.waited_for_quota = False
        """Whether the page has waited for a quota that may not be the reason of its refusal."""
        self.budget_spent = 0.0
        """Cost of the page's retries in the retry budget of the host."""
        self.is_host_silent = False
        """Whether the host answers no request at the moment, so that this page is not the cause."""
        self._tries = 0
        self._was_reread = False
        self._paused_s = 0.0
        self._ordered_wait_s = 0.0
        self.throttles = 0
        """Refusals for rate limiting."""
        self._server_wait_s = 0.0
        self.started_at = self._sent_at = 0.0
        self._succeeded_at: float | None = None

    def begin_attempt(self) -> RequestContext:
        """Start an attempt, and return its context, whose `attempt` counts from 1."""
        self.attempt += 1
        self._sent_at = self._clock.monotonic()
        self._succeeded_at = None
        if self.attempt > 1:
            return replace(self._context, attempt=self.attempt)
        self.started_at = self._sent_at
        return self._context

    @property
    def subject(self) -> str:
        """The page and the slice, as text for logs."""
        page = "detail request" if self._page is None else f"page {self._page}"
        stream_slice = self._context.stream_slice
        return f"{page} of slice {shorten(str(stream_slice))}" if stream_slice else page

    @property
    def sent_at(self) -> float:
        """Monotonic time at which the current attempt started."""
        return self._sent_at

    def exclude_pause(self, seconds: float) -> None:
        """Exclude the seconds of a pause from the time of the page."""
        self._paused_s += seconds

    @property
    def can_retry(self) -> bool:
        """Whether another try would follow a failure now."""
        return self._tries + 1 < self._stream.max_tries or self._is_in_outage(self._clock.monotonic())

    def claim_reread(self) -> bool:
        """Use the page's only retry for malformed JSON; false if it was used before."""
        first, self._was_reread = not self._was_reread, True
        return first

    def record_success(self) -> None:
        """Stop the time of the page: its wait for the consumer does not count."""
        self._succeeded_at = self._clock.monotonic()
        if self._backoff.failures:
            self._backoff.record_success()

    async def wait_for_retry(
        self, error: AsyncStreamsError, *, wait: float | None = None, ordered: float | None = None
    ) -> None:
        """Spend a try and wait for the next one, for `wait` of the author or `ordered` of the server, in seconds.

        Raises `error` if the tries or the time are used up, and RateLimitWaitTooLong as `record_throttle`.
        """
        now = self._clock.monotonic()
        self._tries += 1
        self._backoff.record_failure(self._sent_at, now)
        delay = wait
        if delay is None:
            failures = max(self._tries, self._backoff.failures)
            delay = full_jitter(failures, self._stream.backoff, self._random)
            if ordered is not None:
                # Jitter, so that requests refused together do not retry together.
                delay = max(delay, ordered) + self._random.uniform(0.0, min(1.0, 0.1 * ordered))
        own = 0.0 if ordered is not None else delay
        until = now if self._succeeded_at is None else self._succeeded_at
        elapsed = until - self.started_at - self._paused_s - self._ordered_wait_s
        is_last = self._tries >= self._stream.max_tries and not self._is_in_outage(now)
        if is_last or elapsed + own > self._stream.max_time:
            self._log("give_up", error, None)
            # A caller that catches it, such as a page with a detail request, must not retry it again.
            error.retryable = False
            raise error.locate(tries=self.attempt)
        if ordered is not None:
            self._spend_server_wait(error, ordered)
            self._ordered_wait_s += delay
        self._announce("retry", error, delay)
        with self._wait_tracker.track(WaitReason.RETRY_BACKOFF, delay):
            async with nullcontext() if self.slot is None else self.slot.released():
                await self._clock.sleep(delay)

    def record_throttle(self, error: AsyncStreamsError, wait: float | None, *, is_waited_for: bool = True) -> float:
        """Record a throttled attempt; return the seconds to pause, which spend no try. `wait` None: our backoff.

        Without `is_waited_for`, the page goes on with another token, and the pause is none of its waits.
        Raises RateLimitWaitTooLong for more than the stream's `max_server_wait`, or if the waits
        without a success add up to four times as much.
        """
        self.throttles += 1
        own = full_jitter(self.throttles, _THROTTLE_BACKOFF, self._random)
        delay = max(own, self._random.uniform(_MIN_PAUSE_S, _MAX_MIN_PAUSE_S)) if wait is None else wait
        if is_waited_for:
            self._spend_server_wait(error, delay)
            self._announce("pause", error, delay)
        else:
            _log.warning(
                "%s: %s: this token pauses for %.0f s, and %s goes on with another one",
                self._stream.name,
                error.message,
                delay,
                self.subject,
            )
        return delay

    def _is_in_outage(self, now: float) -> bool:
        """Whether tries are unlimited because the host is silent: with few pages an outage is detected late."""
        return self.is_host_silent and now - self.started_at < _MAX_OUTAGE_S

    def _spend_server_wait(self, error: AsyncStreamsError, delay: float) -> None:
        max_wait = self._stream.max_server_wait
        if delay > max_wait or self._server_wait_s + delay > max_wait * _MAX_SERVER_WAITS:
            raise wait_too_long(self._stream, error.message, delay, self._clock.wall()).locate(
                status=error.status, tries=self.attempt
            )
        self._server_wait_s += delay

    def _announce(self, event: str, error: AsyncStreamsError, delay: float) -> None:
        self._events.emit(RetryScheduled(self._stream.name, error.message, delay, self.attempt))
        self._log(event, error, delay)

    def _log(self, event: str, error: AsyncStreamsError, delay: float | None) -> None:
        _log.log(
            # Giving up and long waits are logged at the default level.
            logging.WARNING if delay is None or delay >= _LONG_WAIT_S else logging.INFO,
            "%s: %s: %s (%s, %s, request %d of this page)",
            self._stream.name,
            event,
            error.message,
            self.subject,
            "no try is left" if delay is None else f"next in {delay:.2f} s",
            self.attempt,
            extra={"event": event, "stream": self._stream.name, "delay": delay, "attempt": self.attempt},
        )


def wait_too_long(stream: Stream, reason: str, delay: float, wall: float) -> RateLimitWaitTooLong:
    """The error for a wait of `delay` seconds from `wall`, which names the time of the next request."""
    moment = ""
    if delay <= _YEAR_S:
        moment = f", at {datetime.fromtimestamp(wall + delay, UTC):%Y-%m-%d %H:%M:%S} UTC"
    return RateLimitWaitTooLong(
        f"{reason}; the next request is allowed in {delay:,.0f} s{moment}",
        hint=f"start again then, or raise max_server_wait (now {stream.max_server_wait:g} s)",
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
