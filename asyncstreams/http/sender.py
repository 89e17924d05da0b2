"""One attempt of a request: permit, authentication, sending, and reading of the response."""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import AsyncGenerator, Coroutine, Iterable, Sequence
from contextlib import aclosing, nullcontext, suppress
from dataclasses import replace
from typing import Any, TypeAlias, TypeVar, cast

import anyio
import httpx

from ..auth.authenticators import MultipleTokenAuthenticator, RenewingAuth, SigningAuth, held_secrets
from ..content.error_text import error_text
from ..errors import (
    AsyncStreamsError,
    ConfigError,
    HostUnavailable,
    HttpStatusError,
    MalformedResponse,
)
from ..messages import Request, Response
from ..models import BodyLimits, RateLimit
from ..protocols import RequestSlot, Stream
from ..rate_limits.governor import Governor, Permit, QuotaClient
from ..rate_limits.quota_headers import reported_quotas
from ..rate_limits.retry_after import retry_after
from ..rate_limits.wait_reason import LONG_WAIT_S, Wait, WaitReason
from ..redaction import safe_url, scrub, sent_secrets
from ..wire.transport import Http1Transport
from ..wire.transport_errors import (
    CertificateRejected,
    HostNotFound,
    InvalidResponse,
    ProxyAuthenticationRequired,
    ProxyUnreachable,
    TunnelRefused,
)
from .body import read_body, stream_body
from .cookies import CookieJar
from .extension_keys import ANSWERED_KEY, CHANNEL_KEY, PAUSED_KEY, PERMIT_KEY, SLOT_KEY, TOKEN_KEY, UNCREDENTIALED_KEY
from .origin import Origin, OriginPattern, origin_of
from .origin_guard import OriginGuard, header_pairs, url_of
from .redirects import MAX_REDIRECTS
from .request_builder import USER_AGENT, Attempt
from .response_errors import MAX_ERROR_BODY_BYTES, is_transient
from .retry import wait_too_long
from .send_options import ClientOptions, SendOptions
from .session import Session, as_transport, check_extensions
from .signing import complete_request, final_request, needs_final_request, signs_in_place
from .timeouts import Activity, AnswerTimes, AttemptTimeout
from .wait_tracker import WaitTracker

T = TypeVar("T")
AuthFlow: TypeAlias = AsyncGenerator[httpx.Request, Response]

_TOKEN_ENDPOINT = object()
_NO_WAIT = Wait(0.0, WaitReason.CONCURRENCY, 0.0)
_TOKEN_LIMITS = BodyLimits(wire=MAX_ERROR_BODY_BYTES, decoded=MAX_ERROR_BODY_BYTES)
_REPORTED_EXTENSIONS = (PAUSED_KEY, PERMIT_KEY, TOKEN_KEY)
_RENEWAL_GRACE_S = 10.0
_WAKE_EARLY_S = 0.5  # before the end of a long wait, to queue with the other requests
_PROBE_INTERVAL_S = 1.0  # between checks of a host that is down
_WAIT_TOLERANCE_S = 1.01  # by which an accepted wait may have grown


class HostNameNotFound(HostUnavailable):
    """The host name cannot be resolved, perhaps only temporarily."""


class RequestSender:
    """Sends the attempts of one stream's client, for one session.

    Every request acquires a permit from its governor, and is signed afterwards.
    """

    def __init__(
        self,
        stream: Stream,
        session: Session,
        allowed: frozenset[Origin],
        uncredentialed: tuple[OriginPattern, ...],
        wait_tracker: WaitTracker,
    ) -> None:
        self._stream = stream
        self._session = session
        self._wait_tracker = wait_tracker
        # Read once: a property may return a new authenticator each time.
        self.authenticator = session.credential_for(stream.authenticator)
        self._signs_in_place = signs_in_place(self.authenticator)
        self._needs_final_request = needs_final_request(self.authenticator)
        self._tokens: Sequence[SigningAuth] = ()
        if isinstance(self.authenticator, MultipleTokenAuthenticator) and self.authenticator.sends_listed_tokens:
            tokens = map(session.credential_for, self.authenticator.authenticators)
            self._tokens = [token for token in tokens if isinstance(token, SigningAuth)]
        self._custom_transport = as_transport(stream.transport)
        self._guard = OriginGuard(stream, allowed, uncredentialed, self.authenticator, session.secrets)
        self._base_origin = self._guard.base_origin
        self._follows_answer_times = stream.adaptive_timeouts and stream.idempotent and stream.max_tries > 1
        self._base_governor: Governor | None = None
        self._base_transport: tuple[ClientOptions, httpx.AsyncBaseTransport] | None = None
        self._quota_clients: dict[Governor, QuotaClient] = {}
        self.activity = Activity()
        self.answer_times = AnswerTimes()
        if self.authenticator is not None:
            self._require_encryption(allowed)

    async def send(self, request: httpx.Request) -> Response:
        """Sign and send a request, and follow redirects if its options ask for it."""
        attempt = request.extensions.get("asyncstreams")
        if not isinstance(attempt, Attempt):
            raise ConfigError(
                "a middleware sent a request without the extensions of the stream's request",
                hint="create the new request with extensions=request.extensions",
            )
        permitted = request if self._guard.is_own(request) else self._guard.permitted_request(request)
        if permitted is request and not attempt.options.follow_redirects:
            return await self._sign_and_send(request, attempt)
        return await self._send_and_follow(permitted, request, attempt)

    async def _send_and_follow(self, request: httpx.Request, given: httpx.Request, attempt: Attempt) -> Response:
        """Send a request in place of the given one, and follow its redirects. The given one reports the outcome."""
        unsigned = list(header_pairs(request))
        given.extensions.pop(ANSWERED_KEY, None)  # a middleware may send a request twice
        response = await self._send_in_place_of(given, request, attempt)
        for hops in range(1, MAX_REDIRECTS + 2):
            if not (attempt.options.follow_redirects and response.has_redirect_location):
                break
            if hops > MAX_REDIRECTS:
                target = self._session.secrets.mask_url(response.headers["location"])
                problem = f"redirected more than {MAX_REDIRECTS} times, the last time to {target!r}"
                raise HttpStatusError(problem, status=response.status_code)
            looks_up_names = self._custom_transport is None
            request = await self._guard.redirected_request(request, response, unsigned, looks_up_names=looks_up_names)
            given.extensions[ANSWERED_KEY] = request
            response = await self._send_in_place_of(given, request, attempt)
        return response

    async def _send_in_place_of(self, given: httpx.Request, request: httpx.Request, attempt: Attempt) -> Response:
        try:
            return await self._sign_and_send(request, attempt)
        finally:
            if request is not given:
                for key in _REPORTED_EXTENSIONS:
                    given.extensions.pop(key, None)
                    if key in request.extensions:
                        given.extensions[key] = request.extensions[key]

    def governor_for(self, request: httpx.Request) -> Governor:
        """The governor of the request's origin and the credential that it was sent with, or would be."""
        origin = self._origin_for(request)
        if UNCREDENTIALED_KEY in request.extensions:
            governor = self._session.governor_for(origin, None)
            self._quota_client(governor, has_declared_limits=False)
            return governor
        if self._tokens:
            position = request.extensions.get(TOKEN_KEY)
            return self._governor_of_token(origin, self._rank_tokens(origin)[0][1] if position is None else position)
        if origin is self._base_origin and self._base_governor is not None:
            return self._base_governor
        governor = self._session.governor_for(origin, self.authenticator, self._stream.quota_group)
        if origin is self._base_origin:
            self._base_governor = governor
        return governor

    def drop_token(self, request: httpx.Request) -> bool:
        """Stop using the token of a request that was refused; whether another one is left."""
        position: int | None = request.extensions.get(TOKEN_KEY)
        return position is not None and cast(MultipleTokenAuthenticator, self.authenticator).drop(position)

    def has_other_token(self, request: httpx.Request) -> bool:
        """Whether a request that was refused can be sent now with another token than before."""
        position: int | None = request.extensions.get(TOKEN_KEY)
        if position is None:
            return False
        return any(is_usable and other != position for is_usable, other in self._rank_tokens(self._origin_for(request)))

    @property
    def in_flight(self) -> int:
        """Requests of the stream that have been sent, and whose responses have not been read yet."""
        return sum(client.in_flight for client in self._quota_clients.values())

    def describe_limits(self) -> str:
        """The limits known for the origins that received requests, as text."""
        return ", ".join(
            filter(None, (governor.describe_limits(client) for governor, client in self._quota_clients.items()))
        )

    def to_error(self, error: httpx.TransportError, request: httpx.Request) -> AsyncStreamsError:
        """The library's error for a transport error."""
        reason = scrub(str(error), {*sent_secrets(request), *held_secrets(self.authenticator)})
        if isinstance(error, CertificateRejected) or _has_cause(error, ssl.SSLCertVerificationError):
            hint = 'for a private certificate authority return {"verify": "/path/to/ca.pem"} from request_kwargs, '
            hint += "or set SSL_CERT_FILE"
            if "mismatch" in reason:
                hint = "check the host in url_base; the extension sni_hostname gives the name to verify"
            return ConfigError(f"the server's certificate was not accepted: {reason}", hint=hint)
        if isinstance(error, httpx.LocalProtocolError):
            return ConfigError(reason)
        if isinstance(error, httpx.ProxyError):
            return _proxy_error(error, reason)
        if isinstance(error, InvalidResponse):
            return MalformedResponse(f"sent a response that is not valid HTTP: {reason}")
        is_unsent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
        failure = (HostNameNotFound if isinstance(error, HostNotFound) else HostUnavailable)(
            f"{'did not answer' if is_unsent else 'failed'}: {reason}"
        )
        if isinstance(error, ProxyUnreachable):
            failure.hint = (
                "check that the proxy is running, and its address in request_kwargs or HTTP_PROXY, HTTPS_PROXY"
            )
        elif "refused" in reason.lower() or "connect call failed" in reason.lower():
            failure.hint = "nothing listens there: check that the server is running"
            if self._guard.is_own(request):
                failure.hint += ", and the host and port of url_base"
        failure.retryable = True
        failure.was_sent = not is_unsent
        return failure

    async def _sign_and_send(self, request: httpx.Request, attempt: Attempt) -> Response:
        """Acquire a permit, sign and send; additional requests of an authenticator acquire their own permits."""
        permit = await self._acquire_permit(request)
        try:
            if UNCREDENTIALED_KEY in request.extensions:
                return await self._send_once(request, attempt, permit)
            if self._session.cookies and self._stream.cookies:
                request = self._with_cookies(request)
            if self.authenticator is not None and not self._signs_in_place:
                return await self._follow_flow(self.authenticator, request, attempt, permit)
            self._sign(request)
            return await self._send_once(request, attempt, permit)
        finally:
            permit.governor.release(permit)

    def _sign(self, request: httpx.Request) -> None:
        signer = self._token_of(request) if self._tokens else self.authenticator
        if isinstance(signer, SigningAuth):
            if self._needs_final_request and isinstance(request, Request):
                complete_request(request)
            signer.sign(request)

    async def _follow_flow(
        self, authenticator: httpx.Auth, request: httpx.Request, attempt: Attempt, permit: Permit
    ) -> Response:
        """Send what an authenticator yields, which may be several requests, until its flow ends.

        They go over one connection, which has no other user until then: some handshakes authenticate a connection
        (NTLM), which no other credential may use afterwards.
        """
        own_request = request if isinstance(request, Request) else to_request(request)
        if self._needs_final_request:
            complete_request(own_request)
        if isinstance(authenticator, RenewingAuth):
            return await self._send_flow(authenticator.async_auth_flow(own_request), own_request, attempt, permit)
        idle = self._session.idle_channels(authenticator) if attempt.options.client.reuse else []
        channel = own_request.extensions[CHANNEL_KEY] = idle.pop() if idle else object()
        response = await self._send_flow(authenticator.async_auth_flow(own_request), own_request, attempt, permit)
        if response.has_body:
            idle.append(channel)
        return response

    async def _send_flow(self, flow: AuthFlow, request: Request, attempt: Attempt, permit: Permit) -> Response:
        body = request.stream
        async with aclosing(flow):
            try:
                outgoing = await anext(flow)
                own = self._is_stream_request(outgoing, request)
                response = await self._send_signed(outgoing, request, body, attempt, permit) if own else None
            finally:
                permit.governor.release(permit)
            while True:
                if response is not None:
                    received, following = response, await _next_request(flow, response)
                else:  # a token must be fetched first, without the permit
                    received, following = await _complete_renewal(self._renew(flow, outgoing, attempt.options))
                    if following is None:
                        raise ConfigError(
                            f"{type(self.authenticator).__name__}: auth_flow ended without the request of the stream",
                            hint="yield the given request, or one with the same method and URL; only those to a token "
                            "endpoint may differ",
                        )
                if following is None:
                    return received
                await discard(received)
                outgoing, response = following, None
                if self._is_stream_request(outgoing, request):
                    permit = await self._acquire_permit(request)
                    try:
                        response = await self._send_signed(outgoing, request, body, attempt, permit)
                    finally:
                        permit.governor.release(permit)

    async def _send_signed(
        self, outgoing: httpx.Request, request: Request, body: object, attempt: Attempt, permit: Permit
    ) -> Response:
        return await self._send_once(await final_request(outgoing, request, body), attempt, permit)

    async def _renew(
        self, flow: AuthFlow, outgoing: httpx.Request, options: SendOptions
    ) -> tuple[Response, httpx.Request | None]:
        """The response of a token endpoint, and the next request of the authenticator.

        The authenticator receives the response without a permit: a rotated token must not wait for a pause.
        """
        response = await self._fetch_token(outgoing, options)
        return response, await _next_request(flow, response)

    async def _acquire_permit(self, request: httpx.Request) -> Permit:
        """Acquire a permit, and note the time it took, which does not count as time of the page."""
        governor = self._choose_governor(request)
        client = self._quota_client(governor)
        slot: RequestSlot | None = request.extensions.get(SLOT_KEY)
        permit = governor.acquire_nowait(client)
        if permit is None:
            began = self._session.clock.monotonic()
            permit = await self._wait_for_permit(request, governor, slot)
            waited = self._session.clock.monotonic() - began
            request.extensions[PAUSED_KEY] = request.extensions.get(PAUSED_KEY, 0.0) + waited
        if slot is not None:
            slot.charge_request()
        request.extensions[PERMIT_KEY] = permit
        return permit

    async def _wait_for_permit(self, request: httpx.Request, governor: Governor, slot: RequestSlot | None) -> Permit:
        """Wait for a permit; a long wait releases the slot, and joins the queue near its end."""
        while True:
            client = self._quota_client(governor)
            wait = governor.current_wait(client) or _NO_WAIT
            self._check_wait(wait, governor)
            is_down = wait.reason is WaitReason.HOST_DOWN
            if not is_down and (wait.seconds < LONG_WAIT_S or wait.seconds == math.inf):
                with self._wait_tracker.track(wait.reason, wait.seconds):
                    if (permit := await governor.acquire(client)) is not None:
                        return permit
            else:
                with self._wait_tracker.announce(wait.reason, wait.seconds):
                    async with nullcontext() if slot is None else slot.released():
                        await self._session.clock.sleep(
                            _PROBE_INTERVAL_S
                            if is_down
                            else min(wait.seconds, wait.min_seconds + LONG_WAIT_S) - _WAKE_EARLY_S
                        )
            governor = self._choose_governor(request)

    def _check_wait(self, wait: Wait, governor: Governor) -> None:
        stream = self._stream
        if (
            wait.reason in (WaitReason.PAUSED, WaitReason.QUOTA)
            and stream.max_server_wait + _WAIT_TOLERANCE_S < wait.seconds < math.inf
        ):
            reason = "the API asked for a pause" if wait.reason is WaitReason.PAUSED else "its quota is used up"
            raise wait_too_long(stream, reason, wait.seconds, self._session.clock.wall())
        if governor.down_for > stream.outage_timeout:
            raise HostUnavailable(
                f"no successful response for {governor.down_for:.0f} s despite repeated probes",
                hint="start again after the host has recovered, or raise outage_timeout",
            )

    def _choose_governor(self, request: httpx.Request) -> Governor:
        """The governor under which to send a request; of several tokens, that of the best one now."""
        if not self._tokens or UNCREDENTIALED_KEY in request.extensions:
            return self.governor_for(request)
        origin = self._origin_for(request)
        _, position = self._rank_tokens(origin)[0]
        cast(MultipleTokenAuthenticator, self.authenticator).end_turn(position)
        request.extensions[TOKEN_KEY] = position
        return self._governor_of_token(origin, position)

    def _rank_tokens(self, origin: Origin) -> list[tuple[bool, int]]:
        """The tokens from the best one, and whether each is neither paused nor used up.

        Those with the shortest wait come first; of these the one with most requests left, unknown ones in turn.
        """
        ranks: list[tuple[float, float, bool, int]] = []
        for position in cast(MultipleTokenAuthenticator, self.authenticator).turns():
            governor = self._governor_of_token(origin, position)
            wait = governor.current_wait(self._quota_client(governor))
            is_usable = wait is None or wait.reason not in (WaitReason.PAUSED, WaitReason.QUOTA)
            # A wait without a known end ends with a response.
            seconds = 0.0 if wait is None else wait.seconds if wait.seconds < math.inf else LONG_WAIT_S / 2
            ranks.append((seconds, -governor.requests_left, is_usable, position))
        ranks.sort(key=lambda rank: rank[:2])  # stable: equal ones stay in turn
        return [rank[2:] for rank in ranks]

    def _token_of(self, request: httpx.Request) -> SigningAuth:
        """The token that was chosen for a request."""
        position: int = request.extensions[TOKEN_KEY]
        return self._tokens[position]

    def _governor_of_token(self, origin: Origin, position: int) -> Governor:
        return self._session.governor_for(
            origin, self._tokens[position], self._stream.quota_group, one_of=self.authenticator
        )

    def _quota_client(self, governor: Governor, *, has_declared_limits: bool = True) -> QuotaClient:
        client = self._quota_clients.get(governor)
        if client is not None:
            return client
        stream = self._stream
        limits = stream.rate_limit if has_declared_limits else None  # they are those of the credential
        declared = () if limits is None else (limits,) if isinstance(limits, RateLimit) else tuple(limits)
        client = self._quota_clients[governor] = governor.add_client(
            stream.name,
            stream.weight,
            declared,
            stream.rate_limit_cost,
            adaptive=stream.adaptive,
            accept_long_waits=False,
        )
        return client

    def _is_stream_request(self, outgoing: httpx.Request, request: httpx.Request) -> bool:
        """Whether an authenticator's request is that of the stream, and not one to its token endpoint."""
        if outgoing is request:
            return True
        same_url = outgoing.url.copy_with(query=None) == request.url.copy_with(query=None)
        return same_url and outgoing.method == request.method

    async def _fetch_token(self, request: httpx.Request, options: SendOptions) -> Response:
        """The response of a token endpoint. Raises a retryable error if the endpoint fails."""
        origin = origin_of(str(request.url))
        self._require_encryption([origin])
        governor = self._session.governor_for(origin, _TOKEN_ENDPOINT)
        client = governor.add_client("token", adaptive=False)
        request.extensions = {**request.extensions, "timeout": {"connect": options.timeouts.connect}}
        failure: AsyncStreamsError | None = None
        try:
            permit = await governor.acquire(client)
            assert permit is not None, "the client accepts long waits"
            try:
                response = await self._send_token_request(request, options)
            finally:
                governor.release(permit)
        except httpx.TransportError as error:
            failure = self.to_error(error, request)
            failure.args = (f"the token endpoint {failure.message}",)
        else:
            if not is_transient(response.status_code):
                return response
            said = error_text(response, {*sent_secrets(request), *held_secrets(self.authenticator)})
            failure = HttpStatusError(
                f"the token endpoint answered {response.status_code}" + (f': "{said}"' if said else ""),
                status=response.status_code,
            )
            failure.retryable = True
            if (wait := retry_after(response, self._session.clock.wall())) is not None:
                governor.pause_for(min(wait, self._stream.max_server_wait))
        raise failure.locate(url=safe_url(str(request.url)), method=request.method)

    async def _send_token_request(self, request: httpx.Request, options: SendOptions) -> Response:
        with AttemptTimeout(options.timeouts, self._session.deadlines, activity=self.activity) as timeout:
            transport = self._transport_for(origin_of(str(request.url)), options)
            request.headers.setdefault("User-Agent", USER_AGENT)
            response = to_response(await transport.handle_async_request(request), request)
            timeout.start_body()
            max_bytes = None if response.is_success else MAX_ERROR_BODY_BYTES
            response.set_body(await read_body(response, _TOKEN_LIMITS, timeout, max_bytes=max_bytes))
        return response

    async def _send_once(self, request: httpx.Request, attempt: Attempt, permit: Permit) -> Response:
        options = attempt.options
        if UNCREDENTIALED_KEY in request.extensions:
            options = replace(options, extensions={}, client=replace(options.client, cert=None))
        transport = self._transport_for(self._origin_for(request), options)
        streamed = attempt.streamed and not getattr(self.authenticator, "requires_response_body", False)
        is_first = attempt.context.attempt == 1 and self._follows_answer_times
        with AttemptTimeout(
            options.timeouts,
            self._session.deadlines,
            limit_total=not streamed,
            activity=self.activity,
            first_byte=self.answer_times.limit if is_first else math.inf,
        ) as timeout:
            request.extensions["connected"] = timeout.start_request
            _add_client_headers(request, transport)
            response = to_response(await transport.handle_async_request(request), request)
            answered_after = timeout.start_body()
            if b"set-cookie" in response.layout.indexes:
                self._store_cookies(response, request)
            governor = permit.governor
            governor.record_first_byte(
                permit, reported_quotas(response, self._session.clock.wall(), governor.host.server_clock)
            )
            limits = self._stream.body_limits
            succeeded = 200 <= response.status_code < 300
            if succeeded:
                self.answer_times.record(answered_after)
            if streamed and succeeded and response.status_code != 204:
                body = stream_body(response, limits, options.timeouts, self.activity.count_piece)
                response.set_chunks(body)
            else:
                max_bytes = None if succeeded else MAX_ERROR_BODY_BYTES
                response.set_body(await read_body(response, limits, timeout, max_bytes=max_bytes))
        return response

    def _with_cookies(self, request: httpx.Request) -> httpx.Request:
        """The request with the cookies that are kept for it. The given one stays as it is: it may be sent again."""
        jar = self._jar_for(request)
        if not jar:
            return request
        pairs = header_pairs(request)
        given = "; ".join([value for name, value in pairs if name.lower() == "cookie"])
        cookies = jar.header(url_of(request), self._session.clock.wall(), given)
        if cookies == given:
            return request
        headers = [pair for pair in pairs if pair[0].lower() != "cookie"]
        headers.append(("Cookie", cookies))
        content, extensions = request.read(), request.extensions
        return Request(request.method, url_of(request), headers=headers, content=content, extensions=extensions)

    def _store_cookies(self, response: Response, request: httpx.Request) -> None:
        if self._stream.cookies and UNCREDENTIALED_KEY not in request.extensions:
            lines, now = response.raw_header_lines(b"set-cookie"), self._session.clock.wall()
            self._jar_for(request).store(lines, url_of(request), now)

    def _jar_for(self, request: httpx.Request) -> CookieJar:
        """The cookies of the request's origin and the credential that it is sent with."""
        origin = self._origin_for(request)
        if self._tokens:
            return self._session.cookies.jar_for(origin, self._token_of(request))
        return self._session.cookies.jar_for(origin, self.authenticator)

    def _transport_for(self, origin: Origin, options: SendOptions) -> httpx.AsyncBaseTransport:
        if self._custom_transport is not None:
            return self._custom_transport
        if options.extensions:
            check_extensions(origin, options)
        if origin is not self._base_origin:
            return self._session.transport_for(origin, options.client)
        client, transport = self._base_transport or (None, None)
        if transport is None or client is not options.client:
            # Identity is a fast check: the session looks the transport up by all fields of the options.
            transport = self._session.transport_for(origin, options.client)
            self._base_transport = options.client, transport
        return transport

    def _origin_for(self, request: httpx.Request) -> Origin:
        return self._guard.origin_for(request)

    def _require_encryption(self, origins: Iterable[Origin]) -> None:
        """Raise ConfigError if a credential would be sent unencrypted over a network."""
        for origin in origins:
            if origin.scheme == "http" and not origin.is_loopback and not self._stream.allow_insecure:
                raise ConfigError(
                    f"{type(self._stream).__name__}: a credential would go to {origin} unencrypted",
                    hint="use https, or set allow_insecure = True in a trusted network",
                )


def _has_cause(error: BaseException, kind: type[BaseException]) -> bool:
    """Whether an exception of this kind led to the error; httpx's transports wrap it several times."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, kind):
            return True
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__
    return False


def _proxy_error(error: httpx.ProxyError, reason: str) -> AsyncStreamsError:
    """The error for a proxy that refuses to pass a request on; httpx's transports give its status in the text."""
    if isinstance(error, ProxyAuthenticationRequired) or reason.startswith("407"):
        return ConfigError(
            reason,
            hint="write user name and password into the URL of the proxy, http://user:password@host:port, with special "
            "characters percent-encoded",
        )
    failure = HostUnavailable(
        reason if isinstance(error, TunnelRefused) else f"the proxy refused the connection: {reason}",
        hint="check that the proxy may connect to this host and port, or except the host by NO_PROXY",
    )
    failure.was_sent = False
    return failure


async def _next_request(flow: AuthFlow, response: Response) -> httpx.Request | None:
    """The authenticator's next request after a response; None after the last one."""
    try:
        return await flow.asend(response)
    except StopAsyncIteration:
        return None


async def _complete_renewal(renewal: Coroutine[Any, Any, T]) -> T:
    """Run a token renewal to its end, for at most ten more seconds if the caller is cancelled.

    A rotated token whose response is lost cannot be fetched again. The renewal is a task, because no cancel
    scope shields from a plain `Task.cancel()`; the task ends before this function returns.
    """
    task = asyncio.ensure_future(renewal)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        # A cancelled scope would cancel the wait again and again.
        with anyio.CancelScope(shield=True):
            await asyncio.wait({task}, timeout=_RENEWAL_GRACE_S)
        raise
    finally:
        task.cancel()
        while not task.done():  # the authenticator may not be used again before it has finished
            with suppress(asyncio.CancelledError), anyio.CancelScope(shield=True):
                await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # already raised, or the caller is cancelled


def to_request(request: httpx.Request) -> Request:
    """A request that a middleware created, as an asyncstreams Request."""
    return Request(
        request.method,
        str(request.url),
        headers=request.headers.multi_items(),
        content=request.read(),
        extensions=request.extensions,
    )


def _add_client_headers(request: httpx.Request, transport: httpx.AsyncBaseTransport) -> None:
    """Add the headers that httpx's transports expect from their client; our transport adds them itself."""
    if not isinstance(transport, Http1Transport):
        request.headers.setdefault("Host", request.url.netloc.decode("ascii"))
        if request.content:
            request.headers.setdefault("Content-Length", str(len(request.content)))


def to_response(response: httpx.Response, request: httpx.Request) -> Response:
    """A transport's response as an asyncstreams Response; mocks and other transports return httpx's."""
    if isinstance(response, Response):
        return response
    return Response(
        response.status_code,
        headers=response.headers.raw,
        stream=response.stream,
        request=request,
        extensions=response.extensions,
    )


async def discard(response: Response | None) -> None:
    """Close the connection of a body that is still arriving."""
    if response is not None and not response.has_body:
        await response.aclose()
