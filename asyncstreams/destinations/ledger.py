"""Ledger of one output: the committed parts and the state of each stream. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


@dataclass(slots=True)
class StreamLedger:
    """The committed parts and the state of one stream.

    `parts` are visible. `hidden` are the parts of a replacement, which stay invisible until it is complete; None: there
    is no replacement in progress. `retired` are parts to be deleted. `is_open`: the stream is being read, or its read
    was interrupted. `is_complete`: it has been read completely at least once. `is_read`: the current run has finished
    it.
    """

    identity: Mapping[str, Any]
    mode: Mode
    generation: int = 1
    next_part: int = 1
    parts: list[Part] = field(default_factory=list[Part])
    hidden: list[Part] | None = None
    retired: list[Part] = field(default_factory=list[Part])
    is_open: bool = True
    is_complete: bool = False
    is_read: bool = False
    state: StreamState = field(init=False)

    def __post_init__(self) -> None:
        self.reset_state()

    def reset_state(self) -> None:
        """Replace the state by an empty one."""
        self.state = empty_state(self.identity)

    @property
    def current_parts(self) -> list[Part]:
        """The parts of the generation that is being written."""
        return self.parts if self.hidden is None else self.hidden

    @property
    def visible_generation(self) -> int:
        if self.hidden is None:
            return self.generation
        return self.parts[0].generation if self.parts else self.generation - 1

    @property
    def visible_complete(self) -> bool:
        """Whether the visible parts hold all records that existed when they were read."""
        return self.is_complete and (self.hidden is not None or not self.is_open)

    def to_json(self) -> dict[str, Any]:
        return {
            "identity": self.identity,
            "mode": self.mode,
            "generation": self.generation,
            "next_part": self.next_part,
            "parts": [part.to_json() for part in self.parts],
            "hidden": None if self.hidden is None else [part.to_json() for part in self.hidden],
            "is_open": self.is_open,
            "complete": self.is_complete,
            "is_read": self.is_read,
            "state": self.state.to_json(),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> StreamLedger:
        hidden = fields["hidden"]
        stream = cls(
            fields["identity"],
            fields["mode"],
            fields["generation"],
            fields["next_part"],
            _parts_from_json(fields["parts"]),
            None if hidden is None else _parts_from_json(hidden),
            is_open=fields["is_open"],
            is_complete=fields["complete"],
            is_read=fields["is_read"],
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

    def apply(self, record: JournalRecord) -> None:
        """Apply one journal record. Raises KeyError, TypeError or ValueError for a record that is not valid."""
        match record["op"]:
            case "begin":
                self._begin(record)
            case "commit":
                self._commit(record)
            case "rewrite":
                self._rewrite(self.streams[record["stream"]], record["parts"], set(record["replaces"]))
            case "finish":
                self._finish(self.streams[record["stream"]], record.get("parents", {}))
            case "end":
                self.names = ()
                for stream in self.streams.values():
                    stream.is_read = False
            case other:
                raise ValueError(f"unknown journal operation {other!r}")

    def forget_parts(self, missing: Mapping[str, Sequence[Part]]) -> None:
        """Remove parts whose files were deleted by another program."""
        for name, parts in missing.items():
            stream = self.streams[name]
            stream.parts = [part for part in stream.parts if part not in parts]
            if stream.hidden is not None:
                stream.hidden = [part for part in stream.hidden if part not in parts]

    def to_json(self) -> dict[str, Any]:
        streams = {name: stream.to_json() for name, stream in self.streams.items()}
        return {"salt": self.salt, "names": list(self.names), "streams": streams}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Ledger:
        """The inverse of `to_json`. Raises KeyError, TypeError, ValueError and StateCorrupt for anything else."""
        ledger = cls()
        ledger.salt, ledger.names = fields["salt"], fields["names"]
        ledger.streams = {name: StreamLedger.from_json(stream) for name, stream in fields["streams"].items()}
        return ledger

    def _begin(self, record: JournalRecord) -> None:
        if self.names != record["names"]:
            for stream in self.streams.values():
                stream.is_read = False
        self.names = record["names"]
        for name, entry in record["streams"].items():
            identity, mode = entry["identity"], entry["mode"]
            known = self.streams.get(name)
            if known is None:
                self.streams[name] = StreamLedger(identity, mode)
                continue
            known.identity, known.mode, known.is_open = identity, mode, True
            if mode == "replace":
                # An unfinished replacement has never been visible, so it is deleted at once.
                known.retired += known.hidden or ()
                known.generation, known.next_part = known.generation + 1, 1
                known.hidden = []
                known.reset_state()

    def _commit(self, record: JournalRecord) -> None:
        for name, entry in record["streams"].items():
            stream = self.streams[name]
            if "identity" in entry:
                stream.identity = entry["identity"]
            parts = _parts_from_json(entry.get("parts", ()))
            stream.current_parts.extend(parts)
            stream.next_part += len(parts)
            stream.state.lookback = entry.get("lookback", 0)
            for delta in entry.get("deltas", ()):
                stream.state.apply(stream.state.delta_from_json(delta))

    def _rewrite(self, stream: StreamLedger, new: Sequence[Sequence[Any]], replaced: set[str]) -> None:
        parts = _parts_from_json(new)
        stream.retired += [part for part in stream.current_parts if part.name in replaced]
        stream.current_parts[:] = [part for part in stream.current_parts if part.name not in replaced] + parts
        stream.next_part += len(parts)

    def _finish(self, stream: StreamLedger, parent_states: Mapping[str, Any]) -> None:
        if stream.hidden is not None:
            stream.retired += stream.parts
            stream.parts, stream.hidden = stream.hidden, None
        stream.is_open, stream.is_complete, stream.is_read = False, True, True
        parents = empty_state(stream.identity).parents if parent_states else {}
        for name, parent in parents.items():
            parent.merge_json(parent_states.get(name, ()))
        stream.state.restart(parents)


def _parts_from_json(parts: Sequence[Sequence[Any]]) -> list[Part]:
    return [Part(*fields) for fields in parts]
