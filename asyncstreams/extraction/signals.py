"""Cancellation on SIGTERM: an extraction commits what it holds before the process exits."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager

import anyio


class TerminationFlag:
    """Whether the process has received SIGTERM."""

    def __init__(self) -> None:
        self.was_signalled = False


@contextmanager
def cancel_on_sigterm(scope: anyio.CancelScope) -> Generator[TerminationFlag]:
    """Cancel the scope on SIGTERM, unless the signal already has a handler; a second SIGTERM ends the process at once.

    Ctrl-C is left to `asyncio.run`: the first one cancels the main task, the second one does not wait for it.
    """
    flag = TerminationFlag()
    if (
        os.name != "posix"
        or threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield flag
        return
    loop = asyncio.get_running_loop()

    def cancel() -> None:
        loop.remove_signal_handler(signal.SIGTERM)  # the next SIGTERM ends the process
        flag.was_signalled = True
        scope.cancel()

    loop.add_signal_handler(signal.SIGTERM, cancel)
    try:
        yield flag
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
