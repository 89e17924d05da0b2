"""What of a stream has been read: finished intervals and partitions, never the largest value seen."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from .._json import as_object, canonical, encode
from ..cursors.cursor_format import CursorFormat, InvalidCursorValue
from ..cursors.intervals import Intervals, Point
from ..errors import ConfigError, StateCorrupt
from ..models import CursorField, Slice

_NUMBERS = CursorFormat("number")


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where in a slice its next page is: the token of that page, and its number."""

    token: Any
    number: int


@dataclass(frozen=True, slots=True)
class StateDelta:
    """What becomes known of one partition when some of its pages are safe.

    `done` is the interval that is finished; without one the whole partition is, unless `resume` says where it
    goes on. `seen` maps rows that may come again to their points.
    """

    partition: Mapping[str, Any]
    done: tuple[Point, Point] | None = None
    seen: Mapping[str, Point] = field(default_factory=dict[str, Point])
    resume: ResumePoint | None = None


@dataclass(slots=True)
class Partition:
    """What has been read of one partition."""

    key: Mapping[str, Any]
    done: Intervals = field(default_factory=Intervals)
    is_done: bool = False
    seen: dict[str, Point] = field(default_factory=dict[str, Point])
    resume: ResumePoint | None = None


class StreamState(Mapping[str, Any]):
    """What has been read of one stream, as its hooks find it.

    A mapping of the cursor field to the frontier: all before it has been read. It is empty, and falsy, in a first
    run. `of(partition)` is the same for one partition; without one the frontier is that of the partition that
    is furthest behind.
    """

    def __init__(self, cursor_field: CursorField = None, cursor: CursorFormat = _NUMBERS) -> None:
        self.cursor_name = cursor_name(cursor_field)
        self.cursor = cursor
        self.lookback: Point = 0
        self.parents: dict[str, StreamState] = {}
        self._partitions: dict[str, Partition] = {}
        self._at: Mapping[str, Any] | None = None

    def of(self, partition: Mapping[str, Any]) -> StreamState:
        """The state of one partition; it stays the same state, and moves with it."""
        view = StreamState.__new__(StreamState)
        view.cursor_name, view.cursor, view.lookback = self.cursor_name, self.cursor, self.lookback
        view.parents = {}
        view._partitions, view._at = self._partitions, partition
        return view

    @property
    def frontier(self) -> Any:
        """The value up to which all has been read; None where nothing has."""
        points = [one.done.frontier for one in self._these()]
        known = [point for point in points if point is not None]
        if not known or len(known) < len(points):
            return None
        return self.cursor.value(min(known))

    @property
    def done(self) -> list[tuple[Any, Any]]:
        """What has been read, as half-open intervals in order; None as a start: from the beginning."""
        found = Intervals(interval for one in self._these() for interval in one.done)
        return [(self._value(start), self._value(end)) for start, end in found]

    def gaps(self, start: Any = None, end: Any = None) -> list[tuple[Any, Any]]:
        """What of [start, end) has not been read, in order; None is no bound."""
        low = -math.inf if start is None else self.cursor.point(start)
        high = math.inf if end is None else self.cursor.point(end)
        done = Intervals(interval for one in self._these() for interval in one.done)
        return [(self._value(low), self._value(high)) for low, high in done.gaps(low, high)]

    def partition(self) -> Partition:
        """What is known of the partition that this is the state of; of the one without a name, where it is of all."""
        at = self._at or {}
        return self._partitions.get(partition_key(at)) or Partition(at)

    def is_done(self, partition: Mapping[str, Any]) -> bool:
        """Whether a partition without intervals has been read to its end."""
        found = self._partitions.get(partition_key(partition))
        return found is not None and found.is_done

    def apply(self, delta: StateDelta) -> None:
        """More is known."""
        key = partition_key(delta.partition)
        known = self._partitions.get(key)
        if known is None:
            known = self._partitions[key] = Partition(dict(delta.partition))
        known.resume = delta.resume
        if delta.done is not None:
            known.done.add(*delta.done)
        elif delta.resume is None:
            known.is_done = True
        known.seen.update(delta.seen)
        if known.seen and known.done:
            known.seen = {row: point for row, point in known.seen.items() if self._may_come(known.done, point)}

    def delta_json(self, delta: StateDelta) -> dict[str, Any]:
        """A delta as JSON values."""
        told: dict[str, Any] = {"partition": dict(delta.partition)}
        if delta.done is not None:
            told["done"] = [self._value(point) for point in delta.done]
        if delta.seen:
            told["seen"] = {row: self._value(point) for row, point in delta.seen.items()}
        if delta.resume is not None:
            told["resume"] = [delta.resume.token, delta.resume.number]
        return told

    def delta_from(self, told: Mapping[str, Any]) -> StateDelta:
        """The delta that `delta_json` told."""
        done, resume = told.get("done"), told.get("resume")
        return StateDelta(
            told["partition"],
            None if done is None else (self._point(done[0], -math.inf), self._point(done[1])),
            {row: self._point(value) for row, value in told.get("seen", {}).items()},
            None if resume is None else ResumePoint(*resume),
        )

    def begin_anew(self, parents: Mapping[str, StreamState] | None = None) -> None:
        """All of the stream has been read: forget the partitions that have no intervals.

        `parents` is what it was read of: where only new parents are read, the next time begins there.
        """
        for key in [key for key, one in self._partitions.items() if not one.done]:
            del self._partitions[key]
        self.parents.update(parents or {})

    def copy(self) -> StreamState:
        """The same, which moves on its own."""
        copied = StreamState(self.cursor_name, self.cursor)
        copied.lookback = self.lookback
        copied.parents = {name: parent.copy() for name, parent in self.parents.items()}
        copied._partitions = {
            key: replace(one, done=Intervals(one.done), seen=dict(one.seen)) for key, one in self._partitions.items()
        }
        return copied

    def is_as(self, other: StreamState) -> bool:
        """Whether the same is left to be read."""
        return (
            self.cursor_name == other.cursor_name
            and self._partitions == other._partitions
            and self.parents.keys() == other.parents.keys()
            and all(parent.is_as(other.parents[name]) for name, parent in self.parents.items())
        )

    def to_json(self) -> list[Any]:
        """All that is known, as JSON values: one object for each partition, and for each parent."""
        found: list[Any] = []
        for one in self._partitions.values():
            told: dict[str, Any] = {"partition": dict(one.key)}
            if one.done:
                told["done"] = [[self._value(start), self._value(end)] for start, end in one.done]
            if one.is_done:
                told["is_done"] = True
            if one.seen:
                told["seen"] = {row: self._value(point) for row, point in one.seen.items()}
            if one.resume is not None:
                told["resume"] = [one.resume.token, one.resume.number]
            found.append(told)
        return found + [{"parent_stream": name, "state": one.to_json()} for name, one in self.parents.items()]

    def read_json(self, told: Any) -> None:
        """Take what `to_json` gave, on top of what is known. Raises StateCorrupt."""
        try:
            for one in cast(Sequence[Mapping[str, Any]], told):
                if "parent_stream" in one:
                    if one["parent_stream"] in self.parents:  # else it is a parent no more
                        self.parents[one["parent_stream"]].read_json(one["state"])
                    continue
                at = cast(Mapping[str, Any], one["partition"])
                resume = one.get("resume")
                self._partitions[partition_key(at)] = Partition(
                    at,
                    Intervals((self._point(start, -math.inf), self._point(end)) for start, end in one.get("done", ())),
                    bool(one.get("is_done", False)),
                    {row: self._point(value) for row, value in one.get("seen", {}).items()},
                    None if resume is None else ResumePoint(*resume),
                )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StateCorrupt(f"what is kept of a stream is not what was written: {error}") from None

    def __getitem__(self, key: str) -> Any:
        if key != self.cursor_name or (frontier := self.frontier) is None:
            raise KeyError(key)
        return frontier

    def __iter__(self) -> Iterator[str]:
        return iter(() if self.cursor_name is None or self.frontier is None else (self.cursor_name,))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        known = any(one.done or one.is_done or one.seen or one.resume for one in self._these())
        return known or any(self.parents.values())

    def __repr__(self) -> str:
        return f"StreamState({dict(self)}, {len(self._partitions)} partitions)"

    def _may_come(self, done: Intervals, point: Point) -> bool:
        """Whether a row that lies there will be asked for again."""
        latest = done.latest
        return latest is None or point >= latest - self.lookback or not done.covers(point, point + 1)

    def _these(self) -> Sequence[Partition]:
        if self._at is None:
            return tuple(self._partitions.values())
        found = self._partitions.get(partition_key(self._at))
        return () if found is None else (found,)

    def _value(self, point: Point) -> Any:
        return None if math.isinf(point) else self.cursor.value(point)

    def _point(self, value: Any, default: Point = math.inf) -> Point:
        return default if value is None else self.cursor.point(value)


def empty_state(identity: Mapping[str, Any]) -> StreamState:
    """That of a stream, or of parents whose changes it is read by, before anything was read. Raises ConfigError."""
    given = identity.get("cursor_field")
    name = cast(CursorField, tuple(cast("list[str]", given)) if isinstance(given, list) else given)
    state = StreamState(name, CursorFormat(identity.get("cursor_format") or "iso", identity.get("cursor_timezone")))
    parents = cast(Mapping[str, Mapping[str, Any]], identity.get("parents") or {})
    state.parents = {parent: empty_state(one) for parent, one in parents.items()}
    return state


def take_state(state: StreamState, told: Mapping[str, Any]) -> StreamState:
    """Take what a mapping tells: ours, or `{cursor_field: value}` as the Airbyte CDK and Singer keep it.

    Also its per-partition form, `{"states": [{"partition": {...}, "cursor": {...}}]}`, that of its concurrent
    streams, `{"slices": [{"start": ..., "end": ...}]}`, and that of parents, `{"parent_state": {name: ...}}`, beside
    them. Raises ConfigError.
    """
    name, cursor = state.cursor_name, state.cursor
    if told and not {name, "states", "slices", "parent_state"} & set(told):
        keys = ", ".join(map(repr, told))
        raise ConfigError(
            f"the state tells of {keys}, and not of {name!r}", hint=f"such as {{{name!r}: value}}, or a State"
        )
    try:
        for one in cast(Sequence[Mapping[str, Any]], told.get("states") or ()):
            value = cast(Mapping[str, Any], one["cursor"])[name or ""]
            state.apply(StateDelta(one["partition"], (-math.inf, cursor.point(value))))
        for one in cast(Sequence[Mapping[str, Any]], told.get("slices") or ()):
            state.apply(StateDelta({}, (cursor.point(one["start"]), cursor.point(one["end"]))))
        if name is not None and told.get(name) is not None:
            state.apply(StateDelta({}, (-math.inf, cursor.point(told[name]))))
        for parent, one in cast(Mapping[str, Mapping[str, Any]], told.get("parent_state") or {}).items():
            if parent in state.parents:
                take_state(state.parents[parent], one)
    except (InvalidCursorValue, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"the state is not understood: {error}", hint=f"such as {{{name!r}: value}}, or a State"
        ) from None
    return state


def to_airbyte_state(state: StreamState, form: str = "stream") -> dict[str, Any]:
    """A state as the Airbyte CDK writes it: "stream", "per-partition", or "concurrent" (a list of slices).

    That of parents, where only new ones are read, stands beside it in `parent_state`.
    """
    parents = {name: to_airbyte_state(one) for name, one in state.parents.items() if one}
    return _airbyte_state(state, form) | ({"parent_state": parents} if parents else {})


def _airbyte_state(state: StreamState, form: str) -> dict[str, Any]:
    name = state.cursor_name or ""
    if form == "concurrent":
        slices = [{"start": start, "end": end} for start, end in state.done]
        return {"state_type": "date-range", "slices": slices}
    if form == "per-partition":
        partitions = [one for one in state.to_json() if one.get("done")]
        found = [(one["partition"], state.of(one["partition"]).frontier) for one in partitions]
        return {"states": [{"partition": key, "cursor": {name: value}} for key, value in found]}
    if form != "stream":
        raise ConfigError(f"there is no form {form!r} of a state", hint="'stream', 'per-partition' or 'concurrent'")
    return dict(state)


def partition_key(partition: Mapping[str, Any]) -> str:
    """The same for equal partitions, whatever the order of their names."""
    return hashlib.blake2b(canonical(dict(partition)), digest_size=16).hexdigest() if partition else ""


def row_key(record: Mapping[str, Any], key: Sequence[Sequence[str]]) -> str:
    """Tells one row from another in what may come again: by its key, else by all of it."""
    told = encode([value_at(record, path) for path in key]) if key else canonical(dict(record))
    return hashlib.blake2b(told, digest_size=9).hexdigest()


def cursor_name(cursor_field: CursorField) -> str | None:
    """How a cursor field is called in a state."""
    if not cursor_field:
        return None
    return cursor_field if isinstance(cursor_field, str) else ".".join(cursor_field)


def value_at(record: Mapping[str, Any], path: Sequence[str]) -> Any:
    """What lies at a path of names; None where there is nothing."""
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
        raise ConfigError(f"a bound of {stream_slice!r} is {error}") from None
    return low, high
