"""Where does the API run: on a loop that is there, in a thread, or in a process of its own?"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import Any

from ...clock import Clock
from ...errors import ConfigError
from .connection import Connection
from .counts import Counts
from .service import Service
from .settings import Settings

_BACKLOG = 1_024


class Listener:
    """The sockets of a service, on the loop on which it is opened."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.service = Service(settings, clock)
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._empty = asyncio.Event()

    async def open(self, host: str, port: int) -> int:
        """Listen; the port that it is. Raises ConfigError where that cannot be."""
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(self._connection, host, port, backlog=_BACKLOG)
        except OSError as error:
            raise ConfigError(
                f"MockApi(host={host!r}, port={port}): cannot listen there: {error.strerror}",
                hint="port=0 takes one that is free",
            ) from error
        found: int = self._server.sockets[0].getsockname()[1]
        return found

    async def close(self) -> None:
        """Stop listening, and break off what is under way."""
        assert self._server is not None
        self._server.close()
        for connection in tuple(self._connections):
            connection.abort()
        while self._connections:
            self._empty.clear()
            await self._empty.wait()
        await self._server.wait_closed()

    def counts(self) -> Counts:
        return self.service.ledger.snapshot(self.service.seconds)

    def _connection(self) -> Connection:
        return Connection(self.service, self._connections, self._empty.set)


class Thread:
    """A listener on a loop of its own, in a thread; opened and closed from any other."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings, self._clock = settings, clock
        self._opened = Future[tuple[int, Listener]]()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leave: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self.listener: Listener | None = None

    def open(self, host: str, port: int) -> int:
        self._thread = threading.Thread(target=self._run, args=(host, port), name="MockApi", daemon=True)
        self._thread.start()
        try:
            found, self.listener = self._opened.result()
        except BaseException:
            self._thread.join()
            raise
        return found

    def changed(self) -> None:
        """Look at the settings again, between two events of the loop. Raises ConfigError."""
        assert self._loop is not None
        assert self.listener is not None
        done, look = Future[None](), self.listener.service.changed

        def between() -> None:
            try:
                done.set_result(look())
            except BaseException as error:
                done.set_exception(error)

        self._loop.call_soon_threadsafe(between)
        done.result()

    def close(self) -> None:
        assert self._thread is not None
        assert self._loop is not None
        assert self._leave is not None
        self._loop.call_soon_threadsafe(self._leave.set)
        self._thread.join()

    def _run(self, *where: Any) -> None:
        asyncio.run(self._serve(*where))

    async def _serve(self, host: str, port: int) -> None:
        self._loop, self._leave = asyncio.get_running_loop(), asyncio.Event()
        try:
            listener = Listener(self._settings, self._clock)
            found = await listener.open(host, port)
        # Whoever opens is told, whatever it was.
        except BaseException as error:
            self._opened.set_exception(error)
            return
        self._opened.set_result((found, listener))
        await self._leave.wait()
        await listener.close()
