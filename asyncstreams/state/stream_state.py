"""Progress of one stream: completed intervals and partitions, rather than the largest cursor value."""

from __future__ import annotations

import hashlib
import hmac
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, cast

from .._json import as_object, encode, encode_canonical
from ..cursors.cursor_format import CursorFormat, InvalidCursorValue
from ..cursors.intervals import Intervals, Point
from ..errors import ConfigError, StateCorrupt
from ..models import CursorField, Slice
from ..redaction import HiddenText, replace_secrets

_NUMBERS = CursorFormat("number")
_PROCESS_SALT = os.urandom(16)


class ResumePoint(NamedTuple):
    """The page at which the next run resumes a slice: its token, and its number from 0."""

    token: Any
    number: int


@dataclass(frozen=True, slots=True)
class StateDelta:
    """Progress of one partition, to be stored when its pages are acknowledged.

    `done` is a completed interval. Without it the complete partition is done, unless `resume` is the page at which
    it continues. `seen` maps hashes of rows that may be read again to their points.
    """

    partition: Mapping[str, Any]
    done: tuple[Point, Point] | None = None
    seen: Mapping[str, Point] = field(default_factory=dict[str, Point])
    resume: ResumePoint | None = None


@dataclass(slots=True)
class Partition:
    """The progress of one partition."""

    key: Mapping[str, Any]
    done: Intervals = field(default_factory=Intervals)
    is_done: bool = False
    seen: dict[str, Point] = field(default_factory=dict[str, Point])
    resume: ResumePoint | None = None


class StreamState(Mapping[str, Any]):
    """The progress of one stream, as passed to its hooks.

    A mapping with one item: the cursor field and the frontier, before which everything has been read. It is empty
    and falsy in the first run. With several partitions, the frontier is that of the partition furthest behind;
    `of(partition)` is the state of a single one. A Secret in a partition is kept as its keyed hash.
    """

    def __init__(self, cursor_field: CursorField = None, cursor: CursorFormat = _NUMBERS) -> None:
        self.cursor_name = cursor_name(cursor_field)
        self.cursor = cursor
        self.lookback: Point = 0
        self.parents: dict[str, StreamState] = {}
        self._salt = _PROCESS_SALT
        self._partitions: dict[str, Partition] = {}
        self._partition: Mapping[str, Any] | None = None

    def of(self, partition: Mapping[str, Any]) -> StreamState:
        """A view of one partition, which shows later progress of this state."""
        view = StreamState.__new__(StreamState)
        view.cursor_name, view.cursor, view.lookback = self.cursor_name, self.cursor, self.lookback
        view.parents = {}
        view._salt = self._salt
        view._partitions, view._partition = self._partitions, self._without_secrets(partition)
        return view

    def use_salt(self, salt: bytes) -> None:
        """Set the key of the hashes of Secrets, for this state and its parents: that of the file that stores them."""
        self._salt = salt
        for parent in self.parents.values():
            parent.use_salt(salt)

    @property
    def frontier(self) -> Any:
        """The cursor value before which everything has been read; None if a partition has no interval yet."""
        frontiers = [partition.done.frontier for partition in self._visible_partitions()]
        known = [point for point in frontiers if point is not None]
        if not known or len(known) < len(frontiers):
            return None
        return self.cursor.value(min(known))

    @property
    def done(self) -> list[tuple[Any, Any]]:
        """The intervals read, half-open and in ascending order; a start of None means from the beginning."""
        return [(self._value(start), self._value(end)) for start, end in self._visible_intervals()]

    def gaps(self, start: Any = None, end: Any = None) -> list[tuple[Any, Any]]:
        """The parts of [start, end) that have not been read, in ascending order; None is no bound."""
        low = -math.inf if start is None else self.cursor.point(start)
        high = math.inf if end is None else self.cursor.point(end)
        return [(self._value(low), self._value(high)) for low, high in self._visible_intervals().gaps(low, high)]

    def partition(self) -> Partition:
        """The progress of the partition of this view, or of the unnamed partition if this is not a view."""
        key = self._partition or {}
        return self._partitions.get(partition_key(key)) or Partition(key)

    def is_done(self, partition: Mapping[str, Any]) -> bool:
        """Whether a partition without intervals has been read completely."""
        known = self._partitions.get(partition_key(self._without_secrets(partition)))
        return known is not None and known.is_done

    def apply(self, delta: StateDelta) -> None:
        """Add the progress of a delta."""
        partition = self._without_secrets(delta.partition)
        key = partition_key(partition)
        known = self._partitions.get(key)
        if known is None:
            known = self._partitions[key] = Partition(dict(partition))
        known.resume = delta.resume
        if delta.done is not None:
            known.done.add(*delta.done)
        elif delta.resume is None:
            known.is_done = True
        known.seen.update(delta.seen)
        if known.seen and known.done:
            known.seen = {row: point for row, point in known.seen.items() if self._may_recur(known.done, point)}

    def delta_to_json(self, delta: StateDelta) -> dict[str, Any]:
        """A delta as JSON values."""
        payload: dict[str, Any] = {"partition": dict(self._without_secrets(delta.partition))}
        if delta.done is not None:
            payload["done"] = [self._value(point) for point in delta.done]
        if delta.seen:
            payload["seen"] = {row: self._value(point) for row, point in delta.seen.items()}
        if delta.resume is not None:
            payload["resume"] = [delta.resume.token, delta.resume.number]
        return payload

    def delta_from_json(self, payload: Mapping[str, Any]) -> StateDelta:
        """The inverse of `delta_to_json`."""
        done, resume = payload.get("done"), payload.get("resume")
        return StateDelta(
            payload["partition"],
            None if done is None else (self._point(done[0], -math.inf), self._point(done[1])),
            {row: self._point(value) for row, value in payload.get("seen", {}).items()},
            None if resume is None else ResumePoint(*resume),
        )

    def restart(self, parents: Mapping[str, StreamState] | None = None) -> None:
        """Forget the partitions without intervals, after a complete read; the next run reads them again.

        `parents` are the states that the parents had in this run: with `incremental_dependency` the next run reads
        only parents that are newer.
        """
        for key in [key for key, partition in self._partitions.items() if not partition.done]:
            del self._partitions[key]
        self.parents.update(parents or {})

    def copy(self) -> StreamState:
        """An independent copy."""
        copied = StreamState(self.cursor_name, self.cursor)
        copied.lookback, copied._salt = self.lookback, self._salt
        copied.parents = {name: parent.copy() for name, parent in self.parents.items()}
        copied._partitions = {
            key: replace(partition, done=Intervals(partition.done), seen=dict(partition.seen))
            for key, partition in self._partitions.items()
        }
        return copied

    def is_equivalent(self, other: StreamState) -> bool:
        """Whether both states leave the same records to be read."""
        return (
            self.cursor_name == other.cursor_name
            and self._partitions == other._partitions
            and self.parents.keys() == other.parents.keys()
            and all(parent.is_equivalent(other.parents[name]) for name, parent in self.parents.items())
        )

    def to_json(self) -> list[Any]:
        """The complete state as JSON values: one object for each partition, then one for each parent."""
        items: list[Any] = []
        for partition in self._partitions.values():
            item: dict[str, Any] = {"partition": dict(partition.key)}
            if partition.done:
                item["done"] = [[self._value(start), self._value(end)] for start, end in partition.done]
            if partition.is_done:
                item["is_done"] = True
            if partition.seen:
                item["seen"] = {row: self._value(point) for row, point in partition.seen.items()}
            if partition.resume is not None:
                item["resume"] = [partition.resume.token, partition.resume.number]
            items.append(item)
        return items + [{"parent_stream": name, "state": parent.to_json()} for name, parent in self.parents.items()]

    def merge_json(self, payload: Any) -> None:
        """Add the progress in a result of `to_json`. Raises StateCorrupt."""
        try:
            for item in cast(Sequence[Mapping[str, Any]], payload):
                if "parent_stream" in item:
                    if item["parent_stream"] in self.parents:  # the stream may have fewer parents now
                        self.parents[item["parent_stream"]].merge_json(item["state"])
                    continue
                key = cast(Mapping[str, Any], item["partition"])
                resume = item.get("resume")
                self._partitions[partition_key(key)] = Partition(
                    key,
                    Intervals((self._point(start, -math.inf), self._point(end)) for start, end in item.get("done", ())),
                    bool(item.get("is_done", False)),
                    {row: self._point(value) for row, value in item.get("seen", {}).items()},
                    None if resume is None else ResumePoint(*resume),
                )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StateCorrupt(f"state: the stored progress of a stream is corrupt: {error}") from None

    def __getitem__(self, key: str) -> Any:
        if key != self.cursor_name or (frontier := self.frontier) is None:
            raise KeyError(key)
        return frontier

    def __iter__(self) -> Iterator[str]:
        return iter(() if self.cursor_name is None or self.frontier is None else (self.cursor_name,))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        has_progress = any(
            partition.done or partition.is_done or partition.seen or partition.resume
            for partition in self._visible_partitions()
        )
        return has_progress or any(self.parents.values())

    def __repr__(self) -> str:
        return f"StreamState({dict(self)}, {len(self._partitions)} partitions)"

    def _without_secrets(self, partition: Mapping[str, Any]) -> Mapping[str, Any]:
        """The partition with the keyed hash in place of each Secret."""

        def keyed_hash(secret: HiddenText) -> str:
            text = secret.reveal().encode("utf-8", "surrogatepass")
            return f"secret:{hmac.new(self._salt, text, hashlib.blake2b).hexdigest()[:32]}"

        return cast(Mapping[str, Any], replace_secrets(partition, keyed_hash))

    def _may_recur(self, done: Intervals, point: Point) -> bool:
        """Whether a row at this point will be read again."""
        latest = done.latest
        return latest is None or point >= latest - self.lookback or not done.covers(point, point + 1)

    def _visible_partitions(self) -> Sequence[Partition]:
        if self._partition is None:
            return tuple(self._partitions.values())
        partition = self._partitions.get(partition_key(self._partition))
        return () if partition is None else (partition,)

    def _visible_intervals(self) -> Intervals:
        return Intervals(interval for partition in self._visible_partitions() for interval in partition.done)

    def _value(self, point: Point) -> Any:
        return None if math.isinf(point) else self.cursor.value(point)

    def _point(self, value: Any, default: Point = math.inf) -> Point:
        return default if value is None else self.cursor.point(value)


def empty_state(identity: Mapping[str, Any]) -> StreamState:
    """The state before the first run of a stream with this identity, including its parents. Raises ConfigError."""
    declared = identity.get("cursor_field")
    name = cast(CursorField, tuple(cast("list[str]", declared)) if isinstance(declared, list) else declared)
    state = StreamState(name, CursorFormat(identity.get("cursor_format") or "iso", identity.get("cursor_timezone")))
    parents = cast(Mapping[str, Mapping[str, Any]], identity.get("parents") or {})
    state.parents = {parent: empty_state(parent_identity) for parent, parent_identity in parents.items()}
    return state


def merge_state(state: StreamState, mapping: Mapping[str, Any]) -> StreamState:
    """Add the progress in a mapping to `state`, and return `state`. Raises ConfigError.

    Accepts `{cursor_field: value}`, as written by the Airbyte CDK and Singer, and the CDK's other forms: per partition,
    `{"states": [{"partition": {...}, "cursor": {...}}]}`, concurrent, `{"slices": [{"start": ..., "end": ...}]}`,
    and with `{"parent_state": {name: ...}}` beside them.
    """
    name, cursor = state.cursor_name, state.cursor
    if mapping and not {name, "states", "slices", "parent_state"} & set(mapping):
        keys = ", ".join(map(repr, mapping))
        raise ConfigError(
            f"state: it contains {keys}, but not the cursor_field {name!r}",
            hint=f"pass a State, or a mapping such as {{{name!r}: value}}",
        )
    try:
        for item in cast(Sequence[Mapping[str, Any]], mapping.get("states") or ()):
            value = cast(Mapping[str, Any], item["cursor"])[name or ""]
            state.apply(StateDelta(item["partition"], (-math.inf, cursor.point(value))))
        for item in cast(Sequence[Mapping[str, Any]], mapping.get("slices") or ()):
            state.apply(StateDelta({}, (cursor.point(item["start"]), cursor.point(item["end"]))))
        if name is not None and mapping.get(name) is not None:
            state.apply(StateDelta({}, (-math.inf, cursor.point(mapping[name]))))
        for parent, parent_state in cast(Mapping[str, Mapping[str, Any]], mapping.get("parent_state") or {}).items():
            if parent in state.parents:
                merge_state(state.parents[parent], parent_state)
    except (InvalidCursorValue, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"state: unknown or invalid format: {error}",
            hint=f"pass a State, or a mapping such as {{{name!r}: value}}",
        ) from None
    return state


def to_airbyte_state(state: StreamState, form: str = "stream") -> dict[str, Any]:
    """Convert a state to a form of the Airbyte CDK: "stream", "per-partition" or "concurrent" (a list of slices).

    With `incremental_dependency` the result also contains the states of the parents, as `parent_state`. Raises
    ConfigError for an unknown form.
    """
    parents = {name: to_airbyte_state(parent) for name, parent in state.parents.items() if parent}
    return _airbyte_state(state, form) | ({"parent_state": parents} if parents else {})


def _airbyte_state(state: StreamState, form: str) -> dict[str, Any]:
    name = state.cursor_name or ""
    if form == "concurrent":
        slices = [{"start": start, "end": end} for start, end in state.done]
        return {"state_type": "date-range", "slices": slices}
    if form == "per-partition":
        partitions = [item["partition"] for item in state.to_json() if item.get("done")]
        return {"states": [{"partition": key, "cursor": {name: state.of(key).frontier}} for key in partitions]}
    if form != "stream":
        raise ConfigError(
            f"to_airbyte_state(form={form!r}): unknown form", hint="use 'stream', 'per-partition' or 'concurrent'"
        )
    return dict(state)


def partition_key(partition: Mapping[str, Any]) -> str:
    """A hash of a partition that does not depend on the order of its names; empty for the unnamed partition."""
    return hashlib.blake2b(encode_canonical(dict(partition)), digest_size=16).hexdigest() if partition else ""


def row_key(record: Mapping[str, Any], key: Sequence[Sequence[str]]) -> str:
    """A hash that identifies a row: of its primary key or, without one, of the whole record."""
    payload = encode([value_at(record, path) for path in key]) if key else encode_canonical(dict(record))
    return hashlib.blake2b(payload, digest_size=9).hexdigest()


def cursor_name(cursor_field: CursorField) -> str | None:
    """The key of a cursor field in a state: its name, or its path joined by dots."""
    if not cursor_field:
        return None
    return cursor_field if isinstance(cursor_field, str) else ".".join(cursor_field)


def value_at(record: Mapping[str, Any], path: Sequence[str]) -> Any:
    """The value at a path of names, or None."""
    value: Any = record
    for name in path:
        fields = as_object(value)
        if fields is None:
            return None
        value = fields.get(name)
    return value


def points_of(stream_slice: Slice, cursor: CursorFormat) -> tuple[Point, Point]:
    """The interval of a slice as points. Raises ConfigError."""
    assert stream_slice.interval is not None
    start, end = stream_slice.interval
    try:
        low = -math.inf if start is None else cursor.point(start)
        high = math.inf if end is None else cursor.point(end)
    except InvalidCursorValue as error:
        raise ConfigError(f"slice {stream_slice!r}: a bound of its interval is {error}") from None
    return low, high
