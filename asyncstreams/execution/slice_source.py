"""The slices that a run has to read."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, NamedTuple, cast

from ..errors import AsyncStreamsError, ConfigError
from ..models import Slice
from ..protocols import SliceInput, Stream
from ..state.incremental import IncrementalPlan
from ..state.stream_selection import StreamSelection
from ..state.stream_state import StreamState


class PendingSlice(NamedTuple):
    """A slice to be read. One that was `already_delivered` by an earlier run is read for child streams only."""

    stream_slice: Slice
    already_delivered: bool = False


async def pending_slices(
    selection: StreamSelection, incremental: IncrementalPlan | None, *, include_delivered: bool = False
) -> AsyncGenerator[PendingSlice]:
    """Yield the slices that are not done; with `include_delivered`, also those that an earlier run delivered."""
    stream = selection.stream
    state = selection.state if isinstance(selection.state, StreamState) else None
    async with aclosing(iter_slices(stream, selection.slices, selection.state)) as slices:
        async for stream_slice in slices:
            if incremental is not None:
                for part in incremental.slices(stream_slice):
                    yield PendingSlice(part)
            elif state is None or not _is_done(stream, stream_slice, state):
                yield PendingSlice(stream_slice)
            elif include_delivered:
                yield PendingSlice(stream_slice, already_delivered=True)


def _is_done(stream: Stream, stream_slice: Slice, state: StreamState) -> bool:
    return bool(state) and all(state.is_done(stream_slice) for stream_slice in stream.partitions_of(stream_slice))


async def iter_slices(stream: Stream, slices: SliceInput | None, state: Mapping[str, Any]) -> AsyncGenerator[Slice]:
    """Yield `slices`, or the slices of the stream if it is None, lazily."""
    given: SliceInput = ()
    try:
        given = stream.stream_slices(state) if slices is None else slices
        if inspect.isawaitable(given):
            given = await given
        if isinstance(given, Mapping | str):
            kind = type(cast(object, given)).__name__
            example = repr(cast(object, given)) if kind == "dict" else '{"project": 7}'
            raise ConfigError(
                f"{type(stream).__name__}: the slices are of type {kind}: expected a list of slices",
                hint=f"pass a list such as [{example}]",
            )
        if isinstance(given, AsyncIterable):
            async for stream_slice in given:
                yield _to_slice(stream, stream_slice)
        elif isinstance(given, Iterable):
            for value in given:
                yield _to_slice(stream, value)
        else:
            raise ConfigError(
                f"{type(stream).__name__}.stream_slices returned {type(given).__name__}: expected an iterable of slices"
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


def _to_slice(stream: Stream, given: Any) -> Slice:
    if isinstance(given, Slice):
        return given
    if given is None or isinstance(given, Mapping):
        return Slice(cast(Mapping[str, Any] | None, given))
    raise ConfigError(
        f"{type(stream).__name__}: a slice is of type {type(given).__name__}: expected a mapping or a Slice",
        hint='use a mapping such as {"project": 7}',
    )
