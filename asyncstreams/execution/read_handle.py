"""What a caller holds while reading: pages or records inside an `async with`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Generic, NoReturn, TypeVar

from ..models import Page, Record
from .report import RunReport
from .scheduler import Scheduler

T = TypeVar("T")


class ReadHandle(Generic[T]):
    """An async context manager of an async iterator: leaving it ends all work at once."""

    def __init__(
        self,
        what: str,
        scheduler: Scheduler,
        opened: Callable[[Scheduler], AbstractAsyncContextManager[AsyncIterator[T]]],
    ) -> None:
        self._what = what
        self._scheduler = scheduler
        self._opened = opened
        self._inner: AbstractAsyncContextManager[AsyncIterator[T]] | None = None
        self._opening: OpenIterator[T] | None = None

    @property
    def report(self) -> RunReport:
        """What has been handed over so far, stream by stream."""
        return self._scheduler.report()

    @property
    def unavailable(self) -> Mapping[str, str]:
        """The streams that have been found unavailable so far, each with its reason."""
        return self._scheduler.report().unavailable

    def explain(self) -> str:
        """A line for each stream: what it does at this moment, and why it does no more."""
        return self._scheduler.explain()

    async def __aenter__(self) -> AsyncIterator[T]:
        if self._inner is not None:
            raise RuntimeError(f"a reading is entered once; call {self._what}() again for another")
        self._inner = self._opened(self._scheduler)
        self._opening = OpenIterator(self._what, await self._inner.__aenter__())
        return self._opening

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._inner is not None
        assert self._opening is not None
        self._opening.ended = True
        return await self._inner.__aexit__(kind, error, trace)

    def __aiter__(self) -> NoReturn:
        self._show_how()

    def __iter__(self) -> NoReturn:
        self._show_how()

    def __await__(self) -> NoReturn:
        self._show_how()

    def _show_how(self) -> NoReturn:
        item = self._what.removesuffix("s")
        raise TypeError(
            f"{self._what}() is entered first, so that leaving early ends all work:\n"
            f"    async with stream.{self._what}() as {self._what}:\n"
            f"        async for {item} in {self._what}: ..."
        )


class OpenIterator(Generic[T]):
    """What is iterated: hands the iteration over to the iterator itself, so that it costs nothing for each item."""

    def __init__(self, what: str, items: AsyncIterator[T]) -> None:
        self._what = what
        self._items = items
        self.ended = False

    def __aiter__(self) -> AsyncIterator[T]:
        if self.ended:
            raise RuntimeError(
                f"this reading has ended with its block: iterate over its {self._what} inside the async with"
            )
        return self._items

    async def __anext__(self) -> T:
        return await anext(aiter(self))


async def records_of(pages: AsyncIterator[Page]) -> AsyncGenerator[Record]:
    """The records of the pages: plain iteration within a page, nothing async for each."""
    async for page in pages:
        for record in page.records:
            yield record
