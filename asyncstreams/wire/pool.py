"""Idle connections, ready for the next request to the same server."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import NamedTuple

from .http1_connection import Http1Connection, ReadBuffer

# Below the 5 s after which many servers close an idle connection.
_MAX_IDLE_S = 4.5
# Of the time that a server announces: a request must not meet the end of it.
_SHARE_OF_ANNOUNCED = 0.9
_CLOSE_S = 1.0


class ChannelKey(NamedTuple):
    """The key of connections to a peer that only requests of one channel use."""

    peer: Hashable
    channel: object


class ConnectionPool:
    """Idle connections by key, the one used last on top. It has no limit, so no request waits in it.

    Without `keeps_idle` only those of channels are kept.
    All connections that have been opened and have not ended belong to it, idle or not.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, keeps_idle: bool = True) -> None:
        self._loop = loop
        self._keeps_idle = keeps_idle
        self._buffer = ReadBuffer()
        self._open: set[Http1Connection] = set()
        self._idle: dict[Hashable, list[Http1Connection]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._all_closed: asyncio.Future[None] | None = None

    def new_connection(self, key: Hashable) -> Http1Connection:
        """A connection for the caller to open; it is in use, and belongs to the pool as soon as it is open."""
        return Http1Connection(key, self, self._buffer, self._loop)

    def add(self, connection: Http1Connection) -> None:
        """Add a connection that has been opened, and is in use. A closed pool closes it."""
        if self._all_closed is None:
            self._open.add(connection)
        else:
            connection.abort()

    def take(self, key: Hashable) -> Http1Connection | None:
        """The idle connection that was used last; None if there is none that a request may use."""
        idle = self._idle.get(key)
        now = self._loop.time()
        while idle:
            connection = idle.pop()
            if connection.is_usable and connection.expires_at > now:
                return connection
            connection.close()
        return None

    def put_back(self, connection: Http1Connection, seconds: float) -> None:
        """Keep an idle connection for so many seconds, for at most 4.5."""
        is_kept = self._keeps_idle or isinstance(connection.key, ChannelKey)
        if not is_kept or connection not in self._open or self._all_closed is not None:
            connection.close()
            return
        lifetime = min(_MAX_IDLE_S, seconds * _SHARE_OF_ANNOUNCED)
        connection.expires_at = self._loop.time() + lifetime
        self._idle.setdefault(connection.key, []).append(connection)
        if self._timer is not None and self._timer.when() > connection.expires_at:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(connection.expires_at, self._close_expired)

    def forget(self, connection: Http1Connection) -> None:
        """Remove a connection that has ended."""
        self._open.discard(connection)
        idle = self._idle.get(connection.key, [])
        if connection in idle:
            idle.remove(connection)
        if not idle:  # the keys of channels come and go
            self._idle.pop(connection.key, None)
        if not self._open and self._all_closed is not None and not self._all_closed.done():
            self._all_closed.set_result(None)

    async def aclose(self) -> None:
        """Close all connections, and wait until they have ended: at most a second for the answers of TLS servers."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._all_closed = self._loop.create_future()
        for close in (_close, Http1Connection.abort):
            for connection in list(self._open):
                close(connection)
            if self._open:
                await asyncio.wait([self._all_closed], timeout=_CLOSE_S)

    def _close_expired(self) -> None:
        self._timer = None
        now = self._loop.time()
        next_at = float("inf")
        for connections in list(self._idle.values()):
            for connection in [connection for connection in connections if connection.expires_at <= now]:
                connections.remove(connection)
                connection.close()
            next_at = min([next_at, *(connection.expires_at for connection in connections)])
        if next_at < float("inf"):
            self._timer = self._loop.call_at(next_at, self._close_expired)


def _close(connection: Http1Connection) -> None:
    if connection.is_usable:
        connection.close()
    else:
        connection.abort()
