"""Which streams of an extraction begin anew, which are gone on with, and which have been read already?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..contracts import Stream
from ..declaration import check_cursor
from ..errors import AsyncStreamsError, ConfigError
from ..sinks.jsonl import JsonLines
from ..sinks.ledger import Ledger, Mode, Record, StreamLedger
from .identity import compare, identity_of
from .selected import cursor_of


class Plan(NamedTuple):
    """`begin` is what the journal is told; `left` is to be read, and `read` has been."""

    begin: Record
    left: Sequence[Stream]
    read: Sequence[Stream]


def plan(to: JsonLines, streams: Sequence[Stream], ledger: Ledger) -> Plan:
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
    return Plan({"do": "begin", "names": names, "streams": anew}, left, read)


def _begun(to: JsonLines, stream: Stream, known: StreamLedger | None) -> Mapping[str, Any] | None:
    """What the journal is told of a stream that begins; None: what an earlier run did not finish is gone on with."""
    now = identity_of(stream)
    mode: Mode = "append" if stream.cursor_field or stream.incremental_dependency else "replace"
    mode = to.mode if to.mode in ("append", "replace") else mode
    if known is None:
        return {"identity": now, "mode": mode}
    if known.is_open and known.mode == "replace" and mode == "append":
        raise ConfigError(
            f'mode="append": an earlier run was to replace stream {stream.name!r}, and did not come to its end',
            hint='let it come to its end with mode="replace" first',
        )
    if known.is_open and known.mode == mode and (to.resume or mode == "append"):
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
