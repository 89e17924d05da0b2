"""What a caller holds while reading: pages or records inside an `async with`."""

from __future__ import annotations

import inspect
import logging
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager
from dataclasses import replace
from types import MappingProxyType, TracebackType
from typing import Any, Generic, NoReturn, TypeVar, cast

from ..contracts import Slices, Stream
from ..errors import AsyncStreamsError, ConfigError, HttpStatusError, StreamUnavailable
from ..events import PageRead, StreamEnded, StreamSkipped, StreamStarted
from ..http.chain import Chain
from ..model import Page, Record, Slice
from .slice_reader import SliceReader
from .validation import Validation, validation_of

T = TypeVar("T")
_log = logging.getLogger("asyncstreams")


class Reading(Generic[T]):
    """An async context manager of an async iterator: leaving it ends all work at once."""

    def __init__(
        self,
        what: str,
        opened: Callable[[], AbstractAsyncContextManager[AsyncIterator[T]]],
        unavailable: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._what = what
        self._opened = opened
        self.unavailable = unavailable
        """The streams of a Source that have been skipped so far, each with its reason."""
        self._inner: AbstractAsyncContextManager[AsyncIterator[T]] | None = None
        self._opening: _Open[T] | None = None

    async def __aenter__(self) -> AsyncIterator[T]:
        if self._inner is not None:
            raise RuntimeError(f"a reading is entered once; call {self._what}() again for another")
        self._inner = self._opened()
        self._opening = _Open(self._what, await self._inner.__aenter__())
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


class _Open(Generic[T]):
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


async def stream_pages(
    stream: Stream,
    chain: Chain,
    slices: Slices | None,
    state: Mapping[str, Any],
    limit: int | None,
    skipped: dict[str, str] | None = None,
) -> AsyncGenerator[Page]:
    """The pages of the slices, one slice after the other; with `limit`, of that many records in all.

    Without `slices`, those of the stream's own `stream_slices`. Where the stream's strategy says
    that it is unavailable, of itself or of what the first request came to, it goes into `skipped`
    with its reason. Without `skipped`, StreamUnavailable is raised.
    """
    if limit == 0:
        return
    is_skipped = False
    try:
        with _told(stream, chain):
            try:
                if (reason := await stream.probe()) is not None:
                    raise StreamUnavailable(reason).locate(stream=stream.name)
                validation = await validation_of(stream)
                pages = _limited(stream, chain, validation, slices, state, limit)
                page = await _first(stream, pages)
            except StreamUnavailable as error:
                if skipped is not None:
                    is_skipped = True
                    skipped[stream.name] = error.reason
                    _log.warning("%s is skipped: %s", stream.name, error.reason)
                    chain.audience.tell(StreamSkipped(stream.name, error.reason))
                raise
            try:
                async with aclosing(pages):
                    while page is not None:
                        if chain.audience:
                            numbers = page.number, len(page.records), len(page.quarantined)
                            chain.audience.tell(PageRead(stream.name, page.stream_slice, *numbers))
                        yield page
                        page = await anext(pages, None)
            finally:
                validation.tell()
    except StreamUnavailable:
        if not is_skipped:
            raise


async def first_page(stream: Stream, chain: Chain) -> Page | None:
    """The first page of the first slice, as it comes: nobody is told, nothing is validated, no strategy is asked."""
    async with aclosing(_limited(stream, chain, Validation(stream, None), None, {}, None)) as pages:
        return await anext(pages, None)


@contextmanager
def _told(stream: Stream, chain: Chain) -> Generator[None]:
    """Tell listeners when the reading of a stream begins, and how it ends."""
    chain.audience.tell(StreamStarted(stream.name))
    try:
        yield
    except BaseException as error:
        try:
            chain.audience.tell(StreamEnded(stream.name, error))
        except Exception:
            # What ended the reading leaves, and not what a listener makes of it.
            _log.exception("%s: a listener failed at the end of a reading", stream.name)
        raise
    chain.audience.tell(StreamEnded(stream.name))


async def _first(stream: Stream, pages: AsyncGenerator[Page]) -> Page | None:
    try:
        return await anext(pages, None)
    except HttpStatusError as error:
        if (reason := stream.why_unavailable(error)) is None:
            raise
        where = {"url": error.url, "method": error.method, "tries": error.tries, "stream_slice": error.stream_slice}
        raise StreamUnavailable(reason, status=error.status).locate(stream=stream.name, **where) from error


async def _limited(
    stream: Stream,
    chain: Chain,
    validation: Validation,
    slices: Slices | None,
    state: Mapping[str, Any],
    limit: int | None,
) -> AsyncGenerator[Page]:
    left = limit
    async with aclosing(_each_slice(stream, slices, state)) as each:
        async for stream_slice in each:
            async with aclosing(SliceReader(stream, chain, validation, stream_slice, state).pages()) as pages:
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


async def pages_of_several(
    streams: Sequence[tuple[Stream, Callable[[], AbstractAsyncContextManager[Chain]]]],
    arguments: Callable[[Stream], tuple[Slices | None, Mapping[str, Any], int | None]],
    skipped: dict[str, str],
) -> AsyncGenerator[Page]:
    """The pages of several streams, one stream after the other; those that are unavailable are skipped.

    Raises StreamUnavailable when all of them are.
    """
    for stream, lease in streams:
        skips = skipped if len(streams) > 1 else None
        async with lease() as chain, aclosing(stream_pages(stream, chain, *arguments(stream), skips)) as pages:
            async for page in pages:
                yield page
    if streams and len(skipped) == len(streams):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise StreamUnavailable(f"none of the {len(streams)} streams can be read: {reasons}")


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
        if isinstance(given, Mapping | str):
            kind = type(cast(object, given)).__name__
            shown = repr(cast(object, given)) if kind == "dict" else '{"project": 7}'
            raise ConfigError(
                f"{type(stream).__name__}: the slices are a {kind}: a list of them is needed",
                hint=f"such as [{shown}]",
            )
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
