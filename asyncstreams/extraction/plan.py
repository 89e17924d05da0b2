"""Which streams of an extraction begin anew, which are gone on with, and which have been read already?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from ..declaration.checks import check_cursor
from ..destinations.base import Destination
from ..destinations.ledger import Ledger, Mode, Record, StreamLedger
from ..destinations.writer_protocol import StreamSchema
from ..errors import AsyncStreamsError, ConfigError
from ..models import key_paths
from ..protocols import Stream
from ..state.compatibility import compare, identity_of
from ..state.stream_selection import cursor_of

_ORDERED = ("iso", "date", "epoch", "epoch_ms", "number")
"""Formats of cursors in which what is written is in the order of what is meant."""


class ExtractionPlan(NamedTuple):
    """`begin` is what the journal is told; `left` is to be read, and `read` has been."""

    begin: Record
    left: Sequence[Stream]
    read: Sequence[Stream]


def plan(to: Destination, streams: Sequence[Stream], ledger: Ledger) -> ExtractionPlan:
    """Raises ConfigError, and StateIncompatible where a stream is not the one that was read before."""
    names = sorted(stream.name for stream in streams)
    is_same_run = to.resume and ledger.names == names
    read = [one for one in streams if is_same_run and one.name in ledger.streams and ledger.streams[one.name].is_read]
    left = [one for one in streams if one not in read]
    anew: dict[str, Mapping[str, Any]] = {}
    for stream in left:
        check_cursor(type(stream).__name__, stream)
        cursor_of(stream)
        known = ledger.streams.get(stream.name)
        try:
            told = _begun(to, stream, known)
        except AsyncStreamsError as error:
            error.locate(stream=stream.name)
            raise
        if told is not None:
            anew[stream.name] = told
    return ExtractionPlan({"op": "begin", "names": names, "streams": anew}, left, read)


def _begun(to: Destination, stream: Stream, known: StreamLedger | None) -> Mapping[str, Any] | None:
    """What the journal is told of a stream that begins; None: what an earlier run did not finish is gone on with."""
    now = identity_of(stream)
    mode = _mode(to, stream)
    if known is None:
        return {"identity": now, "mode": mode}
    if known.is_open and known.mode == "replace" and mode != "replace":
        raise ConfigError(
            f'mode="{mode}": an earlier run was to replace stream {stream.name!r}, and did not come to its end',
            hint='let it come to its end with mode="replace" first',
        )
    if known.is_open and known.mode == mode and (to.resume or mode != "replace"):
        compare(stream.name, known.identity, now)
        return None
    if to.mode == "fail" and not known.is_open:
        raise ConfigError(
            f'mode="fail": stream {stream.name!r} is in {to.path} already',
            hint='mode="append" adds to it, and mode="replace" takes its place when all has been read',
        )
    if mode == "replace":
        return {"identity": now, "mode": mode}
    compare(stream.name, known.identity, now)
    return {"identity": {**known.identity, **now}, "mode": mode}


def _mode(to: Destination, stream: Stream) -> Mode:
    """Raises ConfigError where rows are to be found again that have no key."""
    is_told = to.mode is not None and to.mode != "fail"
    if to.mode == "upsert" and not _key_of(stream):
        raise ConfigError(
            f'mode="upsert": stream {stream.name!r} has no primary key of fields of its records',
            hint='set primary_key, or add what comes with mode="append"',
        )
    if is_told:
        return cast(Mode, to.mode)
    if not stream.cursor_field and not stream.incremental_dependency:
        return "replace"
    return "upsert" if "upsert" in to.modes and _key_of(stream) else "append"


def shape_of(stream: Stream, schema: Mapping[str, Any] | None) -> StreamSchema:
    """What an output is told of a stream before its first record."""
    field = stream.cursor_field
    is_ordered = isinstance(field, str) and stream.cursor_format in _ORDERED
    return StreamSchema(_key_of(stream), cast(str, field) if is_ordered else None, schema)


def _key_of(stream: Stream) -> list[str]:
    """The fields of the primary key, where they are the record's own."""
    paths = key_paths(stream.primary_key)
    return [path[0] for path in paths] if all(len(path) == 1 for path in paths) else []
