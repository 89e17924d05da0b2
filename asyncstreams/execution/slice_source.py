"""The slices that a run has to read."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping, Sequence, Sized
from contextlib import aclosing
from typing import Any, NamedTuple, cast

from anyio.lowlevel import checkpoint

from ..declaration.stream import Stream
from ..errors import AsyncStreamsError, ConfigError, InvalidSlice
from ..models import Slice, key_paths, shorten
from ..parents.distinct import DistinctParents
from ..protocols import SliceInput
from ..state.incremental import IncrementalPlan
from ..state.stream_selection import StreamSelection
from ..state.stream_state import StreamState

_USUAL_KEYS = ("id", "uuid", "slug")
_MAX_FIELDS_SHOWN = 20
_SCALARS = (str, int, float, type(None))
_MAX_SLICES_PER_TURN = 200  # a millisecond or two, so that the event loop stays responsive
_log = logging.getLogger("asyncstreams")


class PendingSlice(NamedTuple):
    """A slice to be read. One that was `already_delivered` by an earlier run is read for child streams only.

    With a `problem` the slice cannot be read.
    """

    stream_slice: Slice
    already_delivered: bool = False
    problem: InvalidSlice | None = None


async def pending_slices(
    selection: StreamSelection,
    incremental: IncrementalPlan | None,
    on_known: Callable[[int], None] | None = None,
    *,
    include_delivered: bool = False,
) -> AsyncGenerator[PendingSlice]:
    """Yield the slices that are not done; with `include_delivered`, also those that an earlier run delivered.

    `on_known` is called with their number before they are yielded, if it follows from a list without a state.
    """
    stream = selection.stream
    state = selection.state if isinstance(selection.state, StreamState) else None
    distinct = DistinctParents(stream) if stream.parents and selection.slices is None else None
    count = 0
    is_whole = incremental is None and distinct is None and not (state is not None and state.has_read)
    given = iter_slices(stream, selection.slices, selection.state, on_known if is_whole else None)
    async with aclosing(given) as slices:
        async for stream_slice in slices:
            count += 1
            if count % _MAX_SLICES_PER_TURN == 0:  # most of them may be done
                await checkpoint()
            partitions = () if distinct is None and state is None else stream.partitions_of(stream_slice)
            if distinct is not None and not distinct.add_slice(stream_slice, partitions):
                continue
            if incremental is not None:
                try:
                    for part in incremental.slices(stream_slice, partitions, is_distinct=distinct is not None):
                        yield PendingSlice(part)
                except ConfigError as error:
                    if not error.depends_on_data:
                        raise
                    yield PendingSlice(stream_slice, problem=InvalidSlice(error.message, hint=error.hint))
            elif state is None or not all(map(state.is_done, partitions)):
                yield PendingSlice(stream_slice)
            elif include_delivered:
                yield PendingSlice(stream_slice, already_delivered=True)
    if distinct is not None:
        distinct.log_repeated()
    if state is not None and selection.slices is None:
        _warn_of_unused(stream, state)


def _warn_of_unused(stream: Stream, state: StreamState) -> None:
    """Name the partitions of a given state that no slice had."""
    unused, state.unused = state.unused, {}
    if unused:
        level = (
            logging.INFO if stream.resolved.incremental_dependency else logging.WARNING
        )  # unchanged parents have no slices
        example = shorten(str(SliceLabels(stream).add_to(Slice(next(iter(unused.values()))))))
        _log.log(
            level, "%s: the state has %s that no slice has, such as %s", stream.name, _counted(len(unused)), example
        )


def _counted(partitions: int) -> str:
    return "a partition" if partitions == 1 else f"{partitions:,} partitions"


async def iter_slices(
    stream: Stream,
    slices: SliceInput | None,
    state: Mapping[str, Any],
    on_known: Callable[[int], None] | None = None,
) -> AsyncGenerator[Slice]:
    """Yield `slices`, or the slices of the stream if it is None, lazily; `on_known` gets the length of a list."""
    given: SliceInput = ()
    labels = SliceLabels(stream)
    try:
        given = stream.stream_slices(state) if slices is None else slices
        if inspect.isawaitable(given):
            given = await given
        if isinstance(given, Mapping | str):
            kind = type(cast(object, given)).__name__
            example = str(labels.add_to(Slice(cast(Any, given)))) if kind == "dict" else '{"project": 7}'
            raise ConfigError(
                f"{type(stream).__name__}: the slices are of type {kind}: expected a list of slices",
                hint=f"pass a list such as [{example}]",
            )
        if isinstance(given, AsyncIterable):
            async for stream_slice in given:
                yield _to_slice(stream, labels, stream_slice)
        elif isinstance(given, Iterable):
            if on_known is not None and isinstance(given, Sized):
                on_known(len(given))
            for value in given:
                yield _to_slice(stream, labels, value)
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


def _to_slice(stream: Stream, labels: SliceLabels, given: Any) -> Slice:
    if type(given) is dict or given is None or isinstance(given, Mapping):
        return labels.add_to(given if isinstance(given, Slice) else Slice(cast(Mapping[str, Any] | None, given)))
    raise ConfigError(
        f"{type(stream).__name__}: a slice is of type {type(given).__name__}: expected a mapping or a Slice",
        hint='use a mapping such as {"project": 7}',
    )


class SliceLabels:
    """What messages show of the slices of one stream: the keys of parents and other records, never whole records."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._has_warned = False

    def add_to(self, stream_slice: Slice) -> Slice:
        """The slice with a label for each value that is a record, or contains one."""
        labels: dict[str, Any] = {}
        partition = stream_slice.partition
        for name, value in partition.items():
            if isinstance(value, _SCALARS) or name in stream_slice.labels:
                continue
            is_parent = self._stream.parents and name in ("parent", "parents")
            label = self._parents(name, value, stream_slice) if is_parent else _label(value)
            if label is not value:
                labels[name] = label
        if not labels:
            return stream_slice
        interval, bounds = stream_slice.interval, stream_slice.bounds
        return Slice(partition, interval, bounds=bounds, labels={**stream_slice.labels, **labels})

    def _parents(self, name: str, value: Any, stream_slice: Slice) -> Any:
        records: list[Any] = value if name == "parents" else [value]
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            return _label(value)  # the author's own meaning of the name
        shown: list[object] = []
        for record, partition in zip(records, self._stream.partitions_of(stream_slice), strict=False):
            identity: Any = partition.get("parent")
            if identity is record:
                self._warn_of_missing_key(partition)
                shown.append(_key_of(record))
            else:
                shown.append({k: v if isinstance(v, _SCALARS) else _label(v) for k, v in identity.items()})
        return shown if name == "parents" else next(iter(shown), None)

    def _warn_of_missing_key(self, partition: Mapping[str, Any]) -> None:
        """Warn once if a parent declares a primary key that a record does not have."""
        name = partition.get("parent_stream")
        parent = next((parent for parent in self._stream.parents if parent.name == name), self._stream.parents[0])
        if parent.resolved.primary_key is not None and not self._has_warned:
            self._has_warned = True
            _log.warning(
                "%s: a record of %s has no value for its primary_key, %s, so all of its fields identify it: when one "
                "of them changes, it is another parent",
                self._stream.name,
                parent.name,
                ", ".join(repr(".".join(path)) for path in key_paths(parent.resolved.primary_key)),
            )


def _label(value: Any) -> Any:
    """A value of a slice as messages show it."""
    if isinstance(value, dict):
        return _key_of(cast("dict[str, Any]", value)) if value else cast(Any, value)
    if isinstance(value, list | tuple):
        items = cast("Sequence[Any]", value)
        shown = [_label(item) for item in items]
        return shown if any(label is not item for label, item in zip(shown, items, strict=True)) else items
    return value


def _key_of(record: Mapping[str, Any]) -> object:
    """A usual key of a record, or the names of its fields."""
    for name in _USUAL_KEYS:
        if isinstance(record.get(name), str | int):
            return {name: record[name]}
    more = ", ..." if len(record) > _MAX_FIELDS_SHOWN else ""
    return f"a record with the fields {', '.join(map(str, list(record)[:_MAX_FIELDS_SHOWN]))}{more}"
