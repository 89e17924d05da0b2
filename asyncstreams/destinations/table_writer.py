"""Writer for a database: rows and state are committed together, in one transaction.

Each stream has a table of its own name. A replacement is written to a second table, which replaces the first one when
it is complete. Two tables of the library hold the state: a snapshot of the ledger, and the journal records after it.
"""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .._json import as_object, decode, encode
from ..errors import (
    AsyncStreamsError,
    ConfigError,
    MalformedJSON,
    OutputMissing,
    StateCorrupt,
    StateIncompatible,
)
from ..storage.file_lock import OutputLock
from ..storage.filesystem import write_errors
from .column_names import shortened
from .journal import SnapshotTrigger
from .ledger import JournalRecord, Ledger, is_replacement
from .line_records import SpillFile, decode_records, iter_blocks
from .table_engine import RESERVED_PREFIX, Engine, EngineTable, quote_name
from .writer_protocol import (
    MAX_FAILURES_KEPT,
    MAX_RUNS_KEPT,
    Chunk,
    CommitPayload,
    FailedSlice,
    OutputContents,
    StoredRun,
    StreamSchema,
)

_METADATA, _JOURNAL, _QUARANTINED = RESERVED_PREFIX, f"{RESERVED_PREFIX}_journal", f"{RESERVED_PREFIX}_quarantined"
_ERRORS, _RUNS = f"{RESERVED_PREFIX}_errors", f"{RESERVED_PREFIX}_runs"
_FORMAT = 3
_log = logging.getLogger("asyncstreams")


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
            self._check_journal()
            for table, columns in (
                (_METADATA, "name TEXT PRIMARY KEY, value TEXT"),
                (_JOURNAL, "number INTEGER PRIMARY KEY, record TEXT"),
                (_QUARANTINED, "stream TEXT, record TEXT, problems TEXT"),
                (_ERRORS, "stream TEXT, slice TEXT, page INTEGER, status INTEGER, message TEXT, time TEXT"),
                (_RUNS, "id TEXT PRIMARY KEY, record TEXT"),
            ):
                self._engine.execute(f"CREATE TABLE IF NOT EXISTS {quote_name(table)} ({columns})")
            self._ledger = self._recover()
            self._ledger.salt = self._ledger.salt or secrets.token_hex(16)
            self._write_snapshot()

    def begin_run(self, record: JournalRecord) -> None:
        """Record the start of a run.

        Raises ConfigError for a table that no extraction created, for two streams that would share a table, for a key
        that rows share, and for what others added to a table if it would be lost; OutputMissing for a table or column
        that was removed. If it raises, nothing has changed.
        """
        known = set(self._ledger.streams)
        new = self._choose_tables(record["names"])
        streams = {
            name: {**entry, "folder": new[name]} if name not in known else entry
            for name, entry in record["streams"].items()
        }
        record = {**record, "streams": streams}
        with self._engine.transaction():
            for name in record["names"]:
                try:
                    self._prepare(name, record)
                except AsyncStreamsError as error:
                    error.locate(stream=name)
                    raise
            for name, entry in record["streams"].items():
                if name in known and self._ledger.streams[name].is_provisional:
                    self._drop_visible(name)
                elif name in known and is_replacement(entry):
                    self._drop_hidden(name)
            self._append(record)
        self._ledger.apply(record)

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

    def finish_stream(self, record: JournalRecord) -> None:
        stream = record["stream"]
        is_replaced = self._ledger.streams[stream].is_replaced
        with self._engine.transaction():
            table = self._table(stream)
            table.create()
            if is_replaced:
                if table.to_json() is None or self._engine.has_dependents(self._visible_name(stream)):
                    table.keep_columns()
                self._replace_visible(stream, table)
            else:
                self._store_columns(table)
            self._append(record)
        self._ledger.apply(record)
        self._engine.refresh_views()

    def end_run(self, record: JournalRecord) -> None:
        with self._engine.transaction():
            self._append(record)
        self._ledger.apply(record)

    def record_failures(self, failures: Sequence[FailedSlice]) -> None:
        table = quote_name(_ERRORS)
        with self._engine.transaction():
            for failure in failures:
                values = failure._replace(slice=encode(failure.slice).decode())  # type: ignore[arg-type]  # as text
                self._engine.execute(f"INSERT INTO {table} VALUES (?, ?, ?, ?, ?, ?)", *values)
            excess = self._engine.execute(f"SELECT count(*) FROM {table}")[0][0] - MAX_FAILURES_KEPT
            if excess > 0:
                oldest = f"SELECT time FROM {table} ORDER BY time LIMIT 1 OFFSET {excess}"
                self._engine.execute(f"DELETE FROM {table} WHERE time < ({oldest})")

    def save_run(self, run: StoredRun) -> None:
        table = quote_name(_RUNS)
        with self._engine.transaction():
            self._engine.execute(f"DELETE FROM {table} WHERE id = ?", run.id)
            self._engine.execute(f"INSERT INTO {table} VALUES (?, ?)", run.id, run.record.decode())
            oldest = f"SELECT id FROM {table} ORDER BY id DESC LIMIT {MAX_RUNS_KEPT}"
            self._engine.execute(f"DELETE FROM {table} WHERE id NOT IN ({oldest})")

    def load_runs(self, limit: int) -> Sequence[StoredRun]:
        if self._lock is not None:
            return self._stored_runs(limit)
        if not self._path.exists():
            return []
        self._engine.open()
        try:
            return self._stored_runs(limit) if _RUNS in self._engine.table_names() else []
        finally:
            self._engine.close()

    def _stored_runs(self, limit: int) -> Sequence[StoredRun]:
        rows = self._engine.execute(f"SELECT id, record FROM {quote_name(_RUNS)} ORDER BY id DESC LIMIT {limit:d}")
        return [StoredRun(run_id, text.encode(), f"run {run_id} in {self._path}") for run_id, text in rows]

    def inspect(self) -> OutputContents:
        if not self._path.exists():
            return OutputContents(Ledger(), {})
        self._engine.open()
        try:
            tables = self._engine.table_names()
            with self._engine.transaction():
                self._check_journal()
                ledger = self._recover() if _METADATA in tables else Ledger()
            names = {name: known.parts.folder or name for name, known in ledger.streams.items()}
            rows = {name: self._count_rows(table) for name, table in names.items() if table in tables}
            return OutputContents(ledger, rows)
        finally:
            self._engine.close()

    def reset(self, record: JournalRecord) -> None:
        with self._engine.transaction():
            for name in record["streams"]:
                self._drop_hidden(name)
                if record["drop"]:
                    self._drop_visible(name)
            self._append(record)
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
        return self._path, self._visible_name(stream)

    def _prepare(self, name: str, record: JournalRecord) -> None:
        """Check the tables of a stream, and make the one that its rows go to ready for the mode of the run."""
        started, known = record["streams"].get(name), self._ledger.streams.get(name)
        if known is None:
            return
        is_replaced = started is not None and (known.is_provisional or is_replacement(started))
        visible, hidden = self._visible_name(name), self._hidden_name(name)
        target = hidden if is_replaced or known.is_replaced else visible
        mode = known.mode if started is None else started["mode"]
        key = record.get("keys", {}).get(name, ())
        for table_name in {visible, target}:
            if self._stored_columns(table_name) is None or (is_replaced and table_name == target):
                continue
            table = self._open_table(table_name, StreamSchema(key), is_keyed=bool(key))
            self._check_columns(table, is_replaced=table_name != target)
            if table_name == target and (key or mode == "append"):
                table.prepare()
                self._store_columns(table)

    def _check_columns(self, table: EngineTable, *, is_replaced: bool) -> None:
        """Raises OutputMissing and ConfigError if others changed a table in a way that cannot be kept."""
        found = {column.casefold(): column for column in self._engine.column_names(table.name)}
        known = {column.casefold() for column in table.column_names}
        is_other = not found and table.name in self._engine.table_names()
        if is_other or not (is_replaced or known <= found.keys()):
            missing = f"column {min(known - found.keys())} of " if found else ""
            raise OutputMissing(
                f"{self._path}: {missing}table {table.name} was committed, but does not exist any more",
                hint='restore the file from a copy, or use mode="replace", resume=False to read everything again',
            )
        if found and (is_replaced or self._engine.copies_tables):
            added = [f"column {column}" for folded, column in found.items() if folded not in known]
            added += self._engine.constraints(table.name)
            if added:
                raise ConfigError(
                    f"{self._path}: table {table.name} was changed by another program, and this run would remove "
                    f"{', '.join(added)}",
                    hint="move what was added to a view or a table of its own, or extract to another file",
                )

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
        if "part" in counts:
            self._store_columns(self._table(name))
        return counts

    def _load_quarantined(self, name: str, lines: bytes) -> int:
        entries = decode_records(lines)
        for entry in entries:
            values = [encode(entry[field]).decode() for field in ("record", "problems")]
            statement = f"INSERT INTO {quote_name(_QUARANTINED)} VALUES (?, ?, ?)"
            self._engine.execute(statement, self._quarantine_label(name), *values)
        return len(entries)

    def _table(self, name: str) -> EngineTable:
        """The table that the rows of a stream currently go to."""
        table_name = self._table_name(name)
        table = self._tables.get(name)
        if table is None or table.name != table_name:
            visible = self._visible_name(name)
            earlier = self._stored_columns(visible) if table_name != visible else None
            is_keyed = self._ledger.streams[name].mode == "upsert"
            schema = self._schemas.get(name, StreamSchema())
            table = self._tables[name] = self._open_table(table_name, schema, earlier, is_keyed=is_keyed)
        return table

    def _open_table(
        self, name: str, schema: StreamSchema, earlier: Any = None, *, is_keyed: bool = False
    ) -> EngineTable:
        return self._engine.open_table(name, schema, self._stored_columns(name), earlier, is_keyed=is_keyed)

    def _table_name(self, name: str) -> str:
        """The table that the rows of a stream currently go to."""
        stream = self._ledger.streams.get(name)
        return self._visible_name(name) if stream is None or not stream.is_replaced else self._hidden_name(name)

    def _visible_name(self, name: str) -> str:
        """The table of a stream."""
        stream = self._ledger.streams.get(name)
        return (stream and stream.parts.folder) or name

    def _hidden_name(self, name: str) -> str:
        """The table that replaces that of a stream when it is complete."""
        return f"{RESERVED_PREFIX}_new_{self._visible_name(name)}"

    def _quarantine_label(self, name: str) -> str:
        """What the quarantined rows of a stream have as its name; they are hidden as long as its rows are."""
        stream = self._ledger.streams.get(name)
        return name if stream is None or not stream.is_replaced else self._hidden_name(name)

    def _drop_visible(self, name: str) -> None:
        self._drop_table(self._visible_name(name), name)

    def _drop_hidden(self, name: str) -> None:
        self._drop_table(self._hidden_name(name), self._hidden_name(name))

    def _drop_table(self, table: str, label: str) -> None:
        """Remove a table of rows, with its quarantined rows and its columns; one that does not exist is ignored."""
        self._engine.execute(f"DROP TABLE IF EXISTS {quote_name(table)}")
        self._engine.execute(f"DELETE FROM {quote_name(_QUARANTINED)} WHERE stream = ?", label)
        self._delete_columns(table)

    def _count_rows(self, table: str) -> int:
        return int(self._engine.execute(f"SELECT count(*) FROM {quote_name(table)}")[0][0])

    def _replace_visible(self, stream: str, table: EngineTable) -> None:
        """Replace the visible table of a stream by the hidden one, which is complete."""
        del self._tables[stream]
        self._engine.execute(f"DELETE FROM {quote_name(_QUARANTINED)} WHERE stream = ?", stream)
        self._engine.execute(f"UPDATE {quote_name(_QUARANTINED)} SET stream = ? WHERE stream = ?", stream, table.name)
        visible = self._visible_name(stream)
        self._delete_columns(visible)
        if table.to_json() is not None:
            self._engine.replace_table(visible, table.name)
            self._write_metadata(f"columns {visible}", table.to_json())
        self._delete_columns(table.name)

    def _choose_tables(self, names: Iterable[str]) -> Mapping[str, str]:
        """The tables of streams; new ones get names that differ from others also where case makes no difference.

        Raises ConfigError for a name that no table can have, and for a table that no extraction has created.
        """
        tables = {name.casefold() for name in self._engine.table_names()}
        chosen = {name: self._visible_name(name) for name in names if name in self._ledger.streams}
        used = {self._visible_name(name).casefold() for name in self._ledger.streams}
        for name in names:
            if name.casefold().startswith((RESERVED_PREFIX, "sqlite_")) or "\0" in name or not _is_unicode(name):
                raise ConfigError(
                    f"stream {name!r}: the name cannot be used for a table", hint="give it another `name`"
                )
            if name not in chosen:
                chosen[name] = shortened(name, is_used=name.casefold() in used)
                used.add(chosen[name].casefold())
            if self._stored_columns(chosen[name]) is None and chosen[name].casefold() in tables:
                raise ConfigError(
                    f"{self._path} has a table {chosen[name]} that was not created by an extraction",
                    hint="extract to another file, or rename that table",
                ).locate(stream=name)
        return chosen

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

    def _check_journal(self) -> None:
        """Raises StateCorrupt if the table of the journal was removed, which holds what the snapshot does not."""
        tables = self._engine.table_names()
        if _METADATA in tables and _JOURNAL not in tables:
            raise StateCorrupt(
                f"{self._path}: table {_JOURNAL} was removed, and with it the state of the last run",
                hint="restore the file from a copy, or remove it to read everything again",
            )

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


def _is_unicode(text: str) -> bool:
    """Whether a text has no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
