"""The HTTP/1.1 transport: an httpx transport over our own connections."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from functools import lru_cache

import httpx

from ..messages import Request, Response
from .dialer import Dialer, Peer, proxy_authentication_required
from .pool import ChannelKey, ConnectionPool
from .proxies import Proxy
from .request_head import header_fields, request_head
from .tls import DEFAULT_TLS, TlsOptions, tls_context

_AUTHORITY = re.compile(r"https?://[^/?#]+", re.IGNORECASE)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_HTTP_1_1 = b"HTTP/1.1"


class Http1Transport(httpx.AsyncBaseTransport):
    """Sends each request once and unchanged: no redirects, cookies, decompression or environment.

    Bound to the event loop of its first request. `reuse=False` uses each connection once, for requests
    that must not be sent on a connection that the server has just closed. The pool has no limit, so no
    request waits in it. `proxy` is an HTTP proxy. ConfigError is raised for TLS options that cannot be loaded.

    The extension `sni_hostname` of a request is the server's name in the TLS handshake. The extension
    `connected` is called without arguments when the request is about to be sent. Requests with the same object as
    the extension `channel` use connections that no other request uses, and keep them for each other, also without
    `reuse`.
    """

    def __init__(self, tls: TlsOptions = DEFAULT_TLS, *, proxy: Proxy | None = None, reuse: bool = True) -> None:
        self._tls = tls
        self._proxy = proxy
        self._reuse = reuse
        # Most requests of a stream have the same headers. Part of the transport, since they contain credentials.
        self._header_fields = lru_cache(maxsize=16)(header_fields)
        self._dialer = Dialer(proxy, tls_context(TlsOptions(tls.verify)) if proxy and proxy.scheme == "https" else None)
        self._peers: dict[tuple[str, str | None], Peer] = {}
        self._last: tuple[str, Peer] | None = None
        self._pool: ConnectionPool | None = None

    async def handle_async_request(self, request: httpx.Request) -> Response:
        if isinstance(request, Request):
            url, headers, body = request.url_text, request.header_pairs(), request.content
        else:
            raw = request.headers.raw
            headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in raw]
            url, body = str(request.url), await request.aread()
        method, extensions = request.method, request.extensions
        peer, target = self._locate(url, extensions.get("sni_hostname"))
        if peer.tls is None and self._proxy is not None:
            target = f"http://{peer.host_header}{target}"
            if self._proxy.authorization is not None:
                headers = [*headers, ("Proxy-Authorization", self._proxy.authorization)]
        channel: object = extensions.get("channel")
        fields = self._header_fields(peer.host_header, tuple(headers), not self._reuse and channel is None)
        head = request_head(method, target, fields, len(body))
        pool = self._pool or self._open_pool()
        key = peer if channel is None else ChannelKey(peer, channel)
        connection = pool.take(key)
        if connection is None:
            connection = pool.new_connection(key)
            await self._dialer.dial(peer, connection, extensions.get("timeout", {}).get("connect"))
        on_connected: Callable[[], None] | None = extensions.get("connected")
        if on_connected is not None:
            on_connected()
        exchange = await connection.exchange(head + body if body else head, method)
        received = exchange.head
        if received.status == 407 and self._proxy is not None and peer.tls is None:
            exchange.close_now()
            raise proxy_authentication_required(self._proxy)
        return Response(
            received.status,
            headers=received.headers,
            layout=received.layout,
            stream=exchange,
            request=request,
            extensions={"http_version": _HTTP_1_1 if received.version == b"1.1" else b"HTTP/" + received.version},
        )

    async def aclose(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.aclose()

    def _locate(self, url: str, server_name: str | None) -> tuple[Peer, str]:
        """The peer that a URL addresses, and the target of the request line. Raises httpx.LocalProtocolError."""
        if "#" in url:
            url = url[: url.index("#")]
        if self._last is not None and url.startswith(self._last[0]) and self._last[1].server_name == server_name:
            return self._last[1], url[len(self._last[0]) - 1 :]
        split = _AUTHORITY.match(url)
        if split is None:
            raise httpx.LocalProtocolError("the URL has no http or https scheme, or no host")
        origin, target = url[: split.end()], url[split.end() :]
        peer = self._peers.get((origin, server_name)) or self._new_peer(origin, server_name)
        self._last = f"{origin}/", peer
        return peer, target if target.startswith("/") else f"/{target}"

    def _new_peer(self, origin: str, server_name: str | None) -> Peer:
        try:
            # httpx normalizes the host: lower case, IDNA 2008, addresses without brackets.
            url = httpx.URL(origin)
            host, host_header = url.raw_host.decode("ascii"), url.netloc.decode("ascii")
        except (httpx.InvalidURL, UnicodeError):
            url, host, host_header = httpx.URL(), "", ""
        if not host:
            raise httpx.LocalProtocolError("the host or the port in the URL is not valid")
        tls = tls_context(self._tls) if url.scheme == "https" else None
        peer = Peer(host, url.port or _DEFAULT_PORTS[url.scheme], host_header, tls, server_name)
        self._peers[origin, server_name] = peer
        return peer

    def _open_pool(self) -> ConnectionPool:
        self._pool = ConnectionPool(asyncio.get_running_loop(), keeps_idle=self._reuse)
        return self._pool
