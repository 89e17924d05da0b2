"""SQLite destination; columns have no type, so every value stays what it is."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from .._json import encode
from ..errors import OutputLocked, OutputWriteError, StateCorrupt
from ..storage.filesystem import write_errors
from .base import Destination, TableMode
from .column_types import too_many_columns
from .line_records import decode_records
from .table_writer import RESERVED_PREFIX, TableWriter, quote_name, unused_name
from .writer_protocol import StreamSchema

_BUSY_TIMEOUT_S = 30.0
_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**63 - 1
_KEY_INDEX_PREFIX = f"{RESERVED_PREFIX}_key_"
_MAX_COLUMNS = 2_000 - 8
"""A little below the default limit of SQLite, 2,000."""


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
      never with an older cursor value), "append" or "replace" does that to all streams; "fail" raises ConfigError if a
      stream exists already.
    - fsync ("commit"): "commit" syncs once per commit, which may hold many slices; "full" commits and syncs each slice
      by itself; "none" never syncs, which survives a kill of the process but not a loss of power.
    - allow_credential_change (False): True accepts a run with another credential than the earlier ones.
    - resume (True): False starts unfinished replacements over instead of resuming them.
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


class SqliteEngine:
    """Engine of SQLite. Other processes can read while it writes."""

    block_bytes = 256 * 2**10

    def __init__(self, path: Path, connect: Callable[..., sqlite3.Connection], *, synced: bool) -> None:
        self._path, self._connect, self._synced = path, connect, synced
        self._connection: sqlite3.Connection | None = None

    def open(self) -> None:
        with self._translate_errors():
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
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

    def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()  # the last connection merges the write-ahead log into the file

    @contextmanager
    def transaction(self) -> Generator[None]:
        with self._translate_errors():
            self._run("BEGIN IMMEDIATE")
            try:
                yield
                self._run("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._run("ROLLBACK")
                raise

    def execute(self, statement: str, *values: Any) -> Sequence[Sequence[Any]]:
        with self._translate_errors():
            return self._run(statement, values).fetchall()

    def execute_many(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Execute a statement once for each row."""
        with self._translate_errors():
            self._opened.executemany(statement, rows)

    def table_names(self) -> set[str]:
        return {name for (name,) in self.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")}

    def open_table(self, name: str, schema: StreamSchema, known: Any, *, is_keyed: bool) -> SqliteTable:
        return SqliteTable(self, name, schema, known, is_keyed=is_keyed)

    @property
    def _opened(self) -> sqlite3.Connection:
        assert self._connection is not None
        return self._connection

    def _run(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        return self._opened.execute(statement, values)

    @contextmanager
    def _translate_errors(self) -> Generator[None]:
        """Raise errors of sqlite3 and the file system as LocalErrors."""
        try:
            with write_errors(self._path):
                yield
        except sqlite3.IntegrityError as error:
            raise OutputWriteError(
                f"{self._path}: {error}",
                hint="rows of earlier runs share a primary key: remove the duplicates, or use mode='append'",
            ) from error
        except sqlite3.DatabaseError as error:
            text = str(error)
            if "locked" in text:
                raise OutputLocked(
                    f"{self._path} is being written to by another program, which held it for {_BUSY_TIMEOUT_S:.0f} s",
                    holder="another program",
                    since=None,
                    hint="let that program commit or end, or extract to another file",
                ) from error
            if "not a database" in text or "malformed" in text:
                raise StateCorrupt(
                    f"{self._path}: {text}", hint="restore the file from a copy, or extract to another file"
                ) from error
            raise OutputWriteError(
                f"{self._path} cannot be written: {text}",
                hint="everything committed before is intact, and the next run resumes from there",
            ) from error


class SqliteTable:
    """EngineTable of SQLite, with untyped columns."""

    def __init__(self, engine: SqliteEngine, name: str, schema: StreamSchema, known: Any, *, is_keyed: bool) -> None:
        self.name = name
        self._engine, self._schema, self._is_keyed = engine, schema, is_keyed
        self._columns: dict[str, str] = dict(known or {})
        self._exists = known is not None
        self._has_index = False
        self._insert_sql = ""

    def to_json(self) -> Mapping[str, str] | None:
        return dict(self._columns) if self._exists else None

    def create(self) -> None:
        properties: Mapping[str, Any] = (self._schema.schema or {}).get("properties") or {}
        self._ensure_columns([*self._schema.key, *properties] if not self._exists else self._schema.key)

    def load(self, lines: bytes) -> int:
        records = decode_records(lines)
        if not self._exists:
            self.create()
        keys = dict.fromkeys(key for record in records for key in record)
        self._ensure_columns(keys if keys or self._columns else ["_"])  # a table must have a column
        columns = [_storable([record.get(key) for record in records]) for key in self._columns]
        self._engine.execute_many(self._insert_sql or self._build_insert(), zip(*columns, strict=True))
        return len(records)

    def _ensure_columns(self, keys: Iterable[str]) -> None:
        """Create the table, or add columns, so that all these fields have one."""
        new = [key for key in dict.fromkeys(keys) if key not in self._columns]
        if len(self._columns) + len(new) > _MAX_COLUMNS:
            raise too_many_columns(len(self._columns) + len(new), _MAX_COLUMNS)
        used = {column.casefold() for column in self._columns.values()}
        for key in new:
            column = unused_name(key, used)
            used.add(column.casefold())
            if self._exists:
                self._engine.execute(f"ALTER TABLE {quote_name(self.name)} ADD COLUMN {quote_name(column)}")
            self._columns[key] = column
        if not self._exists and self._columns:
            columns = ", ".join(map(quote_name, self._columns.values()))
            self._engine.execute(f"CREATE TABLE {quote_name(self.name)} ({columns})")
            self._exists = True
        if new:
            self._insert_sql = ""
        if self._is_keyed and self._exists and not self._has_index:
            self._ensure_index()

    def _ensure_index(self) -> None:
        """Create the unique index of the primary key; replace one of another key, which an earlier run created."""
        keys = [self._columns[key] for key in self._schema.key]
        self._has_index = False
        for (index,) in self._engine.execute("SELECT name FROM pragma_index_list(?)", self.name):
            if index.startswith(_KEY_INDEX_PREFIX):
                found = self._engine.execute("SELECT name FROM pragma_index_info(?) ORDER BY seqno", index)
                self._has_index = [name for (name,) in found] == keys
                if not self._has_index:
                    self._engine.execute(f"DROP INDEX {quote_name(index)}")
        if not self._has_index:
            index, columns = quote_name(_KEY_INDEX_PREFIX + self.name), ", ".join(map(quote_name, keys))
            self._engine.execute(f"CREATE UNIQUE INDEX {index} ON {quote_name(self.name)} ({columns})")
        self._has_index = True

    def _build_insert(self) -> str:
        columns = [quote_name(column) for column in self._columns.values()]
        placeholders = ", ".join("?" * len(columns))
        statement = f"INSERT INTO {quote_name(self.name)} ({', '.join(columns)}) VALUES ({placeholders})"
        if self._is_keyed:
            keys = [quote_name(self._columns[key]) for key in self._schema.key]
            sets = ", ".join(f"{column} = excluded.{column}" for column in columns if column not in keys)
            statement += f" ON CONFLICT ({', '.join(keys)}) DO "
            statement += f"UPDATE SET {sets}{self._unless_newer()}" if sets else "NOTHING"
        self._insert_sql = statement
        return statement

    def _unless_newer(self) -> str:
        """The condition that the stored row is not newer: slices are read concurrently, so rows can arrive late."""
        if self._schema.cursor not in self._columns:
            return ""
        cursor = quote_name(self._columns[self._schema.cursor])
        stored = f"{quote_name(self.name)}.{cursor}"
        return f" WHERE {stored} IS NULL OR excluded.{cursor} IS NULL OR excluded.{cursor} >= {stored}"


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
