"""How do lines become columns of Arrow, without a value that is not what it was?

Where the columns are known Arrow reads the lines itself; what it finds to be otherwise is read again by us, and makes
the columns wider.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
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
    EXACT,
    INTEGER,
    JSON,
    NULL,
    NUMBER,
    TEXT,
    TIME,
    Type,
    declared,
    holds_json,
    is_list,
    is_object,
    joined,
    settled,
    too_many_columns,
    type_of,
)
from .line_records import records_of

_MOST_COLUMNS = 2_000
_A_FEW = 2**16
"""Bytes of records."""
_PATTERNS = {
    DATE: r"\d{4}-\d\d-\d\d",
    TIME: r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:\d\d)",
}


def needed(extra: str) -> Any:
    """pyarrow. Raises ConfigError where it is not installed, with the extra that brings it."""
    try:
        return import_module("pyarrow")
    except ModuleNotFoundError:
        raise ConfigError("pyarrow is not installed", hint=f"pip install 'asyncstreams[{extra}]'") from None


class Columns:
    """The columns of one stream, in the order in which they came.

    `nested`: objects and lists have types of their own; else they are JSON. `is_folded`: capitals make no difference
    between the fields of an object.
    """

    def __init__(self, types: Mapping[str, Type], *, nested: bool, is_folded: bool = False) -> None:
        self._pa = import_module("pyarrow")
        self._json = import_module("pyarrow.json")
        self._compute = import_module("pyarrow.compute")
        self._settled = partial(settled, nested=nested, is_folded=is_folded)
        self.types = {name: self._settled(kind) for name, kind in types.items()}
        self._as_read: Any = None

    @classmethod
    def declared(cls, schema: Mapping[str, Any] | None, *, nested: bool, is_folded: bool = False) -> Columns:
        """Those of a schema."""
        return cls(declared(schema), nested=nested, is_folded=is_folded)

    def widen(self, types: Mapping[str, Type]) -> None:
        """Hold what these hold as well."""
        self._be({**self.types, **{name: joined(self.types.get(name, NULL), kind) for name, kind in types.items()}})

    @property
    def schema(self) -> Any:
        """As Arrow says it."""
        return self._pa.schema([(name, self._arrow(kind)) for name, kind in self.types.items()])

    def table(self, lines: bytes) -> Any:
        """The records as a table of all columns, which are wider afterwards where that was necessary."""
        if not self.types and any(few := records_of(lines[: lines.find(b"\n", _A_FEW) + 1] or lines)):
            self._learn(few)  # mostly what all have, and then Arrow can read them
        table = self._read(lines)
        return self._made(records_of(lines)) if table is None else table

    def recast(self, table: Any, types: Mapping[str, Type]) -> Any:
        """The same of a table that was made when the columns were of these types."""
        arrays = [
            self._pa.nulls(table.num_rows, self._arrow(kind))
            if name not in types
            else table.column(name)
            if types[name] == kind or (self._arrow(types[name]) == self._arrow(kind) and not holds_json(kind))
            else self._array([_plain(value, types[name]) for value in table.column(name).to_pylist()], kind)
            for name, kind in self.types.items()
        ]
        return self._pa.table(arrays, schema=self.schema)

    def _read(self, lines: bytes) -> Any:
        """None: not all is as it was before."""
        if not self.types or any(map(holds_json, self.types.values())):
            return None
        if self._as_read is None:
            as_read = [(name, self._arrow(kind, is_read=True)) for name, kind in self.types.items()]
            self._as_read = self._json.ParseOptions(
                explicit_schema=self._pa.schema(as_read), unexpected_field_behavior="error"
            )
        try:
            table = self._json.read_json(
                io.BytesIO(lines),
                read_options=self._json.ReadOptions(use_threads=False, block_size=len(lines) + 1),
                parse_options=self._as_read,
            )
            if not all(self._is_as_known(table.column(name), kind) for name, kind in self.types.items()):
                return None
            return table.cast(self.schema)
        except (self._pa.ArrowInvalid, self._pa.ArrowNotImplementedError):
            return None

    def _is_as_known(self, values: Any, kind: Type) -> bool:
        """Whether what Arrow takes without a word is what it was."""
        if kind in (BOOLEAN, BIGINT, TEXT) or values.null_count == len(values):
            return True
        if kind == NULL:
            return False
        if kind in (INTEGER, NUMBER):
            bounds = self._compute.min_max(values).as_py()
            # At the bound itself a double may have been another integer.
            return bool(bounds["min"] > -EXACT and bounds["max"] < EXACT)
        if is_list(kind):
            return self._is_as_known(self._compute.list_flatten(values), kind[0])
        if is_object(kind):
            fields = [(self._compute.struct_field(values, name), one) for name, one in kind.items()]
            return all(self._is_as_known(field, one) for field, one in fields)
        matches = self._compute.match_substring_regex(values, f"^{_PATTERNS[kind]}$")
        return bool(self._compute.all(matches).as_py())

    def _made(self, records: Sequence[Mapping[str, Any]]) -> Any:
        values = self._learn(records)
        arrays = [self._array(values[name], kind) for name, kind in self.types.items()]
        return self._pa.table(arrays, schema=self.schema)

    def _learn(self, records: Sequence[Mapping[str, Any]]) -> Mapping[str, Sequence[Any]]:
        """Be as wide as these need it, and give their values by column."""
        names = list(dict.fromkeys([*self.types, *(name for record in records for name in record)]))
        names = names or ["_"]  # a table has a column
        if len(names) > _MOST_COLUMNS:
            raise too_many_columns(len(names), _MOST_COLUMNS)
        values = {name: [record.get(name) for record in records] for name in names}
        self._be({name: _joined(self.types.get(name, NULL), values[name]) for name in names})
        return values

    def _be(self, types: Mapping[str, Type]) -> None:
        types = {name: self._settled(kind) for name, kind in types.items()}
        if types != self.types:
            self.types, self._as_read = types, None

    def _array(self, values: Sequence[Any], kind: Type) -> Any:
        as_read = self._arrow(kind, is_read=True)
        told = [_told(value, kind) for value in values] if holds_json(kind) else values
        return self._pa.array(told, as_read).cast(self._arrow(kind))

    def _arrow(self, kind: Type, *, is_read: bool = False) -> Any:
        """The type of Arrow, or that as which lines are read."""
        pa = self._pa
        if is_list(kind):
            return pa.list_(self._arrow(kind[0], is_read=is_read))
        if is_object(kind):
            return pa.struct([(name, self._arrow(one, is_read=is_read)) for name, one in kind.items()])
        if kind in (DATE, TIME) and not is_read:
            return pa.date32() if kind == DATE else pa.timestamp("us", "UTC")
        simple = {BOOLEAN: pa.bool_, INTEGER: pa.int64, BIGINT: pa.int64, NUMBER: pa.float64}
        return simple.get(kind, pa.string)()


def _plain(value: Any, kind: Type) -> Any:
    """A value of Arrow, of this type, as JSON has it."""
    if value is None:
        return None
    if kind == JSON:
        return decode(value.encode())
    if is_list(kind):
        return [_plain(item, kind[0]) for item in value]
    if is_object(kind):
        return {name: _plain(value[name], one) for name, one in kind.items()}
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return value.isoformat() if isinstance(value, date) else value


def _told(value: Any, kind: Type) -> Any:
    """A value with JSON in the places where that is its type."""
    if value is None:
        return None
    if kind == JSON:
        return encode(value).decode()
    if is_list(kind):
        return [_told(item, kind[0]) for item in value]
    if is_object(kind):
        return {name: _told(value.get(name), one) for name, one in kind.items()}
    return value


def _joined(known: Type, values: Sequence[Any]) -> Type:
    """The type of a column that is to hold these as well."""
    if isinstance(known, str) and known in _CHECKS:
        fits = _CHECKS[known]
        if all(value is None or (isinstance(value, str) and fits(value)) for value in values):
            return known
    found = type_of(values)
    return _with_times(known, found, values) if not isinstance(known, str) else joined(known, found)


def _with_times(known: Type, found: Type, values: Sequence[Any]) -> Type:
    """The same in the depth of objects and lists."""
    some = [value for value in values if value is not None]
    if is_object(known) and is_object(found):
        names = dict.fromkeys([*known, *found])
        return {name: _joined(known.get(name, NULL), [value.get(name) for value in some]) for name in names}
    if is_list(known) and is_list(found):
        return [_joined(known[0], [item for value in some for item in value])]
    return joined(known, found)


def _is_date(text: str) -> bool:
    return _is_a(DATE, text, date.fromisoformat)


def _is_moment(text: str) -> bool:
    return _is_a(TIME, text, datetime.fromisoformat)


def _is_a(kind: Type, text: str, read: Callable[[str], object]) -> bool:
    try:
        return re.fullmatch(_PATTERNS[kind], text, re.ASCII) is not None and read(text) is not None
    except ValueError:
        return False


_CHECKS = {DATE: _is_date, TIME: _is_moment}
