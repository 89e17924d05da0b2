"""Is it worth another try, and when: delays, and what one page and one stream have spent."""

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
from ..models import Backoff, RequestContext
from ..protocols import RequestSlot, Stream
from .session import Session
from .wait_tracker import WaitTracker

_log = logging.getLogger("asyncstreams")
_THROTTLE_BACKOFF = Backoff(base=1.0, cap=60.0)
_PATIENCE = 4  # waits without a success in between, as a multiple of max_server_wait
_LARGEST_EXPONENT = 60
_A_YEAR = 366 * 86_400
_LONG_WAIT = 10.0
_OUTLASTED = 120.0  # seconds of silence from a whole host in which no page runs out of tries


def full_jitter(failures: int, backoff: Backoff, random: Random) -> float:
    """Seconds to wait after `failures` in a row (from 1): uniform in [0, min(cap, base * 2**(failures-1))].

    Of the usual jitters the only one without a common floor, so that those who failed together
    do not come back together (Brooker, "Exponential Backoff And Jitter", 2015).
    """
    ceiling = min(backoff.cap, backoff.base * 2.0 ** min(failures - 1, _LARGEST_EXPONENT))
    return random.uniform(0.0, ceiling)


class StreamBackoff:
    """How sick an endpoint is, as all slices of its stream see it together.

    `failures` counts those in a row without a success. What was sent before the count last rose
    does not raise it again: 32 requests that fail at once are one observation.
    """

    def __init__(self) -> None:
        self.failures = 0
        self._raised_at = -math.inf

    def failed(self, sent_at: float, now: float) -> None:
        """A request sent at `sent_at` failed; both on the monotonic clock."""
        if sent_at > self._raised_at:
            self.failures += 1
            self._raised_at = now

    def succeeded(self) -> None:
        """The endpoint is well again."""
        self.failures = 0

    def __repr__(self) -> str:
        return f"<StreamBackoff {self.failures} failures in a row>"


class RetryState:
    """What one page has spent of its tries, its time and its patience with the server's waits."""

    def __init__(
        self,
        stream: Stream,
        context: RequestContext,
        session: Session,
        shared: StreamBackoff,
        audience: EventEmitter,
        waits: WaitTracker,
        place: RequestSlot | None,
    ) -> None:
        self._stream, self._shared, self._audience, self._waits = stream, shared, audience, waits
        self._clock, self._random = session.clock, session.random
        self._context = context
        self.place = place
        self.sent = 0
        self.refreshed = False
        self.paid = 0.0
        """What its retries have cost of the host's budget."""
        self.is_outlasting = False
        """Whether nobody is answered at the moment: the page is not what fails."""
        self._spent = 0
        self._reread = False
        self._at_gate = 0.0
        self._waited = 0.0
        self._throttled = 0
        self._waited_for_server = 0.0
        self.began = self._sent_at = 0.0
        self._arrived_at: float | None = None

    def next_context(self) -> RequestContext:
        """The context of the next send: its `attempt` counts from 1."""
        self.sent += 1
        self._sent_at = self._clock.monotonic()
        self._arrived_at = None
        if self.sent > 1:
            return replace(self._context, attempt=self.sent)
        self.began = self._sent_at
        return self._context

    def waited_at_gate(self, seconds: float) -> None:
        """Time that a closed gate took: it is not the page's."""
        self._at_gate += seconds

    @property
    def may_repeat(self) -> bool:
        """Whether a failure now would not be the last."""
        return self._spent + 1 < self._stream.max_tries or self._outlasts(self._clock.monotonic())

    def first_reread(self) -> bool:
        """Whether the page may be fetched again because its JSON was malformed: once."""
        first, self._reread = not self._reread, True
        return first

    def succeeded(self) -> None:
        """The page is here; how long it then waits for its consumer is not its time."""
        self._arrived_at = self._clock.monotonic()
        if self._shared.failures:
            self._shared.succeeded()

    async def failed(
        self, error: AsyncStreamsError, *, wait: float | None = None, ordered: float | None = None
    ) -> None:
        """Spend a try and wait for the next one: `wait` is the author's, `ordered` the server's, in seconds.

        Raises `error` when the tries or the time are used up, and as `ordered_wait`.
        """
        now = self._clock.monotonic()
        self._spent += 1
        self._shared.failed(self._sent_at, now)
        delay = wait
        if delay is None:
            failures = max(self._spent, self._shared.failures)
            delay = full_jitter(failures, self._stream.backoff, self._random)
            if ordered is not None:
                # Those who were sent away together do not come back together.
                delay = max(delay, ordered) + self._random.uniform(0.0, min(1.0, 0.1 * ordered))
        own = 0.0 if ordered is not None else delay
        until = now if self._arrived_at is None else self._arrived_at
        elapsed = until - self.began - self._at_gate - self._waited
        is_last = self._spent >= self._stream.max_tries and not self._outlasts(now)
        if is_last or elapsed + own > self._stream.max_time:
            self._log("give_up", error, None)
            # Whoever catches it, such as a page that asked for a detail, does not try it all again.
            error.retryable = False
            raise error.locate(tries=self.sent)
        if ordered is not None:
            self._wait_for_server(error, ordered)
            self._waited += delay
        self._again("retry", error, delay)
        with self._waits.on("another try", delay):
            async with nullcontext() if self.place is None else self.place.away():
                await self._clock.sleep(delay)

    def ordered_wait(self, error: AsyncStreamsError, wait: float | None) -> float:
        """Seconds for which the gate is to close; no try is spent. `wait` None: our own backoff.

        Raises RateLimitWaitTooLong when that is beyond the stream's `max_server_wait`, or when
        the waits without a success add up to four times as much.
        """
        self._throttled += 1
        own = full_jitter(self._throttled, _THROTTLE_BACKOFF, self._random)
        # A floor below the jitter: a server that says no may not be asked again at once.
        delay = max(own, _THROTTLE_BACKOFF.base / 2) if wait is None else wait
        self._wait_for_server(error, delay)
        self._again("gate", error, delay)
        return delay

    def _outlasts(self, now: float) -> bool:
        """A few at work would use up their tries in an outage before anybody could tell that it is one."""
        return self.is_outlasting and now - self.began < _OUTLASTED

    def _wait_for_server(self, error: AsyncStreamsError, delay: float) -> None:
        most = self._stream.max_server_wait
        if delay > most or self._waited_for_server + delay > most * _PATIENCE:
            raise wait_too_long(self._stream, error.message, delay, self._clock.wall()).locate(
                status=error.status, tries=self.sent
            )
        self._waited_for_server += delay

    def _again(self, event: str, error: AsyncStreamsError, delay: float) -> None:
        self._audience.emit(RetryScheduled(self._stream.name, error.message, delay, self.sent))
        self._log(event, error, delay)

    def _log(self, event: str, error: AsyncStreamsError, delay: float | None) -> None:
        _log.log(
            # What gives up raises as well; a wait that somebody may wonder about is told by default.
            logging.WARNING if event != "give_up" and (delay or 0.0) >= _LONG_WAIT else logging.INFO,
            "%s: %s: %s (%s, request %d of this page)",
            self._stream.name,
            event,
            error.message,
            "no try is left" if delay is None else f"next in {delay:.2f} s",
            self.sent,
            extra={"event": event, "stream": self._stream.name, "delay": delay, "attempt": self.sent},
        )


def wait_too_long(stream: Stream, told: str, delay: float, wall: float) -> RateLimitWaitTooLong:
    """The error for a wait of `delay` seconds, counted from `wall`; it names the time to come back."""
    moment = ""
    if delay <= _A_YEAR:
        moment = f", at {datetime.fromtimestamp(wall + delay, UTC):%Y-%m-%d %H:%M:%S} UTC"
    return RateLimitWaitTooLong(
        f"{told}; it wants us to come back in {delay:,.0f} s{moment}",
        hint=f"start again then, or raise max_server_wait (now {stream.max_server_wait:g} s)",
    )


def checked_backoff_time(stream: Stream, told: Callable[[], float | None]) -> float | None:
    """What the author's `backoff_time` says, in seconds; None and 0 leave it to us, as in the Airbyte CDK.

    Raises ConfigError for what is no duration.
    """
    seconds = told()
    if not seconds:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise ConfigError(f"{type(stream).__name__}.backoff_time returned {seconds!r}: seconds, or None")
    return float(seconds)
