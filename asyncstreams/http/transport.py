"""How does a request reach the network: an httpx transport over aiohttp, raw bytes and no extras.

httpcore's pool costs many times aiohttp's at 100 connections (benchmarks/read.py), and can be
killed by cancelling those who wait for it (httpcore #1093).
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

import aiohttp
import httpx
from aiohttp import HttpVersion10
from yarl import URL

from ..messages import Request, Response
from .body import PromptStream

# aiohttp has no way to hand something from a request to the connector that serves it.
_told_when_connected: ContextVar[Callable[[], None] | None] = ContextVar("told_when_connected", default=None)
# Below the 5 s after which many servers close an idle connection.
_KEEP_ALIVE = 4.5
_LONGEST_HEADER = 64 * 1024
_MOST_HEADERS = 512
_AUTO_HEADERS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


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


class _Connector(aiohttp.TCPConnector):
    """Never gives out a connection on which bytes came that nobody had asked for."""

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Any],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109  # aiohttp's signature
    ) -> aiohttp.connector.Connection:
        while True:
            connection = await super().connect(req, traces, timeout)
            if connection.protocol is None or not connection.protocol.should_close:
                if (told := _told_when_connected.get()) is not None:
                    told()
                return connection
            connection.close()


async def _once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Keeps aiohttp from sending a request again by itself: whether that is right is decided above."""
    failure: httpx.TransportError
    try:
        return await send(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        failure = _as_httpx(error)
    raise failure


class AiohttpTransport(httpx.AsyncBaseTransport):
    """Sends each request as it is: no redirects, cookies, decompression, proxies of the environment.

    Bound to the event loop of its first request. `reuse=False` uses each connection once, for
    requests that must not meet one that the server has just closed. Nobody queues in the pool:
    it has no limit.
    """

    def __init__(self, tls: ssl.SSLContext | None = None, *, reuse: bool = True) -> None:
        self._tls = tls
        self._reuse = reuse
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        session = self._session or self._open()
        if isinstance(request, Request):
            url, headers, body = request.url_text, request.header_pairs(), request.content
        else:
            raw = request.headers.raw
            headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in raw]
            url, body = str(request.url), await request.aread()
        failure: httpx.TransportError
        connected = _told_when_connected.set(request.extensions.get("connected"))
        try:
            answer = await session.request(
                request.method,
                URL(url, encoded=True),
                data=body or None,
                headers=headers,
                allow_redirects=False,
                timeout=_timeout(request.extensions),
            )
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            failure = _as_httpx(error)
        else:
            return Response(
                answer.status,
                headers=answer.raw_headers,
                stream=_Body(answer),
                request=request,
                extensions={"http_version": b"HTTP/1.0" if answer.version == HttpVersion10 else b"HTTP/1.1"},
            )
        finally:
            _told_when_connected.reset(connected)
        # Raised outside the handler: aiohttp's errors may show a URL with its query.
        raise failure

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        tls = self._tls or tls_context()
        if self._reuse:
            connector = _Connector(limit=0, ssl=tls, keepalive_timeout=_KEEP_ALIVE)
        else:
            connector = _Connector(limit=0, ssl=tls, force_close=True)
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            middlewares=(_once,),
            skip_auto_headers=_AUTO_HEADERS,
            trust_env=False,
            # Signed links and cookies of gateways grow beyond aiohttp's 8 KiB.
            max_line_size=_LONGEST_HEADER,
            max_field_size=_LONGEST_HEADER,
            max_headers=_MOST_HEADERS,
        )
        return self._session


class _Body(PromptStream):
    """The raw body of one response, piece by piece; its own iterator, since a generator costs more."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer
        self._content = answer.content

    def __aiter__(self) -> _Body:
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
        self._answer.close()


@functools.lru_cache(maxsize=64)
def _client_timeout(connect: float | None) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, connect=connect, sock_connect=connect)


def _timeout(extensions: Mapping[str, Any]) -> aiohttp.ClientTimeout:
    # All other limits are kept above the transport, the same for every kind of it.
    return _client_timeout(extensions.get("timeout", {}).get("connect"))


def _as_httpx(error: Exception) -> httpx.TransportError:
    """The httpx error of the same meaning; its text holds no URL, header or body."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        return BadCertificate(_reason(error))
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return httpx.ConnectError(f"the TLS handshake failed: {_reason(error)}")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return UnknownHost(_reason(error))
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return httpx.ConnectTimeout("connecting took too long")
    if isinstance(error, aiohttp.ClientConnectorError):
        return httpx.ConnectError(_reason(error))
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return httpx.RemoteProtocolError("the server closed the connection without an answer")
    if isinstance(error, aiohttp.ClientPayloadError):
        return httpx.RemoteProtocolError("the connection ended before the body did")
    if isinstance(error, aiohttp.ClientResponseError):
        return httpx.RemoteProtocolError("the server's answer is not valid HTTP")
    if isinstance(error, TimeoutError):
        return httpx.ReadTimeout("timed out")
    if isinstance(error, OSError):
        return httpx.ReadError(_reason(error))
    return httpx.LocalProtocolError("a header or the URL holds a character that HTTP does not allow")


class BadCertificate(httpx.ConnectError):
    """The server's certificate, or the TLS handshake, was not accepted."""


class UnknownHost(httpx.ConnectError):
    """The host's name could not be resolved."""


def _reason(error: Exception) -> str:
    cause = getattr(error, "os_error", None) or getattr(error, "certificate_error", None) or error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return cause.verify_message
    return getattr(cause, "strerror", None) or type(cause).__name__
