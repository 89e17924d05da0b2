"""httpx transport over aiohttp's connector and protocol, with raw bodies.

At 100 connections, httpcore's pool costs many times that of aiohttp (benchmarks/read.py), and the
cancellation of waiting requests can break it (httpcore #1093). aiohttp's connector and protocol do
name resolution, connections, TLS, pooling and response parsing. aiohttp's client is not used: it
builds each request and response a second time, which costs as much again.
"""

from __future__ import annotations

import asyncio
import functools
import re
import ssl
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import aiohttp
import httpx
from aiohttp import HttpVersion10
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from ..messages import Request, Response
from .body import AbortableStream
from .request_head import request_head

# Below the 5 s after which many servers close an idle connection.
_KEEP_ALIVE_S = 4.5
# Signed links and gateway cookies exceed aiohttp's default of 8 KiB.
_MAX_HEADER_BYTES = 64 * 1024
_MAX_HEADERS = 512
_AUTHORITY = re.compile(r"https?://[^/?]+")


@functools.cache
def tls_context(
    verify: bool | str | ssl.SSLContext = True, cert: str | tuple[str, ...] | None = None
) -> ssl.SSLContext:
    """One context per process and setting: loading the certificate authorities takes 20 ms."""
    if isinstance(verify, ssl.SSLContext):
        return verify
    if verify is True:
        context = httpx.create_ssl_context(trust_env=False)
    elif verify is False:
        context = httpx.create_ssl_context(verify=False, trust_env=False)
    else:
        context = ssl.create_default_context(cafile=verify)
    if cert is not None:
        context.load_cert_chain(*([cert] if isinstance(cert, str) else cert))
    return context


class AiohttpTransport(httpx.AsyncBaseTransport):
    """Sends each request once and unchanged: no redirects, cookies, decompression or proxies of the environment.

    Bound to the event loop of its first request. `reuse=False` uses each connection once, for
    requests that must not be sent on a connection that the server has just closed. The pool has no
    limit, so no request waits in it.
    """

    def __init__(self, tls: ssl.SSLContext | None = None, *, reuse: bool = True) -> None:
        self._tls = tls
        self._reuse = reuse
        self._connector: aiohttp.TCPConnector | None = None
        self._peers: dict[str, Peer] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if isinstance(request, Request):
            url, headers, body = request.url_text, request.header_pairs(), request.content
        else:
            raw = request.headers.raw
            headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in raw]
            url, body = str(request.url), await request.aread()
        failure: httpx.TransportError
        try:
            peer, target = self._peer_for(url)
            head = request_head(request.method, target, peer.host, headers, len(body), close=not self._reuse)
            connection, protocol = await self._connect(peer, request.extensions)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            failure = _to_httpx(error)
        else:
            try:
                return await _send_message(request, connection, protocol, head + body)
            except (aiohttp.ClientError, HttpProcessingError, OSError) as error:
                _drop(connection)
                failure = _to_httpx(error)
            except BaseException:
                _drop(connection)
                raise
        # Raised outside the handler: aiohttp's errors may contain a URL with its query.
        raise failure

    async def aclose(self) -> None:
        if self._connector is not None:
            await self._connector.close()
            self._connector = None

    def _peer_for(self, url: str) -> tuple[Peer, str]:
        """The peer that a URL addresses, and the target of the request line. Raises ValueError."""
        url = url.partition("#")[0]
        split = _AUTHORITY.match(url)
        if split is None:
            raise ValueError("no http URL")
        origin, target = url[: split.end()], url[split.end() :]
        peer = self._peers.get(origin)
        if peer is None:
            tls = (self._tls or tls_context()) if origin.startswith("https") else True
            pattern = TemplateRequest("GET", URL(f"{origin}/"), loop=asyncio.get_running_loop(), ssl=tls)
            peer = self._peers[origin] = Peer(pattern, pattern.headers["Host"])
        return peer, target if target.startswith("/") else f"/{target}"

    async def _connect(self, peer: Peer, extensions: Mapping[str, Any]) -> tuple[Connection, ResponseHandler]:
        """An unused connection of the pool or a new one, without unsolicited bytes."""
        connector = self._connector or self._open_connector()
        timeout = _client_timeout(extensions.get("timeout", {}).get("connect"))
        while True:
            try:
                connection = await connector.connect(peer.template, [], timeout)
            except TimeoutError:
                raise aiohttp.ConnectionTimeoutError from None
            protocol = connection.protocol
            if protocol is not None and not protocol.should_close:
                on_connected: Callable[[], None] | None = extensions.get("connected")
                if on_connected is not None:
                    on_connected()
                return connection, protocol
            connection.close()

    def _open_connector(self) -> aiohttp.TCPConnector:
        if self._reuse:
            self._connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S)
        else:
            self._connector = aiohttp.TCPConnector(limit=0, force_close=True)
        return self._connector


class TemplateRequest(aiohttp.ClientRequest):
    """The request that the connector needs to connect to one origin."""

    _key: ConnectionKey | None = None

    @property
    def connection_key(self) -> ConnectionKey:
        if self._key is None:
            self._key = super().connection_key
        return self._key


class Peer(NamedTuple):
    """The server of one origin, and its value of the Host header."""

    template: TemplateRequest
    host: str


async def _send_message(
    request: httpx.Request, connection: Connection, protocol: ResponseHandler, message: bytes
) -> Response:
    """Send a complete message, and wait for the head of its response."""
    protocol.set_response_params(
        skip_payload=request.method == "HEAD",
        read_until_eof=True,
        auto_decompress=False,
        max_line_size=_MAX_HEADER_BYTES,
        max_field_size=_MAX_HEADER_BYTES,
        max_headers=_MAX_HEADERS,
    )
    if protocol.transport is None:
        raise aiohttp.ServerDisconnectedError
    # Written without waiting, so that an early response to a large body is received as well.
    protocol.transport.write(message)
    head, content = await protocol.read()
    while 100 <= head.code < 200 and head.code != 101:
        head, content = await protocol.read()
    content.on_eof(functools.partial(_release, connection) if request.content else connection.release)
    return Response(
        head.code,
        headers=head.raw_headers,
        stream=ResponseStream(connection, content),
        request=request,
        extensions={"http_version": b"HTTP/1.0" if head.version == HttpVersion10 else b"HTTP/1.1"},
    )


def _release(connection: Connection) -> None:
    """Return the connection to the pool, unless the server responded before it read the complete request."""
    if _is_writing(connection):
        _drop(connection)
    connection.release()


def _drop(connection: Connection) -> None:
    """Close the connection without waiting for unsent bytes; repeated calls have no effect."""
    if _is_writing(connection) and (transport := connection.transport) is not None:
        transport.abort()
    connection.close()


def _is_writing(connection: Connection) -> bool:
    transport = connection.transport
    return transport is not None and transport.get_write_buffer_size() > 0


class ResponseStream(AbortableStream):
    """The raw body of one response, piece by piece; its own iterator, because a generator costs more."""

    def __init__(self, connection: Connection, content: aiohttp.StreamReader) -> None:
        self._connection = connection
        self._content = content

    def __aiter__(self) -> ResponseStream:
        return self

    async def __anext__(self) -> bytes:
        failure: httpx.TransportError
        try:
            piece = await self._content.readany()
        except (aiohttp.ClientError, OSError) as error:
            failure = _to_httpx(error)
        else:
            if not piece:
                raise StopAsyncIteration
            return piece
        raise failure

    def close_now(self) -> None:
        # After a complete read the connection is already back in the pool, and this does nothing.
        _drop(self._connection)


@functools.lru_cache(maxsize=64)
def _client_timeout(connect: float | None) -> aiohttp.ClientTimeout:
    # All other limits are enforced above the transport, for every kind of transport.
    return aiohttp.ClientTimeout(total=None, connect=connect, sock_connect=connect)


def _to_httpx(error: Exception) -> httpx.TransportError:
    """The httpx error of the same meaning; its text contains no URL, header or body."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        return CertificateRejected(_reason_for(error))
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return httpx.ConnectError(f"the TLS handshake failed: {_reason_for(error)}")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return HostNotFound(_reason_for(error))
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return httpx.ConnectTimeout("the connection timed out")
    if isinstance(error, aiohttp.ClientConnectorError):
        return httpx.ConnectError(_reason_for(error))
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return httpx.RemoteProtocolError("the server closed the connection without a response")
    if isinstance(error, aiohttp.ClientPayloadError):
        return httpx.RemoteProtocolError("the connection ended before the body did")
    if isinstance(error, HttpProcessingError):
        return httpx.RemoteProtocolError("the server's response is not valid HTTP")
    if isinstance(error, TimeoutError):
        return httpx.ReadTimeout("timed out")
    if isinstance(error, OSError):
        return httpx.ReadError(_reason_for(error))
    return httpx.LocalProtocolError("a header or the URL contains a character that HTTP does not allow")


class CertificateRejected(httpx.ConnectError):
    """The server's certificate, or the TLS handshake, was not accepted."""


class HostNotFound(httpx.ConnectError):
    """The host's name could not be resolved."""


def _reason_for(error: Exception) -> str:
    cause = getattr(error, "os_error", None) or getattr(error, "certificate_error", None) or error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return cause.verify_message
    return getattr(cause, "strerror", None) or type(cause).__name__
