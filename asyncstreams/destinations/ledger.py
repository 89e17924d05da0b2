"""What has been committed to an output: which parts of which stream, and how far each was read? Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from ..state.stream_state import StreamState, empty_state

Mode: TypeAlias = Literal["append", "replace", "upsert"]
Record: TypeAlias = Mapping[str, Any]
"""One line of the journal: what happened, in `do`, and to what."""


@dataclass(frozen=True, slots=True)
class Part:
    """A file that is whole and will not change: `rows` lines in `bytes` bytes.

    `temp` is its name while it is in progress. What a schema kept back is of the kind "quarantined".
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
        """Its file's name in the folder of its stream: the same however often it is committed."""
        return f"{self.kind}-{self.generation:06d}-{self.number:06d}{self.suffix}"

    def to_json(self) -> list[Any]:
        return [getattr(self, name) for name in Part.__slots__]


@dataclass(slots=True)
class StreamLedger:
    """What is known of one stream.

    `parts` can be seen; those of a generation that is to take their place, `hidden`, cannot until it is whole.
    `is_open`: it is being read, or was when the process ended. `is_read`: it has been, in the run that has not ended.
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
        self.begin_state()

    def begin_state(self) -> None:
        """Nothing has been read."""
        self.state = empty_state(self.identity)

    @property
    def written(self) -> list[Part]:
        """The parts of what is being written."""
        return self.parts if self.hidden is None else self.hidden

    @property
    def shown_generation(self) -> int:
        """The generation that can be seen."""
        if self.hidden is None:
            return self.generation
        return self.parts[0].generation if self.parts else self.generation - 1

    @property
    def visible_complete(self) -> bool:
        """Whether what can be seen is all that there was, when it was read."""
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
    def from_json(cls, told: Mapping[str, Any]) -> StreamLedger:
        hidden = told["hidden"]
        one = cls(
            told["identity"],
            told["mode"],
            told["generation"],
            told["next_part"],
            _parts(told["parts"]),
            None if hidden is None else _parts(hidden),
            is_open=told["is_open"],
            is_complete=told["complete"],
            is_read=told["is_read"],
        )
        one.state.read_json(told["state"])
        return one


class Ledger:
    """All that has been committed. The same records in the same order give the same ledger."""

    def __init__(self) -> None:
        self.salt = ""
        """Makes what tells credentials apart this output's own."""
        self.streams: dict[str, StreamLedger] = {}
        self.names: Sequence[str] = ()
        """What the run reads that has not come to its end; empty where there is none."""

    def apply(self, record: Record) -> None:
        """One more thing has happened. Raises KeyError, TypeError and ValueError for what no journal says."""
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
                for one in self.streams.values():
                    one.is_read = False
            case other:
                raise ValueError(f"nobody knows how to {other}")

    def forget(self, missing: Mapping[str, Sequence[Part]]) -> None:
        """Parts that somebody has taken away are nobody's any more."""
        for name, parts in missing.items():
            one = self.streams[name]
            one.parts = [part for part in one.parts if part not in parts]
            if one.hidden is not None:
                one.hidden = [part for part in one.hidden if part not in parts]

    def to_json(self) -> dict[str, Any]:
        streams = {name: one.to_json() for name, one in self.streams.items()}
        return {"salt": self.salt, "names": list(self.names), "streams": streams}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Ledger:
        """Raises KeyError, TypeError, ValueError and StateCorrupt for what `to_json` did not tell."""
        ledger = cls()
        ledger.salt, ledger.names = told["salt"], told["names"]
        ledger.streams = {name: StreamLedger.from_json(one) for name, one in told["streams"].items()}
        return ledger

    def _begin(self, record: Record) -> None:
        if self.names != record["names"]:
            for one in self.streams.values():
                one.is_read = False
        self.names = record["names"]
        for name, told in record["streams"].items():
            identity, mode = told["identity"], told["mode"]
            known = self.streams.get(name)
            if known is None:
                self.streams[name] = StreamLedger(identity, mode)
                continue
            known.identity, known.mode, known.is_open = identity, mode, True
            if mode == "replace":
                # What nobody has seen whole need not be kept until there is something better.
                known.retired += known.hidden or ()
                known.generation, known.next_part = known.generation + 1, 1
                known.hidden = []
                known.begin_state()

    def _commit(self, record: Record) -> None:
        for name, told in record["streams"].items():
            one = self.streams[name]
            if "identity" in told:
                one.identity = told["identity"]
            parts = _parts(told.get("parts", ()))
            one.written.extend(parts)
            one.next_part += len(parts)
            one.state.lookback = told.get("lookback", 0)
            for delta in told.get("deltas", ()):
                one.state.apply(one.state.delta_from(delta))

    def _rewrite(self, one: StreamLedger, told: Sequence[Sequence[Any]], instead: set[str]) -> None:
        parts = _parts(told)
        one.retired += [part for part in one.written if part.name in instead]
        one.written[:] = [part for part in one.written if part.name not in instead] + parts
        one.next_part += len(parts)

    def _finish(self, one: StreamLedger, told: Mapping[str, Any]) -> None:
        if one.hidden is not None:
            one.retired += one.parts
            one.parts, one.hidden = one.hidden, None
        one.is_open, one.is_complete, one.is_read = False, True, True
        parents = empty_state(one.identity).parents if told else {}
        for name, parent in parents.items():
            parent.read_json(told.get(name, ()))
        one.state.begin_anew(parents)


def _parts(told: Sequence[Sequence[Any]]) -> list[Part]:
    return [Part(*one) for one in told]
