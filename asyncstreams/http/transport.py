"""How does a request reach the network: an httpx transport over aiohttp, raw bytes and no extras.

httpcore's pool costs many times aiohttp's at 100 connections (benchmarks/read.py), and can be
killed by cancelling those who wait for it (httpcore #1093). Of aiohttp, its connector and its
protocol do the work: names, connections, TLS, the pool, and reading the answer. Its client between
them, which builds each request and each response a second time, costs as much again.
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
_KEEP_ALIVE = 4.5
# Signed links and cookies of gateways grow beyond aiohttp's 8 KiB.
_LONGEST_HEADER = 64 * 1024
_MOST_HEADERS = 512
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
    """Sends each request as it is, once: no redirects, cookies, decompression, proxies of the environment.

    Bound to the event loop of its first request. `reuse=False` uses each connection once, for
    requests that must not meet one that the server has just closed. Nobody queues in the pool:
    it has no limit.
    """

    def __init__(self, tls: ssl.SSLContext | None = None, *, reuse: bool = True) -> None:
        self._tls = tls
        self._reuse = reuse
        self._connector: aiohttp.TCPConnector | None = None
        self._peers: dict[str, PeerConnection] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if isinstance(request, Request):
            url, headers, body = request.url_text, request.header_pairs(), request.content
        else:
            raw = request.headers.raw
            headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in raw]
            url, body = str(request.url), await request.aread()
        failure: httpx.TransportError
        try:
            peer, target = self._peer(url)
            head = request_head(request.method, target, peer.host, headers, len(body), close=not self._reuse)
            connection, protocol = await self._connection(peer, request.extensions)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            failure = _as_httpx(error)
        else:
            try:
                return await _answer(request, connection, protocol, head + body)
            except (aiohttp.ClientError, HttpProcessingError, OSError) as error:
                _drop(connection)
                failure = _as_httpx(error)
            except BaseException:
                _drop(connection)
                raise
        # Raised outside the handler: aiohttp's errors may show a URL with its query.
        raise failure

    async def aclose(self) -> None:
        if self._connector is not None:
            await self._connector.close()
            self._connector = None

    def _peer(self, url: str) -> tuple[PeerConnection, str]:
        """Whom a URL addresses, and the target of the request line. Raises ValueError."""
        url = url.partition("#")[0]
        split = _AUTHORITY.match(url)
        if split is None:
            raise ValueError("no http URL")
        origin, target = url[: split.end()], url[split.end() :]
        peer = self._peers.get(origin)
        if peer is None:
            tls = (self._tls or tls_context()) if origin.startswith("https") else True
            pattern = PatternRequest("GET", URL(f"{origin}/"), loop=asyncio.get_running_loop(), ssl=tls)
            peer = self._peers[origin] = PeerConnection(pattern, pattern.headers["Host"])
        return peer, target if target.startswith("/") else f"/{target}"

    async def _connection(
        self, peer: PeerConnection, extensions: Mapping[str, Any]
    ) -> tuple[Connection, ResponseHandler]:
        """One that nobody else has, and on which no bytes came that nobody had asked for."""
        connector = self._connector or self._open()
        timeout = _client_timeout(extensions.get("timeout", {}).get("connect"))
        while True:
            try:
                connection = await connector.connect(peer.pattern, [], timeout)
            except TimeoutError:
                raise aiohttp.ConnectionTimeoutError from None
            protocol = connection.protocol
            if protocol is not None and not protocol.should_close:
                told: Callable[[], None] | None = extensions.get("connected")
                if told is not None:
                    told()
                return connection, protocol
            connection.close()

    def _open(self) -> aiohttp.TCPConnector:
        if self._reuse:
            self._connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE)
        else:
            self._connector = aiohttp.TCPConnector(limit=0, force_close=True)
        return self._connector


class PatternRequest(aiohttp.ClientRequest):
    """What the connector wants to see of every request to one origin."""

    _key: ConnectionKey | None = None

    @property
    def connection_key(self) -> ConnectionKey:
        if self._key is None:
            self._key = super().connection_key
        return self._key


class PeerConnection(NamedTuple):
    """Whom a transport talks to, and its name in headers."""

    pattern: PatternRequest
    host: str


async def _answer(
    request: httpx.Request, connection: Connection, protocol: ResponseHandler, message: bytes
) -> Response:
    """Sends a whole message, and waits for the head of its answer."""
    protocol.set_response_params(
        skip_payload=request.method == "HEAD",
        read_until_eof=True,
        auto_decompress=False,
        max_line_size=_LONGEST_HEADER,
        max_field_size=_LONGEST_HEADER,
        max_headers=_MOST_HEADERS,
    )
    if protocol.transport is None:
        raise aiohttp.ServerDisconnectedError
    # All of it at once: a server that answers before it has read a large body is heard as well.
    protocol.transport.write(message)
    head, content = await protocol.read()
    while 100 <= head.code < 200 and head.code != 101:
        head, content = await protocol.read()
    content.on_eof(functools.partial(_give_back, connection) if request.content else connection.release)
    return Response(
        head.code,
        headers=head.raw_headers,
        stream=ResponseStream(connection, content),
        request=request,
        extensions={"http_version": b"HTTP/1.0" if head.version == HttpVersion10 else b"HTTP/1.1"},
    )


def _give_back(connection: Connection) -> None:
    """Back into the pool, unless the server has answered before all of the request was written."""
    if _is_writing(connection):
        _drop(connection)
    connection.release()


def _drop(connection: Connection) -> None:
    """Close it, without waiting for a server to take what is still to be written; no more than once."""
    if _is_writing(connection) and (transport := connection.transport) is not None:
        transport.abort()
    connection.close()


def _is_writing(connection: Connection) -> bool:
    transport = connection.transport
    return transport is not None and transport.get_write_buffer_size() > 0


class ResponseStream(AbortableStream):
    """The raw body of one response, piece by piece; its own iterator, since a generator costs more."""

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
            failure = _as_httpx(error)
        else:
            if not piece:
                raise StopAsyncIteration
            return piece
        raise failure

    def close_now(self) -> None:
        # Read to its end, the connection is back in the pool already, and this does nothing.
        _drop(self._connection)


@functools.lru_cache(maxsize=64)
def _client_timeout(connect: float | None) -> aiohttp.ClientTimeout:
    # All other limits are kept above the transport, the same for every kind of it.
    return aiohttp.ClientTimeout(total=None, connect=connect, sock_connect=connect)


def _as_httpx(error: Exception) -> httpx.TransportError:
    """The httpx error of the same meaning; its text holds no URL, header or body."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        return CertificateRejected(_reason(error))
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return httpx.ConnectError(f"the TLS handshake failed: {_reason(error)}")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return HostNotFound(_reason(error))
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return httpx.ConnectTimeout("connecting took too long")
    if isinstance(error, aiohttp.ClientConnectorError):
        return httpx.ConnectError(_reason(error))
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return httpx.RemoteProtocolError("the server closed the connection without an answer")
    if isinstance(error, aiohttp.ClientPayloadError):
        return httpx.RemoteProtocolError("the connection ended before the body did")
    if isinstance(error, HttpProcessingError):
        return httpx.RemoteProtocolError("the server's answer is not valid HTTP")
    if isinstance(error, TimeoutError):
        return httpx.ReadTimeout("timed out")
    if isinstance(error, OSError):
        return httpx.ReadError(_reason(error))
    return httpx.LocalProtocolError("a header or the URL holds a character that HTTP does not allow")


class CertificateRejected(httpx.ConnectError):
    """The server's certificate, or the TLS handshake, was not accepted."""


class HostNotFound(httpx.ConnectError):
    """The host's name could not be resolved."""


def _reason(error: Exception) -> str:
    cause = getattr(error, "os_error", None) or getattr(error, "certificate_error", None) or error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return cause.verify_message
    return getattr(cause, "strerror", None) or type(cause).__name__
