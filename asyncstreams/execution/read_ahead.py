"""Which pages can be fetched before their turn comes, and where are they meanwhile?"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from ..messages import Response
from ..protocols import CountedPaginator
from .page_fetcher import ParsedPage, ReceivedPage
from .slots import StreamSlots

_MOST_BYTES = 32 * 2**20


class ReadAhead:
    """Fetches pages of one slice side by side, on the guess that each follows the one before it.

    The guess is the paginator's `token_at`. What a page itself says comes after it decides: where
    the guess was wrong, what was fetched ahead is thrown away. With a known number of pages nothing
    is asked for in vain; without one, as many pages more as have been full in a row are asked for,
    until one is shorter than the first.
    """

    def __init__(
        self,
        paginator: CountedPaginator,
        arrive: Callable[[Any, Any], Awaitable[ReceivedPage]],
        tasks: TaskGroup,
        share: StreamSlots,
    ) -> None:
        self._paginator, self._arrive, self._tasks, self._share = paginator, arrive, tasks, share
        self._first: Response | None = None
        self._pages: int | None = None
        self._full = 0
        self._next = 1
        self._window = 0
        self._most = 1
        self._waiting: deque[SpeculativePage] = deque()

    def begin(self, fetched: ParsedPage, count: int, token: Any) -> None:
        """The first page is here, of `count` records, and `token` is what it gives for the second one."""
        self._pages = self._paginator.page_count(fetched.response, count)
        self._full, self._first = count, fetched.response
        self._most = max(1, min(self._share.most, _MOST_BYTES // max(1, fetched.size)))
        try:
            guessable = self._paginator.token_at(1, fetched.response) == token
        except ValueError:  # links without numbers
            guessable = False
        if guessable:
            self._window = 1 if self._pages is None else self._most

    def went_on(self, count: int, token: Any) -> None:
        """A page of `count` records is here, and gives `token` for the next: guess further, or no more."""
        if self._waiting and self._waiting[0].token != token:
            self.drop()
        elif self._pages is None and count < self._full:
            self._window = 0
        elif self._pages is None and self._window:
            # As many more as there have been: so the guesses in vain are never more than the pages.
            self._window = min(self._most, self._window + 1)
        self._extend()

    def has(self, token: Any) -> bool:
        return bool(self._waiting) and self._waiting[0].token == token

    async def take(self) -> ReceivedPage:
        """The response for the next page, when it is here: it is decoded when its turn comes.

        Raises what fetching it came to.
        """
        guess = self._waiting.popleft()
        await guess.done.wait()
        if guess.error is not None:
            raise guess.error
        if guess.arrived is None:
            # Its task has ended before ours because the reading is left.
            await anyio.lowlevel.checkpoint()
        assert guess.arrived is not None
        return guess.arrived

    def drop(self) -> None:
        """Throw away what was fetched ahead, and guess no more."""
        self._window = 0
        while self._waiting:
            self._waiting.pop().scope.cancel()

    def _extend(self) -> None:
        while len(self._waiting) < self._window and (self._pages is None or self._next < self._pages):
            assert self._first is not None
            guess = SpeculativePage(self._paginator.token_at(self._next, self._first))
            self._next += 1
            self._waiting.append(guess)
            self._tasks.start_soon(self._run, guess)

    async def _run(self, guess: SpeculativePage) -> None:
        place = self._share.place()
        with guess.scope:
            try:
                await place.take()
                guess.arrived = await self._arrive(guess.token, place)
            except Exception as error:  # told when its turn comes, if it does
                guess.error = error
            finally:
                place.give()
                guess.done.set()


class SpeculativePage:
    """A page that probably comes."""

    def __init__(self, token: Any) -> None:
        self.token = token
        self.scope = anyio.CancelScope()
        self.done = asyncio.Event()
        self.arrived: ReceivedPage | None = None
        self.error: Exception | None = None
