"""Writer for a database: rows and state are committed together, in one transaction.

Each stream has a table of its own name. A replacement is written to a second table, which replaces the first one when
it is complete. Two tables of the library hold the state: a snapshot of the ledger, and the journal records after it.
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
from ..storage.filesystem import write_errors
from .journal import SnapshotTrigger
from .ledger import JournalRecord, Ledger
from .line_records import decode_records, iter_blocks
from .writer_protocol import Chunk, CommitPayload, StreamSchema

RESERVED_PREFIX = "_asyncstreams"
"""Prefix of all tables that do not belong to a stream."""
_METADATA, _JOURNAL, _QUARANTINED = RESERVED_PREFIX, f"{RESERVED_PREFIX}_journal", f"{RESERVED_PREFIX}_quarantined"
_FORMAT = 2


class EngineTable(Protocol):
    """The table of one stream, or of its replacement."""

    name: str

    def load(self, lines: bytes) -> int:
        """Insert records, adding the columns that they need; return their number.

        In a keyed table they replace rows with the same key. Raises OutputWriteError for records that do not fit into a
        table.
        """
        ...

    def create(self) -> None:
        """Create the table without rows, with the columns known so far."""
        ...

    def to_json(self) -> Any:
        """The columns, as a JSON value to be stored; None: the table does not exist."""
        ...


class Engine(Protocol):
    """A database engine. Blocking; one caller at a time. Raises LocalError with a message for the user."""

    block_bytes: int
    """Approximate size of the blocks of lines that a table loads at once."""

    def open(self) -> None: ...

    def close(self) -> None: ...

    def transaction(self) -> AbstractContextManager[None]:
        """A transaction: committed when the block ends, rolled back if it raises."""
        ...

    def execute(self, statement: str, *values: Any) -> Sequence[Sequence[Any]]:
        """Execute one statement with `?` placeholders, and return its rows."""
        ...

    def table_names(self) -> set[str]:
        """The names of all tables and views."""
        ...

    def open_table(self, name: str, schema: StreamSchema, known: Any, *, is_keyed: bool) -> EngineTable:
        """A table; `known` is the stored result of `EngineTable.to_json`, or None if the table does not exist yet."""
        ...


class TableWriter:
    """A DestinationWriter whose streams are the tables of one database file."""

    def __init__(self, path: Path, engine: Engine) -> None:
        self._path, self._engine = path, engine
        self._lock: OutputLock | None = None
        self._schemas: dict[str, StreamSchema] = {}
        self._tables: dict[str, EngineTable] = {}
        self._columns: dict[str, Any] = {}
        self._spills: dict[Hashable, SpillFile] = {}
        self._trigger = SnapshotTrigger()
        self._ledger = Ledger()

    @property
    def ledger(self) -> Ledger:
        return self._ledger

    def open(self, now: float) -> None:
        with write_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = OutputLock(self._path.with_name(f".{self._path.name}.lock"), now, locked_path=self._path)
        self._engine.open()
        with self._engine.transaction():
            for table, columns in (
                (_METADATA, "name TEXT PRIMARY KEY, value TEXT"),
                (_JOURNAL, "number INTEGER PRIMARY KEY, record TEXT"),
                (_QUARANTINED, "stream TEXT, record TEXT, problems TEXT"),
            ):
                self._engine.execute(f"CREATE TABLE IF NOT EXISTS {quote_name(table)} ({columns})")
            self._ledger = self._recover()
            self._ledger.salt = self._ledger.salt or secrets.token_hex(16)
            self._write_snapshot()

    def begin_run(self, record: JournalRecord) -> None:
        """Record the start of a run.

        Raises ConfigError for a table that no extraction created and for two streams that would share a table, and
        OutputMissing for a table that was removed.
        """
        known = set(self._ledger.streams)
        tables = {name.casefold() for name in self._engine.table_names()}
        used = {name.casefold(): name for name in known}
        for name in record["names"]:
            self._check_name(name, used, tables)
            used[name.casefold()] = name
        with self._engine.transaction():
            for name in record["streams"]:
                if name in known and record["streams"][name]["mode"] == "replace":
                    hidden = _hidden_name(name)
                    self._engine.execute(f"DROP TABLE IF EXISTS {quote_name(hidden)}")
                    self._engine.execute(f"DELETE FROM {quote_name(_QUARANTINED)} WHERE stream = ?", hidden)
                    self._delete_columns(hidden)
            self._append(record)
        self._ledger.apply(record)
        for name in record["names"]:
            table = self._table_name(name)
            if self._stored_columns(table) is not None and table.casefold() not in tables:
                raise OutputMissing(
                    f"{self._path}: table {table} was committed, but does not exist any more",
                    hint='restore the file from a copy, or use mode="replace", resume=False to read everything again',
                ).locate(stream=name)

    def describe_stream(self, stream: str, schema: StreamSchema) -> None:
        self._schemas[stream] = schema

    def write(self, stream: str, batch_id: Hashable, chunks: Iterable[Chunk]) -> None:
        spill = self._spills.get(batch_id)
        with write_errors(self._path):
            if spill is None:
                spill = self._spills[batch_id] = SpillFile(self._path.parent)
            spill.write(chunks)

    def drop(self, batch_id: Hashable) -> None:
        if (spill := self._spills.pop(batch_id, None)) is not None:
            spill.close()

    def commit(self, streams: Mapping[str, CommitPayload]) -> JournalRecord:
        entries: dict[str, Any] = {}
        size = self._engine.block_bytes
        with self._engine.transaction():
            for name, payload in streams.items():
                counts: Counter[str] = Counter()
                for batch_id, chunks in payload.chunks.items():
                    spill = self._spills.get(batch_id)
                    counts.update(self._load(name, spill.iter_blocks(size) if spill is not None else ()))
                    counts.update(self._load(name, iter_blocks(chunks, size)))
                rows = {"rows": counts["part"], "quarantined": counts["quarantined"]}
                entries[name] = {**payload.journal_entry, **{kind: count for kind, count in rows.items() if count}}
            record = {"op": "commit", "streams": entries}
            self._append(record)
        for payload in streams.values():
            for batch_id in payload.chunks:
                self.drop(batch_id)
        return record

    def finish_stream(self, stream: str, parents: Mapping[str, Any]) -> None:
        hidden = self._ledger.streams[stream].hidden is not None
        record = {"op": "finish", "stream": stream, **({"parents": parents} if parents else {})}
        with self._engine.transaction():
            table = self._table(stream)
            table.create()
            if hidden:
                self._replace_visible(stream, table)
            else:
                self._store_columns(table)
            self._append(record)
        self._ledger.apply(record)

    def end_run(self) -> None:
        with self._engine.transaction():
            self._append(record := {"op": "end"})
        self._ledger.apply(record)

    def maintain(self, *, is_end: bool = False) -> None:
        if self._trigger.is_due:
            with self._engine.transaction():
                self._write_snapshot()

    def close(self) -> None:
        try:
            for batch_id in list(self._spills):
                self.drop(batch_id)
            self._engine.close()
        finally:
            if self._lock is not None:
                lock, self._lock = self._lock, None
                lock.release()

    def location_of(self, stream: str) -> tuple[Path, str]:
        return self._path, stream

    def _load(self, name: str, blocks: Iterable[tuple[str, bytes]]) -> Mapping[str, int]:
        """Insert blocks of lines; return the number of rows by kind."""
        counts: Counter[str] = Counter()
        for kind, lines in blocks:
            try:
                if kind == "part":
                    counts[kind] += self._table(name).load(lines)
                else:
                    counts[kind] += self._load_quarantined(name, lines)
            except AsyncStreamsError as error:
                error.locate(stream=name)
                raise
        if counts["part"]:
            self._store_columns(self._table(name))
        return counts

    def _load_quarantined(self, name: str, lines: bytes) -> int:
        entries = decode_records(lines)
        for entry in entries:
            values = [encode(entry[field]).decode() for field in ("record", "problems")]
            statement = f"INSERT INTO {quote_name(_QUARANTINED)} VALUES (?, ?, ?)"
            self._engine.execute(statement, self._table_name(name), *values)
        return len(entries)

    def _table(self, name: str) -> EngineTable:
        """The table that the rows of a stream currently go to."""
        table_name = self._table_name(name)
        table = self._tables.get(name)
        if table is None or table.name != table_name:
            is_keyed = self._ledger.streams[name].mode == "upsert"
            schema, columns = self._schemas.get(name, StreamSchema()), self._stored_columns(table_name)
            table = self._tables[name] = self._engine.open_table(table_name, schema, columns, is_keyed=is_keyed)
        return table

    def _table_name(self, name: str) -> str:
        stream = self._ledger.streams.get(name)
        return name if stream is None or stream.hidden is None else _hidden_name(name)

    def _replace_visible(self, stream: str, table: EngineTable) -> None:
        """Replace the visible table of a stream by the hidden one, which is complete."""
        del self._tables[stream]
        names = self._engine.table_names()
        self._engine.execute(f"DROP TABLE IF EXISTS {quote_name(stream)}")
        self._engine.execute(f"DELETE FROM {quote_name(_QUARANTINED)} WHERE stream = ?", stream)
        self._engine.execute(f"UPDATE {quote_name(_QUARANTINED)} SET stream = ? WHERE stream = ?", stream, table.name)
        self._delete_columns(stream)
        if table.name in names:
            self._engine.execute(f"ALTER TABLE {quote_name(table.name)} RENAME TO {quote_name(stream)}")
            self._write_metadata(f"columns {stream}", table.to_json())
        self._delete_columns(table.name)

    def _check_name(self, name: str, used: Mapping[str, str], tables: Collection[str]) -> None:
        other = used.get(name.casefold(), name)
        if other != name:
            raise ConfigError(
                f"streams {other!r} and {name!r} would share a table of {self._path}",
                hint="table names are case-insensitive: give one of the streams another `name`, or use another file",
            )
        if name.casefold().startswith((RESERVED_PREFIX, "sqlite_")) or "\0" in name:
            raise ConfigError(f"stream {name!r}: the name cannot be used for a table", hint="give it another `name`")
        if name not in self._ledger.streams and name.casefold() in tables:
            raise ConfigError(
                f"{self._path} has a table {name} that was not created by an extraction",
                hint="extract to another file, or rename that table",
            ).locate(stream=name)

    def _store_columns(self, table: EngineTable) -> None:
        """Store the columns of a table if they have changed."""
        columns = table.to_json()
        if columns is not None and self._stored_columns(table.name) != columns:
            self._write_metadata(f"columns {table.name}", columns)
            del self._columns[table.name]

    def _stored_columns(self, table: str) -> Any:
        if table not in self._columns:
            self._columns[table] = self._read_metadata(f"columns {table}")
        return self._columns[table]

    def _delete_columns(self, table: str) -> None:
        self._engine.execute(f"DELETE FROM {quote_name(_METADATA)} WHERE name = ?", f"columns {table}")
        self._columns.pop(table, None)

    def _read_metadata(self, key: str) -> Any:
        found = self._engine.execute(f"SELECT value FROM {quote_name(_METADATA)} WHERE name = ?", key)
        return decode(found[0][0].encode()) if found else None

    def _write_metadata(self, key: str, value: Any) -> int:
        """Store a value; return the length of its text."""
        text = encode(value).decode()
        self._engine.execute(f"DELETE FROM {quote_name(_METADATA)} WHERE name = ?", key)
        self._engine.execute(f"INSERT INTO {quote_name(_METADATA)} VALUES (?, ?)", key, text)
        return len(text)

    def _append(self, record: JournalRecord) -> None:
        text = encode(record).decode()
        self._trigger.add_record(len(text))
        self._engine.execute(f"INSERT INTO {quote_name(_JOURNAL)} VALUES (?, ?)", self._trigger.records, text)

    def _write_snapshot(self) -> None:
        size = self._write_metadata("ledger", {"format": _FORMAT, "ledger": self._ledger.to_json()})
        self._engine.execute(f"DELETE FROM {quote_name(_JOURNAL)}")
        self._trigger.reset(size)

    def _recover(self) -> Ledger:
        """Raises StateCorrupt and StateIncompatible."""
        snapshot = as_object(self._read_metadata("ledger"))
        if snapshot is None:
            return Ledger()
        if snapshot.get("format") != _FORMAT:
            raise StateIncompatible(
                f"{self._path} has format {snapshot.get('format')!r}; this version reads format {_FORMAT}",
                field="format",
                hint="if a newer version of asyncstreams wrote it, use that version; or extract to another file",
            )
        try:
            ledger = Ledger.from_json(snapshot["ledger"])
            for (record,) in self._engine.execute(f"SELECT record FROM {quote_name(_JOURNAL)} ORDER BY number"):
                ledger.apply(as_object(decode(record.encode())) or {})
        except (KeyError, TypeError, ValueError, MalformedJSON) as error:
            raise StateCorrupt(
                f"{self._path}: the state in table {_METADATA} is corrupt: {error}",
                hint="restore the file from a copy, or remove it to read everything again",
            ) from None
        return ledger


class SpillFile:
    """Lines that wait for their commit, in one temporary file per kind. Raises OSError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, IO[bytes]] = {}

    def write(self, chunks: Iterable[Chunk]) -> None:
        for chunk in chunks:
            file = self._files.get(chunk.kind)
            if file is None:
                file = self._files[chunk.kind] = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115  see close
            file.write(chunk.lines)

    def iter_blocks(self, size: int) -> Iterator[tuple[str, bytes]]:
        """All lines by kind, in blocks of about `size` bytes that end with a line."""
        for kind, file in self._files.items():
            file.seek(0)
            while lines := file.read(size):
                yield kind, lines + file.readline() if not lines.endswith(b"\n") else lines

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def quote_name(name: str) -> str:
    """The name as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def unused_name(key: str, used: set[str]) -> str:
    """The column name of a field: its own, with a number if that is used already; case makes no difference."""
    name = key.replace("\0", "") or "_"
    number = 1
    column = name
    while column.casefold() in used:
        number += 1
        column = f"{name}_{number}"
    return column


def _hidden_name(stream: str) -> str:
    return f"{RESERVED_PREFIX}_new_{stream}"
