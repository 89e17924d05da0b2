"""DuckDB destination; rows are loaded through Arrow tables."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import reduce
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, cast

from .._json import decode
from ..errors import ConfigError, OutputLocked, OutputWriteError, StateCorrupt
from ..state.stream_state import value_at
from ..storage.filesystem import write_errors
from .arrow_columns import Columns, import_pyarrow
from .base import Destination, TableMode
from .column_names import ColumnNames, unused_name
from .column_types import (
    BIGINT,
    BOOLEAN,
    DATE,
    INTEGER,
    JSON,
    NULL,
    NUMBER,
    TEXT,
    TIME,
    ColumnType,
    declared_types,
    is_list,
    is_object,
    key_text,
)
from .line_records import decode_records
from .table_writer import (
    RESERVED_PREFIX,
    KeyCheck,
    TableWriter,
    duplicate_keys,
    missing_key,
    quote_name,
    quote_text,
)
from .writer_protocol import StreamSchema

_BATCH, _NEWEST, _WIDER = f"{RESERVED_PREFIX}_batch", f"{RESERVED_PREFIX}_newest", f"{RESERVED_PREFIX}_wider"
_NUMBER, _STORED, _NEW = f"{RESERVED_PREFIX}_number", f"{RESERVED_PREFIX}_old_row", f"{RESERVED_PREFIX}_new_row"
_CHECKPOINT_THRESHOLD = "256MB"
_REWRITE_ROWS = 100_000
"""Rows that are read and written at once when a table is rewritten."""
_MAX_REWRITES = 20
"""Changes of the type of an object or list, each of which rewrites the table, before the column becomes JSON."""
_SQL_TYPES = {
    BOOLEAN: "BOOLEAN",
    INTEGER: "BIGINT",
    BIGINT: "BIGINT",
    NUMBER: "DOUBLE",
    DATE: "DATE",
    TIME: "TIMESTAMPTZ",
    JSON: "JSON",
}
_log = logging.getLogger("asyncstreams")
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
      never by an older version according to the cursor), "append" or "replace" does that to all streams; "fail" raises
      ConfigError if a stream exists already.
    - nested ("struct"): "struct" gives objects and lists DuckDB types of their own; "json" stores them as JSON.
    - fsync ("commit"): "full" commits each slice by itself, any other value may commit many at once. DuckDB syncs every
      commit, also with "none".
    - allow_credential_change (False): True accepts a run with another credential than the earlier ones.
    - resume (True): False starts unfinished replacements over instead of resuming them.
    - surrogates ("refuse"): a lone surrogate, such as half an emoji, has no form in UTF-8. "refuse" fails the slice
      with UnexpectedContent; "replace" writes U+FFFD instead.
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
    copies_tables = True

    def __init__(self, path: Path, connect: Callable[..., Any], *, nested: bool) -> None:
        self._path, self._connect, self._nested = path, connect, nested
        self._module = _import_duckdb()
        self._connection: Any = None

    def open(self) -> None:
        with self._translate_errors():
            self._connection = self._connect(str(self._path))
            # Commits go to the write-ahead log first; a higher threshold moves them into the tables less often.
            self._connection.execute(f"SET checkpoint_threshold = '{_CHECKPOINT_THRESHOLD}'").fetchall()

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
            except BaseException:
                with suppress(self._module.Error):  # it fails in a transaction that has failed
                    self._connection.unregister(_BATCH)
                raise
            self._connection.unregister(_BATCH)

    def fetch_arrow(self, query: str) -> Any:
        """The result of a query as an Arrow table."""
        with self._translate_errors():
            return self._connection.sql(query).to_arrow_table()

    def table_names(self) -> set[str]:
        query = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'main'"
        return {name for (name,) in self.execute(query)}

    def column_names(self, table: str) -> Sequence[str]:
        query = "SELECT 1 FROM duckdb_tables() WHERE schema_name = 'main' AND table_name = ?"
        if not self.execute(query, table):
            return ()
        with self._translate_errors():  # much faster than duckdb_columns()
            return [name for name, *_ in self._connection.sql(f"SELECT * FROM {quote_name(table)} LIMIT 0").description]

    def constraints(self, table: str) -> Sequence[str]:
        query = "SELECT constraint_text FROM duckdb_constraints() WHERE schema_name = 'main' AND table_name = ?"
        return [f"constraint {text}" for (text,) in self.execute(query, table)]

    def has_dependents(self, table: str) -> bool:
        query = "SELECT 1 FROM duckdb_views() WHERE NOT internal AND contains(lower(sql), lower(?)) LIMIT 1"
        return bool(self._indexes_of(table) or self.execute(query, table))

    def replace_table(self, old: str, new: str) -> None:
        indexes, comments = self._indexes_of(old), self._comments_of(old)
        self.execute(f"DROP TABLE IF EXISTS {quote_name(old)}")
        self.execute(f"ALTER TABLE {quote_name(new)} RENAME TO {quote_name(old)}")
        kept = {name.casefold() for name in self.column_names(old)}
        for column, comment in comments:
            target = "TABLE" if column is None else "COLUMN"
            name = quote_name(old) if column is None else f"{quote_name(old)}.{quote_name(column)}"
            if column is None or column.casefold() in kept:
                self.execute(f"COMMENT ON {target} {name} IS {quote_text(comment)}")
        for name, statement in indexes:
            try:
                self.execute(statement)
            except OutputWriteError as error:
                raise OutputWriteError(
                    f"{self._path}: index {name} of table {old} does not fit its new rows",
                    hint="drop the index, and run again",
                ) from error

    def refresh_views(self) -> None:
        # Before version 2 a view keeps the types of its columns, and fails if they change.
        views = self.execute("SELECT schema_name, view_name, sql FROM duckdb_views() WHERE NOT internal")
        for _ in views:  # once for each, since views can use others
            outdated = [view for view in views if self._is_outdated(view[0], view[1])]
            for _, _, statement in outdated:
                with suppress(OutputWriteError):
                    self.execute(statement.replace("CREATE VIEW", "CREATE OR REPLACE VIEW", 1))
            if not outdated:
                break

    def open_table(self, name: str, schema: StreamSchema, known: Any, earlier: Any, *, is_keyed: bool) -> DuckTable:
        return DuckTable(self, name, schema, known, earlier, is_keyed=is_keyed, nested=self._nested)

    def _comments_of(self, table: str) -> Sequence[Sequence[Any]]:
        """The comments on a table and on its columns, all of which others made; the column is null for the table."""
        columns = "schema_name = 'main' AND table_name = ? AND comment IS NOT NULL"
        return self.execute(
            f"SELECT NULL, comment FROM duckdb_tables() WHERE {columns} "
            f"UNION ALL SELECT column_name, comment FROM duckdb_columns() WHERE {columns}",
            table,
            table,
        )

    def _is_outdated(self, schema: str, view: str) -> bool:
        try:
            self.execute(f"SELECT 1 FROM {quote_name(schema)}.{quote_name(view)} LIMIT 0")
        except OutputWriteError as error:
            return "Contents of view were altered" in str(error)
        return False

    def _indexes_of(self, table: str) -> Sequence[Sequence[str]]:
        """Name and SQL of the indexes of a table, all of which others made."""
        query = "SELECT index_name, sql FROM duckdb_indexes() WHERE schema_name = 'main' AND table_name = ?"
        return [row for row in self.execute(query, table) if row[1]]

    def _unique_indexes(self) -> Sequence[str]:
        """The unique indexes, all of which others made; on another connection, since the transaction has failed."""
        query = "SELECT 'unique index ' || index_name FROM duckdb_indexes() WHERE is_unique ORDER BY index_name"
        return [name for (name,) in self._connection.cursor().execute(query).fetchall()]

    @contextmanager
    def _translate_errors(self) -> Generator[None]:
        """Raise errors of duckdb and the file system as LocalErrors."""
        try:
            with write_errors(self._path):
                yield
        except self._module.Error as error:
            text = str(error).partition("\n")[0]
            if "different configuration" in text or "already attached" in text:
                raise OutputLocked(
                    f"{self._path} is open in this process, through another connection of duckdb",
                    holder="this process",
                    since=None,
                    hint="close() that connection, or detach the file there, and run again",
                ) from None
            if isinstance(error, self._module.TransactionException) and "conflict" in text.lower():
                raise OutputLocked(
                    f"{self._path}: another connection of this process is changing the same table: {text}",
                    holder="this process",
                    since=None,
                    hint="commit or close() that connection, and run again: the run resumes from its last commit",
                ) from None
            if isinstance(error, self._module.ConstraintException):
                indexes = ", ".join(self._unique_indexes()) or "a constraint"
                raise OutputWriteError(
                    f"{self._path}: new rows of the stream do not fit what others added to its table: {indexes}",
                    hint="drop it, and run again: everything committed before is intact",
                ) from error
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
    """EngineTable of DuckDB. A nested key has a text column of its own."""

    def __init__(
        self,
        engine: DuckEngine,
        name: str,
        schema: StreamSchema,
        known: Any,
        earlier: Any,
        *,
        is_keyed: bool,
        nested: bool,
    ) -> None:
        self.name = name
        self._engine, self._schema, self._is_keyed = engine, schema, is_keyed
        stored: Mapping[str, Any] = known or {"types": {}, "key": None, "changes": {}}
        self._earlier: Mapping[str, Any] = earlier or {"types": {}, "changes": {}}
        self._names = ColumnNames(known, earlier, ())
        self._declared = declared_types(schema.schema)
        key_fields = [path[0] for path in schema.key if len(path) == 1]
        self._columns = Columns(
            stored["types"],
            nested=nested,
            is_folded=True,
            declared=self._declared,
            keys=key_fields if is_keyed else (),
        )
        self._key_fields = dict.fromkeys(key_fields, NULL)
        self._stored_types: dict[str, ColumnType] = dict(stored["types"])
        self._key = stored["key"]
        # A column that became JSON in the earlier table does so at once in its replacement.
        settled = {field: count for field, count in self._earlier["changes"].items() if count >= _MAX_REWRITES}
        self._changes: Counter[str] = Counter(stored["changes"] if known is not None else settled)
        self._exists = known is not None
        self._key_check = KeyCheck(name, schema.key, is_new=known is None)

    @property
    def column_names(self) -> Collection[str]:
        return [*self._names.fields.values(), *self._names.nested.values()]

    def to_json(self) -> Mapping[str, Any] | None:
        if not self._exists:
            return None
        return {
            "types": self._stored_types,
            **self._names.to_json(),
            "key": self._key,
            "changes": dict(self._changes),
        }

    def prepare(self) -> None:
        wanted = list(map(list, self._schema.key)) if self._is_keyed else None
        if wanted == self._key:
            return
        if self._is_keyed:
            missing = [path for path in self._schema.key if len(path) > 1 and self._names.of_path(path) is None]
            if missing and self._engine.execute(f"SELECT 1 FROM {quote_name(self.name)} LIMIT 1"):
                raise missing_key(self.name, missing[0])
            self.create()
            key = ", ".join(self._key_columns())
            query = f"SELECT 1 FROM {quote_name(self.name)} GROUP BY {key} HAVING count(*) > 1"
            [[duplicates]] = self._engine.execute(f"SELECT count(*) FROM ({query})")
            if duplicates:
                raise duplicate_keys(self.name, self._schema.key, duplicates)
        self._key = wanted

    def create(self) -> None:
        self._add_declared_columns()
        self._alter()

    def keep_columns(self) -> None:
        self._columns.widen({field: kind for field, kind in self._earlier["types"].items() if not self._has(field)})
        self._alter()

    def load(self, lines: bytes) -> int:
        self._add_declared_columns()
        table = self._columns.table(lines)
        self._count_changes()
        if settled := [field for field, kind in self._columns.types.items() if self._is_settled(field, kind)]:
            types = dict(self._columns.types)
            self._columns.widen(dict.fromkeys(settled, JSON))
            table = self._columns.recast(table, types)
        self._alter()
        named = table.rename_columns([self._names.fields[field] for field in table.column_names])
        if self._is_keyed:
            named = self._with_nested_keys(named, table)
            keys = named.select([self._names.of_path(path) for path in self._schema.key])
            self._key_check.check(_count_empty(keys), lambda: decode_records(lines))
            self._upsert(named, table)
        else:
            insert = f"INSERT INTO {quote_name(self.name)} BY NAME SELECT * FROM {_BATCH}"
            self._engine.execute_with_table(named, insert)
        return int(table.num_rows)

    def _has(self, field: str) -> bool:
        return field in self._columns.types

    def _add_declared_columns(self) -> None:
        """Add the columns of the key, and those of the schema to a table that does not exist yet."""
        if not self._exists:
            self._columns.widen({**self._key_fields, **self._declared})
        elif any(not self._has(field) for field in self._key_fields):
            self._columns.widen(self._key_fields)

    def _count_changes(self) -> None:
        """Count the objects and lists whose types are about to change, which rewrites the table."""
        for name, stored in self._stored_types.items():
            kind = self._columns.types[name]
            if isinstance(kind, str) or stored in (kind, NULL):
                continue
            self._changes[name] += 1
            if self._changes[name] == _MAX_REWRITES:
                _log.warning(
                    "%s: column %s is stored as JSON from now on: its values had new fields %d times, and each time "
                    "the whole table was written again",
                    self.name,
                    self._names.fields[name],
                    _MAX_REWRITES,
                )

    def _is_settled(self, field: str, kind: ColumnType) -> bool:
        """Whether a column becomes JSON, because its type has changed too often."""
        return not isinstance(kind, str) and self._changes[field] >= _MAX_REWRITES

    def _alter(self) -> None:
        """Create or change the table so that it has the current columns."""
        types = self._columns.types
        new = [field for field in types if field not in self._names.fields]
        columns = [(self._names.add_field(field), _sql_type(types[field])) for field in new]
        nested = self._schema.key if self._is_keyed else ()
        missing = [path for path in nested if len(path) > 1 and self._names.of_path(path) is None]
        columns += [(self._names.add_nested(path), _sql_type(TEXT)) for path in missing]
        is_wider = any(_sql_type(kind) != _sql_type(types[key]) for key, kind in self._stored_types.items()) or any(
            kind != types[key] and JSON in (kind, types[key]) for key, kind in self._stored_types.items()
        )
        if not self._exists and columns:
            self._create(self.name)
            self._key = list(map(list, self._schema.key)) if self._is_keyed else None
        elif is_wider:
            self._rewrite()
        else:
            for column, sql_type in columns:
                self._engine.execute(f"ALTER TABLE {quote_name(self.name)} ADD COLUMN {quote_name(column)} {sql_type}")
        self._stored_types = dict(types)

    def _create(self, name: str) -> None:
        types = {self._names.fields[field]: _sql_type(kind) for field, kind in self._columns.types.items()}
        types |= dict.fromkeys(self._names.nested.values(), _sql_type(TEXT))
        columns = ", ".join(f"{quote_name(column)} {sql_type}" for column, sql_type in types.items())
        self._engine.execute(f"CREATE TABLE {quote_name(name)} ({columns})")
        self._exists = True

    def _rewrite(self) -> None:
        """Copy all rows to a table with the current columns, which replaces the old one."""
        existing = {name.casefold() for name in self._engine.column_names(self.name)}
        nested = [column for column in self._names.nested.values() if column.casefold() in existing]
        self._create(_WIDER)
        old = [quote_name(column) for column in (*map(self._names.fields.__getitem__, self._stored_types), *nested)]
        query = f"SELECT {', '.join(old)} FROM {quote_name(self.name)} LIMIT {_REWRITE_ROWS} OFFSET "
        for first in count(0, _REWRITE_ROWS):
            table = self._engine.fetch_arrow(query + str(first))
            if not table.num_rows:
                break
            rows = table.select(range(len(self._stored_types))).rename_columns(list(self._stored_types))
            wider = self._columns.recast(rows, self._stored_types)
            named = wider.rename_columns([self._names.fields[field] for field in wider.column_names])
            for column in nested:
                named = named.append_column(column, table.column(column))
            self._engine.execute_with_table(named, f"INSERT INTO {_WIDER} BY NAME SELECT * FROM {_BATCH}")
        self._engine.replace_table(self.name, _WIDER)

    def _with_nested_keys(self, named: Any, table: Any) -> Any:
        for path in self._schema.key:
            if len(path) > 1:
                values = map(key_text, self._values_at(table, path))
                array = import_module("pyarrow").array(values, import_module("pyarrow").string())
                named = named.append_column(self._names.of_path(path), array)
        return named

    def _values_at(self, table: Any, path: Sequence[str]) -> list[Any]:
        """The values at a path in the records of an Arrow table; times and dates as such."""
        kind = self._columns.types.get(path[0])
        if kind is None:
            return [None] * table.num_rows
        return [_value_in(value, kind, path[1:]) for value in table.column(path[0]).to_pylist()]

    def _key_columns(self) -> Sequence[str]:
        return [quote_name(self._names.of_path(path) or "") for path in self._schema.key]

    def _upsert(self, named: Any, table: Any) -> None:
        """Replace rows with the same key by the newest new one, unless the stored row is newer."""
        order = self._schema.order
        cursors = [None] * table.num_rows if order is None else self._values_at(table, order.path)
        places = self._places(named, cursors)
        number = unused_name(_NUMBER, {column.casefold() for column in self.column_names})
        keys = self._key_columns()
        same_key = " AND ".join(f"{_STORED}.{key} IS NOT DISTINCT FROM {_NEW}.{key}" for key in keys)
        self._engine.execute_with_table(
            named.append_column(number, import_module("pyarrow").array(places, "int64")),
            f"CREATE OR REPLACE TEMP TABLE {_NEWEST} AS SELECT * FROM {_BATCH} QUALIFY row_number() "
            f"OVER (PARTITION BY {', '.join(keys)} ORDER BY {number} DESC) = 1",
        )
        if outdated := self._outdated(dict(zip(places, cursors, strict=True)), number, same_key):
            self._engine.execute(f"DELETE FROM {_NEWEST} WHERE {number} IN (SELECT unnest(?))", outdated)
        target = quote_name(self.name)
        self._engine.execute(f"DELETE FROM {target} {_STORED} USING {_NEWEST} {_NEW} WHERE {same_key}")
        self._engine.execute(f"INSERT INTO {target} BY NAME SELECT * EXCLUDE ({number}) FROM {_NEWEST}")
        self._engine.execute(f"DROP TABLE {_NEWEST}")

    def _places(self, named: Any, cursors: Sequence[Any]) -> Sequence[int]:
        """The place of each new record in the order of versions; equal ones in the order in which they came."""
        order, key = self._schema.order, [self._names.of_path(path) for path in self._schema.key]
        if order is None or named.select(key).group_by(key).aggregate([]).num_rows == named.num_rows:
            return range(named.num_rows)
        ranks = list(map(order.rank, cursors))
        places = [0] * len(ranks)
        for place, row in enumerate(sorted(range(len(ranks)), key=ranks.__getitem__)):
            places[row] = place
        return places

    def _outdated(self, cursors: Mapping[int, Any], number: str, same_key: str) -> list[int]:
        """The numbers of the new rows that are older than the stored rows with their keys."""
        order = self._schema.order
        column = None if order is None else self._names.fields.get(order.path[0])
        if order is None or column is None:
            return []
        stored = self._engine.fetch_arrow(
            f"SELECT {_NEW}.{number} AS number, {_STORED}.{quote_name(column)} AS cursor "
            f"FROM {quote_name(self.name)} {_STORED} JOIN {_NEWEST} {_NEW} ON {same_key}"
        )
        kind = self._columns.types[order.path[0]]
        found = zip(stored.column("number").to_pylist(), stored.column("cursor").to_pylist(), strict=True)
        return [
            place
            for place, value in found
            if not order.replaces(cursors[place], _value_in(value, kind, order.path[1:]))
        ]


def _count_empty(table: Any) -> int:
    """The number of rows of an Arrow table that have only nulls."""
    compute = import_module("pyarrow.compute")
    if not all(column.null_count for column in table.columns):
        return 0
    return int(compute.sum(reduce(compute.and_, map(compute.is_null, table.columns))).as_py() or 0)


def _value_in(value: Any, kind: ColumnType, path: Sequence[str]) -> Any:
    """The value at a path in a value of this type; times and dates as such."""
    if kind == JSON and value is not None:
        return value_at(decode(value.encode()), path) if path else decode(value.encode())
    if not path:
        return value
    return _value_in(value.get(path[0]), kind.get(path[0], NULL), path[1:]) if value and is_object(kind) else None


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
