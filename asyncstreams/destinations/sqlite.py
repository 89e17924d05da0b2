"""How do records become rows of SQLite, without a type that would change what they say?"""

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
from ..storage.filesystem import writing
from .base import Destination, TableMode
from .column_types import too_many_columns
from .line_records import records_of
from .table_writer import OWN, TableWriter, free_name, quoted
from .writer_protocol import StreamSchema

_BUSY = 30.0  # seconds
_SMALLEST, _LARGEST = -(2**63), 2**63 - 1
_INDEX = f"{OWN}_key_"
_MOST_COLUMNS = 2_000 - 8
"""Of SQLite's own 2,000."""


@dataclass(frozen=True, slots=True)
class SQLite(Destination):
    """A SQLite database with a table for each stream: rows and state are committed together. Needs nothing else.

    A column for each field of the records, in which values are what JSON has: integers, reals, texts, and
    0 or 1 for booleans; objects and arrays are JSON text, integers beyond 64 bits the text of their digits.

    mode: None puts what streams with a cursor and a primary key bring in the place of rows with the same key, appends
    where there is a cursor only, and replaces the others, when all has been read; "upsert", "append" and
    "replace" do that to all; "fail" refuses where there is something already. A run that did not come to its end is
    gone on with. fsync: "commit" syncs what many slices brought at once, "full" each slice by itself, and "none"
    nothing: that survives a kill, and no loss of power. allow_credential_change: another credential may go on.
    resume: False begins anew what was to be replaced, and was not read to its end.
    """

    connect: Callable[..., sqlite3.Connection] = field(default=sqlite3.connect, kw_only=True, repr=False, compare=False)

    modes: ClassVar[tuple[TableMode, ...]] = ("append", "replace", "upsert", "fail", None)
    needs_schema: ClassVar[bool] = True

    def output(self) -> TableWriter:
        """The database, which is yet to be opened."""
        path = Path(self.path)
        return TableWriter(path, SqliteEngine(path, self.connect, synced=self.fsync != "none"))


class SqliteEngine:
    """See `Engine`. Others may read while it writes."""

    block = 256 * 2**10

    def __init__(self, path: Path, connect: Callable[..., sqlite3.Connection], *, synced: bool) -> None:
        self._path, self._connect, self._synced = path, connect, synced
        self._connection: sqlite3.Connection | None = None

    def open(self) -> None:
        with self._told():
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))  # its owner's alone
            self._connection = self._connect(
                self._path, timeout=_BUSY, isolation_level=None, check_same_thread=False, cached_statements=256
            )
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if self._synced else 'OFF'}")
            self._connection.execute("PRAGMA cache_size = -16384")

    def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()  # the last one to do so leaves one file

    @contextmanager
    def transaction(self) -> Generator[None]:
        with self._told():
            self._run("BEGIN IMMEDIATE")
            try:
                yield
                self._run("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._run("ROLLBACK")
                raise

    def run(self, statement: str, *values: Any) -> Sequence[Sequence[Any]]:
        with self._told():
            return self._run(statement, values).fetchall()

    def run_many(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """One statement for each row."""
        with self._told():
            self._opened.executemany(statement, rows)

    def tables(self) -> set[str]:
        return {name for (name,) in self.run("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")}

    def table(self, name: str, shape: StreamSchema, known: Any, *, is_keyed: bool) -> SqliteTable:
        return SqliteTable(self, name, shape, known, is_keyed=is_keyed)

    @property
    def _opened(self) -> sqlite3.Connection:
        assert self._connection is not None
        return self._connection

    def _run(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        return self._opened.execute(statement, values)

    @contextmanager
    def _told(self) -> Generator[None]:
        """What goes wrong, in the terms of a user."""
        try:
            with writing(self._path):
                yield
        except sqlite3.IntegrityError as error:
            raise OutputWriteError(
                f"{self._path}: {error}",
                hint="rows of earlier runs have the same key: remove the doubles, or use mode='append'",
            ) from error
        except sqlite3.DatabaseError as error:
            text = str(error)
            if "locked" in text:
                raise OutputLocked(
                    f"{self._path} is being written to by another program: it did not let go for {_BUSY:.0f} s",
                    holder="another program",
                    since=None,
                    hint="let it commit or end, or extract into another file",
                ) from error
            if "not a database" in text or "malformed" in text:
                raise StateCorrupt(
                    f"{self._path}: {text}", hint="restore it from a copy, or extract into another file"
                ) from error
            raise OutputWriteError(
                f"{self._path} cannot be written: {text}",
                hint="what was committed before is intact, and the next run goes on from there",
            ) from error


class SqliteTable:
    """See `Table`. Columns have no type: each value has its own, and stays what it is."""

    def __init__(self, engine: SqliteEngine, name: str, shape: StreamSchema, known: Any, *, is_keyed: bool) -> None:
        self.name = name
        self._engine, self._shape, self._is_keyed = engine, shape, is_keyed
        self._columns: dict[str, str] = dict(known or {})
        self._is_there = known is not None
        self._has_index = False
        self._insert = ""

    def to_json(self) -> Mapping[str, str] | None:
        return dict(self._columns) if self._is_there else None

    def make(self) -> None:
        properties: Mapping[str, Any] = (self._shape.schema or {}).get("properties") or {}
        self._need([*self._shape.key, *properties] if not self._is_there else self._shape.key)

    def load(self, lines: bytes) -> int:
        records = records_of(lines)
        if not self._is_there:
            self.make()
        keys = dict.fromkeys(key for record in records for key in record)
        self._need(keys if keys or self._columns else ["_"])  # a table has a column
        columns = [_storable([record.get(key) for record in records]) for key in self._columns]
        self._engine.run_many(self._insert or self._insertion(), zip(*columns, strict=True))
        return len(records)

    def _need(self, keys: Iterable[str]) -> None:
        """Have columns for these as well."""
        new = [key for key in dict.fromkeys(keys) if key not in self._columns]
        if len(self._columns) + len(new) > _MOST_COLUMNS:
            raise too_many_columns(len(self._columns) + len(new), _MOST_COLUMNS)
        taken = {column.casefold() for column in self._columns.values()}
        for key in new:
            column = free_name(key, taken)
            taken.add(column.casefold())
            if self._is_there:
                self._engine.run(f"ALTER TABLE {quoted(self.name)} ADD COLUMN {quoted(column)}")
            self._columns[key] = column
        if not self._is_there and self._columns:
            columns = ", ".join(map(quoted, self._columns.values()))
            self._engine.run(f"CREATE TABLE {quoted(self.name)} ({columns})")
            self._is_there = True
        if new:
            self._insert = ""
        if self._is_keyed and self._is_there and not self._has_index:
            self._index()

    def _index(self) -> None:
        """Have the index of the key, which may be another key than that of earlier runs."""
        keys = [self._columns[key] for key in self._shape.key]
        self._has_index = False
        for (index,) in self._engine.run("SELECT name FROM pragma_index_list(?)", self.name):
            if index.startswith(_INDEX):
                found = self._engine.run("SELECT name FROM pragma_index_info(?) ORDER BY seqno", index)
                self._has_index = [name for (name,) in found] == keys
                if not self._has_index:
                    self._engine.run(f"DROP INDEX {quoted(index)}")
        if not self._has_index:
            columns = ", ".join(map(quoted, keys))
            self._engine.run(f"CREATE UNIQUE INDEX {quoted(_INDEX + self.name)} ON {quoted(self.name)} ({columns})")
        self._has_index = True

    def _insertion(self) -> str:
        columns = [quoted(column) for column in self._columns.values()]
        places = ", ".join("?" * len(columns))
        statement = f"INSERT INTO {quoted(self.name)} ({', '.join(columns)}) VALUES ({places})"
        if self._is_keyed:
            keys = [quoted(self._columns[key]) for key in self._shape.key]
            sets = ", ".join(f"{column} = excluded.{column}" for column in columns if column not in keys)
            statement += f" ON CONFLICT ({', '.join(keys)}) DO "
            statement += f"UPDATE SET {sets}{self._unless_newer()}" if sets else "NOTHING"
        self._insert = statement
        return statement

    def _unless_newer(self) -> str:
        """Slices are read side by side: a row that changed meanwhile may come before what it was."""
        if self._shape.cursor not in self._columns:
            return ""
        cursor = quoted(self._columns[self._shape.cursor])
        ours = f"{quoted(self.name)}.{cursor}"
        return f" WHERE {ours} IS NULL OR excluded.{cursor} IS NULL OR excluded.{cursor} >= {ours}"


def _storable(values: list[Any]) -> list[Any]:
    """The values of one column as SQLite has them."""
    kinds = set(map(type, values))
    if dict in kinds or list in kinds:
        return [encode(value).decode() if isinstance(value, dict | list) else _integer(value) for value in values]
    return [*map(_integer, values)] if int in kinds and not _are_small(values) else values


def _are_small(values: Iterable[Any]) -> bool:
    return all(_SMALLEST <= value <= _LARGEST for value in values if type(value) is int)


def _integer(value: Any) -> Any:
    return str(value) if type(value) is int and not _SMALLEST <= value <= _LARGEST else value
