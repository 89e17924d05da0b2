"""Speculative fetching of the next pages of a slice."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

from ..protocols import CountedPaginator
from .page_fetcher import ParsedPage, ReceivedPage
from .slots import Slot, StreamSlots

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

_MAX_BUFFERED_BYTES = 32 * 2**20


class ReadAhead:
    """Fetches several pages of one slice concurrently, with predicted tokens, in slots that would be idle.

    The predictions are the paginator's `predict_tokens`. The token in each page decides: if a prediction was wrong,
    all speculative pages are discarded. With a known number of pages no request is wasted. Without one, the
    window grows by one with each full page, until a page is shorter than the first. Other slices come first:
    where they fill the slots, pages that are fetched ahead would only cost memory.
    """

    def __init__(
        self,
        paginator: CountedPaginator,
        receive: Callable[[Any, Any, int], Awaitable[ReceivedPage]],
        tasks: TaskGroup,
        slots: StreamSlots,
    ) -> None:
        self._paginator, self._receive, self._tasks, self._slots = paginator, receive, tasks, slots
        self._token_of: Callable[[int], Any] | None = None
        self._page_count: int | None = None
        self._full_count = 0
        self._next_number = 1
        self._window = 0
        self._max_window = 1
        self._pending: deque[SpeculativePage] = deque()

    def start(self, page: ParsedPage, count: int, token: Any) -> None:
        """Start from the first page, which has `count` records and names `token` for the second page."""
        self._page_count = self._paginator.page_count(page.response, count)
        self._full_count = count
        self._max_window = max(1, min(self._slots.max_slots, _MAX_BUFFERED_BYTES // max(1, page.size)))
        try:
            self._token_of = self._paginator.predict_tokens(page.response)
        except ValueError:  # links without numbers
            return
        if self._token_of(1) == token:
            self._window = 1 if self._page_count is None else self._max_window

    def observe_page(self, number: int, count: int, token: Any) -> None:
        """Extend, keep or close the window after page `number` with `count` records, which names `token` as next."""
        if not self._pending:
            self._next_number = number + 1  # the slice may have fetched pages itself
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
        # A slice that waits for a page that is fetched ahead needs no slot of its own.
        self._slots.count_needed(-1)
        try:
            self._fill_window()
            guess = self._pending.popleft()
            await guess.done.wait()
        finally:
            self._slots.count_needed(1)
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
            guess = self._pending.pop()
            guess.scope.cancel()
            guess.close()  # its task may never start

    def _fill_window(self) -> None:
        while len(self._pending) < self._window and (self._page_count is None or self._next_number < self._page_count):
            assert self._token_of is not None
            slot = self._slots.new_slot()
            if not slot.acquire_idle():
                return
            guess = SpeculativePage(self._token_of(self._next_number), self._next_number, slot, self._slots)
            self._next_number += 1
            self._pending.append(guess)
            self._tasks.start_soon(self._fetch, guess)

    async def _fetch(self, guess: SpeculativePage) -> None:
        with guess.scope:
            try:
                guess.received = await self._receive(guess.token, guess.slot, guess.number)
            except Exception as error:  # raised by pop_next, if the page is needed
                guess.error = error
            finally:
                guess.close()
                guess.done.set()


class SpeculativePage:
    """A page that is fetched before it is known to exist, in a slot that was idle."""

    def __init__(self, token: Any, number: int, slot: Slot, slots: StreamSlots) -> None:
        self.token, self.number, self.slot, self._slots = token, number, slot, slots
        self._is_counted = True
        slots.count_needed(1)
        self.scope = anyio.CancelScope()
        self.done = asyncio.Event()
        self.received: ReceivedPage | None = None
        self.error: Exception | None = None

    def close(self) -> None:
        """Release the slot; further calls have no effect."""
        self.slot.release()
        if self._is_counted:
            self._is_counted = False
            self._slots.count_needed(-1)
