"""Speculative fetching of the next pages of a slice."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

from ..messages import Response
from ..protocols import CountedPaginator
from .page_fetcher import ParsedPage, ReceivedPage
from .slots import StreamSlots

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

_MAX_BUFFERED_BYTES = 32 * 2**20


class ReadAhead:
    """Fetches several pages of one slice concurrently, with predicted tokens.

    The predictions are the paginator's `token_at`. The token in each page decides: if a prediction was wrong,
    all speculative pages are discarded. With a known number of pages no request is wasted. Without one, the
    window grows by one with each full page, until a page is shorter than the first.
    """

    def __init__(
        self,
        paginator: CountedPaginator,
        receive: Callable[[Any, Any, int], Awaitable[ReceivedPage]],
        tasks: TaskGroup,
        slots: StreamSlots,
    ) -> None:
        self._paginator, self._receive, self._tasks, self._slots = paginator, receive, tasks, slots
        self._first: Response | None = None
        self._page_count: int | None = None
        self._full_count = 0
        self._next_number = 1
        self._window = 0
        self._max_window = 1
        self._pending: deque[SpeculativePage] = deque()

    def start(self, page: ParsedPage, count: int, token: Any) -> None:
        """Start from the first page, which has `count` records and names `token` for the second page."""
        self._page_count = self._paginator.page_count(page.response, count)
        self._full_count, self._first = count, page.response
        self._max_window = max(1, min(self._slots.max_slots, _MAX_BUFFERED_BYTES // max(1, page.size)))
        try:
            guessable = self._paginator.token_at(1, page.response) == token
        except ValueError:  # links without numbers
            guessable = False
        if guessable:
            self._window = 1 if self._page_count is None else self._max_window

    def observe_page(self, count: int, token: Any) -> None:
        """Extend, keep or close the window after a page of `count` records that names `token` for the next page."""
        if self._pending and self._pending[0].token != token:
            self.discard()
        elif self._page_count is None and count < self._full_count:
            self._window = 0
        elif self._page_count is None and self._window:
            # One more for each page so far: wasted requests never outnumber the pages.
            self._window = min(self._max_window, self._window + 1)
        self._fill_window()

    def is_next(self, token: Any) -> bool:
        return bool(self._pending) and self._pending[0].token == token

    async def pop_next(self) -> ReceivedPage:
        """Remove the next page and wait for its response, which is not decoded yet.

        Raises the error of its request.
        """
        guess = self._pending.popleft()
        await guess.done.wait()
        if guess.error is not None:
            raise guess.error
        if guess.received is None:
            # The fetching task was cancelled, and this task has not noticed its own cancellation yet: it does here.
            await anyio.lowlevel.checkpoint()
        assert guess.received is not None
        return guess.received

    def discard(self) -> None:
        """Discard all speculative pages and stop predicting."""
        self._window = 0
        while self._pending:
            self._pending.pop().scope.cancel()

    def _fill_window(self) -> None:
        while len(self._pending) < self._window and (self._page_count is None or self._next_number < self._page_count):
            assert self._first is not None
            guess = SpeculativePage(self._paginator.token_at(self._next_number, self._first), self._next_number)
            self._next_number += 1
            self._pending.append(guess)
            self._tasks.start_soon(self._fetch, guess)

    async def _fetch(self, guess: SpeculativePage) -> None:
        slot = self._slots.new_slot()
        with guess.scope:
            try:
                await slot.acquire()
                guess.received = await self._receive(guess.token, slot, guess.number)
            except Exception as error:  # raised by pop_next, if the page is needed
                guess.error = error
            finally:
                slot.release()
                guess.done.set()


class SpeculativePage:
    """A page that is fetched before it is known to exist."""

    def __init__(self, token: Any, number: int) -> None:
        self.token, self.number = token, number
        self.scope = anyio.CancelScope()
        self.done = asyncio.Event()
        self.received: ReceivedPage | None = None
        self.error: Exception | None = None
