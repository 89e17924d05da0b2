"""Sessions: connections, cookies, governors, clock and randomness of running reads, one per event loop."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AsyncExitStack
from random import Random
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

import anyio
import httpx

from ..auth.authenticators import RenewingAuth
from ..auth.identity import credential_key
from ..clock import Clock
from ..errors import ConfigError
from ..events import Listener
from ..protocols import MockRouter
from ..rate_limits.governor import Governor, HostState
from ..rate_limits.loop_lag import LoopLag
from ..redaction import RevealedSecrets
from ..wire.proxies import Proxy, environment_proxy, parse_proxy
from ..wire.tls import DEFAULT_TLS, TlsOptions, tls_context, with_environment
from ..wire.transport import Http1Transport
from .cookies import CookieStore
from .origin import Origin
from .send_options import ClientOptions, SendOptions
from .timeouts import Deadlines

# At DEBUG they write all headers, with the credential and cookies.
_LOGGERS_OF_HEADERS = ("hpack.hpack", "hpack.table", "httpcore.http11", "httpcore.http2")


class Session:
    """Connections per origin and client options, and governors per quota key, for one event loop.

    The session closes whatever it opened.
    """

    def __init__(self, clock: Clock, random: Random, listeners: Sequence[Listener] = ()) -> None:
        self.clock = clock
        self.random = random
        self.listeners = listeners
        self._transports: dict[tuple[Origin, ClientOptions], httpx.AsyncBaseTransport] = {}
        # The credential is stored as well: its id is unique only as long as it exists.
        self._governors: dict[tuple[Origin, int, str | None], tuple[Governor, object]] = {}
        self._hosts: dict[tuple[Origin, int], HostState] = {}
        self._credentials = CredentialStore()
        self.cookies = CookieStore()
        self._lag = LoopLag()
        self.deadlines = Deadlines()
        self.secrets = RevealedSecrets()
        self.clients: dict[object, list[Any]] = {}  # of each stream, by its key; the streams know their type

    def transport_for(self, origin: Origin, options: ClientOptions) -> httpx.AsyncBaseTransport:
        """The transport to this origin, for streams without a transport of their own."""
        key = (origin, options)
        transport = self._transports.get(key)
        if transport is None:
            transport = self._transports[key] = _open(origin, options)
        return transport

    def credential_for(self, authenticator: httpx.Auth | None) -> httpx.Auth | None:
        """The credential that the session uses for this authenticator: the first one that is equal to it.

        Equal OAuth2 clients, also of other open sessions of this process, share their tokens from now on.
        """
        return None if authenticator is None else self._credentials.share(authenticator)

    def idle_channels(self, credential: httpx.Auth) -> list[object]:
        """The connection channels of a credential that no request uses at the moment, to pop and to append."""
        return self._credentials.idle_channels(credential)

    def governor_for(
        self, origin: Origin, credential: object, quota_group: str | None = None, *, one_of: object = None
    ) -> Governor:
        """The governor of this origin, credential (compared by identity) and quota group.

        `one_of` is the authenticator that the credential is one of: its credentials share the state of the host.
        """
        key = (origin, id(credential), quota_group)
        entry = self._governors.get(key)
        if entry is None:
            host_key = (origin, id(credential if one_of is None else one_of))
            host = self._hosts.setdefault(host_key, HostState(self.random))
            entry = self._governors[key] = Governor(self.clock, self.random, self._lag, host), credential
        return entry[0]

    async def aclose(self) -> None:
        """Close what the session opened."""
        with anyio.CancelScope(shield=True):
            async with AsyncExitStack() as stack:
                for transport in self._transports.values():
                    stack.push_async_callback(transport.aclose)
        self._credentials.leave()
        self._transports.clear()
        self.cookies.clear()
        self.clients.clear()
        self._lag.stop()
        self.deadlines.stop()


class CredentialStore:
    """The credentials of one session: equal ones are one."""

    def __init__(self) -> None:
        self._shared: dict[Hashable, httpx.Auth] = {}
        self._joined: dict[int, tuple[RenewingAuth, Hashable]] = {}
        self._idle_channels: dict[int, list[object]] = {}

    def share(self, authenticator: httpx.Auth) -> httpx.Auth:
        """The first credential that is equal to this one."""
        if not isinstance(authenticator, RenewingAuth):
            return self._shared.setdefault(credential_key(authenticator), authenticator)
        if id(authenticator) not in self._joined:
            self._joined[id(authenticator)] = authenticator, authenticator.join()
        return self._shared.setdefault(self._joined[id(authenticator)][1], authenticator)

    def idle_channels(self, credential: httpx.Auth) -> list[object]:
        return self._idle_channels.setdefault(id(credential), [])

    def leave(self) -> None:
        """End the use of tokens that other sessions share."""
        for authenticator, _ in self._joined.values():
            authenticator.leave()
        self._joined.clear()


class SessionPool:
    """At most one open session per event loop, shared by all its users."""

    def __init__(self, open_session: Callable[[], Session]) -> None:
        self._open_session = open_session
        self._open: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[Session, int]] = WeakKeyDictionary()

    @property
    def is_open(self) -> bool:
        """Whether a session is open, in any event loop."""
        return bool(self._open)

    def lease(self) -> SessionLease:
        """The running loop's session: opened for its first user, and closed after its last."""
        return SessionLease(self)

    def acquire(self) -> Session:
        """Add a user of the running loop's session, which is opened if there is none; for SessionLease."""
        loop = asyncio.get_running_loop()
        session, users = self._open.get(loop) or (self._open_session(), 0)
        self._open[loop] = (session, users + 1)
        return session

    async def release(self) -> None:
        """Remove a user; the last one closes the session; for SessionLease."""
        loop = asyncio.get_running_loop()
        session, users = self._open[loop]
        if users > 1:
            self._open[loop] = (session, users - 1)
        else:
            del self._open[loop]
            await session.aclose()


class SessionLease:
    """A use of the running loop's session.

    A class, because a generator left open at the end of a loop could not be closed in the right order.
    """

    def __init__(self, pool: SessionPool) -> None:
        self._pool = pool

    async def __aenter__(self) -> Session:
        return self._pool.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pool.release()


def _open(origin: Origin, options: ClientOptions) -> httpx.AsyncBaseTransport:
    proxy_url, proxy = _proxy_for(origin, options)
    uses_tls = origin.scheme == "https" or (proxy is not None and proxy.scheme == "https")
    environ: Mapping[str, str] = os.environ if options.trust_env else {}
    tls = with_environment(TlsOptions(options.verify, options.cert), environ) if uses_tls else DEFAULT_TLS
    is_socks = proxy is not None and proxy.is_socks
    if not options.http2 and not is_socks:
        return Http1Transport(tls, proxy=proxy, reuse=options.reuse)
    if options.http2 and importlib.util.find_spec("h2") is None:
        raise ConfigError("request_kwargs: http2 needs the package h2", hint='pip install "asyncstreams[http2]"')
    if is_socks and importlib.util.find_spec("socksio") is None:
        raise ConfigError(
            f"the proxy {proxy} speaks SOCKS, which needs the package socksio", hint='pip install "asyncstreams[socks]"'
        )
    for name in _LOGGERS_OF_HEADERS:
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)
    # No limits: httpcore's pool loses connections if requests that wait in it are cancelled.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None if options.reuse else 0)
    context = tls_context(tls, http2=options.http2) if uses_tls else False
    return httpx.AsyncHTTPTransport(
        verify=context, proxy=proxy_url, http2=options.http2, limits=limits, trust_env=False
    )


def _proxy_for(origin: Origin, options: ClientOptions) -> tuple[str | None, Proxy | None]:
    """The proxy of the options, or of the environment, as a URL and parsed. Raises ConfigError."""
    if options.proxy:
        return options.proxy, parse_proxy(options.proxy, "request_kwargs: proxy")
    if not options.trust_env or origin.is_loopback:
        return None, None
    url = environment_proxy(origin.scheme, origin.host, origin.port)
    if url is None:
        return None, None
    return url, parse_proxy(url, f"the proxy of the environment for {origin.scheme} requests")


def uses_proxy(origin: Origin, options: ClientOptions) -> bool:
    """Whether requests to this origin go through a proxy, which looks its name up. Raises ConfigError."""
    return _proxy_for(origin, options)[0] is not None


def check_extensions(origin: Origin, options: SendOptions) -> None:
    """Raise ConfigError for extensions that httpx's transports would ignore on this way to the origin."""
    if not options.client.http2 or origin.scheme != "https" or "sni_hostname" not in options.extensions:
        return
    proxy = _proxy_for(origin, options.client)[1]
    if proxy is not None and not proxy.is_socks:
        raise ConfigError(
            f"request_kwargs: the extension sni_hostname would be ignored with http2 through the proxy {proxy}",
            hint="leave out http2, or the extension",
        )


def as_transport(transport: httpx.AsyncBaseTransport | MockRouter | None) -> httpx.AsyncBaseTransport | None:
    """The user's transport, which stays open; a mock router is wrapped. Raises ConfigError."""
    if transport is None or isinstance(transport, httpx.AsyncBaseTransport):
        return transport
    if isinstance(transport, MockRouter):
        return httpx.MockTransport(transport.async_handler)
    raise ConfigError(
        f"transport={type(transport).__name__}: must be an httpx.AsyncBaseTransport, such as httpx.MockTransport"
    )
