"""How is one request made safe: retry -> middleware -> govern -> sign -> transport -> body."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Iterable
from contextlib import aclosing
from functools import partial, reduce
from typing import NamedTuple

import httpx

from ..auth import Signer, known_secrets
from ..contracts import Middleware, Send, Stream
from ..errors import AsyncStreamsError, ConfigError, HostUnavailable, HttpStatusError, MalformedJSON
from ..messages import Request, Response
from ..model import RequestContext, ResponseAction
from ..redaction import safe_url, scrub, sent_secrets
from .body import read_body, streamed_pieces
from .governor import Governor
from .origin import Origin, origin_of, resolve
from .outcome import ERROR_BODY_LIMIT, is_transient, refusal, retry_status_error, unexpected_body
from .quota_headers import asked_to_back_off, retry_after
from .request import Attempt, RequestBuilder, SendOptions
from .retry import StreamBackoff, Tries, checked_backoff_time, wait_too_long
from .session import Session
from .timeouts import Watch
from .transport import BadCertificate, UnknownHost

_log = logging.getLogger("asyncstreams")
_MOST_REDIRECTS = 5
_DONE = frozenset((ResponseAction.SUCCESS, ResponseAction.IGNORE, ResponseAction.RESET_PAGINATION))


class _Unresolved(HostUnavailable):
    """A host name that is unknown, perhaps only now."""


class Answer(NamedTuple):
    """A response that counts, and what `classify` made of it."""

    response: Response
    action: ResponseAction


class Chain:
    """The links through which every request of one stream goes, for one session."""

    def __init__(self, stream: Stream, session: Session) -> None:
        self._stream = stream
        self._session = session
        self.builder = RequestBuilder(stream)
        self._home = origin_of(stream.url_base)
        self._home_prefix = f"{self._home}/"
        self._backoff = StreamBackoff()
        self._answered = False
        self._warned = False
        innermost: Send = self._sign_and_send
        self._once = reduce(_wrapped, reversed(stream.middleware), innermost)
        if stream.authenticator is not None:
            self._require_encryption(self.builder.allowed)

    def tries(self, context: RequestContext) -> Tries:
        """What the page of this context may spend."""
        return Tries(self._stream, context, self._session.clock, self._session.random, self._backoff)

    async def fetch(self, make: Callable[[RequestContext], Request], tries: Tries) -> Answer:
        """Send, and send again while that helps; `make` builds a fresh request for each attempt.

        The body has been read and checked, unless the stream parses it while it arrives.
        Raises the RemoteError or ConfigError that stood at the end.
        """
        while True:
            request = make(tries.next_context())
            try:
                response = await self._attempt(request)
                self._answered = True
                action = await self._classify(response, request.extensions["asyncstreams"].context)
                if action in _DONE:
                    tries.succeeded()
                    return Answer(response, action)
                await self._again(response, action, tries)
            except AsyncStreamsError as error:
                self._locate(error, request, tries)
                # Malformed JSON may have been cut without a sign of it: once more, and no more.
                again = error.retryable or (isinstance(error, MalformedJSON) and tries.first_reread())
                if not again or not self._may_repeat(error):
                    raise
                await self._failed(error, tries)

    async def _failed(self, error: AsyncStreamsError, tries: Tries) -> None:
        try:
            await tries.failed(error)
        except _Unresolved as last:
            if self._answered:
                raise
            failure = ConfigError(f"the host name in url_base has never been found: {last.message}")
        else:
            return
        raise failure.locate(stream=error.stream, url=error.url, method=error.method, tries=tries.sent)

    async def _attempt(self, request: Request) -> Response:
        failure: AsyncStreamsError
        try:
            return await _finished(await self._once(request), request)
        except httpx.UnsupportedProtocol:
            failure = ConfigError("only http and https URLs can be fetched")
        except httpx.TransportError as error:
            failure = self._no_answer(error, request)
        # Raised outside the handler: what a transport says may show more than it should.
        raise failure

    async def _classify(self, response: Response, context: RequestContext) -> ResponseAction:
        try:
            action = self._stream.classify(response, context)
        except MalformedJSON as error:
            raise unexpected_body(self._stream, response, error) from None
        except BaseException:
            await _let_go(response)
            raise
        if not isinstance(action, ResponseAction):
            owner = type(self._stream).__name__
            raise ConfigError(f"{owner}.classify returned {action!r}: a ResponseAction is needed")
        if (pause := asked_to_back_off(response)) is not None:
            self._governor(response.request).close_for(pause)
        return action

    async def _again(self, response: Response, action: ResponseAction, tries: Tries) -> None:
        """Wait for the next attempt, or raise what this one came to."""
        stream = self._stream
        await _let_go(response)
        if action is ResponseAction.FAIL:
            raise refusal(stream, response)
        if action is ResponseAction.REFRESH_AUTH:
            if tries.refreshed:
                raise refusal(stream, response, renewed=True)
            tries.refreshed = True
            refuse = getattr(stream.authenticator, "refuse", None)
            if refuse is not None:
                refuse(response.request)
            return
        error = retry_status_error(stream, response)
        if not stream.idempotent:
            raise error
        wait = checked_backoff_time(stream, partial(stream.backoff_time, response))
        ordered = self._ordered(response) if wait is None else None
        if action is ResponseAction.THROTTLED:
            seconds = tries.ordered_wait(error, ordered if wait is None else wait)
            self._governor(response.request).close_for(seconds)
        else:
            await tries.failed(error, wait=wait, ordered=ordered)

    def _ordered(self, response: Response) -> float | None:
        """What the server orders; one that orders nothing that can be understood is told of, once."""
        ordered = retry_after(response, self._session.clock.wall())
        told = response.raw_header(b"retry-after")
        if ordered is None and told is not None and told.strip() != b"0" and not self._warned:
            self._warned = True
            _log.warning("%s: a Retry-After that cannot be followed is ignored: %.40r", self._stream.name, told)
        return ordered

    async def _sign_and_send(self, request: httpx.Request) -> httpx.Response:
        """One attempt as the middleware sees it: signed, sent, and redirected where that is asked for."""
        attempt = request.extensions.get("asyncstreams")
        if not isinstance(attempt, Attempt):
            raise ConfigError(
                "a middleware passed a request on that is not the stream's",
                hint="give a request that you make yourself extensions=request.extensions",
            )
        response = await self._signed(request, attempt)
        for _ in range(_MOST_REDIRECTS):
            if not (attempt.options.follow_redirects and response.has_redirect_location):
                break
            request = self._redirected(request, response)
            response = await self._signed(request, attempt)
        return response

    async def _signed(self, request: httpx.Request, attempt: Attempt) -> Response:
        """Sign under a ticket, and send; what an authenticator sends besides takes tickets of its own."""
        authenticator = self._stream.authenticator
        governor = self._session.governor_for(self._origin(request), authenticator)
        if governor.closed_for > self._stream.max_server_wait:
            told = "the API asked for a pause"
            raise wait_too_long(self._stream, told, governor.closed_for, self._session.clock.wall())
        if authenticator is None or isinstance(authenticator, Signer):
            async with governor:
                if authenticator is not None:
                    authenticator.sign(request)
                return await self._on_the_wire(request, attempt)
        response: Response | None = None
        async with aclosing(authenticator.async_auth_flow(request)) as flow:
            while True:
                async with governor:
                    try:
                        outgoing = await (anext(flow) if response is None else flow.asend(response))
                    except StopAsyncIteration:
                        if response is None:
                            raise ConfigError(f"{authenticator!r} sent nothing") from None
                        return response
                    await _let_go(response)
                    if self._is_own(outgoing, request):
                        response = await self._on_the_wire(outgoing, attempt)
                        continue
                # A token must be fetched first: meanwhile the ticket is given back.
                response = await self._token_answer(outgoing, attempt.options)

    def _is_own(self, outgoing: httpx.Request, request: httpx.Request) -> bool:
        """Whether an authenticator sends the stream's request, or one to its token endpoint."""
        if outgoing is request:
            return True
        same_place = outgoing.url.copy_with(query=None) == request.url.copy_with(query=None)
        return same_place and outgoing.method == request.method

    async def _token_answer(self, request: httpx.Request, options: SendOptions) -> Response:
        """What a token endpoint says; raises a retryable error where it does not answer properly."""
        origin = origin_of(str(request.url))
        self._require_encryption([origin])
        governor = self._session.governor_for(origin, "token endpoint")
        request.extensions = {**request.extensions, "timeout": {"connect": options.timeouts.connect}}
        failure: AsyncStreamsError | None = None
        try:
            async with governor:
                response = await self._token_response(request, options)
        except httpx.TransportError as error:
            failure = self._no_answer(error, request)
            failure.args = (f"the token endpoint {failure.message}",)
        else:
            if not is_transient(response.status_code):
                return response
            failure = HttpStatusError(
                f"the token endpoint answered {response.status_code}", status=response.status_code
            )
            failure.retryable = True
            if (wait := retry_after(response, self._session.clock.wall())) is not None:
                governor.close_for(min(wait, self._stream.max_server_wait))
        raise failure.locate(url=safe_url(str(request.url)), method=request.method)

    async def _token_response(self, request: httpx.Request, options: SendOptions) -> Response:
        with Watch(options.timeouts) as watch:
            transport = self._session.transport_for(origin_of(str(request.url)), options.client)
            response = _ours(await transport.handle_async_request(request), request)
            watch.body_begins()
            limits = self._stream.body_limits
            response.set_body(await read_body(response, limits, watch, at_most=ERROR_BODY_LIMIT))
        return response

    async def _on_the_wire(self, request: httpx.Request, attempt: Attempt) -> Response:
        options = attempt.options
        transport = self._session.transport_for(self._origin(request), options.client)
        streamed = attempt.streamed and not getattr(self._stream.authenticator, "requires_response_body", False)
        with Watch(options.timeouts, whole=not streamed) as watch:
            request.extensions["connected"] = watch.connected
            response = _ours(await transport.handle_async_request(request), request)
            watch.body_begins()
            limits = self._stream.body_limits
            succeeded = 200 <= response.status_code < 300
            if streamed and succeeded and response.status_code != 204:
                response.set_pieces(streamed_pieces(response, limits, options.timeouts))
            else:
                at_most = None if succeeded else ERROR_BODY_LIMIT
                response.set_body(await read_body(response, limits, watch, at_most=at_most))
        return response

    def _redirected(self, request: httpx.Request, response: Response) -> httpx.Request:
        if request.method not in ("GET", "HEAD") and response.status_code not in (307, 308):
            raise HttpStatusError(
                f"answered a {request.method} with a redirect that would turn it into a GET",
                status=response.status_code,
            )
        target = resolve(response.headers["location"], str(request.url), self.builder.allowed)
        pairs = request.header_pairs() if isinstance(request, Request) else request.headers.multi_items()
        return Request(
            request.method, target, headers=list(pairs), content=request.content, extensions=request.extensions
        )

    def _origin(self, request: httpx.Request) -> Origin:
        """Where the request goes; looked at before any connection, whoever made or changed it."""
        url = request.url_text if isinstance(request, Request) else str(request.url)
        if url.startswith(self._home_prefix):
            return self._home
        return origin_of(resolve(url, self._stream.url_base, self.builder.allowed))

    def _governor(self, request: httpx.Request) -> Governor:
        return self._session.governor_for(self._origin(request), self._stream.authenticator)

    def _no_answer(self, error: httpx.TransportError, request: httpx.Request) -> AsyncStreamsError:
        reason = scrub(str(error), {*sent_secrets(request), *known_secrets(self._stream.authenticator)})
        cause = error.__cause__ or error.__context__
        if isinstance(error, BadCertificate) or isinstance(cause, ssl.SSLCertVerificationError):
            return ConfigError(
                f"the server's certificate was not accepted: {reason}",
                hint='a private authority: return {"verify": "/path/to/ca.pem"} from request_kwargs',
            )
        if isinstance(error, httpx.LocalProtocolError):
            return ConfigError(reason)
        told = "did not answer" if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout) else "broke off"
        failure = (_Unresolved if isinstance(error, UnknownHost) else HostUnavailable)(f"{told}: {reason}")
        failure.retryable = True
        failure.was_sent = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
        return failure

    def _may_repeat(self, error: AsyncStreamsError) -> bool:
        return self._stream.idempotent or (isinstance(error, HostUnavailable) and not error.was_sent)

    def _locate(self, error: AsyncStreamsError, request: Request, tries: Tries) -> None:
        error.locate(stream=self._stream.name, method=request.method, url=safe_url(request.url_text), tries=tries.sent)

    def _require_encryption(self, origins: Iterable[Origin]) -> None:
        """Raises ConfigError where a credential would cross a network in the clear."""
        for origin in origins:
            if origin.scheme == "http" and not origin.is_loopback and not self._stream.allow_insecure:
                raise ConfigError(
                    f"{type(self._stream).__name__}: a credential would go to {origin} unencrypted",
                    hint="use https, or set allow_insecure = True where the network is your own",
                )


def _wrapped(send: Send, middleware: Middleware) -> Send:
    return partial(_through, middleware, send)


async def _through(middleware: Middleware, send: Send, request: httpx.Request) -> httpx.Response:
    return await middleware(request, send)


def _ours(response: httpx.Response, request: httpx.Request) -> Response:
    """A transport's response as our own kind: mocks and other transports answer with httpx's."""
    if isinstance(response, Response):
        return response
    return Response(
        response.status_code,
        headers=response.headers.raw,
        stream=response.stream,
        request=request,
        extensions=response.extensions,
    )


async def _finished(response: httpx.Response, request: Request) -> Response:
    """The chain's response, or one that a middleware made itself, whose body httpx has decoded."""
    if isinstance(response, Response):
        if response.request is not request and "asyncstreams" not in response.request.extensions:
            response.request = request
        return response
    body = await response.aread()
    ours = _ours(response, request)
    ours.set_body(body)
    return ours


async def _let_go(response: Response | None) -> None:
    if response is not None and not response.has_body:
        await response.aclose()
