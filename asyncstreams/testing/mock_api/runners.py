"""Where does the API run: on a loop that is there, in a thread, or in a process of its own?"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import Any

from ...clock import Clock
from ...errors import ConfigError
from .connection import Clients, Connection
from .counts import Counts
from .mock_settings import Settings
from .service import Service

_BACKLOG = 1_024
# Any time above zero: a timer has its turn after the sockets.
_TURN = 1e-6


class Listener:
    """The sockets of a service, on the loop on which it is opened."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.service = Service(settings, clock)
        self._clients = Clients()
        self._server: asyncio.Server | None = None

    async def open(self, host: str, port: int) -> int:
        """Listen; the port that it is. Raises ConfigError where that cannot be."""
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: Connection(self.service, self._clients), host, port, backlog=_BACKLOG
            )
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
        self._clients.turn_away()
        # A client that has been accepted gets its transport a turn later; a server that is closed by then drops it.
        await asyncio.sleep(_TURN)
        self._server.close()
        # And it comes to us in the turn after that.
        await asyncio.sleep(0)
        await self._clients.all_left()
        await self._server.wait_closed()

    def counts(self) -> Counts:
        return self.service.ledger.snapshot(self.service.seconds)


class Thread:
    """A listener on a loop of its own, in a thread; opened and closed from any other."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings, self._clock = settings, clock
        self._opened = Future[tuple[int, Listener]]()
        self._leave = Future[None]()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self.listener: Listener | None = None

    def open(self, host: str, port: int) -> int:
        self._thread = threading.Thread(target=self._run, args=(host, port), name="MockApi", daemon=True)
        try:
            self._thread.start()
            found, self.listener = self._opened.result()
        # Also a Ctrl-C, while it opens.
        except BaseException:
            self.close()
            raise
        return found

    def changed(self) -> None:
        """Look at the settings again, between two events of the loop. Raises ConfigError.

        A function of the user's that is called by the loop itself may change them too: at once.
        """
        assert self._loop is not None
        assert self.listener is not None
        done, look = Future[None](), self.listener.service.changed
        if threading.current_thread() is self._thread:
            look()
            return

        def between() -> None:
            try:
                done.set_result(look())
            except BaseException as error:
                done.set_exception(error)

        self._loop.call_soon_threadsafe(between)
        done.result()

    def close(self) -> None:
        assert self._thread is not None
        self._leave.set_result(None)
        if self._thread.is_alive():
            self._thread.join()

    def _run(self, *where: Any) -> None:
        asyncio.run(self._serve(*where))

    async def _serve(self, host: str, port: int) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            listener = Listener(self._settings, self._clock)
            found = await listener.open(host, port)
        # Whoever opens is told, whatever it was.
        except BaseException as error:
            self._opened.set_exception(error)
            return
        self._opened.set_result((found, listener))
        await asyncio.wrap_future(self._leave)
        await listener.close()
