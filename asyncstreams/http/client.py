"""How is one request made safe: retry -> middleware -> govern -> sign -> transport -> body."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial, reduce
from typing import NamedTuple

import httpx

from ..errors import AsyncStreamsError, ConfigError, HostUnavailable, MalformedJSON, StallTimeout
from ..events import EventEmitter
from ..messages import Request, Response
from ..models import RequestContext, ResponseAction
from ..protocols import Middleware, RequestSlot, Send, Stream
from ..rate_limits.circuit_breaker import RETRY, THROTTLE
from ..rate_limits.governor import Permit
from ..rate_limits.quota_headers import used_up_for
from ..rate_limits.retry_after import asked_to_back_off, retry_after
from ..redaction import safe_url
from .request_builder import RequestBuilder
from .response_errors import refusal, retry_status_error, unexpected_body
from .retry import RetryState, StreamBackoff, checked_backoff_time
from .sender import GATE, PLACE, TICKET, HostNameNotFound, RequestSender, as_ours, copied, let_go
from .session import Session
from .wait_tracker import WaitTracker

_log = logging.getLogger("asyncstreams")
_UNTOLD = 60.0  # seconds; GitHub: "wait for at least one minute"
_SILENT = (502, 503, 504)  # of whatever stands before the API
_DONE = frozenset((ResponseAction.SUCCESS, ResponseAction.IGNORE, ResponseAction.RESET_PAGINATION))


class ClassifiedResponse(NamedTuple):
    """A response that counts, and what `classify` made of it."""

    response: Response
    action: ResponseAction


class HttpClient:
    """The links through which every request of one stream goes, for one session."""

    def __init__(self, stream: Stream, session: Session) -> None:
        self._stream = stream
        self._session = session
        self.audience = EventEmitter(stream.listeners, session.listeners)
        self.builder = RequestBuilder(stream)
        self._backoff = StreamBackoff()
        self._answered = False
        self._warned = False
        self.told_of_more = False
        self.waits = WaitTracker(stream.name, self.audience, session.clock)
        self._wire = RequestSender(stream, session, self.builder.allowed, self.waits)
        innermost: Send = self._wire.send
        self._once = reduce(_wrapped, reversed(stream.middleware), innermost)

    def tries(self, context: RequestContext, place: RequestSlot | None = None) -> RetryState:
        """What the page of this context may spend; its place is given back while it waits."""
        return RetryState(self._stream, context, self._session, self._backoff, self.audience, self.waits, place)

    def limits(self) -> str:
        """What has been found of the limits that hold for the stream, for people."""
        return self._wire.limits()

    async def fetch(self, make: Callable[[RequestContext], Request], tries: RetryState) -> ClassifiedResponse:
        """Send, and send again while that helps; `make` builds a fresh request for each attempt.

        The body has been read and checked, unless the stream parses it while it arrives.
        Raises the RemoteError or ConfigError that stood at the end.
        """
        while True:
            request = make(tries.next_context())
            if tries.place is not None:
                request.extensions[PLACE] = tries.place
            try:
                response = await self._attempt(request)
                self._answered = True
                try:
                    action = self._classify(response, request.extensions["asyncstreams"].context)
                except BaseException:
                    await let_go(response)
                    raise
                if action in _DONE:
                    tries.succeeded()
                    self._host_answered(request, tries)
                    return ClassifiedResponse(response, action)
                tries.waited_at_gate(request.extensions.pop(GATE, 0.0))
                await self._again(response, action, request, tries)
            except AsyncStreamsError as error:
                tries.waited_at_gate(request.extensions.pop(GATE, 0.0))
                self._locate(error, request, tries)
                # Malformed JSON may have been cut without a sign of it: once more, and no more.
                again = error.retryable or (isinstance(error, MalformedJSON) and tries.first_reread())
                if not again or not self._may_repeat(error):
                    raise
                await self._failed(error, request, tries)

    async def _failed(self, error: AsyncStreamsError, request: Request, tries: RetryState) -> None:
        is_silent = isinstance(error, HostUnavailable)
        if self._must_wait_for_host(request, tries, is_overload=isinstance(error, StallTimeout), is_silent=is_silent):
            return
        try:
            await tries.failed(error)
        except HostNameNotFound:
            if self._answered:
                raise
            failure = ConfigError(
                "did not answer: the host name in url_base cannot be found",
                hint="is it spelt right, and is there a network?",
            )
        else:
            return
        raise failure.locate(stream=error.stream, url=error.url, method=error.method, tries=tries.sent)

    async def _attempt(self, request: Request) -> Response:
        failure: AsyncStreamsError
        try:
            return await self._once(request)
        except httpx.UnsupportedProtocol:
            failure = ConfigError("only http and https URLs can be fetched")
        except httpx.TransportError as error:
            failure = self._wire.no_answer(error, request)
        # Raised outside the handler: what a transport says may show more than it should.
        raise failure

    def _classify(self, response: Response, context: RequestContext) -> ResponseAction:
        try:
            action = self._stream.classify(response, context)
        except MalformedJSON as error:
            raise unexpected_body(self._stream, response, error) from None
        if not isinstance(action, ResponseAction):
            owner = type(self._stream).__name__
            raise ConfigError(
                f"{owner}.classify returned {action!r}: a ResponseAction is needed",
                hint="end it with `return super().classify(response, context)`",
            )
        if (pause := asked_to_back_off(response)) is not None:
            self._wire.governor(response.request).close_for(pause)
        return action

    async def _again(self, response: Response, action: ResponseAction, request: Request, tries: RetryState) -> None:
        """Wait for the next attempt, or raise what this one came to."""
        stream = self._stream
        await let_go(response)
        if action in (ResponseAction.FAIL, ResponseAction.REFRESH_AUTH):
            self._host_answered(request, tries)
        if action is ResponseAction.FAIL:
            raise refusal(stream, response)
        if action is ResponseAction.REFRESH_AUTH:
            if tries.refreshed:
                raise refusal(stream, response, renewed=True)
            tries.refreshed = True
            refuse = getattr(self._wire.authenticator, "refuse", None)
            if refuse is not None:
                refuse(response.request)
            return
        error = retry_status_error(stream, response)
        if not stream.idempotent:
            raise error
        wait = checked_backoff_time(stream, partial(stream.backoff_time, response))
        ordered = self._ordered(response) if wait is None else None
        if action is ResponseAction.THROTTLED:
            if wait is None and ordered is None:
                ordered = self._untold(response)
            if (ticket := _ticket(request)) is not None:
                is_ordered = ordered is not None or wait is not None
                tries.paid += 0.0 if is_ordered else THROTTLE
                ticket.governor.refused(ticket, is_ordered=is_ordered)
            governor = self._wire.governor(response.request)
            told = ordered if wait is None else wait
            if told is not None:
                # Before this page gives up, if it does: the others may not go on asking.
                governor.close_for(told)
            governor.close_for(tries.ordered_wait(error, told))
        elif ordered is not None or not self._must_wait_for_host(
            request,
            tries,
            is_overload=response.status_code == 503,
            is_silent=response.status_code in _SILENT,
        ):
            await tries.failed(error, wait=wait, ordered=ordered)

    def _host_answered(self, request: Request, tries: RetryState) -> None:
        if (ticket := _ticket(request)) is not None:
            ticket.governor.succeeded(ticket, tries.paid)

    def _must_wait_for_host(self, request: Request, tries: RetryState, *, is_overload: bool, is_silent: bool) -> bool:
        """Whether a failure is an outage's: then no try is spent, and the next ticket comes when the host is well.

        `is_silent`: nothing came from the API itself.
        """
        ticket = _ticket(request)
        tries.is_outlasting = ticket is not None and is_silent and ticket.governor.is_silent_since(tries.began)
        if ticket is None or not tries.may_repeat:
            return False
        tries.paid += RETRY
        return ticket.governor.failed(ticket, is_overload=is_overload)

    def _untold(self, response: Response) -> float | None:
        """The wait that follows from a quota that is used up, or from a refusal of which nothing is told."""
        return used_up_for(response, self._session.clock.wall()) or (_UNTOLD if response.status_code == 403 else None)

    def _ordered(self, response: Response) -> float | None:
        """What the server orders; one that orders nothing that can be understood is told of, once."""
        ordered = retry_after(response, self._session.clock.wall())
        told = response.raw_header(b"retry-after")
        if ordered is None and told is not None and told.strip() != b"0" and not self._warned:
            self._warned = True
            _log.warning("%s: a Retry-After that cannot be followed is ignored: %.40r", self._stream.name, told)
        return ordered

    def _may_repeat(self, error: AsyncStreamsError) -> bool:
        return self._stream.idempotent or (isinstance(error, HostUnavailable) and not error.was_sent)

    def _locate(self, error: AsyncStreamsError, request: Request, tries: RetryState) -> None:
        error.locate(stream=self._stream.name, method=request.method, url=safe_url(request.url_text), tries=tries.sent)


def _ticket(request: Request) -> Permit | None:
    """The last ticket under which a request was sent; None where a middleware answered itself."""
    return request.extensions.get(TICKET)


def _wrapped(send: Send, middleware: Middleware) -> Send:
    return partial(_through, middleware, send)


async def _through(middleware: Middleware, send: Send, request: httpx.Request) -> Response:
    ours = request if isinstance(request, Request) else copied(request)
    return await _finished(await middleware(ours, send), ours)


async def _finished(response: httpx.Response, request: Request) -> Response:
    """The chain's response, or one that a middleware made itself, whose body httpx has decoded."""
    if isinstance(response, Response):
        return response
    if not isinstance(response, httpx.Response):
        raise ConfigError(
            f"a middleware returned {type(response).__name__}: a response is needed",
            hint="is there a `return` missing? `return await send(request)`",
        )
    body = await response.aread()
    ours = as_ours(response, request)
    ours.set_body(body)
    return ours
