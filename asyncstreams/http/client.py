"""Client of one stream: retry -> middleware -> rate limit -> authentication -> transport -> body."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial, reduce
from typing import TypeVar, assert_never

import httpx

from ..declaration.stream import Stream
from ..errors import AsyncStreamsError, ConfigError, HostUnavailable, MalformedJSON
from ..events import EventEmitter, RequestFinished
from ..messages import Request, Response, shown_url
from ..models import RequestContext, ResponseAction
from ..protocols import Middleware, Send
from ..rate_limits.circuit_breaker import RETRY_COST, THROTTLE_COST
from ..rate_limits.quota_headers import exhausted_for, only_a_resource_is_exhausted, reset_without_state
from ..rate_limits.retry_after import backoff_seconds, body_retry_after, retry_after
from .admission import WaitTracker
from .dispatcher import discard, to_request, to_response
from .request_builder import Attempt, RequestBuilder
from .response_errors import (
    UNCERTAIN_THROTTLE_KEY,
    HostNameNotFound,
    concerns_response,
    partial_data_warning,
    refusal_error,
    retry_status_error,
    unexpected_body_error,
)
from .retry import (
    FINAL_ACTIONS,
    AttemptFacts,
    ClassifiedResponse,
    Decision,
    Done,
    Fail,
    Failure,
    Outcome,
    RefreshAuth,
    Refusal,
    Remedy,
    Retry,
    RetryState,
    RetryWaits,
    Throttle,
    WaitForHost,
    checked_backoff_time,
    decide,
)
from .sender import RequestSender
from .session import Session
from .timeouts import EarlyTimeout

T = TypeVar("T")
_log = logging.getLogger("asyncstreams")
_UNEXPLAINED_403_WAIT_S = 60.0  # GitHub: "wait for at least one minute"
_MAX_WARNINGS = 20


class HttpClient:
    """The client that sends every request of one stream, for one session."""

    def __init__(self, stream: Stream, session: Session) -> None:
        self.stream = stream
        self.events = EventEmitter(stream.listeners, session.listeners)
        self.clock = session.clock
        self.secrets = session.secrets
        self.builder = RequestBuilder(stream, session.secrets)
        self._has_answered = False
        self._warnings: set[str] = set()
        self._logs_requests = _log.isEnabledFor(logging.DEBUG)
        self.wait_tracker = WaitTracker(stream.name, self.events, session.clock)
        self._retries = RetryWaits(stream, session.clock, session.random, self.events, self.wait_tracker)
        origins = self.builder.allowed_origins, self.builder.uncredentialed_origins
        self._sender = RequestSender(stream, session, *origins, self.wait_tracker, self.events)
        self._middleware: Send | None = None
        if stream.resolved.middleware:
            innermost: Send = self._send_from_middleware
            self._middleware = reduce(_wrap, reversed(stream.resolved.middleware), innermost)

    @property
    def activity(self) -> int:
        """A number that grows whenever a request is sent, a response begins or a piece of a body arrives."""
        return self._sender.dispatcher.activity.count

    @property
    def early_timeouts(self) -> int:
        """First tries that were given up early, because other responses had come much faster."""
        return self._sender.dispatcher.answer_times.early_timeouts

    @property
    def in_flight(self) -> int:
        """Requests that have been sent, and whose responses have not been read yet."""
        return self._sender.admission.in_flight

    @property
    def max_rate(self) -> float | None:
        """Requests a second that all known limits of the stream allow together; None if none is known."""
        return self._sender.admission.max_rate

    def wait_reasons(self) -> Sequence[str]:
        """What the waiting requests of the stream wait for at this moment."""
        return self._sender.admission.wait_reasons()

    @property
    def is_paused_by_api(self) -> bool:
        """Whether the API, and not a limit of our own, ordered the last pause."""
        return self._sender.admission.is_paused_by_api

    def describe_waits(self) -> str:
        """What the requests of the stream wait for, as text; empty if there are none."""
        count = self.in_flight
        answers = f"{count:,} {'request has' if count == 1 else 'requests have'} no complete response yet"
        return ", ".join(filter(None, (str(self.wait_tracker), answers if count else "")))

    def describe_limits(self) -> str:
        """The limits known for the stream, as text."""
        return self._sender.admission.describe_limits()

    async def receive(
        self, build_request: Callable[[RequestContext], Request], retry: RetryState
    ) -> ClassifiedResponse:
        """The response of `fetch`, unread."""
        return await self.fetch(build_request, retry, _unread)

    async def fetch(
        self,
        build_request: Callable[[RequestContext], Request],
        retry: RetryState,
        read: Callable[[ClassifiedResponse], Awaitable[T]],
        received: ClassifiedResponse | None = None,
    ) -> T:
        """Send a request, and repeat it until `read` has made a result of the response.

        `build_request` builds a fresh request for each attempt. The body is complete and checked, unless the stream
        parses it while it arrives. `received`: the response, if it is here already. Raises the RemoteError or
        ConfigError of the last attempt.
        """
        while True:
            outcome: Outcome
            response: Response | None = None
            if received is None:
                if retry.slot is not None:
                    await retry.slot.ensure_acquired()
                request = build_request(retry.begin_attempt(self.clock.monotonic()))
                attempt: Attempt = request.extensions["asyncstreams"]
                attempt.slot = retry.slot
                try:
                    send = self._middleware
                    response = await (self._sender.send(request, attempt) if send is None else send(request))
                except (AsyncStreamsError, httpx.TransportError) as error:
                    outcome = self._to_failure(error, request, attempt)
                else:
                    try:
                        outcome = self._judge(response, attempt, retry)
                    except BaseException:
                        await discard(response)
                        raise
                if self.events:
                    self._emit_request(outcome, response, request, attempt, retry)
                if self._logs_requests:
                    self._log_attempt(outcome, response, request, attempt, retry)
                retry.time.excluded_s += attempt.waited_s
                answered: httpx.Request = attempt.redirected or request
            else:
                answered = received.response.request
                attempt = answered.extensions["asyncstreams"]
                try:
                    return await read(received)
                except AsyncStreamsError as error:
                    if not concerns_response(error, received.response):
                        raise  # about the response of a detail request, whose own retries are used up
                    error.redact(self.secrets).locate(status=received.response.status_code)
                    outcome, received = Failure(error, is_unread=True), None
            try:
                decision: Decision
                if isinstance(outcome, ClassifiedResponse):
                    decision = Done(outcome)  # as `decide` does, without collecting its facts
                else:
                    await discard(response)
                    decision = decide(outcome, self._facts(outcome, attempt, retry))
                match decision:
                    case Done():
                        received = decision.received
                        self._retries.record_success(retry)
                        self._record_host_success(attempt, retry)
                    case RefreshAuth():
                        retry.remedies |= decision.remedy
                        self._record_host_success(attempt, retry)
                        self._sender.refresh_credential(
                            decision.response.request, attempt, drops_token=decision.drops_token
                        )
                    case Retry():
                        self._record_host_failure(outcome, attempt, retry)
                        retry.remedies |= decision.remedy
                        await self._retries.back_off(decision, retry)
                    case Throttle():
                        retry.remedies |= decision.remedy
                        self._throttle(decision, attempt, retry)
                    case WaitForHost():  # the next permit is granted after the host has recovered
                        self._record_host_failure(outcome, attempt, retry)
                        retry.remedies |= decision.remedy
                    case Fail():
                        if decision.is_answer:
                            self._record_host_success(attempt, retry)
                        raise self._retries.give_up(decision.error, retry) if decision.gave_up else decision.error
                    case _:
                        assert_never(decision)
            except AsyncStreamsError as error:
                error.redact(self.secrets).locate(stream=self.stream.name, tries=retry.attempt)
                error.locate(method=answered.method, url=shown_url(answered))
                if isinstance(error, HostNameNotFound) and not (self._has_answered or attempt.redirected):
                    raise _unknown_host(error) from None
                raise

    async def _send_from_middleware(self, request: httpx.Request) -> Response:
        attempt = request.extensions.get("asyncstreams")
        if not isinstance(attempt, Attempt):
            raise ConfigError(
                "a middleware sent a request without the extensions of the stream's request",
                hint="create the new request with extensions=request.extensions",
            )
        return await self._sender.send(request, attempt)

    def _to_failure(
        self, error: AsyncStreamsError | httpx.TransportError, request: Request, attempt: Attempt
    ) -> Failure:
        """The outcome of an attempt that failed; a transport error is replaced, since its text may contain secrets."""
        if isinstance(error, httpx.UnsupportedProtocol):
            error = ConfigError("only http and https URLs can be requested")
        elif isinstance(error, httpx.TransportError):
            error = self._sender.dispatcher.to_error(error, attempt.redirected or request)
        elif isinstance(error, EarlyTimeout):
            self._sender.dispatcher.answer_times.count_early_timeout()
        was_received = not isinstance(error, HostUnavailable) or error.was_sent
        return Failure(error.redact(self.secrets), was_received=was_received)

    def _judge(self, response: Response, attempt: Attempt, retry: RetryState) -> Outcome:
        """The outcome of an attempt with a response, which `classify` and `backoff_time` judge."""
        self._has_answered = True
        try:
            action = self._classify(response, attempt)
            if action in FINAL_ACTIONS:
                return ClassifiedResponse(response, action)
            return self._to_refusal(response, action, attempt, retry)
        except AsyncStreamsError as error:
            return Failure(error.redact(self.secrets))

    def _classify(self, response: Response, attempt: Attempt) -> ResponseAction:
        try:
            action = self.stream.classify(response, attempt.context)
        except MalformedJSON as error:
            raise unexpected_body_error(self.stream, response, error) from None
        if not isinstance(action, ResponseAction):
            class_name = type(self.stream).__name__
            raise ConfigError(
                f"{class_name}.classify returned {action!r}: must be a ResponseAction",
                hint="end it with `return super().classify(response, context)`",
            )
        if action is ResponseAction.SUCCESS and self.stream.resolved.graphql_partial == "warn":
            self._warn_of_partial_data(response)
        if (pause := backoff_seconds(response)) is not None:
            self._sender.governor_for(response.request, attempt).pause_for(pause)
        return action

    def _to_refusal(self, response: Response, action: ResponseAction, attempt: Attempt, retry: RetryState) -> Refusal:
        """A response that is not used, with the error and the waits that follow from it."""
        stream, has_credential = self.stream, not attempt.without_credential
        if action in (ResponseAction.FAIL, ResponseAction.REFRESH_AUTH):
            renewed = action is ResponseAction.REFRESH_AUTH
            error = refusal_error(stream, response, renewed=renewed, has_credential=has_credential)
            return Refusal(response, action, error)
        error = retry_status_error(stream, response).redact(self.secrets)
        is_throttled = action is ResponseAction.THROTTLED
        if_no_limit = None
        if is_throttled and response.extensions.get(UNCERTAIN_THROTTLE_KEY):
            if_no_limit = refusal_error(stream, response, has_credential=has_credential)
        refusal = Refusal(response, action, error, if_no_limit)
        if not stream.resolved.idempotent or (if_no_limit is not None and Remedy.QUOTA_WAIT in retry.remedies):
            return refusal
        wait = checked_backoff_time(stream, partial(stream.backoff_time, response))
        if wait is not None:
            return refusal._replace(wait=wait)
        ordered = self._server_wait(response, action)
        if not is_throttled or ordered is not None:
            return refusal._replace(ordered=ordered)
        # Streams that draw on other resources go on; those of this one wait for the reported reset.
        permit = attempt.permit
        is_of_resource = only_a_resource_is_exhausted(response, self.clock.wall()) and (
            permit is None or permit.governor.is_held_by_quota(permit.client)
        )
        return refusal._replace(ordered=self._implied_wait(response), is_of_resource=is_of_resource)

    def _facts(self, outcome: Refusal | Failure, attempt: Attempt, retry: RetryState) -> AttemptFacts:
        stream, now, permit = self.stream, self.clock.monotonic(), attempt.permit
        is_in_outage = is_host_down = has_spare_token = can_switch_token = False
        if permit is not None and outcome.is_host_failure:
            is_host_down = permit.governor.is_down_after_failure
            is_silent = outcome.is_silent and permit.governor.has_been_silent_since(retry.time.started_at)
            is_in_outage = is_silent and retry.may_outlast_outage(now)
        if isinstance(outcome, Refusal):
            has_spare_token = self._sender.admission.has_spare_token(permit)
            is_throttled = outcome.action is ResponseAction.THROTTLED
            if is_throttled and permit is not None and permit.governor not in retry.refused_by:
                can_switch_token = self._sender.can_switch_token(outcome.response.request, attempt)
        return AttemptFacts(
            tries=retry.tries,
            max_tries=stream.resolved.max_tries,
            time_left=stream.resolved.max_time - retry.time.elapsed(now),
            idempotent=stream.resolved.idempotent,
            remedies=retry.remedies,
            is_host_down=is_host_down,
            is_in_outage=is_in_outage,
            has_spare_token=has_spare_token,
            can_switch_token=can_switch_token,
        )

    def _throttle(self, decision: Throttle, attempt: Attempt, retry: RetryState) -> None:
        """Pause the quota of a refused request; the next attempt waits for its permit."""
        permit, is_ordered = attempt.permit, decision.after is not None
        if permit is not None:
            retry.budget_spent += 0.0 if is_ordered else THROTTLE_COST
            permit.governor.record_refusal(permit, has_retry_after=is_ordered)
        governor = self._sender.governor_for(decision.response.request, attempt)
        if decision.after is not None and not decision.is_of_resource:
            # The pause starts before this page can give up, so that the other pages stop sending.
            governor.pause_for(decision.after)
        retry.refused_by |= {governor}
        delay = self._retries.throttle(decision, retry)
        if not decision.is_of_resource:
            governor.pause_for(delay, permit if not is_ordered and retry.throttles == 1 else None)

    def _record_host_success(self, attempt: Attempt, retry: RetryState) -> None:
        if (permit := attempt.permit) is not None:
            permit.governor.record_success(permit, retry.budget_spent)

    def _record_host_failure(self, outcome: Outcome, attempt: Attempt, retry: RetryState) -> None:
        """Record a failure under its permit, unless the host has answered or has ordered the wait."""
        if attempt.permit is not None and not isinstance(outcome, ClassifiedResponse) and outcome.is_host_failure:
            retry.budget_spent += RETRY_COST
            attempt.permit.governor.record_failure(attempt.permit, is_overload=outcome.is_overload)

    def _implied_wait(self, response: Response) -> float | None:
        """Seconds to wait because a quota is used up, or because of an unexplained 403; None for neither."""
        wall = self.clock.wall()
        return (
            exhausted_for(response, wall)
            or reset_without_state(response, wall)
            or (_UNEXPLAINED_403_WAIT_S if response.status_code == 403 else None)
        )

    def _server_wait(self, response: Response, action: ResponseAction) -> float | None:
        """Seconds that the headers order, or the body of a refusal; an invalid Retry-After is logged once."""
        wall = self.clock.wall()
        ordered = retry_after(response, wall)
        header = response.raw_header(b"retry-after")
        if ordered is None and header is not None and header.strip() != b"0" and "Retry-After" not in self._warnings:
            self._warnings.add("Retry-After")
            _log.warning("%s: invalid Retry-After ignored: %.40r", self.stream.name, header)
        if ordered is None and action is ResponseAction.THROTTLED:
            ordered = body_retry_after(response, wall)
        return ordered

    def _warn_of_partial_data(self, response: Response) -> None:
        """Log what a GraphQL response says beside its data, each message once."""
        message, known = partial_data_warning(self.stream, response), self._warnings
        if message is not None and message not in known and len(known - {"Retry-After"}) < _MAX_WARNINGS:
            known.add(message)
            _log.warning("%s: a part of the data is missing: %s", self.stream.name, self.secrets.mask(message))

    def _emit_request(
        self, outcome: Outcome, response: Response | None, request: Request, attempt: Attempt, retry: RetryState
    ) -> None:
        now, permit = self.clock.monotonic(), attempt.permit
        sent_at = retry.time.sent_at if permit is None else permit.sent_at
        answered_at = now if permit is None or permit.answered_at is None else permit.answered_at
        answered = attempt.redirected or request
        self.events.emit(
            RequestFinished(
                self.stream.name,
                attempt.context.stream_slice,
                answered.method,
                shown_url(answered),
                attempt.context.attempt,
                None if response is None else response.status_code,
                "" if isinstance(outcome, ClassifiedResponse) else type(outcome.error).__name__,
                isinstance(outcome, Refusal) and outcome.action is ResponseAction.THROTTLED,
                len(response.content) if response is not None and response.has_body else 0,
                attempt.waited_s - attempt.limited_s,
                attempt.limited_s,
                answered_at - sent_at,
                now - answered_at,
            )
        )

    def _log_attempt(
        self, outcome: Outcome, response: Response | None, request: Request, attempt: Attempt, retry: RetryState
    ) -> None:
        if response is not None:
            size = f"{len(response.content):,} bytes" if response.has_body else "a body that is still arriving"
            result = f"{response.status_code}, {size}"
        else:
            assert isinstance(outcome, Failure)
            result = f"{type(outcome.error).__name__}: {self.secrets.mask(outcome.error.message)}"
        answered = attempt.redirected or request
        _log.debug(
            "%s: %s: %s %s: %s, %.0f ms",
            self.stream.name,
            retry.subject,
            answered.method,
            shown_url(answered),
            result,
            (self.clock.monotonic() - retry.time.sent_at - attempt.waited_s) * 1000,
        )


async def _unread(received: ClassifiedResponse) -> ClassifiedResponse:
    return received


def _unknown_host(error: HostNameNotFound) -> ConfigError:
    failure = ConfigError(
        "did not answer: the host name in url_base cannot be found",
        hint="check its spelling and the network connection",
    )
    return failure.locate(stream=error.stream, url=error.url, method=error.method, tries=error.tries)


def _wrap(send: Send, middleware: Middleware) -> Send:
    return partial(_call_middleware, middleware, send)


async def _call_middleware(middleware: Middleware, send: Send, request: httpx.Request) -> Response:
    own_request = request if isinstance(request, Request) else to_request(request)
    return await _read_response(await middleware(own_request, send), own_request)


async def _read_response(response: httpx.Response, request: Request) -> Response:
    """The client's response, or one that a middleware created, whose body httpx has decoded."""
    if isinstance(response, Response):
        return response
    if not isinstance(response, httpx.Response):
        raise ConfigError(
            f"a middleware returned {type(response).__name__}: must be a response",
            hint="end it with `return await send(request)`",
        )
    body = await response.aread()
    own_response = to_response(response, request)
    own_response.set_body(body)
    return own_response
