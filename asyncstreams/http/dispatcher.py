"""Sending of one signed request over its transport, within its timeouts, and reading of the response."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import httpx

from ..declaration.stream import Stream
from ..errors import AsyncStreamsError, ConfigError
from ..messages import Request, Response
from ..models import BodyLimits
from ..rate_limits.governor import Permit
from ..rate_limits.quota_headers import reported_quotas
from ..wire.transport import Http1Transport
from .body import read_body, stream_body
from .origin import Origin, origin_of
from .origin_guard import OriginGuard, url_of
from .request_builder import USER_AGENT, Attempt
from .response_errors import MAX_ERROR_BODY_BYTES, transport_error
from .send_options import ClientOptions, SendOptions
from .session import Session, as_transport, check_extensions
from .timeouts import Activity, AnswerTimes, AttemptTimeout

_TOKEN_LIMITS = BodyLimits(wire=MAX_ERROR_BODY_BYTES, decoded=MAX_ERROR_BODY_BYTES)


class Dispatcher:
    """Sends the signed requests of one stream, for one session."""

    def __init__(self, stream: Stream, session: Session, guard: OriginGuard, authenticator: httpx.Auth | None) -> None:
        self._stream, self._session, self._guard, self._authenticator = stream, session, guard, authenticator
        self._custom_transport = as_transport(stream.resolved.transport)
        self._base_transport: tuple[ClientOptions, httpx.AsyncBaseTransport] | None = None
        self._follows_answer_times = (
            stream.resolved.adaptive_timeouts and stream.resolved.idempotent and stream.resolved.max_tries > 1
        )
        self.activity = Activity()
        self.answer_times = AnswerTimes()
        if authenticator is not None:
            self.require_encryption(guard.allowed_origins)

    @property
    def looks_up_names(self) -> bool:
        """Whether host names are looked up here, and not by a transport of the user."""
        return self._custom_transport is None

    async def send(
        self,
        request: httpx.Request,
        attempt: Attempt,
        permit: Permit,
        credential: httpx.Auth | None,
        *,
        has_credential: bool = True,
    ) -> Response:
        """The response to a request, with its body complete and checked, unless the stream parses it as it arrives.

        `credential` has signed the request; its cookies are kept. Without `has_credential`, nothing of the stream goes
        along. Records the first byte under the permit.
        """
        options, stream = attempt.options, self._stream
        if not has_credential:
            options = replace(options, extensions={}, client=replace(options.client, cert=None))
        origin = self._guard.origin_for(request, has_credential=has_credential)
        transport = self._transport_for(origin, options)
        streamed = attempt.streamed and not getattr(self._authenticator, "requires_response_body", False)
        is_first = self._follows_answer_times and attempt.context.attempt == 1
        with AttemptTimeout(
            options.timeouts,
            self._session.deadlines,
            limit_total=not streamed,
            activity=self.activity,
            first_byte=self.answer_times.limit if is_first else math.inf,
        ) as timeout:
            request.extensions["connected"] = timeout.start_request
            if not isinstance(transport, Http1Transport):
                _add_client_headers(request)
            received = await transport.handle_async_request(request)
            response = received if isinstance(received, Response) else to_response(received, request)
            answered_after = timeout.start_body()
            if has_credential and stream.resolved.cookies and b"set-cookie" in response.layout.indexes:
                jar = self._session.cookies.jar_for(origin, credential)
                jar.store(response.raw_header_lines(b"set-cookie"), url_of(request), self._session.clock.wall())
            governor = permit.governor
            quotas = reported_quotas(response, self._session.clock.wall(), governor.host.server_clock)
            governor.record_first_byte(permit, quotas)
            succeeded = 200 <= response.status_code < 300
            if succeeded:
                self.answer_times.record(answered_after)
            if streamed and succeeded and response.status_code != 204:
                count_piece = self.activity.count_piece
                response.set_chunks(stream_body(response, stream.resolved.body_limits, options.timeouts, count_piece))
            else:
                max_bytes = None if succeeded else MAX_ERROR_BODY_BYTES
                response.set_body(await read_body(response, stream.resolved.body_limits, timeout, max_bytes=max_bytes))
        return response

    async def send_token_request(self, request: httpx.Request, options: SendOptions) -> Response:
        """The complete response of a token endpoint."""
        with AttemptTimeout(options.timeouts, self._session.deadlines, activity=self.activity) as timeout:
            transport = self._transport_for(origin_of(str(request.url)), options)
            request.headers.setdefault("User-Agent", USER_AGENT)
            response = to_response(await transport.handle_async_request(request), request)
            timeout.start_body()
            max_bytes = None if response.is_success else MAX_ERROR_BODY_BYTES
            response.set_body(await read_body(response, _TOKEN_LIMITS, timeout, max_bytes=max_bytes))
        return response

    def to_error(self, error: httpx.TransportError, request: httpx.Request) -> AsyncStreamsError:
        """The library's error for a transport error."""
        return transport_error(error, request, self._authenticator, is_own=self._guard.is_own(request))

    def require_encryption(self, origins: Iterable[Origin]) -> None:
        """Raise ConfigError if a credential would be sent unencrypted over a network."""
        for origin in origins:
            if origin.scheme == "http" and not origin.is_loopback and not self._stream.resolved.allow_insecure:
                raise ConfigError(
                    f"{type(self._stream).__name__}: a credential would go to {origin} unencrypted",
                    hint="use https, or set allow_insecure = True in a trusted network",
                )

    def _transport_for(self, origin: Origin, options: SendOptions) -> httpx.AsyncBaseTransport:
        if self._custom_transport is not None:
            return self._custom_transport
        if options.extensions:
            check_extensions(origin, options)
        if origin is not self._guard.base_origin:
            return self._session.transport_for(origin, options.client)
        client, transport = self._base_transport or (None, None)
        if transport is None or client is not options.client:
            # Identity is a fast check: the session looks the transport up by all fields of the options.
            transport = self._session.transport_for(origin, options.client)
            self._base_transport = options.client, transport
        return transport


def to_request(request: httpx.Request) -> Request:
    """A request that a middleware or an authenticator created, as an asyncstreams Request."""
    return Request(
        request.method,
        str(request.url),
        headers=request.headers.multi_items(),
        content=request.read(),
        extensions=request.extensions,
    )


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


def _add_client_headers(request: httpx.Request) -> None:
    """Add the headers that httpx's transports expect from their client; our transport adds them itself."""
    request.headers.setdefault("Host", request.url.netloc.decode("ascii"))
    if request.content:
        request.headers.setdefault("Content-Length", str(len(request.content)))
