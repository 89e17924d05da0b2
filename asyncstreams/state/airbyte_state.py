"""States of the Airbyte CDK, converted to progress and back."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Container, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeAlias, cast

from .._json import as_object, decode, decode_lines
from ..cursors.cursor_format import InvalidCursorValue
from ..cursors.intervals import Intervals, Point
from ..declaration.stream import Stream
from ..errors import ConfigError, MalformedJSON
from ..models import Slice, key_paths, shorten
from ..redaction import displayed
from .stream_state import StateDelta, StreamState, partition_key

StateInput: TypeAlias = Mapping[str, Any] | Sequence[Mapping[str, Any]] | str | None
"""Where reading begins: a State, a mapping of the Airbyte CDK or of Singer, a list of Airbyte's state messages, or the
JSON text of one of these."""

_NO_CURSOR = {"__ab_no_cursor_state_message", "__ab_full_refresh_sync_complete", "__ab_full_refresh_state_message"}
# `legacy` is the state from which the CDK made `slices`.
_SLICES = {"slices", "state_type", "legacy"}
_PARTITIONS = {"states", "state", "use_global_cursor", "lookback_window", "parent_state"}
_MESSAGE_TYPES = ("STATE", "STREAM", "GLOBAL", "LEGACY")
_MESSAGE_KEYS = {"stream_descriptor", "streamDescriptor", "stateType"}
_log = logging.getLogger("asyncstreams")


def decode_state(given: object) -> object:
    """The value of a `state` argument, decoded if it is JSON text or JSON lines. Raises ConfigError for paths."""
    if isinstance(given, bytes | bytearray):
        given = bytes(given).decode("utf-8", "replace")
    if isinstance(given, os.PathLike) or (isinstance(given, str) and given.lstrip()[:1] not in ("{", "[")):
        raise ConfigError(
            f"state: of type {type(cast(object, given)).__name__}, which is neither a state nor JSON text",
            hint="for a file of asyncstreams pass State.load(path), for a state of Airbyte the content of its file",
        )
    if isinstance(given, str):
        text = given.encode("utf-8", "surrogatepass")
        try:
            return decode(text)
        except MalformedJSON as error:
            problem = error.message
        try:
            return decode_lines(text)
        except MalformedJSON:
            raise ConfigError(f"state: the text is {problem.removeprefix('sent ')}") from None
    return given


def states_by_stream(given: object) -> dict[str, Mapping[str, Any]] | None:
    """The states in a list of Airbyte's messages, or in one message, by stream; None for any other mapping.

    Raises ConfigError for a list of anything else, and for two states of one stream in different namespaces.
    """
    if isinstance(given, list | tuple):
        messages = cast(Sequence[object], given)
    elif isinstance(given, Mapping) and _is_message(cast(Mapping[str, Any], given)):
        messages = [cast(object, given)]
    else:
        return None
    found: dict[str, Mapping[str, Any]] = {}
    namespaces: dict[str, object] = {}
    for message in messages:
        for name, namespace, state in _states_in(message):
            if namespaces.setdefault(name, namespace) != namespace:
                raise ConfigError(
                    f"state: it has states of stream {name!r} in two namespaces",
                    hint="leave out the messages of the namespace that is not read",
                )
            found[name] = state  # a later message replaces an earlier one
    return found


def by_stream_name(given: object) -> Mapping[str, Mapping[str, Any]]:
    """The states of several streams by name, from messages or a mapping, or their JSON text. Raises ConfigError."""
    decoded = decode_state(given)
    by_stream = states_by_stream(decoded)
    found = as_object(decoded) if by_stream is None else by_stream
    if found is None or not all(isinstance(state, Mapping) for state in found.values()):
        raise ConfigError(
            "state: expected state messages, or a mapping from stream names to states",
            hint='for a single stream pass {"orders": {"updated_at": ...}}, with the name of the stream',
        )
    return found


def select_states(names: Container[str], given: Any) -> Any:
    """The states of these streams by name, if `given` holds messages or JSON text; anything else is returned as it is.

    Raises ConfigError for a text without states.
    """
    decoded = given if given is None else decode_state(given)
    by_stream = states_by_stream(decoded)
    if by_stream is None:
        return decoded
    if others := [name for name in by_stream if name not in names]:
        _log.warning("states of other streams are not used: %s", _listed(others))
    return {name: state for name, state in by_stream.items() if name in names}


def state_for(stream: Stream, given: object) -> Mapping[str, Any]:
    """The state of one stream in what was passed as `state`. Raises ConfigError."""
    decoded = decode_state(given)
    by_stream = states_by_stream(decoded)
    mapping = as_object(decoded)
    if by_stream is None and mapping is not None and as_object(mapping.get(stream.name)) is not None:
        by_stream = mapping if stream.name != stream.resolved.cursor_field else None
    if by_stream is not None:
        others = [name for name in by_stream if name != stream.name]
        if by_stream and stream.name not in by_stream:
            raise ConfigError(
                f"state: it has no state of stream {stream.name!r}, but of {_listed(others)}",
                hint="set the `name` of the stream to the one that it has in the state",
            )
        if others:
            _log.warning("%s: states of other streams are not used: %s", stream.name, _listed(others))
        return by_stream.get(stream.name, {})
    if not isinstance(decoded, Mapping):
        raise ConfigError(
            f"state: of type {type(decoded).__name__}: expected a State, a mapping or a list of state messages"
        )
    return cast(Mapping[str, Any], decoded)


def merge_airbyte_state(stream: Stream, state: StreamState, given: Mapping[str, Any]) -> StreamState:
    """Add the progress in a state of the Airbyte CDK, or of Singer, to `state`, and return `state`.

    What is not used is logged as a warning. Raises ConfigError for what cannot be used.
    """
    name = state.cursor_name
    known = {name, *_NO_CURSOR, *_SLICES, *_PARTITIONS}
    if given and not known & set(given):
        raise ConfigError(
            f"state: it contains {_listed(given)}, but not the cursor_field {name!r}",
            hint=f"pass a State, or a mapping such as {{{name!r}: value}}",
        )
    unused = [repr(key) for key, value in given.items() if key not in known and value]
    try:
        unused += _AirbyteState(stream, state, given).merge()
    except (InvalidCursorValue, KeyError, TypeError, AttributeError, ValueError) as error:
        problem = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ConfigError(
            f"state: unknown or invalid format: {problem}",
            hint=f"pass a State, or a mapping such as {{{name!r}: value}}",
        ) from None
    if unused:
        _log.warning("%s: this part of the state is not used: %s", stream.name, ", ".join(unused))
    if given and name is not None and not state:
        _log.warning("%s: the state has no cursor value, so everything is read", stream.name)
    return state


def to_airbyte_state(state: StreamState, form: str = "stream") -> dict[str, Any]:
    """Convert a state to a form of the Airbyte CDK: "stream", "per-partition" or "concurrent" (a list of slices).

    With `incremental_dependency` the result also contains the states of the parents, as `parent_state`. Raises
    ConfigError for an unknown form.
    """
    parents = {name: to_airbyte_state(parent) for name, parent in state.parents.items() if parent}
    return _airbyte_state(state, form) | ({"parent_state": parents} if parents else {})


class _AirbyteState:
    """The state of one stream, in one of the forms of the CDK."""

    def __init__(self, stream: Stream, state: StreamState, given: Mapping[str, Any]) -> None:
        self._stream, self._state, self._given = stream, state, given
        self._name = state.cursor_name
        self._renamed: set[str] = set()

    def merge(self) -> list[str]:
        """Add everything to the state; returns what is not used. Raises many errors for other forms."""
        given, unused = self._given, list[str]()
        shared = _object_at(given, "state")
        states = _objects_at(given, "states")
        if given.get("use_global_cursor") and shared and states:
            unused.append(f"'states', {len(states):,} partitions, because 'use_global_cursor' is true")
            states = []
        self._merge_partitions(states)
        initial = Intervals(self._state.initial)
        if shared:
            parts = self._slices(shared) if "slices" in shared else [(-math.inf, self._point_in(shared))]
            for start, end in parts:
                initial.add(start, self._state.cursor.floor(end - self._lookback()))
        elif given.get("lookback_window"):
            unused.append("'lookback_window', without 'state'")
        if self._name is not None and given.get(self._name) is not None:
            initial.add(-math.inf, self._point(given[self._name]))
        for interval in self._slices(given):
            initial.add(*interval)
        self._state.initial = initial
        return unused + self._merge_parents()

    def _merge_partitions(self, states: Sequence[Mapping[str, Any]]) -> None:
        progress: dict[str, tuple[Mapping[str, Any], Intervals]] = {}
        for item in states:
            if missing := {"cursor", "partition"} - item.keys():
                raise ValueError(f"{_listed(sorted(missing))} is missing in 'states'")
            cursor = _object_at(item, "cursor")
            done = self._slices(cursor) if "slices" in cursor else [(-math.inf, self._point_in(cursor))]
            for partition in self._own_partitions(_object_at(item, "partition")):
                key = partition_key(partition)
                intervals = Intervals(done)
                if key in progress:  # of parents with equal keys: only what both have been read of counts
                    unread = Intervals([*intervals.gaps(), *progress[key][1].gaps()])
                    intervals = Intervals(unread.gaps())
                progress[key] = partition, intervals
        for key, (partition, intervals) in progress.items():
            for interval in intervals:
                self._state.apply(StateDelta(partition, interval))
            self._state.unused[key] = partition
        if self._renamed:
            parent = self._stream.parents[0]
            _log.warning(
                "%s: %s in the state is read as the primary key of %s, %r",
                self._stream.name,
                _listed(self._renamed),
                parent.name,
                parent.resolved.primary_key,
            )

    def _merge_parents(self) -> list[str]:
        """Add the states of the parents; returns those that are not used."""
        given = _object_at(self._given, "parent_state")
        parents = {parent.name: parent for parent in self._stream.parents if parent.name in self._state.parents}
        for name in given.keys() & parents.keys():
            merge_airbyte_state(parents[name], self._state.parents[name], _object_at(given, name))
        reason = "" if self._stream.resolved.incremental_dependency else ", because incremental_dependency is not set"
        return [f"'parent_state' of {name!r}{reason}" for name, value in given.items() if value and name not in parents]

    def _slices(self, given: Mapping[str, Any]) -> list[tuple[Point, Point]]:
        """The intervals of a concurrent state. The last one ends with the most recent record, as in the CDK."""
        found: list[tuple[Point, Point]] = []
        last: Point = -math.inf
        latest: Point | None = None
        for item in _objects_at(given, "slices"):
            start, end = self._point(item["start"]), self._point(item["end"])
            recent = item.get("most_recent_cursor_value")
            if end > last:
                last, latest = end, None if recent is None else self._point(recent)
            # The CDK writes 1970 for the beginning of time.
            found.append((-math.inf if start == 0 else start, end))
        if latest is None:
            return found
        return [(start, min(end, latest) if end == last else end) for start, end in found]

    def _point_in(self, cursor: Mapping[str, Any]) -> Point:
        if self._name is None or self._name not in cursor:
            raise ValueError(f"a cursor has {_listed(cursor)}, but not the cursor_field {self._name!r}")
        return self._point(cursor[self._name])

    def _point(self, value: Any) -> Point:
        if not self._state.cursor.is_decided:  # an epoch shows the unit of bounds, too
            self._state.use_cursor(self._state.cursor.decided_by_epoch(value))
        return self._state.cursor.point(value)

    def _lookback(self) -> Point:
        seconds = self._given.get("lookback_window") or 0
        if not isinstance(seconds, int | float) or (seconds and not self._state.cursor.is_time):
            raise ValueError("'lookback_window' is not a number of seconds, or the cursor is not a time")
        return self._state.cursor.distance(timedelta(seconds=seconds))

    def _own_partitions(self, partition: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """The partitions in which the stream keeps what the CDK keeps in one of its own. Raises ConfigError."""
        stream = self._stream
        own = {name: value for name, value in partition.items() if name != "parent_slice"}
        if not stream.parents:
            return [own]
        if "parent" in own or "parents" in own:
            return stream.partitions_of(Slice(own))
        keys = key_paths(stream.parents[0].resolved.primary_key)
        names = [".".join(key) for key in keys]
        if len(stream.parents) > 1 or len(keys) != len(own) or (len(keys) > 1 and {*own} != {*names}):
            parents = _listed(parent.name for parent in stream.parents)
            raise ConfigError(
                f"state: a partition of {_listed(own)} does not say which record of {parents} it belongs to",
                hint='write each partition as {"parent": {...}}, with the primary key of the parent',
            )
        if len(own) == 1 and {*own} != {*names}:
            self._renamed.update(own)
        values = list(own.values()) if len(own) == 1 else [own[name] for name in names]
        record: dict[str, Any] = {}
        for key, value in zip(keys, values, strict=True):
            fields = record
            for field in key[:-1]:
                fields = fields.setdefault(field, {})
            fields[key[-1]] = value
        return stream.partitions_of(Slice({"parent": record}))


def _airbyte_state(state: StreamState, form: str) -> dict[str, Any]:
    name = state.cursor_name or ""
    if form == "concurrent":
        slices = [{"start": start, "end": end} for start, end in state.done]
        return {"state_type": "date-range", "slices": slices}
    if form == "per-partition":
        partitions = [item["partition"] for item in state.to_json() if item.get("done")]
        states = [{"partition": key, "cursor": {name: state.of(key).frontier}} for key in partitions]
        frontier = state.initial.frontier
        shared = {} if frontier is None else {"state": {name: state.cursor.value(frontier)}}
        return {"states": states, **shared}
    if form != "stream":
        raise ConfigError(
            f"to_airbyte_state(form={form!r}): unknown form", hint="use 'stream', 'per-partition' or 'concurrent'"
        )
    return dict(state)


def _is_message(given: Mapping[str, Any]) -> bool:
    return given.get("type") in _MESSAGE_TYPES or bool(_MESSAGE_KEYS & set(given))


def _states_in(message: object) -> Iterator[tuple[str, object, Mapping[str, Any]]]:
    """The name, namespace and state of each stream in a message. Raises ConfigError."""
    fields = as_object(message)
    if fields is None:
        raise ConfigError(f"state: a message is of type {type(message).__name__}, not an object")
    descriptor = as_object(fields.get("stream_descriptor") or fields.get("streamDescriptor"))
    inner = as_object(fields.get("stream") or fields.get("state"))
    shared = as_object(fields.get("global") or fields.get("global_") or fields.get("globalState"))
    legacy = as_object(fields.get("data")) if inner is None else None
    if descriptor is not None:
        state = as_object(fields.get("stream_state") or fields.get("streamState"))
        yield str(descriptor.get("name")), descriptor.get("namespace"), state or {}
    elif shared is not None:
        if shared.get("shared_state") or shared.get("sharedState"):
            _log.warning("state: 'shared_state' of a global message is not used")
        for inner_message in cast(Sequence[object], shared.get("stream_states") or shared.get("streamStates") or ()):
            yield from _states_in(inner_message)
    elif fields.get("stateType") == "legacy" or legacy is not None:
        for name, value in (legacy or inner or {}).items():
            yield name, None, as_object(value) or {}
    elif inner is not None:
        yield from _states_in(inner)
    elif isinstance(states := fields.get("streamState"), list):
        for inner_message in cast("list[object]", states):
            yield from _states_in(inner_message)
    else:
        raise ConfigError(
            f"state: a message has {_listed(fields)}, but no state of a stream",
            hint='pass messages such as {"stream_descriptor": {"name": "orders"}, "stream_state": {...}}',
        )


def _object_at(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    """An object in a state; empty if it is missing or null. Raises ValueError."""
    value = given.get(name)
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(f"{name!r} is of type {type(value).__name__}, not an object")
    return dict(cast(Mapping[str, Any], value or {}))


def _objects_at(given: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The objects of an array in a state; empty if it is missing or null. Raises ValueError."""
    value = given.get(name)
    if value is not None and not isinstance(value, list | tuple):
        raise ValueError(f"{name!r} is of type {type(value).__name__}, not a list")
    return [_object_at({name: item or {}}, name) for item in cast(Sequence[object], value or ())]


def _listed(names: Any) -> str:
    return shorten(", ".join(displayed(name) for name in names)) or "nothing"
