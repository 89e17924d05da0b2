"""How are rows and state committed together into one database: in one transaction?

Each stream has a table of its name. A replacement is written beside it, and takes its place when it is whole. What is
known of the streams lies in two tables of our own: a snapshot of the ledger, and what happened since.
"""

from __future__ import annotations

import secrets
import tempfile
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, Protocol

from .._json import as_object, decode, encode
from ..errors import AsyncStreamsError, ConfigError, MalformedJSON, OutputMissing, StateCorrupt, StateIncompatible
from ..storage.file_lock import OutputLock
from ..storage.filesystem import writing
from .journal import SnapshotTrigger
from .ledger import Ledger, Record
from .line_records import blocks, records_of
from .writer_protocol import Chunk, CommitPayload, StreamSchema

OWN = "_asyncstreams"
"""How the names of all tables begin that are not a stream's."""
_KNOWN, _JOURNAL, _QUARANTINED = OWN, f"{OWN}_journal", f"{OWN}_quarantined"
_FORMAT = 2


class EngineTable(Protocol):
    """The rows of one stream, or those that are to take their place."""

    name: str

    def load(self, lines: bytes) -> int:
        """Add the records, with the columns that they need, and say how many.

        Where rows have a key, they take the place of those with the same.
        Raises OutputWriteError for what has no place in a table.
        """
        ...

    def make(self) -> None:
        """Be there, though there are no rows; as far as anything is known of the columns."""
        ...

    def to_json(self) -> Any:
        """What is known of the columns, to be kept; None: there is no such table."""
        ...


class Engine(Protocol):
    """A database of one kind. Blocking; one caller at a time. Raises LocalError in the terms of a user."""

    block: int
    """Bytes that it takes at once, about."""

    def open(self) -> None: ...

    def close(self) -> None: ...

    def transaction(self) -> AbstractContextManager[None]:
        """All of what is done in it, or nothing."""
        ...

    def run(self, statement: str, *values: Any) -> Sequence[Sequence[Any]]:
        """One statement, and what it gives; `?` stands for each value."""
        ...

    def tables(self) -> set[str]:
        """The names of all tables and views."""
        ...

    def table(self, name: str, shape: StreamSchema, known: Any, *, is_keyed: bool) -> EngineTable:
        """`known` is what `Table.to_json` gave before; None: there is no such table yet."""
        ...


class TableWriter:
    """An Output whose streams are the tables of one database, held by one process at a time."""

    def __init__(self, path: Path, engine: Engine) -> None:
        self._path, self._engine = path, engine
        self._lock: OutputLock | None = None
        self._shapes: dict[str, StreamSchema] = {}
        self._tables: dict[str, EngineTable] = {}
        self._kept: dict[str, Any] = {}
        self._staged: dict[Hashable, SpillFile] = {}
        self._since = SnapshotTrigger()
        self._ledger = Ledger()

    @property
    def ledger(self) -> Ledger:
        return self._ledger

    def open(self, now: float) -> None:
        with writing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = OutputLock(self._path.with_name(f".{self._path.name}.lock"), now, of=self._path)
        self._engine.open()
        with self._engine.transaction():
            self._engine.run(f'CREATE TABLE IF NOT EXISTS "{_KNOWN}" (name TEXT PRIMARY KEY, value TEXT)')
            self._engine.run(f'CREATE TABLE IF NOT EXISTS "{_JOURNAL}" (number INTEGER PRIMARY KEY, record TEXT)')
            self._engine.run(f'CREATE TABLE IF NOT EXISTS "{_QUARANTINED}" (stream TEXT, record TEXT, problems TEXT)')
            self._ledger = self._recovered()
            self._ledger.salt = self._ledger.salt or secrets.token_hex(16)
            self._snapshot()

    def begin(self, record: Record) -> None:
        """Raises ConfigError where a table is somebody else's, or two streams would share one; OutputMissing."""
        known = set(self._ledger.streams)
        tables = {name.casefold() for name in self._engine.tables()}
        taken = {name.casefold(): name for name in known}
        for name in record["names"]:
            self._check_name(name, taken, tables)
            taken[name.casefold()] = name
        with self._engine.transaction():
            for name in record["streams"]:
                if name in known and record["streams"][name]["mode"] == "replace":
                    self._engine.run(f"DROP TABLE IF EXISTS {quoted(_hidden_name(name))}")
                    self._engine.run(f"DELETE FROM {quoted(_QUARANTINED)} WHERE stream = ?", _hidden_name(name))
                    self._forget(_hidden_name(name))
            self._append(record)
        self._ledger.apply(record)
        for name in record["names"]:
            physical = self._physical(name)
            if self._columns_of(physical) is not None and physical.casefold() not in tables:
                raise OutputMissing(
                    f"{self._path}: table {physical} was committed, and is not there any more",
                    hint='restore it from a copy; or mode="replace", resume=False reads all of it again',
                ).locate(stream=name)

    def describe(self, stream: str, shape: StreamSchema) -> None:
        self._shapes[stream] = shape

    def write(self, stream: str, owner: Hashable, chunks: Iterable[Chunk]) -> None:
        staged = self._staged.get(owner)
        with writing(self._path):
            if staged is None:
                staged = self._staged[owner] = SpillFile(self._path.parent)
            staged.write(chunks)

    def drop(self, owner: Hashable) -> None:
        if (staged := self._staged.pop(owner, None)) is not None:
            staged.close()

    def commit(self, streams: Mapping[str, CommitPayload]) -> Record:
        told: dict[str, Any] = {}
        size = self._engine.block
        with self._engine.transaction():
            for name, brought in streams.items():
                counts: Counter[str] = Counter()
                for owner, chunks in brought.chunks.items():
                    counts.update(self._load(name, self._staged[owner].blocks(size) if owner in self._staged else ()))
                    counts.update(self._load(name, blocks(chunks, size)))
                rows = {"rows": counts["part"], "quarantined": counts["quarantined"]}
                told[name] = {**brought.told, **{kind: count for kind, count in rows.items() if count}}
            record = {"op": "commit", "streams": told}
            self._append(record)
        for brought in streams.values():
            for owner in brought.chunks:
                self.drop(owner)
        return record

    def finish(self, stream: str, parents: Mapping[str, Any]) -> None:
        hidden = self._ledger.streams[stream].hidden is not None
        record = {"op": "finish", "stream": stream, **({"parents": parents} if parents else {})}
        with self._engine.transaction():
            table = self._table(stream)
            table.make()
            if hidden:
                self._take_place(stream, table)
            else:
                self._keep(table)
            self._append(record)
        self._ledger.apply(record)

    def end(self) -> None:
        with self._engine.transaction():
            self._append(record := {"op": "end"})
        self._ledger.apply(record)

    def tidy(self, *, is_end: bool = False) -> None:
        if self._since.is_due:
            with self._engine.transaction():
                self._snapshot()

    def close(self) -> None:
        try:
            for owner in list(self._staged):
                self.drop(owner)
            self._engine.close()
        finally:
            if self._lock is not None:
                lock, self._lock = self._lock, None
                lock.release()

    def place_of(self, stream: str) -> tuple[Path, str]:
        return self._path, stream

    def _load(self, name: str, some: Iterable[tuple[str, bytes]]) -> Mapping[str, int]:
        """Rows by their kind."""
        counts: Counter[str] = Counter()
        for kind, lines in some:
            try:
                if kind == "part":
                    counts[kind] += self._table(name).load(lines)
                else:
                    counts[kind] += self._keep_back(name, lines)
            except AsyncStreamsError as error:
                error.locate(stream=name)
                raise
        if counts["part"]:
            self._keep(self._table(name))
        return counts

    def _keep_back(self, name: str, lines: bytes) -> int:
        records = records_of(lines)
        for one in records:
            told = [encode(one[field]).decode() for field in ("record", "problems")]
            self._engine.run(f"INSERT INTO {quoted(_QUARANTINED)} VALUES (?, ?, ?)", self._physical(name), *told)
        return len(records)

    def _table(self, name: str) -> EngineTable:
        """Where the rows of a stream go now."""
        physical = self._physical(name)
        table = self._tables.get(name)
        if table is None or table.name != physical:
            one = self._ledger.streams[name]
            known = self._columns_of(physical)
            shape = self._shapes.get(name, StreamSchema())
            table = self._engine.table(physical, shape, known, is_keyed=one.mode == "upsert")
            self._tables[name] = table
        return table

    def _physical(self, name: str) -> str:
        one = self._ledger.streams.get(name)
        return name if one is None or one.hidden is None else _hidden_name(name)

    def _take_place(self, stream: str, table: EngineTable) -> None:
        """What has been read as a whole takes the place of what was there before."""
        del self._tables[stream]
        there = self._engine.tables()
        self._engine.run(f"DROP TABLE IF EXISTS {quoted(stream)}")
        self._engine.run(f"DELETE FROM {quoted(_QUARANTINED)} WHERE stream = ?", stream)
        self._engine.run(f"UPDATE {quoted(_QUARANTINED)} SET stream = ? WHERE stream = ?", stream, table.name)
        self._forget(stream)
        if table.name in there:
            self._engine.run(f"ALTER TABLE {quoted(table.name)} RENAME TO {quoted(stream)}")
            self._put(f"columns {stream}", table.to_json())
        self._forget(table.name)

    def _check_name(self, name: str, taken: Mapping[str, str], tables: Collection[str]) -> None:
        other = taken.get(name.casefold(), name)
        if other != name:
            raise ConfigError(
                f"streams {other!r} and {name!r} would share a table of {self._path}",
                hint="names of tables are the same in capitals: give one of them another `name`, or another file",
            )
        if name.casefold().startswith((OWN, "sqlite_")) or "\0" in name:
            raise ConfigError(f"no table may be called as stream {name!r} is", hint="give it another `name`")
        if name not in self._ledger.streams and name.casefold() in tables:
            raise ConfigError(
                f"{self._path} has a table {name} that no extraction has made",
                hint="extract into another file, or rename that table",
            ).locate(stream=name)

    def _keep(self, table: EngineTable) -> None:
        """Remember the columns, where there are more than before."""
        told = table.to_json()
        if told is not None and self._columns_of(table.name) != told:
            self._put(f"columns {table.name}", told)
            del self._kept[table.name]

    def _columns_of(self, table: str) -> Any:
        if table not in self._kept:
            self._kept[table] = self._known(f"columns {table}")
        return self._kept[table]

    def _forget(self, table: str) -> None:
        self._engine.run(f"DELETE FROM {quoted(_KNOWN)} WHERE name = ?", f"columns {table}")
        self._kept.pop(table, None)

    def _known(self, key: str) -> Any:
        found = self._engine.run(f"SELECT value FROM {quoted(_KNOWN)} WHERE name = ?", key)
        return decode(found[0][0].encode()) if found else None

    def _put(self, key: str, value: Any) -> int:
        """Keep it, and say how long it is."""
        text = encode(value).decode()
        self._engine.run(f"DELETE FROM {quoted(_KNOWN)} WHERE name = ?", key)
        self._engine.run(f"INSERT INTO {quoted(_KNOWN)} VALUES (?, ?)", key, text)
        return len(text)

    def _append(self, record: Record) -> None:
        text = encode(record).decode()
        self._since.record(len(text))
        self._engine.run(f"INSERT INTO {quoted(_JOURNAL)} VALUES (?, ?)", self._since.records, text)

    def _snapshot(self) -> None:
        size = self._put("ledger", {"format": _FORMAT, "ledger": self._ledger.to_json()})
        self._engine.run(f"DELETE FROM {quoted(_JOURNAL)}")
        self._since.snapshot(size)

    def _recovered(self) -> Ledger:
        """Raises StateCorrupt and StateIncompatible."""
        told = as_object(self._known("ledger"))
        if told is None:
            return Ledger()
        if told.get("format") != _FORMAT:
            raise StateIncompatible(
                f"the output in {self._path} has format {told.get('format')!r}, and this version writes {_FORMAT}",
                field="format",
                hint="was it written by a newer version? then go on with that one",
            )
        try:
            ledger = Ledger.from_json(told["ledger"])
            for (record,) in self._engine.run(f"SELECT record FROM {quoted(_JOURNAL)} ORDER BY number"):
                ledger.apply(as_object(decode(record.encode())) or {})
        except (KeyError, TypeError, ValueError, MalformedJSON) as error:
            raise StateCorrupt(
                f"what {self._path} says of earlier runs in table {_KNOWN} is not what was written there: {error}",
                hint="restore the file from a copy, or remove it to read everything again",
            ) from None
        return ledger


class SpillFile:
    """Lines of one slice that wait to be committed, in files without a name. Raises OSError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, IO[bytes]] = {}

    def write(self, chunks: Iterable[Chunk]) -> None:
        for chunk in chunks:
            file = self._files.get(chunk.kind)
            if file is None:
                file = self._files[chunk.kind] = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115  see close
            file.write(chunk.lines)

    def blocks(self, size: int) -> Iterator[tuple[str, bytes]]:
        """All of it, whole lines at a time, by their kind."""
        for kind, file in self._files.items():
            file.seek(0)
            while lines := file.read(size):
                yield kind, lines + file.readline() if not lines.endswith(b"\n") else lines

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def quoted(name: str) -> str:
    """A name as SQL writes it, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def free_name(key: str, taken: set[str]) -> str:
    """The name of a column for a key: its own, but for what is taken; capitals make no difference there."""
    name = key.replace("\0", "") or "_"
    number = 1
    column = name
    while column.casefold() in taken:
        number += 1
        column = f"{name}_{number}"
    return column


def _hidden_name(stream: str) -> str:
    return f"{OWN}_new_{stream}"
