"""How does an extraction end in an orderly way when the process is told to end?"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager

import anyio


class TerminationFlag:
    """Whether the process was told to end."""

    def __init__(self) -> None:
        self.is_told = False


@contextmanager
def until_terminated(scope: anyio.CancelScope) -> Generator[TerminationFlag]:
    """SIGTERM cancels the scope, where nobody else looks after that signal; a second one ends the process at once.

    Ctrl-C is `asyncio.run`'s, which cancels the main task and, at the second one, does not wait for it.
    """
    leaving = TerminationFlag()
    if (
        os.name != "posix"
        or threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield leaving
        return
    loop = asyncio.get_running_loop()

    def leave() -> None:
        loop.remove_signal_handler(signal.SIGTERM)  # the next one ends the process
        leaving.is_told = True
        scope.cancel()

    loop.add_signal_handler(signal.SIGTERM, leave)
    try:
        yield leaving
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
