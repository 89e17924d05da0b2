"""Opening of connections: addresses, sockets, TLS, and tunnels through proxies."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any, TypeAlias

import anyio
import httpx

from ..errors import ConfigError
from .http1_connection import Http1Connection
from .proxies import Proxy
from .request_head import header_fields, request_head
from .transport_errors import (
    CertificateRejected,
    InvalidResponse,
    ProxyAuthenticationRequired,
    ProxyUnreachable,
    TunnelRefused,
    connect_error,
    describe,
)

Address: TypeAlias = tuple[int, tuple[Any, ...]]

_NEXT_ADDRESS_S = 0.25  # RFC 8305, 8
_LOOKUP_VALID_S = 10.0
_TLS_SHUTDOWN_S = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Peer:
    """The server of an origin, compared by identity.

    host: a name in ASCII, or an address without brackets. host_header: the value of the Host header.
    tls: None for plain http. server_name: the name in the TLS handshake, which the certificate is verified for.
    """

    host: str
    port: int
    host_header: str
    tls: ssl.SSLContext | None = None
    server_name: str | None = None

    @property
    def authority(self) -> str:
        """Host and port, as a CONNECT request names them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Dialer:
    """Opens connections, directly or through an HTTP proxy. `proxy_tls` verifies a proxy that is reached by https."""

    def __init__(self, proxy: Proxy | None = None, proxy_tls: ssl.SSLContext | None = None) -> None:
        self._proxy = proxy
        self._proxy_tls = proxy_tls
        self._lookups: dict[tuple[str, int], tuple[asyncio.Future[list[Address]], float]] = {}

    async def dial(self, peer: Peer, connection: Http1Connection, seconds: float | None) -> None:
        """Open the connection to the peer, within so many seconds.

        Raises httpx.ConnectTimeout, HostNotFound, CertificateRejected, ProxyUnreachable, TunnelRefused,
        ProxyAuthenticationRequired, or httpx.ConnectError for any other reason; ConfigError if the user's TLS
        context negotiates another protocol.
        """
        failure: httpx.TransportError
        try:
            async with asyncio.timeout(seconds):
                if self._proxy is None:
                    await self._connect(peer.host, peer.port, peer.tls, peer.server_name, connection)
                else:
                    await self._connect_through(self._proxy, peer, connection)
                return
        except TimeoutError:
            reached = "the connection" if self._proxy is None else f"the connection through the proxy {self._proxy}"
            failure = httpx.ConnectTimeout(f"{reached} timed out")
        except OSError as error:
            failure = connect_error(error)
        except BaseException:
            connection.discard()
            raise
        connection.discard()
        # Raised outside the handler: the errors of OpenSSL and the resolver add nothing.
        raise failure

    async def _connect(
        self, host: str, port: int, tls: ssl.SSLContext | None, server_name: str | None, connection: Http1Connection
    ) -> None:
        addresses = await self._lookup(host, port)
        sock, address = await connect_first(addresses)
        if address != addresses[0]:  # the next connection begins with the address that answers
            addresses.remove(address)
            addresses.insert(0, address)
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: connection, sock=sock)
        except BaseException:
            if not isinstance(loop, asyncio.BaseEventLoop):
                sock.detach()  # uvloop before 0.23 has closed the descriptor, which may be another's by now (#738)
            raise
        if tls is not None:
            await _start_tls(connection, tls, server_name or host)

    async def _connect_through(self, proxy: Proxy, peer: Peer, connection: Http1Connection) -> None:
        tls = self._proxy_tls if proxy.scheme == "https" else None
        failure: httpx.ConnectError
        try:
            await self._connect(proxy.host, proxy.port, tls, None, connection)
        except TimeoutError:
            raise
        except OSError as error:
            failure = connect_error(error)
        except httpx.ConnectError as error:
            failure = error
        else:
            if peer.tls is not None:
                await _open_tunnel(connection, proxy, peer, peer.tls)
            return
        kind = CertificateRejected if isinstance(failure, CertificateRejected) else ProxyUnreachable
        raise kind(f"the proxy {proxy}: {failure}")

    async def _lookup(self, host: str, port: int) -> list[Address]:
        """The addresses of a host. One lookup serves all callers, and is valid for 10 seconds.

        Raises socket.gaierror.
        """
        loop = asyncio.get_running_loop()
        lookup, valid_until = self._lookups.get((host, port), (None, 0.0))
        if lookup is None or (lookup.done() and (loop.time() > valid_until or lookup.exception() is not None)):
            if _is_address(host):
                return resolve(host, port)  # an address: this sends nothing
            lookup = loop.run_in_executor(None, resolve, host, port)
            lookup.add_done_callback(_retrieve)
            self._lookups[host, port] = lookup, loop.time() + _LOOKUP_VALID_S
        # A caller that is cancelled must not cancel the lookup of the others.
        return await asyncio.shield(lookup)


def resolve(host: str, port: int) -> list[Address]:
    """The addresses of a host, alternating between IPv6 and IPv4 (RFC 8305, 4). Raises socket.gaierror."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise socket.gaierror(socket.EAI_NONAME, "an empty label, or one of more than 63 characters") from None
    if not found:
        raise socket.gaierror(socket.EAI_NONAME, "the name has no address")
    families: dict[int, list[Address]] = {}
    for family, _, _, _, address in found:
        families.setdefault(family, []).append((family, address))
    mixed = chain.from_iterable(zip_longest(*families.values()))
    return [address for address in mixed if address is not None]


async def connect_first(addresses: Sequence[Address]) -> tuple[socket.socket, Address]:
    """A socket that is connected to one of the addresses, and this address (RFC 8305, happy eyeballs).

    The next address is tried when the former one has failed, and beside it after 250 ms. Raises the OSError
    of the first address if none can be connected.
    """
    if len(addresses) == 1:
        return await _connect_socket(addresses[0]), addresses[0]
    connected: list[tuple[socket.socket, Address]] = []
    errors: dict[Address, OSError] = {}

    async def attempt(address: Address, has_failed: anyio.Event) -> None:
        try:
            sock = await _connect_socket(address)
        except OSError as error:
            errors[address] = error
            has_failed.set()
            return
        connected.append((sock, address))
        attempts.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as attempts:
            for address in tuple(addresses):
                has_failed = anyio.Event()
                attempts.start_soon(attempt, address, has_failed)
                with anyio.move_on_after(_NEXT_ADDRESS_S):
                    await has_failed.wait()
    except BaseException:
        for sock, _ in connected:
            sock.close()
        raise
    if not connected:
        raise errors[addresses[0]]
    for sock, _ in connected[1:]:
        sock.close()
    return connected[0]


async def _connect_socket(address: Address) -> socket.socket:
    family, place = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, place)
    except BaseException:
        sock.close()
        raise
    return sock


async def _open_tunnel(connection: Http1Connection, proxy: Proxy, peer: Peer, tls: ssl.SSLContext) -> None:
    """Have the proxy connect to the peer, and speak TLS with it inside (RFC 9110, 9.3.6)."""
    headers = [] if proxy.authorization is None else [("Proxy-Authorization", proxy.authorization)]
    message = request_head("CONNECT", peer.authority, header_fields(peer.authority, headers), 0)
    refusal: httpx.TransportError | None = None
    try:
        head = (await connection.exchange(message, "CONNECT")).head
    except InvalidResponse as error:
        refusal = TunnelRefused(f"the proxy {proxy} answered CONNECT with an invalid response: {error}")
    except (httpx.RemoteProtocolError, httpx.ReadError) as error:
        refusal = ProxyUnreachable(f"the proxy {proxy}, asked to connect to {peer.authority}: {error}")
    else:
        if head.status in (401, 407):  # tinyproxy answers 401
            refusal = proxy_authentication_required(proxy)
        elif head.status >= 500:  # the server behind the proxy does not answer, perhaps only now
            refusal = httpx.ConnectError(f"the proxy {proxy} cannot connect to {peer.authority} ({head.status})")
        elif head.status >= 300:
            refusal = TunnelRefused(f"the proxy {proxy} answered {head.status} to CONNECT {peer.authority}")
        elif not connection.is_usable:
            refusal = TunnelRefused(f"the proxy {proxy} closed the tunnel to {peer.authority}")
    if refusal is not None:
        raise refusal
    await _start_tls(connection, tls, peer.server_name or peer.host)


async def _start_tls(connection: Http1Connection, tls: ssl.SSLContext, server_name: str) -> None:
    """Speak TLS from now on. Raises ssl.SSLError, httpx.ConnectError, ConfigError."""
    try:
        transport = await asyncio.get_running_loop().start_tls(
            connection.transport,
            connection,
            tls,
            server_hostname=server_name,
            ssl_shutdown_timeout=_TLS_SHUTDOWN_S,
        )
    except ConnectionError as error:
        reason = describe(error)
    else:
        if transport is not None:
            connection.attach(transport)
            _check_protocol(transport)
            return
        reason = "the connection was closed"
    raise httpx.ConnectError(f"the TLS handshake failed: {reason}")


def proxy_authentication_required(proxy: Proxy) -> ProxyAuthenticationRequired:
    """The error for a 407 of a proxy."""
    has_password = proxy.authorization is not None
    problem = "rejects the user name or password" if has_password else "demands a user name and a password"
    return ProxyAuthenticationRequired(f"the proxy {proxy} {problem} (407)")


def _check_protocol(transport: asyncio.BaseTransport) -> None:
    """Raise ConfigError if the user's TLS context has negotiated another protocol than HTTP/1.1."""
    chosen = transport.get_extra_info("ssl_object").selected_alpn_protocol()
    if chosen not in (None, "http/1.1"):
        raise ConfigError(
            f"request_kwargs: verify is a context that offers {chosen}, and the server has chosen it",
            hint='offer http/1.1 only, by context.set_alpn_protocols(["http/1.1"]), or return {"http2": True} as well',
        )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _retrieve(lookup: asyncio.Future[list[Address]]) -> None:
    """Take the exception of a lookup whose callers were all cancelled, which asyncio would log."""
    if not lookup.cancelled():
        lookup.exception()
