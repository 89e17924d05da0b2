"""How do records of one stream become the slices of another?"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Unpack, cast

from .._json import encode
from ..errors import ConfigError, HttpStatusError
from ..execution.parent_coordinator import feed_of
from ..execution.sequential import pages_in_turn
from ..models import Record, Slice, key_paths
from ..parents.projection import decode_of
from ..state.stream_state import value_at
from .http_stream import HttpStream
from .options import StreamOptions

_TOO_MANY = re.compile(r"too (many|long|large|big)|maximum|at most|exceed", re.IGNORECASE)
_SHOWN = "Orders(parent=Customers())"


class HttpSubStream(HttpStream):
    """A stream with a slice for each record of another one: `{"parent": record}`.

    `parent` is that stream, or several: then slices say whose record theirs is, `{"parent": record,
    "parent_stream": "customers"}`. A run reads each parent once, for all its children and for itself,
    and children begin with its first page.
    """

    parent_batch_size: int | None = None
    """Parents in one slice, `{"parents": [record, ...]}`, at most, for APIs that take several ids; None: one each.

    A batch that the API finds too large (413, 414, or a 400 that says so) is read as two halves, and later
    ones are no larger.
    """

    def __init__(self, parent: HttpStream | Sequence[HttpStream] = (), **options: Unpack[StreamOptions]) -> None:
        self.parents = _checked(self, parent)
        super().__init__(**options)
        _check_settings(self)
        self._fits = self.parent_batch_size or 1

    async def stream_slices(self, state: Mapping[str, Any]) -> AsyncGenerator[Slice]:
        """The parents' records, or batches of them; iterate over super()'s to filter or extend them.

        In a run they come from what the run reads of the parents, elsewhere the parents are asked, page
        by page.
        """
        several = len(self.parents) > 1
        waiting: dict[int, list[Record]] = {number: [] for number in range(len(self.parents))}
        feed = feed_of(self)
        async with aclosing(self._asked() if feed is None else feed.parents()) as pages:
            async for number, records in pages:
                more = {"parent_stream": self.parents[number].name} if several else {}
                if self.parent_batch_size is None:
                    for record in records:
                        yield Slice({"parent": record, **more})
                    continue
                waiting[number] += records
                for batch in self._taken(waiting[number]):
                    yield Slice({"parents": batch, **more})
        for number, records in waiting.items():
            more = {"parent_stream": self.parents[number].name} if several else {}
            for batch in self._taken(records, also_a_short_one=True):
                yield Slice({"parents": batch, **more})

    def _taken(self, waiting: list[Record], *, also_a_short_one: bool = False) -> Iterator[list[Record]]:
        """Take batches out of those that wait; what fits in one may become less meanwhile."""
        while len(waiting) >= self._fits or (waiting and also_a_short_one):
            batch = waiting[: self._fits]
            del waiting[: len(batch)]
            yield batch

    def partitions_of(self, stream_slice: Slice) -> Sequence[Mapping[str, Any]]:
        """The parents by their keys, where they have one: they may change from one run to the next.

        Where changed parents are read again, and there is no cursor to tell what is new below them, by that as well.
        """
        partition = stream_slice.partition
        parents: list[Record] = partition.pop("parents", None) or [partition.pop("parent", {})]
        name = partition.get("parent_stream")
        parent = next((one for one in self.parents if one.name == name), self.parents[0])
        paths: list[Sequence[str]] = list(key_paths(parent.primary_key))
        if self.incremental_dependency and not self.cursor_field and paths:
            paths.append(_cursor_path(parent))
        return [{**partition, "parent": _identity(record, paths)} for record in parents]

    def split_slice(self, stream_slice: Slice, error: HttpStatusError) -> Sequence[Slice]:
        batch = cast(list[Record], stream_slice.get("parents") or [])
        too_large = error.status in (413, 414) or (error.status == 400 and _TOO_MANY.search(error.message))
        if len(batch) < 2 or not too_large:
            return ()
        half = (len(batch) + 1) // 2
        self._fits = min(self._fits, half)
        return [stream_slice | {"parents": part} for part in (batch[:half], batch[half:])]

    async def _asked(self) -> AsyncGenerator[tuple[int, list[Record]]]:
        """The parents' pages outside of a run, over this stream's connections."""
        for number, parent in enumerate(self.parents):
            decode = decode_of(self.name, parent.name, self.parent_fields)
            async with parent.lease(self.home) as chain, aclosing(pages_in_turn(parent, chain)) as pages:
                async for page in pages:
                    yield number, decode(encode(page.records))


def _checked(stream: HttpStream, given: object) -> tuple[HttpStream, ...]:
    owner = type(stream).__name__
    parents = cast(Sequence[object], given) if isinstance(given, list | tuple) else (given,)
    if not parents:
        raise ConfigError(f"{owner}: its parent is missing", hint=f"write {owner}(parent=...), such as {_SHOWN}")
    for parent in parents:
        if isinstance(parent, type):
            raise ConfigError(f"{owner}: parent is the class {parent.__name__}", hint=f"write {parent.__name__}(...)")
        if not isinstance(parent, HttpStream):
            kind = type(parent).__name__
            raise ConfigError(
                f"{owner}: parent is a {kind}: a stream, or a list of them, is needed", hint=f"such as {_SHOWN}"
            )
    found = cast(tuple[HttpStream, ...], tuple(parents))
    if len({id(parent) for parent in found}) < len(found):
        raise ConfigError(f"{owner}: one of its parents is given twice")
    if any(above is stream for above in _above(found)):
        raise ConfigError(f"{owner}: it is above itself: its parent, or a parent of that")
    return found


def _identity(record: Record, paths: Sequence[Sequence[str]]) -> Mapping[str, Any]:
    """What stays the same of a parent: its key, if the slice has all of it; else all of it."""
    key = {".".join(path): value_at(record, path) for path in paths}
    return record if not key or None in key.values() else key


def _cursor_path(stream: HttpStream) -> Sequence[str]:
    field = stream.cursor_field or ()
    return [field] if isinstance(field, str) else field


def _above(parents: Iterable[HttpStream]) -> Iterator[HttpStream]:
    """The parents, and theirs, each once."""
    seen = list(parents)
    for parent in seen:  # which grows meanwhile
        yield parent
        seen += [one for one in parent.parents if one not in seen]


def _check_settings(stream: HttpSubStream) -> None:
    owner = type(stream).__name__
    fields: Any = stream.parent_fields
    if fields is not None and (
        isinstance(fields, str)
        or not isinstance(fields, Sequence)
        or not fields
        or not all(isinstance(field, str) and field for field in cast(Sequence[object], fields))
    ):
        raise ConfigError(f"{owner}.parent_fields = {fields!r}: a tuple of fields is needed", hint='such as ("id",)')
    if stream.incremental_dependency:
        _check_dependency(stream, owner)
    most: Any = stream.parent_batch_size
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        raise ConfigError(f"{owner}.parent_batch_size = {most!r}: a whole number from 1 is needed, or None")


def _check_dependency(stream: HttpSubStream, owner: str) -> None:
    for parent in stream.parents:
        name = ".".join(_cursor_path(parent))
        if not name:
            raise ConfigError(
                f"{owner}.incremental_dependency: its parent {parent.name} has no cursor_field, so nobody can tell "
                "which of its records are new",
                hint=f"set {type(parent).__name__}.cursor_field, or remove incremental_dependency",
            )
        if not stream.cursor_field and stream.parent_fields is not None and name not in stream.parent_fields:
            raise ConfigError(
                f"{owner}.parent_fields: {name!r} is missing, which says when a record of {parent.name} changed",
                hint=f"add {name!r}, or remove incremental_dependency",
            )
