"""Export and import of the state of an output."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from .._json import as_array, as_object
from ..clock import SystemClock
from ..errors import AsyncStreamsError, ConfigError
from ..state.state_file import state_json
from ..state.stream_state import empty_state
from .base import Destination
from .ledger import StreamLedger
from .writer_protocol import CommitPayload, OutputContents

_HASHED_SECRET = re.compile(r"secret:[0-9a-f]{32}")


class ExportedState(NamedTuple):
    """The state of an output in the form of `State.to_json`, and the streams without one, with the reasons."""

    state: Mapping[str, Any]
    left_out: Mapping[str, str]


def export_state(destination: Destination) -> ExportedState:
    """The state of an output; blocking. A stream is left out if its state does not describe rows that readers see.

    Raises the errors of `Destination.state`.
    """
    ledger = destination.new_writer().inspect().ledger
    reasons = {name: _reason_to_leave_out(stream) for name, stream in ledger.streams.items()}
    streams = {
        name: {"identity": stream.identity, "partitions": stream.state.to_json()}
        for name, stream in ledger.streams.items()
        if not reasons[name]
    }
    return ExportedState(state_json(ledger.salt, streams), {name: reason for name, reason in reasons.items() if reason})


def import_state(destination: Destination, streams: Mapping[str, Mapping[str, Any]]) -> None:
    """Mark what was read elsewhere as read: the next run writes only what comes after it; blocking.

    `streams` are those of `State.to_json`: each has its `identity` and its `partitions`. The output must have no rows
    and no state of them: the state of an output always describes its own rows, or, after an import, those that another
    system has. All streams are imported, or none.

    The next run accepts any credential, because fingerprints of two outputs cannot be compared. Raises ConfigError for
    streams that cannot be imported, StateCorrupt, and the errors of `Destination.reset`.
    """
    writer = destination.new_writer()
    contents = writer.inspect()
    entries = {name: _checked_entry(name, contents, stored) for name, stored in streams.items()}
    if not entries:
        raise ConfigError("state import: the state has no stream")
    try:
        writer.open(SystemClock().wall())
        for name in entries:  # another process may have written to the output since
            _check_has_nothing(name, OutputContents(writer.ledger, contents.rows))
        begun = {name: {"identity": identity, "mode": "append"} for name, (identity, _) in entries.items()}
        # A partial run does not end another one that is to be resumed.
        writer.begin_run({"op": "begin", "names": list(entries), "streams": begun, "partial": True})
        payloads = {name: CommitPayload({"state": partitions}, {}) for name, (_, partitions) in entries.items()}
        writer.ledger.apply(writer.commit(payloads))
        writer.end_run({"op": "end", "partial": True})
        writer.maintain(is_end=True)
    finally:
        writer.close()


def _reason_to_leave_out(stream: StreamLedger) -> str:
    if stream.is_provisional:
        return "its rows are a sample, or were dropped"
    if stream.is_reset:
        return "it was reset"
    if stream.is_replaced:
        return "its replacement is not complete, and the rows that were read for it are not visible yet"
    if stream.state.to_json():
        return ""
    return "it has no cursor, so every run reads all of it" if stream.state.cursor_name is None else "nothing was read"


def _checked_entry(
    name: str, contents: OutputContents, stored: Mapping[str, Any]
) -> tuple[Mapping[str, Any], list[Any]]:
    """The identity without credential, and the partitions. Raises ConfigError and StateCorrupt."""
    try:
        _check_has_nothing(name, contents)
        identity, partitions = stored["identity"], as_array(stored["partitions"]) or []
        state = empty_state(identity)
        state.merge_json(partitions)
        if state.cursor_name is None and not state.parents:
            raise ConfigError(
                "state import: it has no cursor, so every run reads all of it", hint="import the other streams only"
            )
        if _has_hashed_secret(partitions):
            raise ConfigError(
                "state import: its partitions contain secrets, whose hashes are valid in one output only",
                hint="copy the whole output instead, or read the stream from the beginning",
            )
    except AsyncStreamsError as error:
        raise error.locate(stream=name) from None
    return _without_credential(identity), partitions


def _check_has_nothing(name: str, contents: OutputContents) -> None:
    """Raises ConfigError if the output has rows or a state of the stream."""
    known, rows = contents.ledger.streams.get(name), contents.rows.get(name, 0)
    if rows or (known is not None and not (known.is_untouched or known.is_provisional)):
        held = f"{rows:,} rows" if rows else "a state"
        raise ConfigError(
            f"state import: the output has {held} of the stream, and its state says which records these are",
            hint="import into a new output, or remove what it has first: state reset DEST STREAM --drop",
        )


def _without_credential(identity: Mapping[str, Any]) -> dict[str, Any]:
    cleaned = {name: value for name, value in identity.items() if name != "credential"}
    if (parents := as_object(cleaned.get("parents"))) is not None:
        cleaned["parents"] = {name: _without_credential(parent) for name, parent in parents.items()}
    return cleaned


def _has_hashed_secret(value: Any) -> bool:
    if isinstance(value, str):
        return _HASHED_SECRET.fullmatch(value) is not None
    inner = list(fields.values()) if (fields := as_object(value)) is not None else as_array(value) or []
    return any(map(_has_hashed_secret, inner))
