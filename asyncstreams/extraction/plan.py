"""The plan of an extraction: which streams start over, which resume, and which an earlier run has already read."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from ..declaration.settings import check_cursor
from ..declaration.stream import Stream
from ..destinations.base import Destination
from ..destinations.ledger import JournalRecord, Ledger, Mode, StreamLedger
from ..destinations.row_order import RowOrder
from ..destinations.writer_protocol import StreamSchema
from ..errors import AsyncStreamsError, ConfigError, StateIncompatible
from ..models import key_paths
from ..state.compatibility import check_compatible, cursor_of, identity_of
from ..state.incremental import points_of_range
from ..state.stream_state import StreamState
from .run_scope import RunScope, reason_not_to_write


class ExtractionPlan(NamedTuple):
    """The journal record that starts the run, the streams to read, and those that the same run has already read.

    `samples` are the streams whose state the run does not move. `not_written` maps those of them whose records are not
    written, since the output has rows already, to the reasons. `resumed` are the streams to read of which an earlier
    run has committed a part.
    """

    begin_record: JournalRecord
    to_read: Sequence[Stream]
    already_read: Sequence[Stream]
    samples: Collection[str]
    not_written: Mapping[str, str]
    resumed: Collection[str]


def plan_extraction(
    to: Destination, streams: Sequence[Stream], ledger: Ledger, scope: RunScope, now: float
) -> ExtractionPlan:
    """The plan for these streams; `now` is the begin of the run, in seconds since 1970.

    Raises ConfigError, and StateIncompatible if the output holds another stream.
    """
    names = sorted(stream.name for stream in streams)
    is_same_run = to.resume and not scope.is_partial and ledger.names == names
    already_read = [
        stream
        for stream in streams
        if is_same_run and (known := ledger.streams.get(stream.name)) is not None and _is_read(stream, known, scope)
    ]
    samples = {stream.name for stream in streams if scope.is_sample(stream.name, _resolve_mode(to, stream))}
    not_written: dict[str, str] = {}
    to_read = [stream for stream in streams if stream not in already_read]
    resumed: set[str] = set()
    started: dict[str, Mapping[str, Any]] = {}
    keys: dict[str, Sequence[Sequence[str]]] = {}
    for stream in to_read:
        check_cursor(type(stream).__name__, stream.resolved)
        cursor = cursor_of(stream)
        if stream.resolved.cursor_field:
            points_of_range((scope.since, scope.until), cursor)
        known = ledger.streams.get(stream.name)
        has_rows = known is not None and not known.is_provisional
        if stream.name in samples and has_rows and (reason := reason_not_to_write(stream, _resolve_mode(to, stream))):
            not_written[stream.name] = reason
            continue
        try:
            entry = _begin_entry(to, stream, known, scope)
        except AsyncStreamsError as error:
            error.locate(stream=stream.name)
            raise
        if entry is not None:
            started[stream.name] = entry
        elif known is not None and known.is_open and not known.is_untouched and stream.name not in samples:
            resumed.add(stream.name)
        mode = entry["mode"] if entry is not None else ledger.streams[stream.name].mode
        if mode == "upsert":
            keys[stream.name] = key_paths(stream.resolved.primary_key)
    begin: dict[str, Any] = {"op": "begin", "at": now, "names": names, "streams": started}
    if keys:
        begin["keys"] = keys
    if scope.is_partial:
        begin["partial"] = True
    return ExtractionPlan(begin, to_read, already_read, samples, not_written, resumed)


def _is_read(stream: Stream, known: StreamLedger, scope: RunScope) -> bool:
    """Whether the unfinished run has read a stream as this one asks for."""
    return known.is_read and (stream.name not in scope.refresh or known.is_refresh)


def _begin_entry(
    to: Destination, stream: Stream, known: StreamLedger | None, scope: RunScope
) -> Mapping[str, Any] | None:
    """What the begin record holds for a stream; None: the stream resumes what an earlier run did not finish."""
    identity = identity_of(stream)
    mode = _resolve_mode(to, stream)
    if known is None or known.is_provisional:
        is_provisional = scope.is_sample(stream.name, mode) and mode != "upsert"
        return {"identity": identity, "mode": mode, **({"provisional": True} if is_provisional else {})}
    if _starts_over(to, stream, known, mode, scope):
        is_refresh = stream.name in scope.refresh
        return {"identity": identity, "mode": mode, "replaces": True, **({"refresh": True} if is_refresh else {})}
    if known.is_open and known.mode == "replace" and mode != "replace":
        raise ConfigError(
            f'mode="{mode}": an earlier run with mode="replace" has not finished stream {stream.name!r}',
            hint='run with mode="replace" again until it finishes',
        )
    if known.is_open and known.mode == mode:
        check_compatible(stream.name, known.identity, identity, way_out=to.way_out(stream.name))
        return None
    if to.mode == "fail" and not known.is_open:
        raise ConfigError(
            f'mode="fail": {to.path} already contains stream {stream.name!r}',
            hint='use mode="append" to add to it, or mode="replace" to replace it once everything has been read',
        )
    if mode == "replace":
        return {"identity": identity, "mode": mode}
    check_compatible(stream.name, known.identity, identity, way_out=to.way_out(stream.name))
    if scope.is_sample(stream.name, mode) and known.mode == mode:
        return None
    return {"identity": {**known.identity, **identity}, "mode": mode}


def _starts_over(to: Destination, stream: Stream, known: StreamLedger, mode: Mode, scope: RunScope) -> bool:
    """Whether a stream with rows is read from the beginning, and replaced when it is complete, whatever its mode."""
    if scope.is_sample(stream.name, mode):
        return False
    if known.is_reset or (known.is_untouched and not _is_compatible(stream, known)):
        return True
    if not to.resume and known.is_open and (mode == "replace" or known.is_replaced):
        return True
    if stream.name not in scope.refresh:
        return False
    # An interrupted refresh is resumed.
    return not (known.is_refresh and known.is_open and known.mode == mode and _is_compatible(stream, known))


def _is_compatible(stream: Stream, known: StreamLedger) -> bool:
    try:
        check_compatible(stream.name, known.identity, identity_of(stream))
    except StateIncompatible:
        return False
    return True


def _resolve_mode(to: Destination, stream: Stream) -> Mode:
    """The mode of one stream. Raises ConfigError for "upsert" without a primary key."""
    if to.mode == "upsert" and not stream.resolved.primary_key:
        raise ConfigError(
            f'mode="upsert": stream {stream.name!r} has no primary key',
            hint='set primary_key, or use mode="append"',
        )
    if to.mode is not None and to.mode != "fail":
        return to.mode
    if not stream.resolved.cursor_field and not stream.resolved.incremental_dependency:
        return "replace"
    return "upsert" if "upsert" in to.modes and stream.resolved.primary_key else "append"


def schema_of(stream: Stream, schema: Mapping[str, Any] | None, state: StreamState, now: float) -> StreamSchema:
    """The description of a stream that its writer receives before the first record.

    `now` is the time when the stream is begun, in seconds since 1970.
    """
    field = stream.resolved.cursor_field
    path = [field] if isinstance(field, str) else list(field or ())
    return StreamSchema(
        key_paths(stream.resolved.primary_key), RowOrder(stream.name, path, state, now) if path else None, schema
    )
