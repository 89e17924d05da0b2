"""Cancellation on SIGTERM and Ctrl-C: extractions commit what they hold before the process exits."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, TypeVar

import anyio

T = TypeVar("T")

# Python's own handlers: any other belongs to the program, or to `asyncio.run`, which cancels its main task on Ctrl-C.
_DEFAULT_HANDLERS: dict[int, Any] = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}


@dataclass(eq=False, slots=True)
class TerminationFlag:
    """The signal that ends an extraction, if any; `has_ended` is set when the extraction has cleaned up."""

    loop: asyncio.AbstractEventLoop
    scope: anyio.CancelScope
    signal_number: int | None = None
    has_ended: asyncio.Event = field(default_factory=asyncio.Event)


class _SignalHandlers:
    """The signal handlers of the process, which all its extractions share.

    Only the main thread can set handlers: they are installed when an extraction starts there, and stay until the last
    extraction of the process ends.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal may interrupt the thread that holds it
        self._flags: list[TerminationFlag] = []
        self._main_loop: asyncio.AbstractEventLoop | None = None

    def add(self, flag: TerminationFlag) -> None:
        with self._lock:
            self._flags.append(flag)
            if os.name == "posix" and threading.current_thread() is threading.main_thread():
                self._main_loop = flag.loop
                for number, default in _DEFAULT_HANDLERS.items():
                    if signal.getsignal(number) is default:
                        signal.signal(number, self._handle)

    def remove(self, flag: TerminationFlag) -> None:
        flag.has_ended.set()
        with self._lock:
            self._flags.remove(flag)
        if threading.current_thread() is threading.main_thread():
            self._restore_unless_used()
        elif self._main_loop is not None:
            with suppress(RuntimeError):  # that loop is closed: the handlers stay, and act like the default ones
                self._main_loop.call_soon_threadsafe(self._restore_unless_used)

    def ending_beside(self, flag: TerminationFlag) -> list[TerminationFlag]:
        """The extractions of the same event loop that a signal has ended, and that are still cleaning up."""
        with self._lock:
            return [other for other in self._flags if other.signal_number is not None and other.loop is flag.loop]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._restore()  # a second signal ends the process at once
        with self._lock:
            flags = tuple(self._flags)
        if not flags:
            signal.raise_signal(number)
        for flag in flags:
            flag.signal_number = number
            with suppress(RuntimeError):  # its loop is closed
                flag.loop.call_soon_threadsafe(flag.scope.cancel)

    def _restore_unless_used(self) -> None:
        with self._lock:
            if not self._flags:
                self._restore()

    def _restore(self) -> None:
        for number, default in _DEFAULT_HANDLERS.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, default)


_handlers = _SignalHandlers()


@contextmanager
def cancel_on_signals(scope: anyio.CancelScope) -> Generator[TerminationFlag]:
    """Cancel the scope on SIGTERM and Ctrl-C, unless the program handles the signal itself.

    A second signal ends the process at once. Under `asyncio.run`, Ctrl-C is left to it: the first one cancels the main
    task, the second one does not wait for it. An extraction in another thread is cancelled too, if one was started in
    the main thread before.
    """
    flag = TerminationFlag(asyncio.get_running_loop(), scope)
    _handlers.add(flag)
    try:
        yield flag
    finally:
        _handlers.remove(flag)


async def exit_on_signals(work: Callable[[], Awaitable[T]]) -> T:
    """Run `work`; on SIGTERM cancel it, wait until it has cleaned up, and raise SystemExit(143).

    On Ctrl-C outside `asyncio.run`, KeyboardInterrupt is raised instead. Either ends the event loop, so it is raised
    only when all extractions of the loop have cleaned up.
    """
    scope = anyio.CancelScope()
    result: list[T] = []
    error: Exception | None = None
    with cancel_on_signals(scope) as flag, scope:
        try:
            result.append(await work())
        except Exception as raised:
            error = raised
    if flag.signal_number is not None:
        for other in _handlers.ending_beside(flag):
            await other.has_ended.wait()
        raise KeyboardInterrupt if flag.signal_number == signal.SIGINT else SystemExit(128 + flag.signal_number)
    if error is not None:
        try:
            raise error
        finally:
            del error  # its traceback refers to this frame
    return result[0]
