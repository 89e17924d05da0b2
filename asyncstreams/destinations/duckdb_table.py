"""Tables of DuckDB: typed columns that are widened where values do not fit, and upserts in the order of versions."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import reduce
from importlib import import_module
from itertools import count
from typing import Any

from .._json import decode
from ..state.stream_state import value_at
from .arrow_columns import Columns
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
from .table_engine import RESERVED_PREFIX, Engine, EngineTable, quote_name
from .writer_protocol import StreamSchema

BATCH = f"{RESERVED_PREFIX}_batch"
"""The name by which statements refer to the Arrow table that comes with them."""
_NEWEST, _WIDER = f"{RESERVED_PREFIX}_newest", f"{RESERVED_PREFIX}_wider"
_NUMBER, _STORED, _NEW = f"{RESERVED_PREFIX}_number", f"{RESERVED_PREFIX}_old_row", f"{RESERVED_PREFIX}_new_row"
_REWRITE_ROWS = 100_000
"""Rows that are read and written at once when a table is rewritten."""
_MAX_REWRITES = 20
"""Changes of the type of an object or list, each of which rewrites the table, before the column becomes JSON."""
_log = logging.getLogger("asyncstreams")
_SQL_TYPES = {
    BOOLEAN: "BOOLEAN",
    INTEGER: "BIGINT",
    BIGINT: "BIGINT",
    NUMBER: "DOUBLE",
    DATE: "DATE",
    TIME: "TIMESTAMPTZ",
    JSON: "JSON",
}


class ArrowEngine(Engine):
    """An Engine that exchanges Arrow tables with its database."""

    @abstractmethod
    def execute_with_table(self, table: Any, *statements: str) -> None:
        """Execute statements that refer to an Arrow table by the name `BATCH`."""

    @abstractmethod
    def fetch_arrow(self, query: str) -> Any:
        """The result of a query as an Arrow table."""


class DuckTable(EngineTable):
    """A table with typed columns. A nested key has a text column."""

    def __init__(
        self,
        engine: ArrowEngine,
        name: str,
        schema: StreamSchema,
        known: Any,
        earlier: Any,
        *,
        is_keyed: bool,
        nested: bool,
    ) -> None:
        super().__init__(name, schema, known, ColumnNames(known, earlier, ()), is_keyed=is_keyed)
        self._engine, self._order = engine, schema.order
        stored: Mapping[str, Any] = known or {"types": {}, "changes": {}}
        self._earlier: Mapping[str, Any] = earlier or {"types": {}, "changes": {}}
        self._declared = declared_types(schema.schema)
        self._columns = Columns(
            stored["types"],
            nested=nested,
            is_folded=True,
            declared=self._declared,
            keys=self._key.fields if is_keyed else (),
        )
        self._stored_types: dict[str, ColumnType] = dict(stored["types"])
        # A column that became JSON in the earlier table does so at once in its replacement.
        settled = {field: count for field, count in self._earlier["changes"].items() if count >= _MAX_REWRITES}
        self._changes: Counter[str] = Counter(stored["changes"] if known is not None else settled)

    def to_json(self) -> dict[str, Any] | None:
        fields = super().to_json()
        return fields and {**fields, "types": self._stored_types, "changes": dict(self._changes)}

    def prepare(self) -> None:
        if self._key.is_ready:
            return
        if self._key.is_keyed:
            self._key.check_stored_rows(self._engine)
            self.create()
            self._key.check_unique(self._engine, ", ".join(map(quote_name, self._key.columns)))
        self._key.mark_ready()

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
        if self._key.is_keyed:
            named = self._with_nested_keys(named, table)
            keys = named.select(self._key.columns)
            self._key.check_records(_count_empty(keys), lambda: decode_records(lines))
            self._upsert(named, table)
        else:
            insert = f"INSERT INTO {quote_name(self.name)} BY NAME SELECT * FROM {BATCH}"
            self._engine.execute_with_table(named, insert)
        return int(table.num_rows)

    def _has(self, field: str) -> bool:
        return field in self._columns.types

    def _add_declared_columns(self) -> None:
        """Add the columns of the key, and those of the schema to a table that does not exist yet."""
        if not self._exists:
            self._columns.widen({**dict.fromkeys(self._key.fields, NULL), **self._declared})
        elif any(not self._has(field) for field in self._key.fields):
            self._columns.widen(dict.fromkeys(self._key.fields, NULL))

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
        columns += [(self._names.add_nested(path), _sql_type(TEXT)) for path in self._key.missing_nested]
        is_wider = any(_sql_type(kind) != _sql_type(types[key]) for key, kind in self._stored_types.items()) or any(
            kind != types[key] and JSON in (kind, types[key]) for key, kind in self._stored_types.items()
        )
        if not self._exists and columns:
            self._create(self.name)
            self._key.mark_ready()
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
            self._engine.execute_with_table(named, f"INSERT INTO {_WIDER} BY NAME SELECT * FROM {BATCH}")
        self._engine.replace_table(self.name, _WIDER)

    def _with_nested_keys(self, named: Any, table: Any) -> Any:
        for path in self._key.nested:
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

    def _upsert(self, named: Any, table: Any) -> None:
        """Replace rows with the same key by the newest new one, unless the stored row is newer."""
        order = self._order
        cursors = [None] * table.num_rows if order is None else self._values_at(table, order.path)
        places = self._places(named, cursors)
        number = unused_name(_NUMBER, {column.casefold() for column in self.column_names})
        keys = list(map(quote_name, self._key.columns))
        same_key = " AND ".join(f"{_STORED}.{key} IS NOT DISTINCT FROM {_NEW}.{key}" for key in keys)
        self._engine.execute_with_table(
            named.append_column(number, import_module("pyarrow").array(places, "int64")),
            f"CREATE OR REPLACE TEMP TABLE {_NEWEST} AS SELECT * FROM {BATCH} QUALIFY row_number() "
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
        order, key = self._order, self._key.columns
        if order is None or named.select(key).group_by(key).aggregate([]).num_rows == named.num_rows:
            return range(named.num_rows)
        ranks = list(map(order.rank, cursors))
        places = [0] * len(ranks)
        for place, row in enumerate(sorted(range(len(ranks)), key=ranks.__getitem__)):
            places[row] = place
        return places

    def _outdated(self, cursors: Mapping[int, Any], number: str, same_key: str) -> list[int]:
        """The numbers of the new rows that are older than the stored rows with their keys."""
        order = self._order
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
