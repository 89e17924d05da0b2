"""Server of a MockApi in a child process, so that it shares no core and no event loop with its client."""

from __future__ import annotations

import asyncio
import http.client
import importlib
import importlib.util
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO

import orjson

from ...clock import SystemClock
from ...errors import AsyncStreamsError, ConfigError
from .counts import Counts
from .mock_settings import MockSettings
from .runners import LoopServer

_CHILD_PROGRAM = "from asyncstreams.testing.mock_api.process import serve; serve()"
_TIMEOUT_S = 10.0


class ProcessServer:
    """A LoopServer in a child process. The child ends when its standard input, a pipe from us, is closed."""

    def __init__(self, settings: MockSettings, uvloop: bool) -> None:
        if uvloop and importlib.util.find_spec("uvloop") is None:
            raise ConfigError("MockApi(uvloop=True): uvloop is not installed", hint="pip install uvloop")
        self._settings, self._uvloop = settings, uvloop
        self._child: subprocess.Popen[bytes] | None = None
        self._address = ("127.0.0.1", 0)

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def open(self, host: str, port: int) -> int:
        """Start the process and return the port. Raises ConfigError for invalid or unpicklable settings."""
        config = self._spawn(host, port)
        try:
            return self._wait_for_port(config, host)
        except BaseException:
            self._kill()
            raise

    async def open_async(self, host: str, port: int) -> int:
        """Like `open`, without blocking the running event loop."""
        config = self._spawn(host, port)
        try:
            return await asyncio.to_thread(self._wait_for_port, config, host)
        # After a cancellation the thread still waits for the child. Killing the child ends it.
        except BaseException:
            self._kill()
            raise

    def close(self) -> None:
        assert self._child is not None
        with self._child as child:
            assert child.stdin is not None
            # The child may have exited already.
            with suppress(BrokenPipeError):
                child.stdin.close()
            try:
                child.wait(_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                child.kill()

    def counts(self) -> Counts:
        """Fetch the counts from the control endpoint. http.client is used because tests mock httpx and aiohttp."""
        connection = http.client.HTTPConnection(*self._address, timeout=_TIMEOUT_S)
        try:
            connection.request("GET", "/_mock/counts", headers={"Connection": "close"})
            return Counts.from_dict(orjson.loads(connection.getresponse().read()))
        finally:
            connection.close()

    def _spawn(self, host: str, port: int) -> bytes:
        """Start the child and return the configuration to send to it."""
        try:
            config = pickle.dumps((self._settings, host, port, self._uvloop))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ConfigError(
                f"MockApi(process=True): the settings cannot be sent to another process: {error}",
                hint="record= and when= must be module-level functions, not lambdas or inner functions",
            ) from error
        pipe = subprocess.PIPE
        self._child = subprocess.Popen([sys.executable, "-c", _CHILD_PROGRAM], stdin=pipe, stdout=pipe)
        return config

    def _wait_for_port(self, config: bytes, host: str) -> int:
        """Send the configuration and return the port once the child listens."""
        assert self._child is not None
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        # The child may have exited already.
        with suppress(BrokenPipeError):
            for part in (pickle.dumps(sys.path), config):
                pickle.dump(part, self._child.stdin)
            self._child.stdin.flush()
        line = self._child.stdout.readline()
        if not line:
            raise ConfigError(
                "MockApi(process=True): the process ended during its start", hint="its standard error is printed above"
            )
        reply: Any = orjson.loads(line)
        if "error" in reply:
            raise ConfigError(reply["error"], hint=reply["hint"])
        self._address = (host, reply["port"])
        return int(reply["port"])

    def _kill(self) -> None:
        """Kill the child. Before it listens it has nothing to close."""
        assert self._child is not None
        # Leaving the block waits for the exit of the child.
        with self._child as child:
            child.kill()
            assert child.stdin is not None
            with suppress(BrokenPipeError):
                child.stdin.close()


def serve() -> None:
    """Entry point of the child: read the configuration from standard input and serve until end of file."""
    # Ctrl-C reaches parent and child. The parent fetches the counts first, then closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The parent reads one line of this pipe only, so what the user's code prints goes to standard error.
    reply_pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.path[:] = pickle.loads(pickle.load(sys.stdin.buffer))
    settings, host, port, uvloop = pickle.loads(pickle.load(sys.stdin.buffer))
    with asyncio.Runner(loop_factory=loop_factory(uvloop)) as runner:
        runner.run(_serve(settings, host, port, reply_pipe))


def loop_factory(uvloop: bool) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The loop factory of uvloop, if chosen. uvloop is not a dependency, so it is imported here."""
    return importlib.import_module("uvloop").new_event_loop if uvloop else None


async def _serve(settings: MockSettings, host: str, port: int, reply_pipe: BinaryIO) -> None:
    try:
        server = LoopServer(settings, SystemClock())
        bound_port = await server.open(host, port)
    except AsyncStreamsError as error:
        _send_reply(reply_pipe, {"error": error.message, "hint": error.hint})
        return
    _send_reply(reply_pipe, {"port": bound_port})
    await asyncio.to_thread(sys.stdin.buffer.read)
    await server.close()


def _send_reply(pipe: BinaryIO, reply: dict[str, Any]) -> None:
    with pipe:
        pipe.write(orjson.dumps(reply) + b"\n")
