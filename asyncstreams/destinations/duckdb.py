"""DuckDB destination; rows are loaded through Arrow tables."""

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
from ..storage.filesystem import write_errors
from .arrow_columns import Columns, import_pyarrow
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
    ColumnType,
    is_list,
    is_object,
)
from .table_writer import RESERVED_PREFIX, TableWriter, quote_name, unused_name
from .writer_protocol import StreamSchema

_BATCH, _NEWEST, _WIDER = f"{RESERVED_PREFIX}_batch", f"{RESERVED_PREFIX}_newest", f"{RESERVED_PREFIX}_wider"
_NUMBER = f"{RESERVED_PREFIX}_number"
_CHECKPOINT_THRESHOLD = "256MB"
_REWRITE_ROWS = 100_000
"""Rows that are read and written at once when a table is rewritten."""
_SQL_TYPES = {
    BOOLEAN: "BOOLEAN",
    INTEGER: "BIGINT",
    BIGINT: "BIGINT",
    NUMBER: "DOUBLE",
    DATE: "DATE",
    TIME: "TIMESTAMPTZ",
    JSON: "JSON",
}
_LOCK_HOLDER = re.compile(r"held in (.*?) ?\(PID (\d+)\)")


@dataclass(frozen=True, slots=True)
class DuckDB(Destination):
    """A DuckDB database file at `path`, one table per stream; rows and state are committed together.

    Requires duckdb and pyarrow. Column types come from the stream's JSON schema, and for fields that it does not
    describe from the records. If values do not fit, the column is widened. A run that did not finish is resumed by the
    next one. No other process can open the file while it is written.

    Options:

    - mode (None): None upserts streams with a cursor and a primary key, appends to streams with a cursor only, and
      replaces other streams once they have been read completely. "upsert" (replace rows with the same primary key, but
      never with an older cursor value), "append" or "replace" does that to all streams; "fail" raises ConfigError if a
      stream exists already.
    - nested ("struct"): "struct" gives objects and lists DuckDB types of their own; "json" stores them as JSON.
    - fsync ("commit"): "full" commits each slice by itself, any other value may commit many at once. DuckDB syncs every
      commit, also with "none".
    - allow_credential_change (False): True accepts a run with another credential than the earlier ones.
    - resume (True): False starts unfinished replacements over instead of resuming them.
    - connect (None): opens the database, to be replaced in tests; None uses duckdb.connect.

    Raises ConfigError for other values, and if duckdb or pyarrow is not installed. `extract` raises OutputLocked,
    OutputMissing, OutputWriteError, StateCorrupt and StateIncompatible.
    """

    nested: str = field(default="struct", kw_only=True)
    connect: Callable[..., Any] | None = field(default=None, kw_only=True, repr=False, compare=False)

    modes: ClassVar[tuple[TableMode, ...]] = ("append", "replace", "upsert", "fail", None)
    needs_schema: ClassVar[bool] = True
    commit_bytes: ClassVar[int] = 64 * 2**20  # large enough for DuckDB to write rows to their table, not to its log

    def __post_init__(self) -> None:
        Destination.__post_init__(self)
        self._check_choices(nested=("struct", "json"))
        import_pyarrow("duckdb")
        _import_duckdb()

    def new_writer(self) -> TableWriter:
        """A writer for the database, not opened yet."""
        path = Path(self.path)
        connect = self.connect or _import_duckdb().connect
        return TableWriter(path, DuckEngine(path, connect, nested=self.nested == "struct"))


class DuckEngine:
    """Engine of DuckDB."""

    block_bytes = 2**20

    def __init__(self, path: Path, connect: Callable[..., Any], *, nested: bool) -> None:
        self._path, self._connect, self._nested = path, connect, nested
        self._module = _import_duckdb()
        self._connection: Any = None

    def open(self) -> None:
        with self._translate_errors():
            is_new = not self._path.exists()
            self._connection = self._connect(str(self._path))
            # Commits go to the write-ahead log first; a higher threshold moves them into the tables less often.
            self._connection.execute(f"SET checkpoint_threshold = '{_CHECKPOINT_THRESHOLD}'").fetchall()
            if is_new:
                os.chmod(self._path, 0o600)

    def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()

    @contextmanager
    def transaction(self) -> Generator[None]:
        with self._translate_errors():
            self._connection.execute("BEGIN")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                with suppress(self._module.Error):
                    self._connection.execute("ROLLBACK")
                raise

    def execute(self, statement: str, *values: Any) -> Sequence[Sequence[Any]]:
        with self._translate_errors():
            return cast(Sequence[Sequence[Any]], self._connection.execute(statement, list(values)).fetchall())

    def execute_with_table(self, table: Any, *statements: str) -> None:
        """Execute statements that refer to an Arrow table by the name `_BATCH`."""
        with self._translate_errors():
            self._connection.register(_BATCH, table)
            try:
                for statement in statements:
                    self._connection.execute(statement).fetchall()
            finally:
                self._connection.unregister(_BATCH)

    def fetch_arrow(self, query: str) -> Any:
        """The result of a query as an Arrow table."""
        with self._translate_errors():
            return self._connection.sql(query).to_arrow_table()

    def table_names(self) -> set[str]:
        query = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'main'"
        return {name for (name,) in self.execute(query)}

    def open_table(self, name: str, schema: StreamSchema, known: Any, *, is_keyed: bool) -> DuckTable:
        return DuckTable(self, name, schema, known, is_keyed=is_keyed, nested=self._nested)

    @contextmanager
    def _translate_errors(self) -> Generator[None]:
        """Raise errors of duckdb and the file system as LocalErrors."""
        try:
            with write_errors(self._path):
                yield
        except self._module.Error as error:
            text = str(error).partition("\n")[0]
            if "lock" in text and "Could not" in text:
                found = _LOCK_HOLDER.search(str(error))
                holder = f"process {found[2]} ({found[1]})" if found else "another process"
                raise OutputLocked(
                    f"{self._path} is opened by {holder}, and only one process can open a DuckDB file for writing",
                    holder=holder,
                    since=None,
                    hint="close it in that process, or extract to another file",
                ) from None
            if "not a valid DuckDB" in text or "extension" in text:  # an extension is suggested for other databases
                raise StateCorrupt(
                    f"{self._path}: {text}", hint="restore the file from a copy, or extract to another file"
                ) from None
            raise OutputWriteError(
                f"{self._path} cannot be written: {text}",
                hint="everything committed before is intact, and the next run resumes from there",
            ) from error


class DuckTable:
    """EngineTable of DuckDB."""

    def __init__(
        self, engine: DuckEngine, name: str, schema: StreamSchema, known: Any, *, is_keyed: bool, nested: bool
    ) -> None:
        self.name = name
        self._engine, self._schema, self._is_keyed = engine, schema, is_keyed
        stored: Mapping[str, Any] = known or {"types": {}, "names": {}}
        self._columns = Columns(stored["types"], nested=nested, is_folded=True)
        self._names: dict[str, str] = dict(stored["names"])
        self._stored_types: dict[str, ColumnType] = dict(stored["types"]) if known else {}
        self._declared = Columns.from_schema(schema.schema, nested=nested, is_folded=True).types
        self._exists = known is not None

    def to_json(self) -> Mapping[str, Any] | None:
        return {"types": self._stored_types, "names": self._names} if self._exists else None

    def create(self) -> None:
        self._add_declared_columns()
        self._alter()

    def load(self, lines: bytes) -> int:
        self._add_declared_columns()
        table = self._columns.table(lines)
        self._alter()
        named = table.rename_columns([self._names[key] for key in table.column_names])
        if self._is_keyed:
            self._upsert(named)
        else:
            insert = f"INSERT INTO {quote_name(self.name)} BY NAME SELECT * FROM {_BATCH}"
            self._engine.execute_with_table(named, insert)
        return int(table.num_rows)

    def _add_declared_columns(self) -> None:
        """Add the columns of the key and the schema to a table that does not exist yet."""
        if not self._exists:
            self._columns.widen({**dict.fromkeys(self._schema.key, NULL), **self._declared})

    def _alter(self) -> None:
        """Create or change the table so that it has the current columns."""
        types = self._columns.types
        used = {name.casefold() for name in self._names.values()}
        new = [key for key in types if key not in self._stored_types]
        for key in new:
            self._names[key] = unused_name(key, used)
            used.add(self._names[key].casefold())
        is_wider = any(_sql_type(kind) != _sql_type(types[key]) for key, kind in self._stored_types.items()) or any(
            kind != types[key] and JSON in (kind, types[key]) for key, kind in self._stored_types.items()
        )
        if not self._exists and types:
            self._create(self.name)
        elif is_wider:
            self._rewrite()
        elif new:
            for key in new:
                column = f"{quote_name(self._names[key])} {_sql_type(types[key])}"
                self._engine.execute(f"ALTER TABLE {quote_name(self.name)} ADD COLUMN {column}")
        self._stored_types = dict(types)

    def _create(self, name: str) -> None:
        columns = ", ".join(
            f"{quote_name(self._names[key])} {_sql_type(kind)}" for key, kind in self._columns.types.items()
        )
        self._engine.execute(f"CREATE TABLE {quote_name(name)} ({columns})")
        self._exists = True

    def _rewrite(self) -> None:
        """Copy all rows to a table with the current columns, which replaces the old one."""
        self._create(_WIDER)
        old = [quote_name(self._names[key]) for key in self._stored_types]
        query = f"SELECT {', '.join(old)} FROM {quote_name(self.name)} LIMIT {_REWRITE_ROWS} OFFSET "
        for first in count(0, _REWRITE_ROWS):
            table = self._engine.fetch_arrow(query + str(first))
            if not table.num_rows:
                break
            wider = self._columns.recast(table.rename_columns(list(self._stored_types)), self._stored_types)
            named = wider.rename_columns([self._names[key] for key in wider.column_names])
            self._engine.execute_with_table(named, f"INSERT INTO {_WIDER} BY NAME SELECT * FROM {_BATCH}")
        self._engine.execute(f"DROP TABLE {quote_name(self.name)}")
        self._engine.execute(f"ALTER TABLE {_WIDER} RENAME TO {quote_name(self.name)}")

    def _upsert(self, table: Any) -> None:
        """Replace rows with the same key by the newest new one, unless the stored row is newer."""
        numbered = table.append_column(_NUMBER, import_module("pyarrow").array(range(table.num_rows)))
        keys = [quote_name(self._names[key]) for key in self._schema.key]
        same_key = " AND ".join(f"stored.{key} = new.{key}" for key in keys)
        cursor = self._names.get(self._schema.cursor or "")
        order = [*([f"{quote_name(cursor)} DESC NULLS FIRST"] if cursor else []), f"{_NUMBER} DESC"]
        newest = (
            f"CREATE OR REPLACE TEMP TABLE {_NEWEST} AS SELECT * EXCLUDE ({_NUMBER}) FROM {_BATCH} new "
            + (
                f"WHERE NOT EXISTS (SELECT 1 FROM {quote_name(self.name)} stored WHERE {same_key} "
                f"AND stored.{quote_name(cursor)} > new.{quote_name(cursor)}) "
                if cursor
                else ""
            )
            + f"QUALIFY row_number() OVER (PARTITION BY {', '.join(keys)} ORDER BY {', '.join(order)}) = 1 "
            + "".join(f"OR {key} IS NULL " for key in keys)
        )
        self._engine.execute_with_table(
            numbered,
            newest,
            f"DELETE FROM {quote_name(self.name)} stored USING {_NEWEST} new WHERE {same_key}",
            f"INSERT INTO {quote_name(self.name)} BY NAME SELECT * FROM {_NEWEST}",
            f"DROP TABLE {_NEWEST}",
        )


def _sql_type(kind: ColumnType) -> str:
    if is_list(kind):
        return f"{_sql_type(kind[0])}[]"
    if is_object(kind):
        return f"STRUCT({', '.join(f'{quote_name(name)} {_sql_type(field)}' for name, field in kind.items())})"
    return _SQL_TYPES.get(kind, "VARCHAR")


def _import_duckdb() -> Any:
    try:
        return import_module("duckdb")
    except ModuleNotFoundError:
        raise ConfigError("duckdb is not installed", hint="run pip install 'asyncstreams[duckdb]'") from None
