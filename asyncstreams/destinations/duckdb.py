"""How do records become rows of DuckDB, through columns of Arrow?"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, cast

from ..errors import ConfigError, OutputLocked, OutputWriteError, StateCorrupt
from ..storage.filesystem import writing
from .arrow_columns import Columns, needed
from .base import Destination, TableMode
from .column_types import (
    BIGINT,
    BOOLEAN,
    DATE,
    INTEGER,
    JSON,
    NULL,
    NUMBER,
    TIME,
    Type,
    is_list,
    is_object,
)
from .table_writer import OWN, TableWriter, free_name, quoted
from .writer_protocol import StreamSchema

_BATCH, _NEWEST, _WIDER = f"{OWN}_batch", f"{OWN}_newest", f"{OWN}_wider"
_NUMBER = f"{OWN}_number"
_LOG = "256MB"
_ROWS = 100_000
"""Of a table that is written again, at once."""
_SQL = {
    BOOLEAN: "BOOLEAN",
    INTEGER: "BIGINT",
    BIGINT: "BIGINT",
    NUMBER: "DOUBLE",
    DATE: "DATE",
    TIME: "TIMESTAMPTZ",
    JSON: "JSON",
}
_PROCESS = re.compile(r"held in (.*?) ?\(PID (\d+)\)")


@dataclass(frozen=True, slots=True)
class DuckDB(Destination):
    """A DuckDB database with a table for each stream: rows and state are committed together.

    Needs duckdb and pyarrow. Types are those of the stream's JSON schema, where it has one, and else what the records
    show; where they do not agree a column becomes as wide as it must be. nested: "struct" gives objects and lists
    types of their own, "json" makes them JSON. mode and the others are those of SQLite; DuckDB syncs each commit,
    whatever fsync says. Nobody else can open the file while it is written to.
    """

    nested: str = field(default="struct", kw_only=True)
    connect: Callable[..., Any] | None = field(default=None, kw_only=True, repr=False, compare=False)

    modes: ClassVar[tuple[TableMode, ...]] = ("append", "replace", "upsert", "fail", None)
    needs_schema: ClassVar[bool] = True
    commit_size: ClassVar[int] = 64 * 2**20  # as many rows as it writes to their place at once, not to its log

    def __post_init__(self) -> None:
        Destination.__post_init__(self)
        self._check(nested=("struct", "json"))
        needed("duckdb")
        _duckdb()

    def output(self) -> TableWriter:
        """The database, which is yet to be opened."""
        path = Path(self.path)
        connect = self.connect or _duckdb().connect
        return TableWriter(path, DuckEngine(path, connect, nested=self.nested == "struct"))


class DuckEngine:
    """See `Engine`."""

    block = 2**20

    def __init__(self, path: Path, connect: Callable[..., Any], *, nested: bool) -> None:
        self._path, self._connect, self._nested = path, connect, nested
        self._module = _duckdb()
        self._connection: Any = None

    def open(self) -> None:
        with self._told():
            is_new = not self._path.exists()
            self._connection = self._connect(str(self._path))
            # What is committed lies in its log first, and need not be put in its place again and again.
            self._connection.execute(f"SET checkpoint_threshold = '{_LOG}'").fetchall()
            if is_new:
                os.chmod(self._path, 0o600)  # its owner's alone

    def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()

    @contextmanager
    def transaction(self) -> Generator[None]:
        with self._told():
            self._connection.execute("BEGIN")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                with suppress(self._module.Error):
                    self._connection.execute("ROLLBACK")
                raise

    def run(self, statement: str, *values: Any) -> Sequence[Sequence[Any]]:
        with self._told():
            return cast(Sequence[Sequence[Any]], self._connection.execute(statement, list(values)).fetchall())

    def run_on(self, table: Any, *statements: str) -> None:
        """Statements that find a table of Arrow by the name of the batch."""
        with self._told():
            self._connection.register(_BATCH, table)
            try:
                for statement in statements:
                    self._connection.execute(statement).fetchall()
            finally:
                self._connection.unregister(_BATCH)

    def arrow(self, query: str) -> Any:
        """What a query gives, as a table of Arrow."""
        with self._told():
            return self._connection.sql(query).to_arrow_table()

    def tables(self) -> set[str]:
        query = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'main'"
        return {name for (name,) in self.run(query)}

    def table(self, name: str, shape: StreamSchema, known: Any, *, is_keyed: bool) -> DuckTable:
        return DuckTable(self, name, shape, known, is_keyed=is_keyed, nested=self._nested)

    @contextmanager
    def _told(self) -> Generator[None]:
        """What goes wrong, in the terms of a user."""
        try:
            with writing(self._path):
                yield
        except self._module.Error as error:
            text = str(error).partition("\n")[0]
            if "lock" in text and "Could not" in text:
                found = _PROCESS.search(str(error))
                holder = f"process {found[2]} ({found[1]})" if found else "another process"
                raise OutputLocked(
                    f"{self._path} is opened by {holder}, and DuckDB lets nobody else in then",
                    holder=holder,
                    since=None,
                    hint="close it there, or extract into another file",
                ) from None
            if "not a valid DuckDB" in text or "extension" in text:  # that of another kind of database
                raise StateCorrupt(
                    f"{self._path}: {text}", hint="restore it from a copy, or extract into another file"
                ) from None
            raise OutputWriteError(
                f"{self._path} cannot be written: {text}",
                hint="what was committed before is intact, and the next run goes on from there",
            ) from error


class DuckTable:
    """See `Table`."""

    def __init__(
        self, engine: DuckEngine, name: str, shape: StreamSchema, known: Any, *, is_keyed: bool, nested: bool
    ) -> None:
        self.name = name
        self._engine, self._shape, self._is_keyed = engine, shape, is_keyed
        told: Mapping[str, Any] = known or {"types": {}, "names": {}}
        self._columns = Columns(told["types"], nested=nested, is_folded=True)
        self._names: dict[str, str] = dict(told["names"])
        self._there: dict[str, Type] = dict(told["types"]) if known else {}
        self._declared = Columns.declared(shape.schema, nested=nested, is_folded=True).types
        self._is_there = known is not None

    def to_json(self) -> Mapping[str, Any] | None:
        return {"types": self._there, "names": self._names} if self._is_there else None

    def make(self) -> None:
        self._expect()
        self._alter()

    def load(self, lines: bytes) -> int:
        self._expect()
        table = self._columns.table(lines)
        self._alter()
        named = table.rename_columns([self._names[key] for key in table.column_names])
        if self._is_keyed:
            self._replace(named)
        else:
            self._engine.run_on(named, f"INSERT INTO {quoted(self.name)} BY NAME SELECT * FROM {_BATCH}")
        return int(table.num_rows)

    def _expect(self) -> None:
        """Know of the columns that there are whatever comes."""
        if not self._is_there:
            self._columns.widen({**dict.fromkeys(self._shape.key, NULL), **self._declared})

    def _alter(self) -> None:
        """Let the table have the columns that are known."""
        types = self._columns.types
        taken = {name.casefold() for name in self._names.values()}
        new = [key for key in types if key not in self._there]
        for key in new:
            self._names[key] = free_name(key, taken)
            taken.add(self._names[key].casefold())
        is_wider = any(_sql(self._there[key]) != _sql(types[key]) for key in self._there) or any(
            self._there[key] != types[key] and JSON in (self._there[key], types[key]) for key in self._there
        )
        if not self._is_there and types:
            self._create(self.name)
        elif is_wider:
            self._write_again()
        elif new:
            for key in new:
                column = f"{quoted(self._names[key])} {_sql(types[key])}"
                self._engine.run(f"ALTER TABLE {quoted(self.name)} ADD COLUMN {column}")
        self._there = dict(types)

    def _create(self, name: str) -> None:
        columns = ", ".join(f"{quoted(self._names[key])} {_sql(kind)}" for key, kind in self._columns.types.items())
        self._engine.run(f"CREATE TABLE {quoted(name)} ({columns})")
        self._is_there = True

    def _write_again(self) -> None:
        """All rows into a table of wider columns."""
        self._create(_WIDER)
        old = [quoted(self._names[key]) for key in self._there]
        query = f"SELECT {', '.join(old)} FROM {quoted(self.name)} LIMIT {_ROWS} OFFSET "
        for first in count(0, _ROWS):
            table = self._engine.arrow(query + str(first))
            if not table.num_rows:
                break
            wider = self._columns.recast(table.rename_columns(list(self._there)), self._there)
            named = wider.rename_columns([self._names[key] for key in wider.column_names])
            self._engine.run_on(named, f"INSERT INTO {_WIDER} BY NAME SELECT * FROM {_BATCH}")
        self._engine.run(f"DROP TABLE {quoted(self.name)}")
        self._engine.run(f"ALTER TABLE {_WIDER} RENAME TO {quoted(self.name)}")

    def _replace(self, table: Any) -> None:
        """Rows in place of those with the same key, the last of each; not of those that are newer already."""
        numbered = table.append_column(_NUMBER, import_module("pyarrow").array(range(table.num_rows)))
        keys = [quoted(self._names[key]) for key in self._shape.key]
        same = " AND ".join(f"ours.{key} = theirs.{key}" for key in keys)
        cursor = self._names.get(self._shape.cursor or "")
        order = [*([f"{quoted(cursor)} DESC NULLS FIRST"] if cursor else []), f"{_NUMBER} DESC"]
        newest = (
            f"CREATE OR REPLACE TEMP TABLE {_NEWEST} AS SELECT * EXCLUDE ({_NUMBER}) FROM {_BATCH} theirs "
            + (
                f"WHERE NOT EXISTS (SELECT 1 FROM {quoted(self.name)} ours WHERE {same} "
                f"AND ours.{quoted(cursor)} > theirs.{quoted(cursor)}) "
                if cursor
                else ""
            )
            + f"QUALIFY row_number() OVER (PARTITION BY {', '.join(keys)} ORDER BY {', '.join(order)}) = 1 "
            + "".join(f"OR {key} IS NULL " for key in keys)
        )
        self._engine.run_on(
            numbered,
            newest,
            f"DELETE FROM {quoted(self.name)} ours USING {_NEWEST} theirs WHERE {same}",
            f"INSERT INTO {quoted(self.name)} BY NAME SELECT * FROM {_NEWEST}",
            f"DROP TABLE {_NEWEST}",
        )


def _sql(kind: Type) -> str:
    if is_list(kind):
        return f"{_sql(kind[0])}[]"
    if is_object(kind):
        return f"STRUCT({', '.join(f'{quoted(name)} {_sql(one)}' for name, one in kind.items())})"
    return _SQL.get(kind, "VARCHAR")


def _duckdb() -> Any:
    try:
        return import_module("duckdb")
    except ModuleNotFoundError:
        raise ConfigError("duckdb is not installed", hint="pip install 'asyncstreams[duckdb]'") from None
