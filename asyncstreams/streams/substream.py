"""Streams whose slices are the records of other streams."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from datetime import timedelta
from typing import Any, Unpack, cast

from .._json import encode
from ..declaration.settings import StreamOptions, check_setting
from ..errors import ConfigError, HttpStatusError
from ..execution.missing_children import MissingChildren
from ..execution.parent_coordinator import parent_lookback_of
from ..execution.sequential import read_sequentially
from ..models import Record, Slice, key_paths
from ..parents.distinct import DistinctParents
from ..parents.projection import IncompleteRecord, decoder_for
from ..state.stream_state import value_at
from .http_stream import HttpStream, bind

_TOO_LARGE_MESSAGE = re.compile(r"too (many|long|large|big)|maximum|at most|exceed", re.IGNORECASE)
_EXAMPLE = "Orders(parent=Customers())"


class HttpSubStream(HttpStream):
    """A stream with one slice, `{"parent": record}`, for each record of a parent stream.

    `parent` is a stream or a list of streams. With several parents, each slice also names its stream:
    `{"parent": record, "parent_stream": "customers"}`. A run reads each parent once, for all its children and for
    its own output. Children start as soon as the first page of a parent has been read.
    """

    def __init__(self, parent: HttpStream | Sequence[HttpStream] = (), **options: Unpack[StreamOptions]) -> None:
        self.declared_parents = _check_parents(self, parent)
        super().__init__(**options)
        _check_settings(self)
        self._batch_size = self.parent_batch_size or 1

    async def stream_slices(self, state: Mapping[str, Any]) -> AsyncGenerator[Slice]:
        """One slice for each parent record or batch. Override and iterate over super() to filter or extend them.

        In a run the records come from the run's own read of the parents. Otherwise the parents are requested page
        by page.
        """
        several = len(self.parents) > 1
        distinct = DistinctParents(self)  # single parents are compared where their slices are started
        pending: dict[int, list[Record]] = {number: [] for number in range(len(self.parents))}
        feed = None if self.binding is None else self.binding.feed
        async with aclosing(self._read_parents() if feed is None else feed.read_pages()) as pages:
            async for number, records in pages:
                more = {"parent_stream": self.parents[number].name} if several else {}
                if self.parent_batch_size is None:
                    for record in records:
                        yield Slice({"parent": record, **more})
                    continue
                for record in records:
                    if isinstance(record, IncompleteRecord):
                        yield Slice({"parents": [record], **more})  # which fails, and not those beside it
                        continue
                    [key] = self.partitions_of(Slice({"parent": record, **more}))
                    if distinct.add(key, record, Slice(key)):
                        pending[number].append(record)
                for batch in self._pop_batches(pending[number]):
                    yield Slice({"parents": batch, **more})
        for number, records in pending.items():
            more = {"parent_stream": self.parents[number].name} if several else {}
            for batch in self._pop_batches(records, include_partial=True):
                yield Slice({"parents": batch, **more})
        distinct.log_repeated()

    def _pop_batches(self, pending: list[Record], *, include_partial: bool = False) -> Iterator[list[Record]]:
        """Remove batches from the pending parents; the batch size may shrink between two of them."""
        while len(pending) >= self._batch_size or (pending and include_partial):
            batch = pending[: self._batch_size]
            del pending[: len(batch)]
            yield batch

    def partitions_of(self, stream_slice: Slice) -> Sequence[Mapping[str, Any]]:
        """One partition per parent of the slice, identified by its primary key, since other fields may change.

        With `incremental_dependency` and no cursor of its own, the parent's cursor value is part of the partition,
        so that a changed parent is read again.
        """
        partition = stream_slice.partition
        parents: list[Record] = partition.pop("parents", None) or [partition.pop("parent", {})]
        parent = self._parent_of(partition)
        paths: list[Sequence[str]] = list(key_paths(parent.primary_key))
        if self.incremental_dependency and not self.cursor_field and paths:
            paths.append(_cursor_path(parent))
        return [{**partition, "parent": _parent_identity(record, paths)} for record in parents]

    def children_of(self, stream_slice: Slice) -> Sequence[Mapping[str, Any]]:
        """The children that a slice reads, each by the primary key of its parent."""
        partition = stream_slice.partition
        if "parent" not in partition and "parents" not in partition:
            return (partition,)
        paths = key_paths(self._parent_of(partition).primary_key)
        name = {"parent_stream": partition["parent_stream"]} if "parent_stream" in partition else {}
        records = cast(list[Record], partition.get("parents") or [partition.get("parent", {})])
        return [{**name, "parent": _parent_identity(record, paths)} for record in records]

    def split_slice(self, stream_slice: Slice, error: HttpStatusError) -> Sequence[Slice]:
        """Two halves of a batch that is too large for the API, or that has a child which is refused or missing.

        Empty for other errors and single parents.
        """
        batch = cast(list[Record], stream_slice.get("parents") or [])
        too_large = error.status in (413, 414) or (error.status == 400 and _TOO_LARGE_MESSAGE.search(error.message))
        has_missing_child = self.missing_child == "skip" and MissingChildren.concerns(error)
        if len(batch) < 2 or not (too_large or has_missing_child):
            return ()
        half = (len(batch) + 1) // 2
        if too_large:
            self._batch_size = min(self._batch_size, half)
        return [stream_slice | {"parents": part} for part in (batch[:half], batch[half:])]

    def _parent_of(self, partition: Mapping[str, Any]) -> HttpStream:
        name = partition.get("parent_stream")
        return next((parent for parent in self.parents if parent.name == name), self.parents[0])

    async def _read_parents(self) -> AsyncGenerator[tuple[int, list[Record]]]:
        """The pages of the parents outside a run, with the number of each parent, through this stream's session."""
        parents = self.parents if self.binding is not None else bind(self.declared_parents, self._reader())
        for number, parent in enumerate(parents):
            decode = decoder_for(parent.name, self.parent_fields)
            async with parent.lease() as client, aclosing(read_sequentially(parent, client)) as pages:
                async for page in pages:
                    yield number, decode(encode(page.records))


def _check_parents(stream: HttpStream, parent: object) -> tuple[HttpStream, ...]:
    class_name = type(stream).__name__
    given = cast(Sequence[object], parent) if isinstance(parent, list | tuple) else (parent,)
    if not given:
        raise ConfigError(
            f"{class_name}: parent is missing", hint=f"pass it as {class_name}(parent=...), such as {_EXAMPLE}"
        )
    for item in given:
        if isinstance(item, type):
            raise ConfigError(
                f"{class_name}: parent is the class {item.__name__}, not an instance",
                hint=f"write {item.__name__}(...)",
            )
        if not isinstance(item, HttpStream):
            raise ConfigError(
                f"{class_name}: parent is of type {type(item).__name__}; expected a stream or a list of streams",
                hint=f"for example {_EXAMPLE}",
            )
    parents = cast(tuple[HttpStream, ...], tuple(given))
    if len({id(parent) for parent in parents}) < len(parents):
        raise ConfigError(f"{class_name}: parent contains the same stream twice", hint="pass each parent once")
    if any(ancestor is stream for ancestor in _ancestors(parents)):
        raise ConfigError(
            f"{class_name}: the stream is its own ancestor", hint="pass a parent that does not depend on this stream"
        )
    return parents


def _parent_identity(record: Record, paths: Sequence[Sequence[str]]) -> Mapping[str, Any]:
    """The values at `paths`, which identify a parent across runs; the whole record if one is missing."""
    key = {".".join(path): value_at(record, path) for path in paths}
    return record if not key or None in key.values() else key


def _cursor_path(stream: HttpStream) -> Sequence[str]:
    field = stream.cursor_field or ()
    return [field] if isinstance(field, str) else field


def _ancestors(parents: Iterable[HttpStream]) -> Iterator[HttpStream]:
    """The parents and all their ancestors, each once."""
    seen = list(parents)
    for parent in seen:  # the list grows during the iteration
        yield parent
        seen += [ancestor for ancestor in parent.parents if ancestor not in seen]


def _check_settings(stream: HttpSubStream) -> None:
    class_name = type(stream).__name__
    check_setting(class_name, stream, "parent_fields", "parent_batch_size")
    if stream.incremental_dependency:
        _check_dependency(stream, class_name)
    if stream.parent_lookback is not None:
        _check_lookback(stream, class_name)


def _check_lookback(stream: HttpSubStream, class_name: str) -> None:
    try:
        is_valid = parent_lookback_of(stream) >= timedelta(0)
    except (ValueError, TypeError, OverflowError):
        is_valid = False
    if not is_valid:
        raise ConfigError(
            f"{class_name}.parent_lookback = {stream.parent_lookback!r}: expected a duration, at least 0 and no months",
            hint='for example timedelta(days=7), "P7D" or "12h"',
        )
    if not stream.incremental_dependency:
        raise ConfigError(
            f"{class_name}.parent_lookback: all parents are read anyway, because incremental_dependency is not set",
            hint="set incremental_dependency = True, or remove parent_lookback",
        )


def _check_dependency(stream: HttpSubStream, class_name: str) -> None:
    for parent in stream.parents:
        name = ".".join(_cursor_path(parent))
        if not name:
            raise ConfigError(
                f"{class_name}.incremental_dependency: parent {parent.name!r} has no cursor_field, which is needed to "
                "find its new records",
                hint=f"set {type(parent).__name__}.cursor_field, or remove incremental_dependency",
            )
        if not stream.cursor_field and stream.parent_fields is not None and name not in stream.parent_fields:
            raise ConfigError(
                f"{class_name}.parent_fields: {name!r}, the cursor_field of parent {parent.name!r}, is missing",
                hint=f"add {name!r}, or remove incremental_dependency",
            )
