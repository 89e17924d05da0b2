"""How does one attempt reach the wire: governed, signed, sent, and read?"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import AsyncGenerator, Coroutine, Iterable
from contextlib import aclosing, nullcontext, suppress
from typing import Any, TypeAlias, TypeVar

import anyio
import httpx

from ..auth.authenticators import SigningAuth, known_secrets
from ..errors import AsyncStreamsError, ConfigError, HostUnavailable, HttpStatusError
from ..messages import Request, Response
from ..models import BodyLimits, RateLimit
from ..protocols import RequestSlot, Stream
from ..rate_limits.governor import Governor, Permit, QuotaClient
from ..rate_limits.quota_headers import told_quotas
from ..rate_limits.retry_after import retry_after
from ..rate_limits.wait_reason import BUSY, DOWN, LONG, PAUSE, TOLD, Wait
from ..redaction import safe_url, scrub, sent_secrets
from .body import read_body, streamed_pieces
from .origin import Origin, origin_of, resolve
from .request_builder import USER_AGENT, Attempt, ClientOptions, SendOptions
from .response_errors import ERROR_BODY_LIMIT, is_transient
from .retry import wait_too_long
from .session import Session, borrowed
from .timeouts import AttemptTimeout
from .transport import AiohttpTransport, CertificateRejected, HostNotFound
from .wait_tracker import WaitTracker

T = TypeVar("T")
Flow: TypeAlias = AsyncGenerator[httpx.Request, Response]

_TOKEN_ENDPOINT = object()
_NO_WAIT = Wait(0.0, BUSY, 0.0)
_TOKEN_LIMITS = BodyLimits(wire=ERROR_BODY_LIMIT, decoded=ERROR_BODY_LIMIT)
GATE = "asyncstreams.gate"
"""Where a request's extensions tell the seconds that it waited at a gate."""
PLACE = "asyncstreams.place"
"""Where they hold the place of the slice, to be given back meanwhile."""
TICKET = "asyncstreams.ticket"
"""And the last ticket, for those who know what became of the request."""
_MOST_REDIRECTS = 5
_LAST_WORDS = 10.0  # seconds
_EARLY = 0.5  # seconds before the end of a long wait, to queue with the others
_LOOK = 1.0  # seconds between looks at a host that is down
_JITTER = 1.01  # seconds; so much longer may a wait last by now that was allowed


class HostNameNotFound(HostUnavailable):
    """A host name that cannot be found, perhaps only now."""


class RequestSender:
    """What lies between a stream's chain and the network, for one session.

    Every physical send takes a ticket of its governor, and is signed after it has it.
    """

    def __init__(self, stream: Stream, session: Session, allowed: frozenset[Origin], waits: WaitTracker) -> None:
        self._stream = stream
        self._session = session
        self._allowed = allowed
        self._waits = waits
        # Read once: a property may make a new one each time.
        self.authenticator = stream.authenticator
        self._borrowed = borrowed(stream.transport)
        self._home = origin_of(stream.url_base)
        self._home_prefix = f"{self._home}/"
        self._at_home: tuple[ClientOptions, httpx.AsyncBaseTransport] | None = None
        self._clients: dict[Governor, QuotaClient] = {}
        if self.authenticator is not None:
            self._require_encryption(allowed)

    async def send(self, request: httpx.Request) -> Response:
        """One attempt as the middleware sees it: signed, sent, and redirected where that is asked for."""
        attempt = request.extensions.get("asyncstreams")
        if not isinstance(attempt, Attempt):
            raise ConfigError(
                "a middleware passed a request on that is not the stream's",
                hint="give a request that you make yourself extensions=request.extensions",
            )
        unsigned = list(_pairs(request)) if attempt.options.follow_redirects else []
        response = await self._signed(request, attempt)
        for hops in range(1, _MOST_REDIRECTS + 2):
            if not (attempt.options.follow_redirects and response.has_redirect_location):
                break
            if hops > _MOST_REDIRECTS:
                target = safe_url(response.headers["location"])
                told = f"redirected more than {_MOST_REDIRECTS} times, the last time to {target!r}"
                raise HttpStatusError(told, status=response.status_code)
            request = self._redirected(request, unsigned, response)
            response = await self._signed(request, attempt)
        return response

    def governor(self, request: httpx.Request) -> Governor:
        """The governor of where the request goes, with the stream's credential."""
        return self._session.governor_for(self._origin(request), self.authenticator, self._stream.quota_group)

    def limits(self) -> str:
        """What has been found of the limits of those that were asked."""
        return ", ".join(filter(None, (governor.limits(client) for governor, client in self._clients.items())))

    def no_answer(self, error: httpx.TransportError, request: httpx.Request) -> AsyncStreamsError:
        """The error of ours for a request that a transport could not get answered."""
        reason = scrub(str(error), {*sent_secrets(request), *known_secrets(self.authenticator)})
        cause = error.__cause__ or error.__context__
        if isinstance(error, CertificateRejected) or isinstance(cause, ssl.SSLCertVerificationError):
            return ConfigError(
                f"the server's certificate was not accepted: {reason}",
                hint='a private authority: return {"verify": "/path/to/ca.pem"} from request_kwargs',
            )
        if isinstance(error, httpx.LocalProtocolError):
            return ConfigError(reason)
        told = "did not answer" if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout) else "broke off"
        failure = (HostNameNotFound if isinstance(error, HostNotFound) else HostUnavailable)(f"{told}: {reason}")
        if "refused" in reason.lower():
            failure.hint = "is the server running, and is the port right?"
        failure.retryable = True
        failure.was_sent = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
        return failure

    async def _signed(self, request: httpx.Request, attempt: Attempt) -> Response:
        """Sign under a ticket, and send; what an authenticator sends besides takes tickets of its own."""
        authenticator = self.authenticator
        governor = self.governor(request)
        ticket = await self._ticket(governor, request)
        if authenticator is None or isinstance(authenticator, SigningAuth):
            try:
                if authenticator is not None:
                    authenticator.sign(request)
                return await self._on_the_wire(request, attempt, ticket)
            finally:
                governor.release(ticket)
        async with aclosing(authenticator.async_auth_flow(request)) as flow:
            try:
                outgoing = await anext(flow)
                own = self._is_own(outgoing, request)
                response = await self._on_the_wire(outgoing, attempt, ticket) if own else None
            finally:
                governor.release(ticket)
            while True:
                if response is not None:
                    heard, following = response, await _following(flow, response)
                else:  # a token must be fetched first: meanwhile the ticket is given back
                    heard, following = await _heard_out(self._renewal(flow, outgoing, attempt.options))
                if following is None:
                    return heard
                await let_go(heard)
                outgoing, response = following, None
                if self._is_own(outgoing, request):
                    ticket = await self._ticket(governor, request)
                    try:
                        response = await self._on_the_wire(outgoing, attempt, ticket)
                    finally:
                        governor.release(ticket)

    async def _renewal(
        self, flow: Flow, outgoing: httpx.Request, options: SendOptions
    ) -> tuple[Response, httpx.Request | None]:
        """What a token endpoint answers, and what the authenticator, which knows it then, sends next.

        No ticket is needed to hear it: a rotated token must not wait at a gate.
        """
        response = await self._token_answer(outgoing, options)
        return response, await _following(flow, response)

    async def _ticket(self, governor: Governor, request: httpx.Request) -> Permit:
        """Wait for a ticket, and note for how long: it does not count as the page's time."""
        client = self._clients.get(governor) or self._client(governor)
        place: RequestSlot | None = request.extensions.get(PLACE)
        ticket = governor.acquire_nowait(client)
        if ticket is None:
            began = self._session.clock.monotonic()
            ticket = await self._waited(governor, client, place)
            waited = self._session.clock.monotonic() - began
            request.extensions[GATE] = request.extensions.get(GATE, 0.0) + waited
        if place is not None:
            place.sent()
        request.extensions[TICKET] = ticket
        return ticket

    async def _waited(self, governor: Governor, client: QuotaClient, place: RequestSlot | None) -> Permit:
        """A ticket that does not come at once. Whoever waits for long gives its place back, and queues after that."""
        while True:
            wait = governor.wait(client) or _NO_WAIT
            self._check_wait(wait, governor)
            is_down = wait.reason is DOWN
            if not is_down and (wait.seconds < LONG or wait.seconds == math.inf):
                with self._waits.on(wait.reason, wait.seconds):
                    if (ticket := await governor.acquire(client)) is not None:
                        return ticket
                continue
            with self._waits.told(wait.reason, wait.seconds):
                async with nullcontext() if place is None else place.away():
                    await self._session.clock.sleep(
                        _LOOK if is_down else min(wait.seconds, wait.soonest + LONG) - _EARLY
                    )

    def _check_wait(self, wait: Wait, governor: Governor) -> None:
        stream = self._stream
        if wait.reason in (PAUSE, TOLD) and stream.max_server_wait + _JITTER < wait.seconds < math.inf:
            told = "the API asked for a pause" if wait.reason is PAUSE else "its quota is used up"
            raise wait_too_long(stream, told, wait.seconds, self._session.clock.wall())
        if governor.down_for > stream.outage_timeout:
            raise HostUnavailable(
                f"has not answered properly for {governor.down_for:.0f} s, in which it was asked again and again",
                hint="start again when it is well, or raise outage_timeout",
            )

    def _client(self, governor: Governor) -> QuotaClient:
        stream = self._stream
        limits = stream.rate_limit
        told = () if limits is None else (limits,) if isinstance(limits, RateLimit) else tuple(limits)
        client = self._clients[governor] = governor.client(
            stream.name, stream.weight, told, stream.rate_limit_cost, adaptive=stream.adaptive, patient=False
        )
        return client

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
        governor = self._session.governor_for(origin, _TOKEN_ENDPOINT)
        client = governor.client("token", adaptive=False)
        request.extensions = {**request.extensions, "timeout": {"connect": options.timeouts.connect}}
        failure: AsyncStreamsError | None = None
        try:
            ticket = await governor.acquire(client)
            assert ticket is not None, "it is patient"
            try:
                response = await self._token_response(request, options)
            finally:
                governor.release(ticket)
        except httpx.TransportError as error:
            failure = self.no_answer(error, request)
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
        with AttemptTimeout(options.timeouts, self._session.alarm) as watch:
            transport = self._transport(origin_of(str(request.url)), options)
            request.headers.setdefault("User-Agent", USER_AGENT)
            response = as_ours(await transport.handle_async_request(request), request)
            watch.body_begins()
            at_most = None if response.is_success else ERROR_BODY_LIMIT
            response.set_body(await read_body(response, _TOKEN_LIMITS, watch, at_most=at_most))
        return response

    async def _on_the_wire(self, request: httpx.Request, attempt: Attempt, ticket: Permit) -> Response:
        options = attempt.options
        transport = self._transport(self._origin(request), options)
        streamed = attempt.streamed and not getattr(self.authenticator, "requires_response_body", False)
        with AttemptTimeout(options.timeouts, self._session.alarm, whole=not streamed) as watch:
            request.extensions["connected"] = watch.connected
            _complete(request, transport)
            response = as_ours(await transport.handle_async_request(request), request)
            watch.body_begins()
            governor = ticket.governor
            governor.first_byte(ticket, told_quotas(response, self._session.clock.wall(), governor.host.time))
            limits = self._stream.body_limits
            succeeded = 200 <= response.status_code < 300
            if streamed and succeeded and response.status_code != 204:
                response.set_pieces(streamed_pieces(response, limits, options.timeouts))
            else:
                at_most = None if succeeded else ERROR_BODY_LIMIT
                response.set_body(await read_body(response, limits, watch, at_most=at_most))
        return response

    def _redirected(self, request: httpx.Request, unsigned: list[tuple[str, str]], response: Response) -> httpx.Request:
        if request.method not in ("GET", "HEAD") and response.status_code not in (307, 308):
            raise HttpStatusError(
                f"answered a {request.method} with a redirect that would turn it into a GET",
                status=response.status_code,
            )
        target = resolve(response.headers["location"], str(request.url), self._allowed)
        return Request(
            request.method, target, headers=list(unsigned), content=request.content, extensions=request.extensions
        )

    def _transport(self, origin: Origin, options: SendOptions) -> httpx.AsyncBaseTransport:
        if self._borrowed is not None:
            return self._borrowed
        if origin is not self._home:
            return self._session.transport_for(origin, options.client)
        client, transport = self._at_home or (None, None)
        if transport is None or client is not options.client:
            # Options are compared by value there, field by field.
            transport = self._session.transport_for(origin, options.client)
            self._at_home = options.client, transport
        return transport

    def _origin(self, request: httpx.Request) -> Origin:
        """Where the request goes; looked at before any connection, whoever made or changed it."""
        url = request.url_text if isinstance(request, Request) else str(request.url)
        if url.startswith(self._home_prefix):
            return self._home
        return origin_of(resolve(url, self._stream.url_base, self._allowed))

    def _require_encryption(self, origins: Iterable[Origin]) -> None:
        """Raises ConfigError where a credential would cross a network in the clear."""
        for origin in origins:
            if origin.scheme == "http" and not origin.is_loopback and not self._stream.allow_insecure:
                raise ConfigError(
                    f"{type(self._stream).__name__}: a credential would go to {origin} unencrypted",
                    hint="use https, or set allow_insecure = True where the network is your own",
                )


async def _following(flow: Flow, response: Response) -> httpx.Request | None:
    """What an authenticator sends after it has heard an answer."""
    try:
        return await flow.asend(response)
    except StopAsyncIteration:
        return None


async def _heard_out(renewal: Coroutine[Any, Any, T]) -> T:
    """A renewal that goes on where the caller is cancelled meanwhile, for ten seconds more.

    A token that was rotated, and was not taken, cannot be had again. A task of its own, since no cancel scope holds
    back a plain `Task.cancel()`; it ends in here.
    """
    task = asyncio.ensure_future(renewal)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        # A cancelled scope would cancel the wait again and again.
        with anyio.CancelScope(shield=True):
            await asyncio.wait({task}, timeout=_LAST_WORDS)
        raise
    finally:
        task.cancel()
        while not task.done():  # nothing may be asked of the authenticator that it is still busy with
            with suppress(asyncio.CancelledError), anyio.CancelScope(shield=True):
                await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # has been told, or nobody is there to hear it


def copied(request: httpx.Request) -> Request:
    """A request that a middleware made itself, as our own kind."""
    return Request(
        request.method,
        str(request.url),
        headers=request.headers.multi_items(),
        content=request.read(),
        extensions=request.extensions,
    )


def _pairs(request: httpx.Request) -> list[tuple[str, str]]:
    return request.header_pairs() if isinstance(request, Request) else request.headers.multi_items()


def _complete(request: httpx.Request, transport: httpx.AsyncBaseTransport) -> None:
    """Add what aiohttp adds by itself, and httpx's transports expect of their client."""
    if not isinstance(transport, AiohttpTransport):
        request.headers.setdefault("Host", request.url.netloc.decode("ascii"))
        if request.content:
            request.headers.setdefault("Content-Length", str(len(request.content)))


def as_ours(response: httpx.Response, request: httpx.Request) -> Response:
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


async def let_go(response: Response | None) -> None:
    """Drop a body that is still arriving."""
    if response is not None and not response.has_body:
        await response.aclose()
