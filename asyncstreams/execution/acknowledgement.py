"""Acknowledgement of pages, which advances a State."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Literal, TypeAlias

import anyio

from ..clock import Clock
from ..errors import OutputWriteError
from ..models import Page
from ..state.airbyte_state import StateInput
from ..state.state_file import State
from .scheduler import Scheduler

_log = logging.getLogger("asyncstreams")
Ack: TypeAlias = Literal["auto", "manual"]


class PageAcknowledger:
    """Advances a State as the consumer reads pages, and saves it.

    With `ack="auto"` a page is acknowledged when the next one is requested. Once all pages are read and
    acknowledged, slices without a cursor are removed from the state, so the next run reads them again. After an
    interruption or a failed slice they stay, and the next run resumes.
    """

    def __init__(self, scheduler: Scheduler, state: State, ack: Ack, clock: Clock) -> None:
        self._scheduler, self._state, self._ack, self._clock = scheduler, state, ack, clock
        self._is_exhausted = False

    @asynccontextmanager
    async def acknowledge(self, pages: AsyncIterator[Page]) -> AsyncGenerator[AsyncIterator[Page]]:
        """Wrap the pages of a run. Raises OutputWriteError on exit, but never in place of an earlier error."""
        try:
            async with aclosing(self._iterate(pages)) as acknowledged:
                yield acknowledged
        except BaseException:
            with anyio.CancelScope(shield=True):
                try:
                    await self._state.save_if_changed()
                except OutputWriteError as error:
                    _log.warning("%s", error)
            raise
        with anyio.CancelScope(shield=True):
            if self._is_exhausted and self._scheduler.is_fully_acknowledged:
                for selection in self._scheduler.selections:
                    if selection.state_store is self._state and selection.slices is None and selection.limit is None:
                        await self._state.restart(selection.stream.name)
            await self._state.save_if_changed()

    async def _iterate(self, pages: AsyncIterator[Page]) -> AsyncGenerator[Page]:
        async for page in pages:
            yield page
            if self._ack == "auto":
                page.ack()
            await self._state.save_when_due(self._clock)
        self._is_exhausted = True


@asynccontextmanager
async def open_pages(
    scheduler: Scheduler, state: StateInput, ack: Ack, clock: Clock
) -> AsyncGenerator[AsyncIterator[Page]]:
    """Yield the pages of a run. If `state` is a State, acknowledged pages advance it, and it is saved on exit.

    Its file is locked from before the first request until it has been saved.
    """
    if not isinstance(state, State):
        async with scheduler.pages() as pages:
            yield pages
        return
    with state.locked():
        async with (
            scheduler.pages() as pages,
            PageAcknowledger(scheduler, state, ack, clock).acknowledge(pages) as acknowledged,
        ):
            yield acknowledged
