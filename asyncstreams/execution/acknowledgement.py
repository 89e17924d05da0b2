"""When has a consumer had a page, and when all of them: for a state that moves with him?"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, Literal, TypeAlias

import anyio

from ..clock import Clock
from ..errors import OutputWriteError
from ..models import Page
from ..state.state_file import State
from .scheduler import Scheduler

_log = logging.getLogger("asyncstreams")
Ack: TypeAlias = Literal["auto", "manual"]


class PageAcknowledger:
    """The pages of one reading with a State: each is acknowledged when the next one is asked for.

    When all of it has been read and acknowledged the state forgets the slices that have no cursor: the next
    reading begins anew with them. What was cut short, or failed in part, is gone on with.
    """

    def __init__(self, scheduler: Scheduler, state: State, ack: Ack, clock: Clock) -> None:
        self._scheduler, self._state, self._ack, self._clock = scheduler, state, ack, clock
        self._is_at_end = False

    @asynccontextmanager
    async def of(self, pages: AsyncIterator[Page]) -> AsyncGenerator[AsyncIterator[Page]]:
        """Raises OutputWriteError, unless something else went wrong before."""
        try:
            async with aclosing(self._each(pages)) as told:
                yield told
        except BaseException:
            with anyio.CancelScope(shield=True):
                try:
                    await self._state.saved_if_moved()
                except OutputWriteError as error:
                    _log.warning("%s", error)
            raise
        if self._is_at_end and self._scheduler.is_safe:
            for selected in self._scheduler.selected:
                if selected.keeper is self._state and selected.slices is None and selected.limit is None:
                    self._state.begin_anew(selected.stream.name)
        with anyio.CancelScope(shield=True):
            await self._state.saved_if_moved()

    async def _each(self, pages: AsyncIterator[Page]) -> AsyncGenerator[Page]:
        async for page in pages:
            yield page
            if self._ack == "auto":
                page.ack()
            await self._state.saved_when_due(self._clock)
        self._is_at_end = True


@asynccontextmanager
async def acknowledged(
    scheduler: Scheduler, state: Mapping[str, Any] | None, ack: Ack, clock: Clock
) -> AsyncGenerator[AsyncIterator[Page]]:
    """The pages of a run, while it runs; where a State is kept it moves with them."""
    async with scheduler.pages() as pages:
        if not isinstance(state, State):
            yield pages
            return
        async with PageAcknowledger(scheduler, state, ack, clock).of(pages) as told:
            yield told
