"""States as files: of this library, and of Airbyte."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from .._json import as_object, decode
from ..destinations import state_transfer
from ..errors import ConfigError, MalformedJSON
from ..state.airbyte_state import by_stream_name, to_airbyte_state
from ..state.compatibility import identity_of
from ..state.state_file import State
from ..state.stream_state import StreamState
from .destination_argument import destination_for
from .existing_output import ExistingOutput, load_state, open_destination
from .failures import CommandOutput
from .opened_source import open_source
from .stdout_tables import to_json_text

StateForm: TypeAlias = Literal["state", "airbyte"]


def export_text(output: ExistingOutput, form: StateForm) -> tuple[str, Mapping[str, str]]:
    """The state as text, and the streams that are left out, with the reasons."""
    left_out: Mapping[str, str] = {}
    state = output
    if not isinstance(state, State):
        exported = state_transfer.export_state(state)
        left_out = exported.left_out
        state = State.from_json(exported.state)
    if form == "state":
        return state.to_text().decode(), left_out
    messages, more = _airbyte_messages(state)
    return f"{to_json_text(messages)}\n", {**left_out, **more}


def import_into_file(path: Path, file: Path) -> list[str]:
    """Write a state to a new file of `read --state`; return the streams. Raises ConfigError."""
    if path.exists():
        raise ConfigError(
            f"{path} exists", hint="import into a new file; `state reset` forgets single streams of this one"
        )
    stored, airbyte = _read_states(file)
    state = State.from_json(stored, path) if stored is not None else State.from_airbyte(airbyte, path)
    asyncio.run(state.save())
    return sorted(_names(state))


def import_into_destination(
    dest: str,
    file: Path,
    source: str | None,
    config: Path | None,
    flags: Sequence[str] | None,
    output: CommandOutput,
) -> list[str]:
    """Mark what a state covers as read in an output; return the streams. Raises ConfigError."""
    stored, airbyte = _read_states(file)
    streams: dict[str, Mapping[str, Any]] = dict(stored["streams"]) if stored is not None else {}
    if stored is not None:
        airbyte = as_object(stored.get("airbyte")) or {}
    if airbyte:
        if source is None:
            raise ConfigError(
                f"{file}: is a state of Airbyte, which does not say how its cursors are written",
                hint="name the Source with --source",
            )
        opened = open_source(source, config, flags, output).source
        state = State.from_airbyte(airbyte)
        for name in airbyte:
            stream = opened[name]
            streams[name] = {"identity": identity_of(stream), "partitions": state.of(stream).to_json()}
    path = Path(dest).expanduser()
    destination = open_destination(dest) if path.is_dir() and any(path.iterdir()) else destination_for(dest)
    if destination is None:
        raise ConfigError("DEST -: stdout keeps nothing", hint="name a folder, a database, or a file of --state")
    state_transfer.import_state(destination, streams)
    return sorted(streams)


def _read_states(file: Path) -> tuple[dict[str, Any] | None, Mapping[str, Mapping[str, Any]]]:
    """The result of `State.to_json` in a file, or the states of Airbyte in it. Raises ConfigError and StateCorrupt."""
    if not file.is_file():
        raise ConfigError(f"{file}: there is no such file")
    try:
        text = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror or type(error).__name__}") from None
    try:
        document = as_object(decode(text)) or {}
    except MalformedJSON:
        document = {}
    if {"sum", "state"} <= document.keys():
        return load_state(file).to_json(), {}
    try:
        return None, by_stream_name(text.decode("utf-8", "replace"))
    except ConfigError as error:
        raise ConfigError(f"{file}: is no state: {error.message}", hint=error.hint) from None


def _airbyte_messages(state: State) -> tuple[list[Any], dict[str, str]]:
    """One message of Airbyte for each stream, and the streams that have none, with the reasons."""
    states: dict[str, Any] = dict(as_object(state.to_json().get("airbyte")) or {})
    left_out: dict[str, str] = {}
    for name in _names(state) - states.keys():
        known = state.get(name)
        found = {} if known is None else _airbyte_form(known)
        if found:
            states[name] = found
        else:
            left_out[name] = "its state has no cursor value that Airbyte could begin at"
    messages = [
        {"type": "STREAM", "stream": {"stream_descriptor": {"name": name}, "stream_state": value}}
        for name, value in sorted(states.items())
    ]
    return messages, left_out


def _airbyte_form(state: StreamState) -> dict[str, Any]:
    """The form for partitions if there are some; empty without a cursor value."""
    if not state.has_partitions:
        return to_airbyte_state(state)
    found = to_airbyte_state(state, "per-partition")
    found["states"] = [item for item in found["states"] if None not in item["cursor"].values()]
    return found if found["states"] or "state" in found else {}


def _names(state: State) -> set[str]:
    payload = state.to_json()
    return {*payload["streams"], *payload.get("airbyte", {})}
