"""The plan of an extraction: which streams start over, which resume, and which an earlier run has already read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from ..declaration.checks import check_cursor
from ..destinations.base import Destination
from ..destinations.ledger import JournalRecord, Ledger, Mode, StreamLedger
from ..destinations.writer_protocol import StreamSchema
from ..errors import AsyncStreamsError, ConfigError
from ..models import key_paths
from ..protocols import Stream
from ..state.compatibility import check_compatible, identity_of
from ..state.stream_selection import cursor_of

_ORDERED_FORMATS = ("iso", "date", "epoch", "epoch_ms", "number")
"""Cursor formats whose written values sort in the order of the values that they represent."""


class ExtractionPlan(NamedTuple):
    """The journal record that starts the run, the streams to read, and those that the same run has already read."""

    begin_record: JournalRecord
    to_read: Sequence[Stream]
    already_read: Sequence[Stream]


def plan_extraction(to: Destination, streams: Sequence[Stream], ledger: Ledger) -> ExtractionPlan:
    """The plan for these streams. Raises ConfigError, and StateIncompatible if the output holds another stream."""
    names = sorted(stream.name for stream in streams)
    is_same_run = to.resume and ledger.names == names
    already_read = [
        stream
        for stream in streams
        if is_same_run and stream.name in ledger.streams and ledger.streams[stream.name].is_read
    ]
    to_read = [stream for stream in streams if stream not in already_read]
    started: dict[str, Mapping[str, Any]] = {}
    for stream in to_read:
        check_cursor(type(stream).__name__, stream)
        cursor_of(stream)
        known = ledger.streams.get(stream.name)
        try:
            entry = _begin_entry(to, stream, known)
        except AsyncStreamsError as error:
            error.locate(stream=stream.name)
            raise
        if entry is not None:
            started[stream.name] = entry
    return ExtractionPlan({"op": "begin", "names": names, "streams": started}, to_read, already_read)


def _begin_entry(to: Destination, stream: Stream, known: StreamLedger | None) -> Mapping[str, Any] | None:
    """What the begin record holds for a stream; None: the stream resumes what an earlier run did not finish."""
    identity = identity_of(stream)
    mode = _resolve_mode(to, stream)
    if known is None:
        return {"identity": identity, "mode": mode}
    if known.is_open and known.mode == "replace" and mode != "replace":
        raise ConfigError(
            f'mode="{mode}": an earlier run with mode="replace" has not finished stream {stream.name!r}',
            hint='run with mode="replace" again until it finishes',
        )
    if known.is_open and known.mode == mode and (to.resume or mode != "replace"):
        check_compatible(stream.name, known.identity, identity)
        return None
    if to.mode == "fail" and not known.is_open:
        raise ConfigError(
            f'mode="fail": {to.path} already contains stream {stream.name!r}',
            hint='use mode="append" to add to it, or mode="replace" to replace it once everything has been read',
        )
    if mode == "replace":
        return {"identity": identity, "mode": mode}
    check_compatible(stream.name, known.identity, identity)
    return {"identity": {**known.identity, **identity}, "mode": mode}


def _resolve_mode(to: Destination, stream: Stream) -> Mode:
    """The mode of one stream. Raises ConfigError for "upsert" without a primary key."""
    if to.mode == "upsert" and not _key_fields(stream):
        raise ConfigError(
            f'mode="upsert": stream {stream.name!r} has no primary key of top-level fields',
            hint='set primary_key, or use mode="append"',
        )
    if to.mode is not None and to.mode != "fail":
        return to.mode
    if not stream.cursor_field and not stream.incremental_dependency:
        return "replace"
    return "upsert" if "upsert" in to.modes and _key_fields(stream) else "append"


def schema_of(stream: Stream, schema: Mapping[str, Any] | None) -> StreamSchema:
    """The description of a stream that its writer receives before the first record."""
    field = stream.cursor_field
    is_ordered = isinstance(field, str) and stream.cursor_format in _ORDERED_FORMATS
    return StreamSchema(_key_fields(stream), cast(str, field) if is_ordered else None, schema)


def _key_fields(stream: Stream) -> list[str]:
    """The fields of the primary key; empty if one of them is nested."""
    paths = key_paths(stream.primary_key)
    return [path[0] for path in paths] if all(len(path) == 1 for path in paths) else []
