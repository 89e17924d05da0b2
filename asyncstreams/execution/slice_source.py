"""The slices that a run has to read."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple, cast

from ..errors import AsyncStreamsError, ConfigError
from ..models import Slice
from ..protocols import SliceInput, Stream
from ..redaction import displayed
from ..state.incremental import IncrementalPlan
from ..state.stream_selection import StreamSelection
from ..state.stream_state import StreamState

_USUAL_KEYS = ("id", "uuid", "slug")


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
            example = displayed(cast(object, given)) if kind == "dict" else '{"project": 7}'
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
    if given is None or isinstance(given, Mapping):
        stream_slice = given if isinstance(given, Slice) else Slice(cast(Mapping[str, Any] | None, given))
        return _with_labels(stream, stream_slice) if stream.parents else stream_slice
    raise ConfigError(
        f"{type(stream).__name__}: a slice is of type {type(given).__name__}: expected a mapping or a Slice",
        hint='use a mapping such as {"project": 7}',
    )


def _with_labels(stream: Stream, stream_slice: Slice) -> Slice:
    """The slice of a substream, which shows the keys of its parents in messages, rather than their records."""
    name = "parents" if "parents" in stream_slice else "parent"
    if name in stream_slice.labels or name not in stream_slice:
        return stream_slice
    records: Any = stream_slice[name] if name == "parents" else [stream_slice[name]]
    if not isinstance(records, list) or {*map(type, cast("list[object]", records))} != {dict}:
        return stream_slice  # the author's own meaning of the name
    shown: list[object] = []
    for record, partition in zip(
        cast(Sequence[Mapping[str, Any]], records), stream.partitions_of(stream_slice), strict=False
    ):
        identity: object = partition.get("parent")
        shown.append(_without_fields(record) if identity is record else identity)
    labels = {name: shown if name == "parents" else shown[0]} if shown else {}
    return Slice(stream_slice.partition, stream_slice.interval, bounds=stream_slice.bounds, labels=labels)


def _without_fields(record: Mapping[str, Any]) -> object:
    """A parent without a primary key, which its whole record identifies: its usual key, or the names of its fields."""
    for name in _USUAL_KEYS:
        if isinstance(record.get(name), str | int):
            return {name: record[name]}
    return f"a record with the fields {', '.join(map(str, record))}"
