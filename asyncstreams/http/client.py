"""Client of one stream: retry -> middleware -> rate limit -> authentication -> transport -> body."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial, reduce
from typing import NamedTuple

import httpx

from ..errors import AsyncStreamsError, ConfigError, HostUnavailable, MalformedJSON, MalformedResponse, StallTimeout
from ..events import EventEmitter
from ..messages import Request, Response, shown_url
from ..models import RequestContext, ResponseAction
from ..protocols import Middleware, RequestSlot, Send, Stream
from ..rate_limits.circuit_breaker import RETRY_COST, THROTTLE_COST
from ..rate_limits.governor import Permit
from ..rate_limits.quota_headers import exhausted_for, only_a_resource_is_exhausted, reset_without_state
from ..rate_limits.retry_after import backoff_seconds, body_retry_after, retry_after
from .extension_keys import ANSWERED_KEY, PAUSED_KEY, PERMIT_KEY, SLOT_KEY
from .request_builder import RequestBuilder
from .response_errors import (
    UNCERTAIN_THROTTLE_KEY,
    partial_data_warning,
    refusal_error,
    retry_status_error,
    unexpected_body_error,
)
from .retry import RetryState, StreamBackoff, checked_backoff_time
from .sender import (
    HostNameNotFound,
    RequestSender,
    discard,
    to_request,
    to_response,
)
from .session import Session
from .timeouts import EarlyTimeout
from .wait_tracker import WaitTracker

_log = logging.getLogger("asyncstreams")
_UNEXPLAINED_403_WAIT_S = 60.0  # GitHub: "wait for at least one minute"
_GATEWAY_STATUSES = (502, 503, 504)  # sent by gateways in front of the API
_MAX_WARNINGS = 20
_FINAL_ACTIONS = frozenset((ResponseAction.SUCCESS, ResponseAction.IGNORE, ResponseAction.RESET_PAGINATION))


class ClassifiedResponse(NamedTuple):
    """A response, and the action that `classify` chose for it."""

    response: Response
    action: ResponseAction


class HttpClient:
    """The client that sends every request of one stream, for one session."""

    def __init__(self, stream: Stream, session: Session) -> None:
        self._stream, self.settings = stream, stream.resolved
        self._session = session
        self.events = EventEmitter(stream.listeners, session.listeners)
        self.clock = session.clock
        self.secrets = session.secrets
        self.builder = RequestBuilder(stream, session.secrets)
        self._backoff = StreamBackoff()
        self._has_answered = False
        self._has_warned = False
        self._partial_data_warnings: set[str] = set()
        self._logs_requests = _log.isEnabledFor(logging.DEBUG)
        self.wait_tracker = WaitTracker(stream.name, self.events, session.clock)
        origins = self.builder.allowed_origins, self.builder.uncredentialed_origins
        self._sender = RequestSender(stream, session, *origins, self.wait_tracker)
        innermost: Send = self._sender.send
        self._send = reduce(_wrap, reversed(stream.middleware), innermost)

    def new_retry_state(
        self, context: RequestContext, slot: RequestSlot | None = None, page: int | None = None
    ) -> RetryState:
        """The retry state of a new page; its slot is released while the page waits. `page` None: a detail request."""
        services = self._session, self._backoff, self.events, self.wait_tracker
        return RetryState(self._stream, context, *services, slot, page)

    @property
    def activity(self) -> int:
        """A number that grows whenever a request is sent, a response begins or a piece of a body arrives."""
        return self._sender.activity.count

    @property
    def early_timeouts(self) -> int:
        """First tries that were given up early, because other responses had come much faster."""
        return self._sender.answer_times.early_timeouts

    def describe_waits(self) -> str:
        """What the requests of the stream wait for, as text; empty if there are none."""
        in_flight = self._sender.in_flight
        answers = f"{in_flight:,} {'request has' if in_flight == 1 else 'requests have'} no complete response yet"
        return ", ".join(filter(None, (str(self.wait_tracker), answers if in_flight else "")))

    def describe_limits(self) -> str:
        """The limits known for the stream, as text."""
        return self._sender.describe_limits()

    async def fetch(self, build_request: Callable[[RequestContext], Request], retry: RetryState) -> ClassifiedResponse:
        """Send a request, and retry it; `build_request` builds a fresh one for each attempt.

        The body is complete and checked, unless the stream parses it while it arrives.
        Raises the RemoteError or ConfigError of the last attempt.
        """
        while True:
            request = build_request(retry.begin_attempt())
            response: Response | None = None
            if retry.slot is not None:
                request.extensions[SLOT_KEY] = retry.slot
            try:
                response = await self._send_attempt(request)
                self._has_answered = True
                if self._logs_requests:
                    self._log_response(response, request, retry)
                try:
                    action = self._classify(response, request.extensions["asyncstreams"].context)
                except BaseException:
                    await discard(response)
                    raise
                if action in _FINAL_ACTIONS:
                    retry.record_success()
                    self._record_host_success(request, retry)
                    return ClassifiedResponse(response, action)
                retry.exclude_pause(request.extensions.pop(PAUSED_KEY, 0.0))
                await self._wait_or_raise(response, action, request, retry)
            except AsyncStreamsError as error:
                error.redact(self.secrets)
                if self._logs_requests and response is None:
                    self._log_failure(error, request, retry)
                retry.exclude_pause(request.extensions.pop(PAUSED_KEY, 0.0))
                self._locate(error, request, retry)
                # JSON or HTTP that is malformed may be an undetected truncation: it is retried once.
                is_malformed = isinstance(error, MalformedJSON | MalformedResponse)
                is_retryable = error.retryable or (is_malformed and retry.claim_reread())
                if not is_retryable or not self._is_repeatable(error):
                    raise
                await self._handle_failure(error, request, retry)

    async def _handle_failure(self, error: AsyncStreamsError, request: Request, retry: RetryState) -> None:
        is_silent = isinstance(error, HostUnavailable)
        is_early = isinstance(error, EarlyTimeout)
        self._sender.answer_times.early_timeouts += is_early
        is_overload = isinstance(error, StallTimeout) and not is_early
        if self._record_host_failure(request, retry, is_overload=is_overload, is_silent=is_silent):
            return
        try:
            await retry.wait_for_retry(error)
        except HostNameNotFound:
            if self._has_answered or ANSWERED_KEY in request.extensions:
                raise
            failure = ConfigError(
                "did not answer: the host name in url_base cannot be found",
                hint="check its spelling and the network connection",
            )
        else:
            return
        raise failure.locate(stream=error.stream, url=error.url, method=error.method, tries=retry.attempt)

    async def _send_attempt(self, request: Request) -> Response:
        failure: AsyncStreamsError
        try:
            return await self._send(request)
        except httpx.UnsupportedProtocol:
            failure = ConfigError("only http and https URLs can be requested")
        except httpx.TransportError as error:
            failure = self._sender.to_error(error, request.extensions.get(ANSWERED_KEY, request))
        # Raised outside the handler: the text of a transport error may contain secrets.
        raise failure

    def _classify(self, response: Response, context: RequestContext) -> ResponseAction:
        try:
            action = self._stream.classify(response, context)
        except MalformedJSON as error:
            raise unexpected_body_error(self._stream, response, error) from None
        if not isinstance(action, ResponseAction):
            class_name = type(self._stream).__name__
            raise ConfigError(
                f"{class_name}.classify returned {action!r}: must be a ResponseAction",
                hint="end it with `return super().classify(response, context)`",
            )
        if action is ResponseAction.SUCCESS and self._stream.graphql_partial == "warn":
            self._warn_of_partial_data(response)
        if (pause := backoff_seconds(response)) is not None:
            self._sender.governor_for(response.request).pause_for(pause)
        return action

    async def _wait_or_raise(
        self, response: Response, action: ResponseAction, request: Request, retry: RetryState
    ) -> None:
        """Wait for the next attempt, or raise the error of this one."""
        stream = self._stream
        await discard(response)
        if action in (ResponseAction.FAIL, ResponseAction.REFRESH_AUTH):
            self._record_host_success(request, retry)
            if response.status_code == 401 and self._sender.drop_token(response.request):
                return  # the next attempt sends another token
        if action is ResponseAction.FAIL:
            raise refusal_error(stream, response)
        if action is ResponseAction.REFRESH_AUTH:
            if retry.auth_refreshed:
                raise refusal_error(stream, response, renewed=True)
            retry.auth_refreshed = True
            invalidate_token = getattr(self._sender.authenticator, "invalidate_token", None)
            if invalidate_token is not None:
                invalidate_token(response.request)
            return
        error = retry_status_error(stream, response).redact(self.secrets)
        if action is ResponseAction.THROTTLED and response.extensions.get(UNCERTAIN_THROTTLE_KEY):
            if retry.waited_for_quota:
                self._record_host_success(request, retry)
                raise refusal_error(stream, response)
            retry.waited_for_quota = True
        if not stream.idempotent:
            raise error
        wait = checked_backoff_time(stream, partial(stream.backoff_time, response))
        ordered = self._server_wait(response, action) if wait is None else None
        if action is ResponseAction.THROTTLED:
            # Streams that draw on other resources go on; those of this one wait for the reported reset.
            is_of_resource = False
            if wait is None and ordered is None:
                ordered = self._implied_wait(response)
                is_of_resource = only_a_resource_is_exhausted(response, self._session.clock.wall())
            if (permit := _permit_for(request)) is not None:
                is_of_resource = is_of_resource and permit.governor.is_held_by_quota(permit.client)
                is_ordered = ordered is not None or wait is not None
                retry.budget_spent += 0.0 if is_ordered else THROTTLE_COST
                permit.governor.record_refusal(permit, has_retry_after=is_ordered)
            governor = self._sender.governor_for(response.request)
            pause = ordered if wait is None else wait
            if pause is not None and not is_of_resource:
                # The pause starts before this page can give up, so that the other pages stop sending.
                governor.pause_for(pause)
            # A page does not wait for a token that refuses it if there is another one.
            is_waited_for = governor in retry.refused_by or not self._sender.has_other_token(response.request)
            retry.refused_by.add(governor)
            delay = retry.record_throttle(error, pause, is_waited_for=is_waited_for)
            if not is_of_resource:
                governor.pause_for(delay, permit if pause is None and retry.throttles == 1 else None)
        elif ordered is not None or not self._record_host_failure(
            request,
            retry,
            is_overload=response.status_code == 503,
            is_silent=response.status_code in _GATEWAY_STATUSES,
        ):
            await retry.wait_for_retry(error, wait=wait, ordered=ordered)

    def _record_host_success(self, request: Request, retry: RetryState) -> None:
        if (permit := _permit_for(request)) is not None:
            permit.governor.record_success(permit, retry.budget_spent)

    def _record_host_failure(self, request: Request, retry: RetryState, *, is_overload: bool, is_silent: bool) -> bool:
        """Record a failure; true if it is part of an outage, which spends no try.

        In an outage the next permit is granted after the host has recovered. `is_silent`: the API itself
        sent nothing.
        """
        permit = _permit_for(request)
        retry.is_host_silent = (
            permit is not None and is_silent and permit.governor.has_been_silent_since(retry.started_at)
        )
        if permit is None or not retry.can_retry:
            return False
        retry.budget_spent += RETRY_COST
        return permit.governor.record_failure(permit, is_overload=is_overload)

    def _implied_wait(self, response: Response) -> float | None:
        """Seconds to wait because a quota is used up, or because of an unexplained 403; None for neither."""
        wall = self._session.clock.wall()
        return (
            exhausted_for(response, wall)
            or reset_without_state(response, wall)
            or (_UNEXPLAINED_403_WAIT_S if response.status_code == 403 else None)
        )

    def _server_wait(self, response: Response, action: ResponseAction) -> float | None:
        """Seconds that the headers order, or the body of a refusal; an invalid Retry-After is logged once."""
        wall = self._session.clock.wall()
        ordered = retry_after(response, wall)
        header = response.raw_header(b"retry-after")
        if ordered is None and header is not None and header.strip() != b"0" and not self._has_warned:
            self._has_warned = True
            _log.warning("%s: invalid Retry-After ignored: %.40r", self._stream.name, header)
        if ordered is None and action is ResponseAction.THROTTLED:
            ordered = body_retry_after(response, wall)
        return ordered

    def _warn_of_partial_data(self, response: Response) -> None:
        """Log what a GraphQL response says beside its data, each message once."""
        message, known = partial_data_warning(self._stream, response), self._partial_data_warnings
        if message is not None and message not in known and len(known) < _MAX_WARNINGS:
            known.add(message)
            _log.warning("%s: a part of the data is missing: %s", self._stream.name, self.secrets.mask(message))

    def _log_response(self, response: Response, request: Request, retry: RetryState) -> None:
        size = f"{len(response.content):,} bytes" if response.has_body else "a body that is still arriving"
        self._log_request(f"{response.status_code}, {size}", request, retry)

    def _log_failure(self, error: AsyncStreamsError, request: Request, retry: RetryState) -> None:
        self._log_request(f"{type(error).__name__}: {self.secrets.mask(error.message)}", request, retry)

    def _log_request(self, result: str, request: Request, retry: RetryState) -> None:
        waited_s: float = request.extensions.get(PAUSED_KEY, 0.0)
        answered: Request = request.extensions.get(ANSWERED_KEY, request)
        _log.debug(
            "%s: %s: %s %s: %s, %.0f ms",
            self._stream.name,
            retry.subject,
            answered.method,
            shown_url(answered),
            result,
            (self._session.clock.monotonic() - retry.sent_at - waited_s) * 1000,
        )

    def _is_repeatable(self, error: AsyncStreamsError) -> bool:
        return self._stream.idempotent or (isinstance(error, HostUnavailable) and not error.was_sent)

    def _locate(self, error: AsyncStreamsError, request: Request, retry: RetryState) -> None:
        answered: Request = request.extensions.get(ANSWERED_KEY, request)
        error.locate(stream=self._stream.name, method=answered.method, url=shown_url(answered), tries=retry.attempt)


def _permit_for(request: Request) -> Permit | None:
    """The permit under which a request was last sent; None if a middleware produced the response."""
    return request.extensions.get(PERMIT_KEY)


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
