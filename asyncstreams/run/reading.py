"""What a caller holds while reading: pages or records inside an `async with`."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import replace
from types import TracebackType
from typing import Any, Generic, NoReturn, TypeVar, cast

from ..contracts import Slices, Stream
from ..errors import AsyncStreamsError, ConfigError
from ..http.chain import Chain
from ..model import Page, Record, Slice
from .slice_reader import SliceReader

T = TypeVar("T")


class Reading(Generic[T]):
    """An async context manager of an async iterator: leaving it ends all work at once."""

    def __init__(self, what: str, opened: Callable[[], AbstractAsyncContextManager[AsyncIterator[T]]]) -> None:
        self._what = what
        self._opened = opened
        self._inner: AbstractAsyncContextManager[AsyncIterator[T]] | None = None

    async def __aenter__(self) -> AsyncIterator[T]:
        if self._inner is not None:
            raise RuntimeError(f"a reading is entered once; call {self._what}() again for another")
        self._inner = self._opened()
        return await self._inner.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._inner is not None
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


async def stream_pages(
    stream: Stream,
    chain: Chain,
    slices: Slices | None,
    state: Mapping[str, Any],
    limit: int | None,
) -> AsyncGenerator[Page]:
    """The pages of the slices, one slice after the other; with `limit`, of that many records in all.

    Without `slices`, those of the stream's own `stream_slices`.
    """
    left = limit
    if left == 0:
        return
    async with aclosing(_each_slice(stream, slices, state)) as each:
        async for stream_slice in each:
            async with aclosing(SliceReader(stream, chain, stream_slice, state).pages()) as pages:
                async for page in pages:
                    if left is None:
                        yield page
                        continue
                    if len(page.records) > left:
                        page = replace(page, records=page.records[:left], is_last=False)
                    left -= len(page.records)
                    yield page
                    if left == 0:
                        return


async def records_of(pages: AsyncGenerator[Page]) -> AsyncGenerator[Record]:
    """The records of the pages: plain iteration within a page, nothing async for each."""
    async with aclosing(pages):
        async for page in pages:
            for record in page.records:
                yield record


async def _each_slice(stream: Stream, slices: Slices | None, state: Mapping[str, Any]) -> AsyncGenerator[Slice]:
    given: Slices = ()
    try:
        given = stream.stream_slices(state) if slices is None else slices
        if inspect.isawaitable(given):
            given = await given
        if isinstance(given, AsyncIterable):
            async for one in given:
                yield _as_slice(stream, one)
        elif isinstance(given, Iterable):
            for another in given:
                yield _as_slice(stream, another)
        else:
            raise ConfigError(
                f"{type(stream).__name__}.stream_slices returned {type(given).__name__}: an iterable is needed"
            )
    except AsyncStreamsError as error:
        error.locate(stream=stream.name)
        raise
    except Exception as error:
        error.add_note(f"asyncstreams: in the slices of stream {stream.name!r}")
        raise
    finally:
        if isinstance(given, AsyncGenerator):
            await given.aclose()


def _as_slice(stream: Stream, given: Any) -> Slice:
    if isinstance(given, Slice):
        return given
    if given is None or isinstance(given, Mapping):
        return Slice(cast(Mapping[str, Any] | None, given))
    raise ConfigError(
        f"{type(stream).__name__}: a slice is a {type(given).__name__}: a mapping or a Slice is needed",
        hint='such as {"project": 7}',
    )
