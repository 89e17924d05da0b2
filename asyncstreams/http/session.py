"""What is open while something is being read: connections, gates, time and chance."""

from __future__ import annotations

import asyncio
import importlib.util
import ssl
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from random import Random
from types import TracebackType
from typing import TypeVar, cast
from weakref import WeakKeyDictionary

import anyio
import httpx

from ..clock import Clock
from ..errors import ConfigError
from ..events import Listener
from ..protocols import MockRouter
from ..rate_limits.governor import Governor, HostState
from ..rate_limits.loop_lag import LoopLag
from .origin import Origin
from .request_builder import ClientOptions
from .timeouts import Deadlines
from .transport import AiohttpTransport, tls_context

T = TypeVar("T")


class Session:
    """Connections per origin and client options, governors per quota key; for one event loop.

    What the session opened is closed with it.
    """

    def __init__(self, clock: Clock, random: Random, listeners: Sequence[Listener] = ()) -> None:
        self.clock = clock
        self.random = random
        self.listeners = listeners
        self._transports: dict[tuple[Origin, ClientOptions], httpx.AsyncBaseTransport] = {}
        # With the credential, whose id nobody else can have as long as it is kept.
        self._governors: dict[tuple[Origin, int, str | None], tuple[Governor, object]] = {}
        self._hosts: dict[tuple[Origin, int], HostState] = {}
        self._lag = LoopLag()
        self.alarm = Deadlines()
        self._kept: dict[int, object] = {}

    def transport_for(self, origin: Origin, options: ClientOptions) -> httpx.AsyncBaseTransport:
        """What sends to this origin, where the stream brings no transport of its own."""
        key = (origin, options)
        transport = self._transports.get(key)
        if transport is None:
            transport = self._transports[key] = _open(origin, options)
        return transport

    def governor_for(self, origin: Origin, credential: object, label: str | None = None) -> Governor:
        """The governor of this origin, credential (told by identity) and label."""
        key = (origin, id(credential), label)
        known = self._governors.get(key)
        if known is None:
            host = self._hosts.setdefault(key[:2], HostState(self.random))
            known = self._governors[key] = Governor(self.clock, self.random, self._lag, host), credential
        return known[0]

    def kept_for(self, owner: object, make: Callable[[], T]) -> T:
        """What `make` made when `owner` first asked; it lives as long as the session is open."""
        if id(owner) not in self._kept:
            self._kept[id(owner)] = make()
        return cast(T, self._kept[id(owner)])

    async def aclose(self) -> None:
        """Close what the session opened."""
        with anyio.CancelScope(shield=True):
            async with AsyncExitStack() as everything:
                for transport in self._transports.values():
                    everything.push_async_callback(transport.aclose)
        self._transports.clear()
        self._kept.clear()
        self._lag.stop()
        self.alarm.stop()


class SessionPool:
    """At most one open session per event loop: whoever comes while it is open shares it."""

    def __init__(self, open_session: Callable[[], Session]) -> None:
        self._open_session = open_session
        self._open: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[Session, int]] = WeakKeyDictionary()

    @property
    def is_open(self) -> bool:
        """Whether anybody has a lease, in any event loop."""
        return bool(self._open)

    def lease(self) -> SessionLease:
        """The running loop's session, opened by the first that asks and closed by the last that leaves."""
        return SessionLease(self)

    def acquire(self) -> Session:
        """For Lease: one user more."""
        loop = asyncio.get_running_loop()
        session, users = self._open.get(loop) or (self._open_session(), 0)
        self._open[loop] = (session, users + 1)
        return session

    async def release(self) -> None:
        """For Lease: one user less."""
        loop = asyncio.get_running_loop()
        session, users = self._open[loop]
        if users > 1:
            self._open[loop] = (session, users - 1)
        else:
            del self._open[loop]
            await session.aclose()


class SessionLease:
    """No generator: one that is left open at the end of a loop could not be closed in the right order."""

    def __init__(self, sessions: SessionPool) -> None:
        self._sessions = sessions

    async def __aenter__(self) -> Session:
        return self._sessions.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._sessions.release()


def _open(origin: Origin, options: ClientOptions) -> httpx.AsyncBaseTransport:
    if not options.proxy and not options.http2:
        # Loading the certificate authorities takes 20 ms, which nobody needs who does not encrypt.
        return AiohttpTransport(_tls(options) if origin.scheme == "https" else None, reuse=options.reuse)
    if options.http2 and importlib.util.find_spec("h2") is None:
        raise ConfigError('request_kwargs: http2 needs another package: pip install "asyncstreams[http2]"')
    # No limits: httpcore's pool loses connections when those who queue in it are cancelled.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncHTTPTransport(
        verify=_tls(options), proxy=options.proxy, http2=options.http2, limits=limits, trust_env=False
    )


def _tls(options: ClientOptions) -> ssl.SSLContext:
    try:
        return tls_context(options.verify, options.cert)
    except OSError as error:
        raise ConfigError(f"request_kwargs: verify or cert cannot be loaded: {error.strerror or error}") from None


def borrowed(transport: httpx.AsyncBaseTransport | MockRouter | None) -> httpx.AsyncBaseTransport | None:
    """What the user gave as transport, which stays open: a router is wrapped. Raises ConfigError."""
    if transport is None or isinstance(transport, httpx.AsyncBaseTransport):
        return transport
    if isinstance(transport, MockRouter):
        return httpx.MockTransport(transport.async_handler)
    raise ConfigError(
        f"transport={type(transport).__name__}: an httpx.AsyncBaseTransport, such as httpx.MockTransport, is needed"
    )
