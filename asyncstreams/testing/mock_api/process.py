"""How does the API run in a process of its own, so that it shares no core with what is measured?"""

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
from .mock_settings import Settings
from .runners import Listener

_CHILD = "from asyncstreams.testing.mock_api.process import serve; serve()"
_PATIENCE = 10.0


class Process:
    """A listener in a child process, which ends with ours: it listens to a pipe from us."""

    def __init__(self, settings: Settings, uvloop: bool) -> None:
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
        """Start it; the port. Raises ConfigError for settings that do not fit, or that cannot be handed over."""
        told = self._start(host, port)
        try:
            return self._opened(told, host)
        except BaseException:
            self._kill()
            raise

    async def open_beside(self, host: str, port: int) -> int:
        """The same, while the running loop goes on."""
        told = self._start(host, port)
        try:
            return await asyncio.to_thread(self._opened, told, host)
        # The thread of a task that is cancelled goes on; without the child it ends, too.
        except BaseException:
            self._kill()
            raise

    def close(self) -> None:
        assert self._child is not None
        with self._child as child:
            assert child.stdin is not None
            # It may be gone already.
            with suppress(BrokenPipeError):
                child.stdin.close()
            try:
                child.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                child.kill()

    def counts(self) -> Counts:
        """Fetched from its control endpoint, past every mock of HTTP clients."""
        connection = http.client.HTTPConnection(*self._address, timeout=_PATIENCE)
        try:
            connection.request("GET", "/_mock/counts", headers={"Connection": "close"})
            return Counts.from_dict(orjson.loads(connection.getresponse().read()))
        finally:
            connection.close()

    def _start(self, host: str, port: int) -> bytes:
        """The child; what it is to be told."""
        try:
            told = pickle.dumps((self._settings, host, port, self._uvloop))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ConfigError(
                f"MockApi(process=True): the settings cannot be handed to another process: {error}",
                hint="record= and when= must be functions of a module, no lambdas and no inner functions",
            ) from error
        pipe = subprocess.PIPE
        self._child = subprocess.Popen([sys.executable, "-c", _CHILD], stdin=pipe, stdout=pipe)
        return told

    def _opened(self, told: bytes, host: str) -> int:
        """The port on which it listens, once it does."""
        assert self._child is not None
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        # It may be gone already.
        with suppress(BrokenPipeError):
            for part in (pickle.dumps(sys.path), told):
                pickle.dump(part, self._child.stdin)
            self._child.stdin.flush()
        answer = self._child.stdout.readline()
        if not answer:
            raise ConfigError("MockApi(process=True): the process ended at once; what it said stands above")
        found: Any = orjson.loads(answer)
        if "error" in found:
            raise ConfigError(found["error"], hint=found["hint"])
        self._address = (host, found["port"])
        return int(found["port"])

    def _kill(self) -> None:
        """Before it listens it has nothing to end in order."""
        assert self._child is not None
        # Whose end is waited for.
        with self._child as child:
            child.kill()
            assert child.stdin is not None
            with suppress(BrokenPipeError):
                child.stdin.close()


def serve() -> None:
    """What the child does: serve what it is told on its standard input, until that ends."""
    # Ctrl-C reaches both of us; the end comes through the pipe, after the last counts.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What a user's code prints is not for the pipe, which nobody reads after the first line.
    tell = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.path[:] = pickle.loads(pickle.load(sys.stdin.buffer))
    settings, host, port, uvloop = pickle.loads(pickle.load(sys.stdin.buffer))
    with asyncio.Runner(loop_factory=loop_factory(uvloop)) as runner:
        runner.run(_serve(settings, host, port, tell))


def loop_factory(uvloop: bool) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it is asked for; it is no dependency of ours."""
    return importlib.import_module("uvloop").new_event_loop if uvloop else None


async def _serve(settings: Settings, host: str, port: int, tell: BinaryIO) -> None:
    try:
        listener = Listener(settings, SystemClock())
        found = await listener.open(host, port)
    except AsyncStreamsError as error:
        _tell(tell, {"error": error.message, "hint": error.hint})
        return
    _tell(tell, {"port": found})
    await asyncio.to_thread(sys.stdin.buffer.read)
    await listener.close()


def _tell(pipe: BinaryIO, what: dict[str, Any]) -> None:
    with pipe:
        pipe.write(orjson.dumps(what) + b"\n")
