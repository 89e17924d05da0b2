"""Ledger of one output: the committed parts and the state of each stream. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from ..state.stream_state import StreamState, empty_state

Mode: TypeAlias = Literal["append", "replace", "upsert"]
JournalRecord: TypeAlias = Mapping[str, Any]
"""One record of the journal: the operation is in `op`, its arguments are in the other fields."""


class Part(NamedTuple):
    """A sealed file, which no longer changes: `rows` lines in `bytes` bytes.

    `temp` is its name until it becomes visible. `kind` is "part", or "quarantined" for records that failed validation.
    """

    kind: str
    generation: int
    number: int
    suffix: str
    temp: str
    rows: int
    bytes: int
    sha256: str

    @property
    def name(self) -> str:
        """File name in the folder of the stream. Recovery gives the part the same name again."""
        return f"{self.kind}-{self.generation:06d}-{self.number:06d}{self.suffix}"

    def to_json(self) -> list[Any]:
        return list(self)


class RunTimes(NamedTuple):
    """When a run began and ended, in seconds since 1970, and its streams; `ended_at` is None if it was interrupted."""

    began_at: float
    ended_at: float | None
    streams: Sequence[str]


class CompleteRead(NamedTuple):
    """The last complete read of a stream: when it ended, in seconds since 1970, and the slices that it left out.

    `missing_children` maps these slices, as texts, to their statuses.
    """

    at: float | None = None
    missing_children: Mapping[str, int] = {}


@dataclass(slots=True)
class StreamParts:
    """The parts of one stream in its `folder`; a stream in a database has generations, but no parts and no folder.

    `visible` are those that readers see. `hidden` are the parts of a replacement, which stay invisible until it is
    complete; None: there is no replacement in progress. `retired` are parts to be deleted.
    """

    folder: str = ""
    generation: int = 1
    next_number: int = 1
    visible: list[Part] = field(default_factory=list[Part])
    hidden: list[Part] | None = None
    retired: list[Part] = field(default_factory=list[Part])

    @property
    def current(self) -> list[Part]:
        """The parts of the generation that is being written."""
        return self.visible if self.hidden is None else self.hidden

    @property
    def visible_generation(self) -> int:
        if self.visible:
            return self.visible[0].generation
        return self.generation if self.hidden is None else self.generation - 1

    def add(self, new: Sequence[Part], replaced: Collection[str] = ()) -> None:
        """Add parts to the current ones, and retire those with the names `replaced`."""
        if replaced:
            self.retired += [part for part in self.current if part.name in replaced]
            self.current[:] = [part for part in self.current if part.name not in replaced]
        self.current.extend(new)
        self.next_number += len(new)

    def start_generation(self) -> None:
        """Begin a generation that stays hidden until it is complete."""
        self.retire_hidden()
        self.generation, self.next_number, self.hidden = self.generation + 1, 1, []

    def publish(self) -> None:
        """Replace the visible parts by the hidden ones, if there are any."""
        if self.hidden is not None:
            self.retired += self.visible
            self.visible, self.hidden = self.hidden, None

    def retire_hidden(self) -> None:
        """Delete a replacement that is not complete: it has never been visible."""
        self.retired += self.hidden or ()
        self.hidden = None

    def retire_visible(self) -> None:
        self.retired += self.visible
        self.visible = []

    def pop_retired(self) -> list[Part]:
        """Remove and return the parts to be deleted."""
        retired, self.retired = self.retired, []
        return retired

    def forget(self, missing: Collection[Part]) -> None:
        """Remove parts whose files were deleted by another program."""
        self.visible = [part for part in self.visible if part not in missing]
        if self.hidden is not None:
            self.hidden = [part for part in self.hidden if part not in missing]

    def to_json(self) -> dict[str, Any]:
        return {
            "folder": self.folder,
            "generation": self.generation,
            "next_part": self.next_number,
            "parts": [part.to_json() for part in self.visible],
            "hidden": None if self.hidden is None else [part.to_json() for part in self.hidden],
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> StreamParts:
        return cls(
            fields.get("folder", ""),
            fields["generation"],
            fields["next_part"],
            _parts_from_json(fields["parts"]),
            None if fields["hidden"] is None else _parts_from_json(fields["hidden"]),
        )


@dataclass(slots=True)
class StreamLedger:
    """The committed parts and the state of one stream.

    `is_open`: the stream is being read, or its read was interrupted. `is_complete`: it has been read completely at
    least once. `is_read`: the current run has finished it. `is_reset`: its state was forgotten, and the next run
    replaces the rows. `is_provisional`: none of its rows count, since they were dropped or are a sample; the next run
    removes them and begins as if the stream were new. `is_refresh`: the current read was begun by `refresh`.
    `last_run` is when the last run that read it began, in seconds since 1970.
    """

    identity: Mapping[str, Any]
    mode: Mode
    parts: StreamParts = field(default_factory=StreamParts)
    is_open: bool = True
    is_complete: bool = False
    is_read: bool = False
    is_reset: bool = False
    is_provisional: bool = False
    is_refresh: bool = False
    last_run: float | None = None
    last_complete: CompleteRead = field(default_factory=CompleteRead)
    state: StreamState = field(init=False)

    def __post_init__(self) -> None:
        self.reset_state()

    def reset_state(self) -> None:
        """Replace the state by an empty one."""
        self.state = empty_state(self.identity)

    @property
    def is_replaced(self) -> bool:
        """Whether what is written stays hidden until it replaces the visible rows."""
        return self.parts.hidden is not None

    @property
    def is_untouched(self) -> bool:
        """Whether nothing of the stream was committed, so that its declaration may still be corrected."""
        return not (self.is_complete or self.parts.visible or self.parts.hidden or self.state.to_json())

    @property
    def visible_complete(self) -> bool:
        """Whether the visible parts hold all records that existed when they were read."""
        return self.is_complete and (self.is_replaced or not self.is_open)

    def start_replacement(self) -> None:
        """Begin a generation that stays hidden until it is complete, from the first record on."""
        self.parts.start_generation()
        self.is_reset = False
        children = self.state.children.last
        self.reset_state()
        self.state.children.last = children  # those that this read should find again

    def reset(self, *, drop: bool) -> None:
        """Forget the state. The rows stay until the next run has replaced them; with `drop` they are removed."""
        self.is_complete = self.visible_complete and not drop
        self.parts.retire_hidden()
        if drop:
            self.parts.retire_visible()
        self.is_reset, self.is_provisional = not drop, drop or self.is_provisional
        self.is_open = self.is_read = self.is_refresh = False
        self.reset_state()

    def to_json(self) -> dict[str, Any]:
        return {
            "identity": self.identity,
            "mode": self.mode,
            **self.parts.to_json(),
            "is_open": self.is_open,
            "complete": self.is_complete,
            "is_read": self.is_read,
            "is_reset": self.is_reset,
            "is_provisional": self.is_provisional,
            "is_refresh": self.is_refresh,
            "last_run": self.last_run,
            "last_complete": self.last_complete.at,
            "missing_children": dict(self.last_complete.missing_children),
            "state": self.state.to_json(),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> StreamLedger:
        stream = cls(
            fields["identity"],
            fields["mode"],
            StreamParts.from_json(fields),
            is_open=fields["is_open"],
            is_complete=fields["complete"],
            is_read=fields["is_read"],
            is_reset=fields.get("is_reset", False),
            is_provisional=fields.get("is_provisional", False),
            is_refresh=fields.get("is_refresh", False),
            last_run=fields.get("last_run"),
            last_complete=CompleteRead(fields.get("last_complete"), fields.get("missing_children", {})),
        )
        stream.state.merge_json(fields["state"])
        return stream


class Ledger:
    """Everything that has been committed. The same records in the same order always give the same ledger."""

    def __init__(self) -> None:
        self.salt = ""
        """Salt of the credential fingerprints, so that those of two outputs cannot be compared."""
        self.streams: dict[str, StreamLedger] = {}
        self.names: Sequence[str] = ()
        """The streams of the unfinished run; empty if there is none."""
        self.last_run: RunTimes | None = None

    def apply(self, record: JournalRecord) -> None:
        """Apply one journal record. Raises KeyError, TypeError or ValueError for a record that is not valid."""
        match record["op"]:
            case "begin":
                self._begin(record)
            case "commit":
                self._commit(record)
            case "rewrite":
                parts = self.streams[record["stream"]].parts
                parts.add(_parts_from_json(record["parts"]), set(record["replaces"]))
            case "finish":
                self._finish(self.streams[record["stream"]], record)
            case "end":
                self._end(record)
            case "reset":
                for name in record["streams"]:
                    self.streams[name].reset(drop=record["drop"])
            case other:
                raise ValueError(f"unknown journal operation {other!r}")

    def to_json(self) -> dict[str, Any]:
        streams = {name: stream.to_json() for name, stream in self.streams.items()}
        last_run = None if self.last_run is None else list(self.last_run)
        return {"salt": self.salt, "names": list(self.names), "last_run": last_run, "streams": streams}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Ledger:
        """The inverse of `to_json`. Raises KeyError, TypeError, ValueError and StateCorrupt for anything else."""
        ledger = cls()
        ledger.salt, ledger.names = fields["salt"], fields["names"]
        if (last_run := fields.get("last_run")) is not None:
            ledger.last_run = RunTimes(*last_run)
        ledger.streams = {name: StreamLedger.from_json(stream) for name, stream in fields["streams"].items()}
        return ledger

    def _begin(self, record: JournalRecord) -> None:
        is_partial = record.get("partial", False)
        if not is_partial:
            if self.names != record["names"]:
                self._forget_read()
            self.names = record["names"]
        for name, entry in record["streams"].items():
            identity, mode = entry["identity"], entry["mode"]
            known = self.streams.get(name)
            if known is None or known.is_provisional:
                self.streams[name] = _new_stream(entry, known)
                continue
            known.identity, known.mode = identity, mode
            if is_replacement(entry):
                known.start_replacement()
                known.is_open, known.is_refresh = True, entry.get("refresh", False)
            elif not is_partial:
                known.is_open, known.is_refresh = True, known.is_refresh and known.is_replaced
        if "at" in record:
            self.last_run = RunTimes(record["at"], None, record["names"])
            for name in record["names"]:
                if name in self.streams:
                    self.streams[name].last_run = record["at"]

    def _end(self, record: JournalRecord) -> None:
        if self.last_run is not None:
            self.last_run = self.last_run._replace(ended_at=record.get("at"))
        if record.get("partial", False):
            return
        self.names = ()
        self._forget_read()

    def _forget_read(self) -> None:
        """Another run begins: no stream counts as read by the current one."""
        for stream in self.streams.values():
            stream.is_read = False
            stream.is_refresh = stream.is_refresh and stream.is_open

    def _commit(self, record: JournalRecord) -> None:
        for name, entry in record["streams"].items():
            stream = self.streams[name]
            if "identity" in entry:
                stream.identity = entry["identity"]
            stream.parts.add(_parts_from_json(entry.get("parts", ())))
            if "state" in entry:  # of an import
                stream.state.merge_json(entry["state"])
            if "cursor" in entry:
                stream.state.use_cursor(stream.state.cursor.with_written_json(entry["cursor"]))
            for delta in entry.get("deltas", ()):
                stream.state.apply(stream.state.delta_from_json(delta))

    def _finish(self, stream: StreamLedger, record: JournalRecord) -> None:
        stream.parts.publish()
        stream.is_open, stream.is_complete, stream.is_read = False, True, True
        stream.last_complete = CompleteRead(record.get("at"), record.get("missing", {}))
        parent_states: Mapping[str, Any] = record.get("parents", {})
        parents = empty_state(stream.identity).parents if parent_states else {}
        for name, parent in parents.items():
            parent.merge_json(parent_states.get(name, ()))
        stream.state.restart(parents)


def _parts_from_json(parts: Sequence[Sequence[Any]]) -> list[Part]:
    return [Part(*fields) for fields in parts]


def is_replacement(entry: Mapping[str, Any]) -> bool:
    """Whether an entry of a begin record replaces the rows of a stream that the output has already."""
    return entry["mode"] == "replace" or bool(entry.get("replaces"))


def _new_stream(entry: Mapping[str, Any], previous: StreamLedger | None) -> StreamLedger:
    """A stream without rows; `previous` is one of the same name, none of whose rows count."""
    parts = StreamParts(entry.get("folder", ""))
    if previous is not None:
        previous.parts.retire_hidden()
        previous.parts.retire_visible()
        parts = StreamParts(previous.parts.folder, previous.parts.generation + 1, retired=previous.parts.retired)
    return StreamLedger(entry["identity"], entry["mode"], parts, is_provisional=entry.get("provisional", False))
