"""SQLite destination; columns have no type, so every value stays what it is."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from .._json import decode, encode
from ..errors import LocalError, OutputLocked, OutputWriteError, StateCorrupt
from ..state.stream_state import value_at
from ..storage.filesystem import DATA_MODE
from .base import Destination, TableMode
from .column_names import ColumnNames, unused_name
from .column_types import ColumnType, declared_types, holds_integer, key_value, too_many_columns, with_integers
from .line_records import decode_records
from .row_order import RowOrder
from .table_engine import RESERVED_PREFIX, Engine, EngineTable, quote_name, quote_text, unwritable
from .table_writer import TableWriter
from .writer_protocol import StreamSchema

_BUSY_TIMEOUT_S = 30.0
_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**63 - 1
_KEY_INDEX_PREFIX = f"{RESERVED_PREFIX}_key_"
_REPLACES = f"{RESERVED_PREFIX}_replaces"
"""SQL function: whether a new version of a row replaces the stored one."""
_MAX_COLUMNS = 2_000 - 8
"""A little below the default limit of SQLite, 2,000."""
_log = logging.getLogger("asyncstreams")


@dataclass(frozen=True, slots=True)
class SQLite(Destination):
    """A SQLite database file at `path`, one table per stream; rows and state are committed together.

    Requires nothing beyond Python. Each field of the records has a column, and each value keeps its JSON type:
    integers, reals and texts as they are, booleans as 0 or 1, objects and arrays as JSON text. Integers beyond 64 bits
    are stored as text. A run that did not finish is resumed by the next one. Other programs can read while it is
    written.

    Options:

    - mode (None): None upserts streams with a cursor and a primary key, appends to streams with a cursor only, and
      replaces other streams once they have been read completely. "upsert" (replace rows with the same primary key, but
      never by an older version according to the cursor), "append" or "replace" does that to all streams; "fail" raises
      ConfigError if a stream exists already.
    - fsync ("commit"): "commit" syncs once per commit, which may hold many slices; "full" commits and syncs each slice
      by itself; "none" never syncs, which survives a kill of the process but not a loss of power.
    - allow_credential_change (False): True accepts a run with another credential than the earlier ones.
    - resume (True): False starts unfinished replacements over instead of resuming them.
    - surrogates ("refuse"): a lone surrogate, such as half an emoji, has no form in UTF-8. "refuse" fails the slice
      with UnexpectedContent; "replace" writes U+FFFD instead.
    - connect (sqlite3.connect): opens the database; to be replaced in tests.

    Raises ConfigError for other values. `extract` raises OutputLocked, OutputMissing, OutputWriteError, StateCorrupt
    and StateIncompatible.
    """

    connect: Callable[..., sqlite3.Connection] = field(default=sqlite3.connect, kw_only=True, repr=False, compare=False)

    modes: ClassVar[tuple[TableMode, ...]] = ("append", "replace", "upsert", "fail", None)
    needs_schema: ClassVar[bool] = True

    def new_writer(self) -> TableWriter:
        """A writer for the database, not opened yet."""
        path = Path(self.path)
        return TableWriter(path, SqliteEngine(path, self.connect, synced=self.fsync != "none"))


class SqliteEngine(Engine):
    """Engine of SQLite. Other processes can read while it writes."""

    block_bytes = 256 * 2**10
    copies_tables = False
    begin_statement = "BEGIN IMMEDIATE"

    def __init__(self, path: Path, connect: Callable[..., sqlite3.Connection], *, synced: bool) -> None:
        super().__init__(path, sqlite3.DatabaseError)
        self._connect, self._synced = connect, synced
        self._orders: dict[str, RowOrder] = {}

    def open(self) -> None:
        with self._translate_errors():
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, DATA_MODE))
            self._connection = self._connect(
                self._path,
                timeout=_BUSY_TIMEOUT_S,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=256,
            )
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if self._synced else 'OFF'}")
            self._connection.execute("PRAGMA cache_size = -16384")
            # Otherwise renaming a table checks and changes the views and triggers that others made.
            self._connection.execute("PRAGMA legacy_alter_table = ON")
            self._connection.create_function(_REPLACES, 3, self._replaces)

    def execute_many(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Execute a statement once for each row."""
        with self._translate_errors():
            self._connection.executemany(statement, rows)

    def table_names(self) -> set[str]:
        return {name for (name,) in self.execute("SELECT name FROM sqlite_master WHERE type <> 'trigger'")}

    def column_names(self, table: str) -> Sequence[str]:
        tables = "SELECT name FROM sqlite_master WHERE type = 'table'"
        query = f"SELECT name FROM pragma_table_xinfo(?) WHERE ? IN ({tables})"
        return [name for (name,) in self.execute(query, table, table)]

    def constraints(self, table: str) -> Sequence[str]:
        return ()  # SQLite cannot add any to a table that exists

    def has_dependents(self, table: str) -> bool:
        query = "SELECT 1 FROM sqlite_master WHERE type IN ('view', 'trigger') AND instr(lower(sql), lower(?))"
        return bool(self._objects_on(table) or self.execute(query, table))

    def replace_table(self, old: str, new: str) -> None:
        triggers = [name for kind, name, _ in self._objects_on(old) if kind == "trigger"]
        super().replace_table(old, new)
        if triggers:
            _log.warning("%s: its rows were replaced without running its triggers: %s", old, ", ".join(triggers))

    def refresh_views(self) -> None:
        """Does nothing: a view of SQLite is its text."""

    def open_table(self, name: str, schema: StreamSchema, known: Any, earlier: Any, *, is_keyed: bool) -> SqliteTable:
        if schema.order is not None:
            self._orders[name] = schema.order
        taken = self.column_names(name) if known is not None else ()
        return SqliteTable(self, name, schema, known, ColumnNames(known, earlier, taken), is_keyed=is_keyed)

    def _objects_on(self, table: str) -> Sequence[Sequence[str]]:
        query = (
            "SELECT type, name, sql FROM sqlite_master WHERE type IN ('index', 'trigger') "
            "AND tbl_name = ? COLLATE NOCASE AND sql IS NOT NULL AND substr(name, 1, ?) <> ? ORDER BY rowid"
        )
        return self.execute(query, table, len(_KEY_INDEX_PREFIX), _KEY_INDEX_PREFIX)

    def _replaces(self, table: str, new: Any, stored: Any) -> bool:
        order = self._orders[table]
        return order.replaces(_at_path(new, order.path), _at_path(stored, order.path))

    def _translate(self, error: Exception) -> LocalError:
        text = str(error)
        if isinstance(error, sqlite3.IntegrityError):
            return OutputWriteError(
                f"{self._path}: {text}",
                hint="an index or a trigger that others made refuses rows of the stream: drop it, and run again",
            )
        if "locked" in text:
            return OutputLocked(
                f"{self._path} is being written to by another program, or another connection of this one, which "
                f"held it for {_BUSY_TIMEOUT_S:.0f} s",
                holder="another program",
                since=None,
                hint="commit or close() that connection, or extract to another file",
            )
        if "not a database" in text or "malformed" in text:
            return StateCorrupt(
                f"{self._path}: {text}", hint="restore the file from a copy, or extract to another file"
            )
        return unwritable(self._path, text)


class SqliteTable(EngineTable):
    """A table with untyped columns.

    The key of a keyed table is a unique index of expressions, in which null equals null and 1 equals "1". A nested key
    has a column of its own.
    """

    def __init__(
        self,
        engine: SqliteEngine,
        name: str,
        schema: StreamSchema,
        known: Mapping[str, Any] | None,
        names: ColumnNames,
        *,
        is_keyed: bool,
    ) -> None:
        super().__init__(name, schema, known, names, is_keyed=is_keyed)
        self._engine, self._schema = engine, schema
        self._integers = {name: kind for name, kind in declared_types(schema.schema).items() if holds_integer(kind)}
        self._key_fields = frozenset(self._key.fields if is_keyed else ())
        self._insert_sql = ""

    def prepare(self) -> None:
        names = [name for (name,) in self._engine.execute("SELECT name FROM pragma_index_list(?)", self.name)]
        indexes = [name for name in names if name.startswith(_KEY_INDEX_PREFIX)]
        if self._key.is_ready and bool(indexes) == self._key.is_keyed:
            return
        for index in indexes:
            self._engine.execute(f"DROP INDEX {quote_name(index)}")
        self._key.stored = None
        if self._key.is_keyed:
            self._key.check_stored_rows(self._engine)
            self._ensure_columns(())

    def create(self) -> None:
        properties: Mapping[str, Any] = (self._schema.schema or {}).get("properties") or {}
        self._ensure_columns(() if self._exists else properties)

    def keep_columns(self) -> None:
        self._ensure_columns(self._names.kept_fields)

    def load(self, lines: bytes) -> int:
        records = decode_records(lines)
        if not self._exists:
            self.create()
        fields = dict.fromkeys(field for record in records for field in record)
        self._ensure_columns(fields if fields or self.column_names else ["_"])  # a table must have a column
        columns = [self._column(field, [record.get(field) for record in records]) for field in self._names.fields]
        for text in self._names.nested:
            path = decode(text.encode())
            columns.append(_storable([key_value(value_at(record, path)) for record in records]))
        if self._key.is_keyed:
            values = dict(zip(self.column_names, columns, strict=True))
            keys = [values[column] for column in self._key.columns]
            self._key.check_records([*zip(*keys, strict=True)].count((None,) * len(keys)), lambda: records)
        self._engine.execute_many(self._insert_sql or self._build_insert(), zip(*columns, strict=True))
        return len(records)

    def _column(self, field: str, values: list[Any]) -> list[Any]:
        if field in self._key_fields:
            values = list(map(key_value, values))
        elif field in self._integers:
            kind: ColumnType = self._integers[field]
            values = [with_integers(value, kind) for value in values]
        return _storable(values)

    def _ensure_columns(self, fields: Iterable[str]) -> None:
        """Create the table, or add columns, so that the primary key and all these fields have one."""
        new = [field for field in dict.fromkeys([*self._key.fields, *fields]) if field not in self._names.fields]
        nested = self._key.missing_nested
        count = len(self.column_names) + len(new) + len(nested)
        if count > _MAX_COLUMNS:
            raise too_many_columns(count, _MAX_COLUMNS)
        columns = [*map(self._names.add_field, new), *map(self._names.add_nested, nested)]
        if self._exists:
            for column in columns:
                self._engine.execute(f"ALTER TABLE {quote_name(self.name)} ADD COLUMN {quote_name(column)}")
        elif columns:
            self._engine.execute(f"CREATE TABLE {quote_name(self.name)} ({', '.join(map(quote_name, columns))})")
            self._exists = True
        if columns:
            self._insert_sql = ""
        if self._key.is_keyed and self._exists and self._key.stored is None:
            self._create_index()

    def _create_index(self) -> None:
        """Create the unique index of the primary key. Raises ConfigError if rows share a key."""
        key, table = ", ".join(self._key_expressions()), quote_name(self.name)
        self._key.check_unique(self._engine, key)
        # The index of a replacement keeps its name when the table gets that of the stream.
        index = unused_name(_KEY_INDEX_PREFIX + self.name, {name.casefold() for name in self._engine.table_names()})
        self._engine.execute(f"CREATE UNIQUE INDEX {quote_name(index)} ON {table} ({key})")
        self._key.mark_ready()

    def _key_expressions(self) -> Iterable[str]:
        for column in map(quote_name, self._key.columns):
            # A blob is no JSON value, so nothing else equals null.
            text = f"WHEN 'integer' THEN CAST({column} AS TEXT) WHEN 'null' THEN x''"
            yield f"CASE typeof({column}) {text} ELSE {column} END"

    def _build_insert(self) -> str:
        columns = list(map(quote_name, self.column_names))
        placeholders = ", ".join("?" * len(columns))
        statement = f"INSERT INTO {quote_name(self.name)} ({', '.join(columns)}) VALUES ({placeholders})"
        if self._key.is_keyed:
            sets = ", ".join(f"{column} = excluded.{column}" for column in columns)
            statement += f" ON CONFLICT ({', '.join(self._key_expressions())}) DO UPDATE SET {sets}"
            statement += self._unless_newer()
        self._insert_sql = statement
        return statement

    def _unless_newer(self) -> str:
        """The condition that the stored row is not newer: slices are read concurrently, so rows can arrive late."""
        order = self._schema.order
        if order is None or order.path[0] not in self._names.fields:
            return ""
        table, column = quote_name(self.name), quote_name(self._names.fields[order.path[0]])
        return f" WHERE {_REPLACES}({quote_text(self.name)}, excluded.{column}, {table}.{column})"


def _at_path(value: Any, path: Sequence[str]) -> Any:
    """The value of a cursor in its stored column, which has JSON text if the cursor is nested."""
    if len(path) == 1:
        return value
    is_json = isinstance(value, str) and value.startswith("{")
    return value_at(decode(value.encode()), path[1:]) if is_json else None


def _storable(values: list[Any]) -> list[Any]:
    """The values of one column as SQLite stores them."""
    kinds = set(map(type, values))
    if dict in kinds or list in kinds:
        return [encode(value).decode() if isinstance(value, dict | list) else _storable_int(value) for value in values]
    return [*map(_storable_int, values)] if int in kinds and not _fit_in_64_bits(values) else values


def _fit_in_64_bits(values: Iterable[Any]) -> bool:
    return all(_MIN_INTEGER <= value <= _MAX_INTEGER for value in values if type(value) is int)


def _storable_int(value: Any) -> Any:
    return str(value) if type(value) is int and not _MIN_INTEGER <= value <= _MAX_INTEGER else value
