"""Conversion of JSON lines to Arrow columns without loss.

If the columns are known, Arrow parses the lines itself. If the result does not match the columns, the lines are decoded
again in Python, and the columns are widened.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, date, datetime
from functools import partial
from importlib import import_module
from typing import Any

from .._json import decode, encode
from ..errors import ConfigError
from .column_types import (
    BIGINT,
    BOOLEAN,
    DATE,
    INTEGER,
    JSON,
    MAX_EXACT_DOUBLE,
    NULL,
    NUMBER,
    TEXT,
    TIME,
    ColumnType,
    declared_types,
    finalize_type,
    holds_integer,
    holds_json,
    is_list,
    is_object,
    join_types,
    key_text,
    key_value,
    too_many_columns,
    type_of,
    with_integers,
)
from .line_records import decode_records

_MAX_COLUMNS = 2_000
_SAMPLE_BYTES = 2**16
_PATTERNS = {
    DATE: r"\d{4}-\d\d-\d\d",
    TIME: r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:\d\d)",
}


def import_pyarrow(extra: str) -> Any:
    """Import and return pyarrow. Raises ConfigError if it is missing; the hint names the extra to install."""
    try:
        return import_module("pyarrow")
    except ModuleNotFoundError:
        raise ConfigError("pyarrow is not installed", hint=f"run pip install 'asyncstreams[{extra}]'") from None


class Columns:
    """The columns of one stream, in the order in which they first appeared.

    With `nested`, objects and lists have types of their own; without, they are JSON. With `is_folded`, field names of
    an object are case-insensitive. `declared` are the types of the schema: where it says integer, 1.0 is an integer.
    `keys` are the fields of a primary key. Their columns have a simple type or text, so that equal keys stay equal when
    a column becomes wider.
    """

    def __init__(
        self,
        types: Mapping[str, ColumnType],
        *,
        nested: bool,
        is_folded: bool = False,
        declared: Mapping[str, ColumnType] | None = None,
        keys: Collection[str] = (),
    ) -> None:
        self._declared, self._keys = dict(declared or {}), frozenset(keys)
        self._integers = {name: kind for name, kind in self._declared.items() if holds_integer(kind)}
        self._pa = import_module("pyarrow")
        self._json = import_module("pyarrow.json")
        self._compute = import_module("pyarrow.compute")
        self._finalize = partial(finalize_type, nested=nested, is_folded=is_folded)
        self.types = {name: self._final_type(name, kind) for name, kind in types.items()}
        self._parse_options: Any = None

    @classmethod
    def from_schema(cls, schema: Mapping[str, Any] | None, *, nested: bool, is_folded: bool = False) -> Columns:
        """The columns that a JSON schema describes."""
        declared = declared_types(schema)
        return cls(declared, nested=nested, is_folded=is_folded, declared=declared)

    def widen(self, types: Mapping[str, ColumnType]) -> None:
        """Add the columns of `types`, and widen existing ones so that they hold those types too."""
        self._set_types(
            {**self.types, **{name: join_types(self.types.get(name, NULL), kind) for name, kind in types.items()}}
        )

    @property
    def arrow_schema(self) -> Any:
        return self._pa.schema([(name, self._arrow_type(kind)) for name, kind in self.types.items()])

    def table(self, lines: bytes) -> Any:
        """The records as an Arrow table with all columns; the columns are widened if the records require it."""
        if not self.types and any(sample := decode_records(lines[: lines.find(b"\n", _SAMPLE_BYTES) + 1] or lines)):
            self._widen_for(sample)  # the first records usually have all columns, and Arrow can then parse the others
        table = self._parse(lines)
        return self._build_table(decode_records(lines)) if table is None else table

    def recast(self, table: Any, types: Mapping[str, ColumnType]) -> Any:
        """A table that was built with columns of `types`, converted to the current columns."""
        arrays = [
            self._pa.nulls(table.num_rows, self._arrow_type(kind))
            if name not in types
            else table.column(name)
            if types[name] == kind or self._is_stored_alike(types[name], kind)
            else self._column(name, [_to_json_value(value, types[name]) for value in table.column(name).to_pylist()])
            for name, kind in self.types.items()
        ]
        return self._pa.table(arrays, schema=self.arrow_schema)

    def _is_stored_alike(self, left: ColumnType, right: ColumnType) -> bool:
        """Whether Arrow stores values of both types in the same way."""
        is_same = self._arrow_type(left) == self._arrow_type(right)
        return bool(is_same and not holds_json(left) and not holds_json(right))

    def _parse(self, lines: bytes) -> Any:
        """The table as Arrow parses it; None: the records do not match the columns."""
        if not self.types or any(map(holds_json, self.types.values())) or any(map(self._is_time_text, self._keys)):
            return None
        if self._parse_options is None:
            fields = [(name, self._arrow_type(kind, as_parsed=True)) for name, kind in self.types.items()]
            self._parse_options = self._json.ParseOptions(
                explicit_schema=self._pa.schema(fields), unexpected_field_behavior="error"
            )
        try:
            table = self._json.read_json(
                io.BytesIO(lines),
                read_options=self._json.ReadOptions(use_threads=False, block_size=len(lines) + 1),
                parse_options=self._parse_options,
            )
            if not all(self._is_lossless(table.column(name), kind) for name, kind in self.types.items()):
                return None
            return table.cast(self.arrow_schema)
        except (self._pa.ArrowInvalid, self._pa.ArrowNotImplementedError):
            return None

    def _is_lossless(self, values: Any, kind: ColumnType) -> bool:
        """Whether Arrow parsed all values exactly: it converts some of them without an error."""
        if kind in (BOOLEAN, BIGINT, TEXT) or values.null_count == len(values):
            return True
        if kind == NULL:
            return False
        if kind in (INTEGER, NUMBER):
            bounds = self._compute.min_max(values).as_py()
            # At the bound itself a double may stand for a different integer.
            return bool(bounds["min"] > -MAX_EXACT_DOUBLE and bounds["max"] < MAX_EXACT_DOUBLE)
        if is_list(kind):
            return self._is_lossless(self._compute.list_flatten(values), kind[0])
        if is_object(kind):
            fields = [(self._compute.struct_field(values, name), field_kind) for name, field_kind in kind.items()]
            return all(self._is_lossless(field, field_kind) for field, field_kind in fields)
        matches = self._compute.match_substring_regex(values, f"^{_PATTERNS[kind]}$")
        return bool(self._compute.all(matches).as_py())

    def _build_table(self, records: Sequence[Mapping[str, Any]]) -> Any:
        values = self._widen_for(records)
        return self._pa.table([self._column(name, values[name]) for name in self.types], schema=self.arrow_schema)

    def _widen_for(self, records: Sequence[Mapping[str, Any]]) -> Mapping[str, Sequence[Any]]:
        """Widen the columns so that they hold these records; return the values by column."""
        names = list(dict.fromkeys([*self.types, *(name for record in records for name in record)]))
        names = names or ["_"]  # a table must have a column
        if len(names) > _MAX_COLUMNS:
            raise too_many_columns(len(names), _MAX_COLUMNS)
        values = {name: self._values(name, records) for name in names}
        self._set_types({name: _widened_type(self.types.get(name, NULL), values[name]) for name in names})
        return values

    def _set_types(self, types: Mapping[str, ColumnType]) -> None:
        types = {name: self._final_type(name, kind) for name, kind in types.items()}
        if types != self.types:
            self.types, self._parse_options = types, None

    def _final_type(self, name: str, kind: ColumnType) -> ColumnType:
        final = self._finalize(kind)
        return TEXT if name in self._keys and (final == JSON or not isinstance(final, str)) else final

    def _values(self, name: str, records: Sequence[Mapping[str, Any]]) -> Sequence[Any]:
        """The values of one column, with 1.0 as 1 if its type is declared as integer."""
        values = [record.get(name) for record in records]
        if name in self._keys:
            return list(map(key_value, values))
        kind: ColumnType = self._integers.get(name)
        return values if kind is None else [with_integers(value, kind) for value in values]

    def _column(self, name: str, values: Sequence[Any]) -> Any:
        """The column of these JSON values, whose types fit."""
        kind = self.types[name]
        if name in self._keys and kind == TEXT:
            values = list(map(key_text, values))
            if self._is_time_text(name):  # rows of the time when all values were times have that form
                values = [_time_text(value) if value and _is_timestamp(value) else value for value in values]
        return self._array(values, kind)

    def _is_time_text(self, key: str) -> bool:
        """Whether a key is declared as a time, but is not a time in all rows."""
        return self._declared.get(key) == TIME and self.types.get(key) == TEXT

    def _array(self, values: Sequence[Any], kind: ColumnType) -> Any:
        parsed_type = self._arrow_type(kind, as_parsed=True)
        plain = [_with_json_text(value, kind) for value in values] if holds_json(kind) else values
        return self._pa.array(plain, parsed_type).cast(self._arrow_type(kind))

    def _arrow_type(self, kind: ColumnType, *, as_parsed: bool = False) -> Any:
        """The Arrow type of a column. `as_parsed`: the type that its values have after parsing, before the cast."""
        pa = self._pa
        if is_list(kind):
            return pa.list_(self._arrow_type(kind[0], as_parsed=as_parsed))
        if is_object(kind):
            return pa.struct([(name, self._arrow_type(field, as_parsed=as_parsed)) for name, field in kind.items()])
        if kind in (DATE, TIME) and not as_parsed:
            return pa.date32() if kind == DATE else pa.timestamp("us", "UTC")
        simple = {BOOLEAN: pa.bool_, INTEGER: pa.int64, BIGINT: pa.int64, NUMBER: pa.float64}
        return simple.get(kind, pa.string)()


def _to_json_value(value: Any, kind: ColumnType) -> Any:
    """The JSON value of an Arrow value of this type. A null field may have been missing, and is left out."""
    if value is None:
        return None
    if kind == JSON:
        return decode(value.encode())
    if is_list(kind):
        return [_to_json_value(item, kind[0]) for item in value]
    if is_object(kind):
        return {name: _to_json_value(value[name], field) for name, field in kind.items() if value[name] is not None}
    if isinstance(value, datetime):
        return _utc_text(value)
    return value.isoformat() if isinstance(value, date) else value


def _time_text(text: str) -> str:
    return _utc_text(datetime.fromisoformat(text))


def _utc_text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _with_json_text(value: Any, kind: ColumnType) -> Any:
    """The value, with JSON text wherever the type is JSON."""
    if value is None:
        return None
    if kind == JSON:
        return encode(value).decode()
    if is_list(kind):
        return [_with_json_text(item, kind[0]) for item in value]
    if is_object(kind):
        return {name: _with_json_text(value.get(name), field) for name, field in kind.items()}
    return value


def _widened_type(known: ColumnType, values: Sequence[Any]) -> ColumnType:
    """The type of a column that holds these values too."""
    if isinstance(known, str) and known in _CHECKS:
        fits = _CHECKS[known]
        if all(value is None or (isinstance(value, str) and fits(value)) for value in values):
            return known
    found = type_of(values)
    return _widened_nested_type(known, found, values) if not isinstance(known, str) else join_types(known, found)


def _widened_nested_type(known: ColumnType, found: ColumnType, values: Sequence[Any]) -> ColumnType:
    """`_widened_type` for objects and lists. Dates and times inside them stay dates and times."""
    present = [value for value in values if value is not None]
    if is_object(known) and is_object(found):
        names = dict.fromkeys([*known, *found])
        return {name: _widened_type(known.get(name, NULL), [value.get(name) for value in present]) for name in names}
    if is_list(known) and is_list(found):
        return [_widened_type(known[0], [item for value in present for item in value])]
    return join_types(known, found)


def _is_date(text: str) -> bool:
    return _matches(DATE, text, date.fromisoformat)


def _is_timestamp(text: str) -> bool:
    return _matches(TIME, text, datetime.fromisoformat)


def _matches(kind: ColumnType, text: str, parse: Callable[[str], object]) -> bool:
    try:
        return re.fullmatch(_PATTERNS[kind], text, re.ASCII) is not None and parse(text) is not None
    except ValueError:
        return False


_CHECKS = {DATE: _is_date, TIME: _is_timestamp}
