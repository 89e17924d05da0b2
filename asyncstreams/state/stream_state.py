"""Progress of one stream: completed intervals and partitions, rather than the largest cursor value."""

from __future__ import annotations

import hashlib
import hmac
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from .._json import as_object, encode, encode_canonical
from ..cursors.cursor_format import CursorFormat
from ..cursors.intervals import Intervals, Point
from ..errors import StateCorrupt
from ..models import CursorField
from ..redaction import HiddenText, replace_secrets
from .known_children import KnownChildren

_NUMBERS = CursorFormat("number")
_PROCESS_SALT = os.urandom(16)
_PARTITIONS_PER_STEP = 2_000
_CHILD_KEY_CHARS = 16


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
    children: Sequence[str] = ()
    """Keys of children of a substream that have rows; see KnownChildren."""
    keeps_lookback: bool = False
    """Whether `done` ends before the lookback, so that the next run reads it again as a gap."""


@dataclass(slots=True)
class Partition:
    """The progress of one partition."""

    key: Mapping[str, Any]
    done: Intervals = field(default_factory=Intervals)
    is_done: bool = False
    seen: dict[str, Point] = field(default_factory=dict[str, Point])
    resume: ResumePoint | None = None
    keeps_lookback: bool = False
    """Whether `done` ends before the lookback; otherwise the next run goes back from its end."""


class StreamState(Mapping[str, Any]):
    """The progress of one stream, as passed to its hooks.

    A mapping with one item: the cursor field and the frontier, before which everything has been read. It is empty
    and falsy in the first run. With several partitions, the frontier is that of the partition furthest behind;
    `of(partition)` is the state of a single one. A Secret in a partition is kept as its keyed hash.
    """

    # From a state of another tool: `initial` is what was read before in each partition without progress of its own,
    # `unused` are the partitions that no slice has had yet.

    def __init__(self, cursor_field: CursorField = None, cursor: CursorFormat = _NUMBERS) -> None:
        self.cursor_name = cursor_name(cursor_field)
        self._cursor = cursor
        self._origin = self
        self.parents: dict[str, StreamState] = {}
        self.initial = Intervals()
        self.unused: dict[str, Mapping[str, Any]] = {}
        self.children = KnownChildren()
        self._salt = _PROCESS_SALT
        self._partitions: dict[str, Partition] = {}
        self._partition: Mapping[str, Any] | None = None

    def of(self, partition: Mapping[str, Any]) -> StreamState:
        """A view of one partition, which shows later progress of this state."""
        view = StreamState.__new__(StreamState)
        view.cursor_name, view._origin = self.cursor_name, self._origin
        view.parents, view.initial, view.unused = {}, self.initial, self.unused
        view.children = self.children
        view._salt = self._salt
        view._partitions, view._partition = self._partitions, self._without_secrets(partition)
        return view

    @property
    def cursor(self) -> CursorFormat:
        """The format of cursor values in use."""
        return self._origin._cursor

    def use_cursor(self, cursor: CursorFormat) -> None:
        """Set the format of cursor values: another declaration of it, or what the first values have shown."""
        self._origin._cursor = cursor

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

    def progress_of(self, partition: Mapping[str, Any]) -> Partition:
        """The progress of a partition, which is new if it has none of its own."""
        key = self._without_secrets(partition)
        known = self._partitions.get(partition_key(key))
        return self._new_partition(key) if known is None else known

    def begin(self, partition: Mapping[str, Any]) -> Partition:
        """The progress of a partition of which a slice is about to be read."""
        partition = self._without_secrets(partition)
        key = partition_key(partition)
        self.unused.pop(key, None)
        known = self._partitions.get(key)
        if known is None:
            known = self._new_partition(partition)
            if known.done:  # it keeps this beginning, whatever becomes of the one for all partitions
                self._partitions[key] = known
        return known

    @property
    def has_partitions(self) -> bool:
        """Whether a named partition has progress of its own."""
        return len(self._partitions) > (partition_key({}) in self._partitions)

    @property
    def has_read(self) -> bool:
        """Whether anything has been read, of any partition."""
        return any(known.is_done or known.done for known in self._partitions.values())

    def has_parents_of(self, other: StreamState) -> bool:
        """Whether both have the states of parents of the same names."""
        return self.parents.keys() == other.parents.keys() and all(
            parent.has_parents_of(other.parents[name]) for name, parent in self.parents.items()
        )

    def is_done(self, partition: Mapping[str, Any]) -> bool:
        """Whether a partition without intervals has been read completely."""
        known = self._partitions.get(partition_key(self._without_secrets(partition)))
        return known is not None and known.is_done

    def child_key(self, child: Mapping[str, Any]) -> str:
        """The key of a child of a substream; see KnownChildren."""
        return partition_key(self._without_secrets(child))[:_CHILD_KEY_CHARS]

    def apply(self, delta: StateDelta) -> None:
        """Add the progress of a delta."""
        if delta.children:
            self.children.add(delta.children)
        partition = self._without_secrets(delta.partition)
        key = partition_key(partition)
        known = self._partitions.get(key)
        if known is None:
            known = self._partitions[key] = self._new_partition(partition)
        known.resume, known.keeps_lookback = delta.resume, delta.keeps_lookback
        if delta.done is not None:
            known.done.add(*delta.done)
        elif delta.resume is None:
            known.is_done = True
        known.seen.update(delta.seen)
        if known.seen and known.done:
            known.seen = {row: point for row, point in known.seen.items() if not known.done.covers(point, point + 1)}

    def delta_to_json(self, delta: StateDelta) -> dict[str, Any]:
        """A delta as JSON values."""
        payload: dict[str, Any] = {"partition": dict(self._without_secrets(delta.partition))}
        if delta.done is not None:
            payload["done"] = [self._stored(point) for point in delta.done]
        if delta.seen:
            payload["seen"] = {row: self._stored(point) for row, point in delta.seen.items()}
        if delta.resume is not None:
            payload["resume"] = [delta.resume.token, delta.resume.number]
        if delta.children:
            payload["children"] = list(delta.children)
        if delta.keeps_lookback:
            payload["keeps_lookback"] = True
        return payload

    def delta_from_json(self, payload: Mapping[str, Any]) -> StateDelta:
        """The inverse of `delta_to_json`."""
        done, resume = payload.get("done"), payload.get("resume")
        return StateDelta(
            payload["partition"],
            None if done is None else (self._from_stored(done[0], -math.inf), self._from_stored(done[1])),
            {row: self._from_stored(value) for row, value in payload.get("seen", {}).items()},
            None if resume is None else ResumePoint(*resume),
            payload.get("children", ()),
            bool(payload.get("keeps_lookback", False)),
        )

    def restart(self, parents: Mapping[str, StreamState] | None = None) -> None:
        """Forget the partitions without intervals, after a complete read; the next run reads them again.

        `parents` are the states that the parents had in this run: with `incremental_dependency` the next run reads
        only parents that are newer.
        """
        for _ in self.restart_in_steps(parents):
            pass

    def restart_in_steps(self, parents: Mapping[str, StreamState] | None = None) -> Iterator[None]:
        """`restart` in steps of about a millisecond, for an event loop."""
        keys = list(self._partitions)
        for number, key in enumerate(keys, 1):
            known = self._partitions.get(key)
            if known is not None and not (known.done or known.keeps_lookback):  # the lookback may be all that was read
                del self._partitions[key]
            if number % _PARTITIONS_PER_STEP == 0:
                yield
        self.parents.update(parents or {})
        self.children.restart(keeps_last=bool(self.parents or self.cursor_name))
        if not self.parents:  # otherwise there may be partitions of parents that have not changed
            self.initial = Intervals()

    def rewind(self, distance: Point) -> None:
        """Forget the last part of what was read, of this length, in each partition."""
        self.initial = self._rewound(self.initial, distance)
        for key, partition in list(self._partitions.items()):
            if (latest := partition.done.latest) is None:
                continue
            partition.done = self._rewound(partition.done, distance)
            partition.seen = {row: point for row, point in partition.seen.items() if point < latest - distance}
            if not partition.done:
                del self._partitions[key]

    def _rewound(self, done: Intervals, distance: Point) -> Intervals:
        if (latest := done.latest) is None:
            return done
        end = self.cursor.floor(latest - distance)
        return Intervals((interval.start, min(interval.end, end)) for interval in done if interval.start < end)

    def copy(self) -> StreamState:
        """An independent copy."""
        copied = StreamState(self.cursor_name, self.cursor)
        copied.initial, copied._salt = self.initial.copy(), self._salt
        copied.parents = {name: parent.copy() for name, parent in self.parents.items()}
        copied.children = self.children.copy()
        copied._partitions = {
            key: Partition(known.key, known.done.copy(), known.is_done, dict(known.seen), known.resume)
            for key, known in self._partitions.items()
        }
        return copied

    def is_equivalent(self, other: StreamState) -> bool:
        """Whether both states leave the same records to be read."""
        return (
            self.cursor_name == other.cursor_name
            and self.initial == other.initial
            and self._partitions == other._partitions
            and self.parents.keys() == other.parents.keys()
            and all(parent.is_equivalent(other.parents[name]) for name, parent in self.parents.items())
        )

    def to_json(self) -> list[Any]:
        """The complete state as JSON values: one object for each partition, then one for each parent."""
        items = self._shared_to_json()
        items += map(self._partition_to_json, self._partitions.values())
        return items + [{"parent_stream": name, "state": parent.to_json()} for name, parent in self.parents.items()]

    def encoded(self) -> Iterator[bytes]:
        """The JSON text of `to_json` in pieces; between two of them the state may advance, but not `restart`."""
        separator = b"["
        for item in self._shared_to_json():
            yield separator + encode(item)
            separator = b","
        for partition in tuple(self._partitions.values()):
            yield separator + encode(self._partition_to_json(partition))
            separator = b","
        for name, parent in self.parents.items():
            yield separator + b'{"parent_stream":' + encode(name) + b',"state":'
            yield from parent.encoded()
            yield b"}"
            separator = b","
        yield b"[]" if separator == b"[" else b"]"

    def merge_json(self, payload: Any) -> None:
        """Add the progress in a result of `to_json`. Raises StateCorrupt."""
        try:
            for item in cast(Sequence[Mapping[str, Any]], payload):
                if "parent_stream" in item:
                    if item["parent_stream"] in self.parents:  # the stream may have fewer parents now
                        self.parents[item["parent_stream"]].merge_json(item["state"])
                    continue
                if "initial" in item:
                    self.initial = self._intervals_from_json(item["initial"])
                    continue
                if "children" in item:
                    self.children = KnownChildren.from_json(item["children"])
                    continue
                if "cursor" in item:
                    self.use_cursor(self.cursor.with_written_json(item["cursor"]))
                    continue
                key = cast(Mapping[str, Any], item["partition"])
                resume = item.get("resume")
                self._partitions[partition_key(key)] = Partition(
                    key,
                    self._intervals_from_json(item.get("done", ())),
                    bool(item.get("is_done", False)),
                    {row: self._from_stored(value) for row, value in item.get("seen", {}).items()},
                    None if resume is None else ResumePoint(*resume),
                    bool(item.get("keeps_lookback", False)),
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

    def _new_partition(self, key: Mapping[str, Any]) -> Partition:
        """The progress of a partition that has none of its own."""
        return Partition(dict(key), self.initial.copy())

    def _visible_partitions(self) -> Iterator[Partition]:
        if self._partition is not None:
            yield self.progress_of(self._partition)
            return
        yield from self._partitions.values()
        if self.initial and partition_key({}) not in self._partitions:
            yield self._new_partition({})

    def _shared_to_json(self) -> list[Any]:
        """What is stored beside the partitions: how values are written, and what was read before in each partition."""
        written = self.cursor.written_to_json()
        items: list[Any] = [] if written is None else [{"cursor": written}]
        if children := self.children.to_json():
            items.append({"children": children})
        return items + ([{"initial": self._intervals_to_json(self.initial)}] if self.initial else [])

    def _partition_to_json(self, partition: Partition) -> dict[str, Any]:
        item: dict[str, Any] = {"partition": dict(partition.key)}
        if partition.done:
            item["done"] = self._intervals_to_json(partition.done)
        if partition.is_done:
            item["is_done"] = True
        if partition.seen:
            item["seen"] = {row: self._stored(point) for row, point in partition.seen.items()}
        if partition.resume is not None:
            item["resume"] = [partition.resume.token, partition.resume.number]
        if partition.keeps_lookback:
            item["keeps_lookback"] = True
        return item

    def _visible_intervals(self) -> Intervals:
        return Intervals(interval for partition in self._visible_partitions() for interval in partition.done)

    def _intervals_to_json(self, intervals: Intervals) -> list[Any]:
        return [[self._stored(start), self._stored(end)] for start, end in intervals]

    def _intervals_from_json(self, payload: Iterable[Sequence[Any]]) -> Intervals:
        return Intervals((self._from_stored(start, -math.inf), self._from_stored(end)) for start, end in payload)

    def _value(self, point: Point) -> Any:
        return None if math.isinf(point) else self.cursor.value(point)

    def _stored(self, point: Point) -> Any:
        return None if math.isinf(point) else self.cursor.stored(point)

    def _from_stored(self, value: Any, default: Point = math.inf) -> Point:
        return default if value is None else self.cursor.point_of_stored(value)


def empty_state(identity: Mapping[str, Any]) -> StreamState:
    """The state before the first run of a stream with this identity, including its parents. Raises ConfigError."""
    declared = identity.get("cursor_field")
    name = cast(CursorField, tuple(cast("list[str]", declared)) if isinstance(declared, list) else declared)
    state = StreamState(name, CursorFormat.from_json(identity.get("cursor_format"), identity.get("cursor_timezone")))
    parents = cast(Mapping[str, Mapping[str, Any]], identity.get("parents") or {})
    state.parents = {parent: empty_state(parent_identity) for parent, parent_identity in parents.items()}
    return state


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
