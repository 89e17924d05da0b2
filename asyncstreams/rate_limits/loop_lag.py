"""How late is this event loop with what is due: time that no server is to blame for?"""

from __future__ import annotations

import asyncio

_EVERY = 0.05


class LoopLag:
    """Looks twenty times a second while somebody asks, and stops soon after.

    `seconds` is the larger of the last two delays.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._last = 0.0
        self._is_asked = False
        self._due = 0.0
        self._handle: asyncio.TimerHandle | None = None

    def ask(self) -> float:
        """The delay, and a reason to go on looking."""
        self._is_asked = True
        if self._handle is None:
            self._begin()
        return self.seconds

    def stop(self) -> None:
        """Look no more."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        self._due = loop.time() + _EVERY
        self._handle = loop.call_at(self._due, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        late = max(0.0, loop.time() - self._due)
        self.seconds, self._last = max(late, self._last), late
        self._handle = None
        if self._is_asked:
            self._is_asked = False
            self._begin()
        else:
            self.seconds = self._last = 0.0
