"""The async context manager through which callers read pages or records."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Generic, NoReturn, TypeVar

from ..models import Page, Record
from .report import RunReport
from .scheduler import Scheduler

T = TypeVar("T")


class ReadStatus:
    """What a run has delivered so far, and what it is doing."""

    _scheduler: Scheduler

    @property
    def report(self) -> RunReport:
        """The pages and records delivered so far, by stream."""
        return self._scheduler.report()

    @property
    def unavailable(self) -> Mapping[str, str]:
        """The names of the streams found unavailable so far, with the reasons."""
        return self._scheduler.report().unavailable

    def explain(self) -> str:
        """Describe what each stream is doing now and what it waits for, one line per stream."""
        return self._scheduler.explain()


class ReadHandle(ReadStatus, Generic[T]):
    """An async context manager that yields an async iterator; exiting it cancels all work of the run."""

    def __init__(
        self,
        method_name: str,
        scheduler: Scheduler,
        open_items: Callable[[Scheduler], AbstractAsyncContextManager[AsyncIterator[T]]],
    ) -> None:
        self._method_name = method_name
        self._scheduler = scheduler
        self._open_items = open_items
        self._context: AbstractAsyncContextManager[AsyncIterator[T]] | None = None
        self._iterator: OpenIterator[T] | None = None

    async def __aenter__(self) -> OpenIterator[T]:
        if self._context is not None:
            raise RuntimeError(
                f"{self._method_name}(): already entered; call {self._method_name}() again for another read"
            )
        self._context = self._open_items(self._scheduler)
        self._iterator = OpenIterator(self._method_name, self._scheduler, await self._context.__aenter__())
        return self._iterator

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._context is not None
        assert self._iterator is not None
        self._iterator.is_closed = True
        return await self._context.__aexit__(kind, error, trace)

    def __aiter__(self) -> NoReturn:
        self._raise_not_entered()

    def __iter__(self) -> NoReturn:
        self._raise_not_entered()

    def __await__(self) -> NoReturn:
        self._raise_not_entered()

    def _raise_not_entered(self) -> NoReturn:
        item = self._method_name.removesuffix("s")
        raise TypeError(
            f"{self._method_name}() must be entered with `async with`, so that leaving early cancels all work:\n"
            f"    async with stream.{self._method_name}() as {self._method_name}:\n"
            f"        async for {item} in {self._method_name}: ..."
        )


class OpenIterator(ReadStatus, Generic[T]):
    """What `async with` gives: the items, to be iterated over within the block, and the status of the run."""

    # Checks once that the block is open, then delegates to the iterator itself, at no cost per item.

    def __init__(self, method_name: str, scheduler: Scheduler, items: AsyncIterator[T]) -> None:
        self._method_name, self._scheduler = method_name, scheduler
        self._items = items
        self.is_closed = False

    def __aiter__(self) -> AsyncIterator[T]:
        if self.is_closed:
            raise RuntimeError(f"{self._method_name}(): the read is closed; iterate inside the async with block")
        return self._items

    async def __anext__(self) -> T:
        return await anext(aiter(self))


async def iter_records(pages: AsyncIterator[Page]) -> AsyncGenerator[Record]:
    """Yield the records of the pages, without an await per record."""
    async for page in pages:
        for record in page.records:
            yield record
