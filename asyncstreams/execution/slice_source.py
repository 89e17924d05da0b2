"""Which slices does a run read: those of the author, as far as they have not been read yet?"""

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
    """A slice that is to be read; one that `is_known` for children only: it has been handed over before."""

    stream_slice: Slice
    is_known: bool = False


async def each_work(
    selected: StreamSelection, incremental: IncrementalPlan | None, *, also_known: bool = False
) -> AsyncGenerator[PendingSlice]:
    """What is left to read of a stream, one slice at a time; with `also_known` what is done is told as well."""
    stream = selected.stream
    state = selected.state if isinstance(selected.state, StreamState) else None
    async with aclosing(each_slice(stream, selected.slices, selected.state)) as slices:
        async for one in slices:
            if incremental is not None:
                for part in incremental.slices(one):
                    yield PendingSlice(part)
            elif state is None or not _is_done(stream, one, state):
                yield PendingSlice(one)
            elif also_known:
                yield PendingSlice(one, is_known=True)


def _is_done(stream: Stream, stream_slice: Slice, state: StreamState) -> bool:
    return bool(state) and all(state.is_done(one) for one in stream.partitions_of(stream_slice))


async def each_slice(stream: Stream, slices: SliceInput | None, state: Mapping[str, Any]) -> AsyncGenerator[Slice]:
    """The slices of a stream, or those that are given in their place, one by one as they are asked for."""
    given: SliceInput = ()
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
