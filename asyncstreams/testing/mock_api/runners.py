"""Servers of a MockApi on the running event loop and in a thread; `process` has the third kind."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future

from ...clock import Clock
from ...errors import ConfigError
from .connection import Connection, ConnectionSet
from .counts import Counts
from .mock_settings import MockSettings
from .service import MockService

_BACKLOG = 1_024
# Any delay above 0: timers run after the sockets of the same loop iteration.
_ONE_LOOP_TURN_S = 1e-6


class LoopServer:
    """The listening socket and the connections of a MockService, on the event loop that opens it."""

    def __init__(self, settings: MockSettings, clock: Clock) -> None:
        self.service = MockService(settings, clock)
        self._connections = ConnectionSet()
        self._server: asyncio.Server | None = None

    async def open(self, host: str, port: int) -> int:
        """Start listening and return the port. Raises ConfigError if the address cannot be bound."""
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: Connection(self.service, self._connections), host, port, backlog=_BACKLOG
            )
        except OSError as error:
            raise ConfigError(
                f"MockApi(host={host!r}, port={port}): cannot listen on this address: {error.strerror}",
                hint="port=0 uses any free port",
            ) from error
        bound_port: int = self._server.sockets[0].getsockname()[1]
        return bound_port

    async def close(self) -> None:
        """Stop listening and abort the open connections."""
        assert self._server is not None
        self._connections.abort_all()
        # An accepted client gets its transport one loop iteration later. A server that is closed before that drops it.
        await asyncio.sleep(_ONE_LOOP_TURN_S)
        self._server.close()
        # connection_made is called in the iteration after that.
        await asyncio.sleep(0)
        await self._connections.wait_until_empty()
        await self._server.wait_closed()

    def counts(self) -> Counts:
        return self.service.recorder.snapshot(self.service.uptime)


class ThreadServer:
    """A LoopServer on an event loop of its own, in a thread. Any other thread opens and closes it."""

    def __init__(self, settings: MockSettings, clock: Clock) -> None:
        self._settings, self._clock = settings, clock
        self._opened = Future[tuple[int, LoopServer]]()
        self._stop_requested = Future[None]()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self.server: LoopServer | None = None

    def open(self, host: str, port: int) -> int:
        self._thread = threading.Thread(target=self._run, args=(host, port), name="MockApi", daemon=True)
        try:
            self._thread.start()
            bound_port, self.server = self._opened.result()
        # This includes a KeyboardInterrupt during the start.
        except BaseException:
            self.close()
            raise
        return bound_port

    def reload_settings(self) -> None:
        """Apply changed settings between two events of the loop. Raises ConfigError.

        In the server's own thread, from a function of the user that the loop calls, they apply at once.
        """
        assert self._loop is not None
        assert self.server is not None
        done, reload_settings = Future[None](), self.server.service.reload_settings
        if threading.current_thread() is self._thread:
            reload_settings()
            return

        def reload_on_loop() -> None:
            try:
                done.set_result(reload_settings())
            except BaseException as error:
                done.set_exception(error)

        self._loop.call_soon_threadsafe(reload_on_loop)
        done.result()

    def close(self) -> None:
        assert self._thread is not None
        self._stop_requested.set_result(None)
        if self._thread.is_alive():
            self._thread.join()

    def _run(self, host: str, port: int) -> None:
        asyncio.run(self._serve(host, port))

    async def _serve(self, host: str, port: int) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            server = LoopServer(self._settings, self._clock)
            bound_port = await server.open(host, port)
        # open() raises it in the thread that waits for the start.
        except BaseException as error:
            self._opened.set_exception(error)
            return
        self._opened.set_result((bound_port, server))
        await asyncio.wrap_future(self._stop_requested)
        await server.close()
