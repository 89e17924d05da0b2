"""Column types: declared by a schema, inferred from values, and joined where the two disagree. Pure.

A type is a JSON value: one of the names below, `[item]` for a list, or `{field: type}` for an object. "json" holds any
value, as its JSON text; it is the type where no other one fits all values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeGuard

from .._json import as_array, as_object, encode, encode_canonical
from ..errors import OutputWriteError

ColumnType: TypeAlias = Any
NULL: Final = "null"  # only nulls so far
BOOLEAN: Final = "boolean"
INTEGER: Final = "integer"  # within the range in which a double is exact
BIGINT: Final = "bigint"  # 64 bits
NUMBER: Final = "number"  # double
TEXT: Final = "text"
DATE: Final = "date"
TIME: Final = "time"  # a timestamp, with microseconds
JSON: Final = "json"

MAX_EXACT_DOUBLE = 2**53
_MIN_BIGINT, _MAX_BIGINT = -(2**63), 2**63 - 1
_MAX_FIELDS = 200
_MAX_DEPTH = 8
_SCALARS = {bool: BOOLEAN, int: INTEGER, float: NUMBER, str: TEXT}
_DECLARED = {"boolean": BOOLEAN, "integer": INTEGER, "number": NUMBER, "string": TEXT}
_FORMATS = {"date": DATE, "date-time": TIME}


def is_object(kind: ColumnType) -> TypeGuard[dict[str, ColumnType]]:
    """Whether it is an object type, with the types of its fields."""
    return isinstance(kind, dict)


def is_list(kind: ColumnType) -> TypeGuard[list[ColumnType]]:
    """Whether it is a list type, with the type of its items."""
    return isinstance(kind, list)


def join_types(left: ColumnType, right: ColumnType) -> ColumnType:
    """The narrowest type that holds the values of both."""
    if left == right or right == NULL:
        return left
    if left == NULL:
        return right
    if isinstance(left, str) and isinstance(right, str):
        both = {left, right}
        if both == {INTEGER, NUMBER}:
            return NUMBER
        if both == {INTEGER, BIGINT}:
            return BIGINT
        return TEXT if both <= {TEXT, DATE, TIME} else JSON
    if is_list(left) and is_list(right):
        return [join_types(left[0], right[0])]
    if is_object(left) and is_object(right):
        return {**left, **{name: join_types(left.get(name, NULL), kind) for name, kind in right.items()}}
    return JSON


def type_of(values: Iterable[Any]) -> ColumnType:
    """The narrowest type that holds these JSON values."""
    present = [value for value in values if value is not None]
    kinds = set(map(type, present))
    if not kinds:
        return NULL
    if kinds == {dict}:
        return _type_of_objects(present)
    if kinds == {list}:
        return [type_of(item for value in present for item in value)]
    if int in kinds and kinds <= {int, float}:
        smallest, largest = min(filter(_is_integer, present)), max(filter(_is_integer, present))
        if smallest >= -MAX_EXACT_DOUBLE and largest <= MAX_EXACT_DOUBLE:
            return NUMBER if float in kinds else INTEGER
        return BIGINT if float not in kinds and smallest >= _MIN_BIGINT and largest <= _MAX_BIGINT else JSON
    return _SCALARS.get(kinds.pop(), JSON) if len(kinds) == 1 else JSON


def finalize_type(kind: ColumnType, *, nested: bool = True, is_folded: bool = False, depth: int = 0) -> ColumnType:
    """The type to store a column as: objects with no fields, over 200 fields or over 8 levels become JSON.

    Without `nested` all objects and lists become JSON. With `is_folded` so do objects with an empty field name, or with
    field names that differ only in case.
    """
    if isinstance(kind, str):
        return kind
    if not nested or depth >= _MAX_DEPTH:
        return JSON
    if is_list(kind):
        return [finalize_type(kind[0], is_folded=is_folded, depth=depth + 1)]
    if not is_object(kind) or not 0 < len(kind) <= _MAX_FIELDS:
        return JSON
    if is_folded and (len({name.casefold() for name in kind}) < len(kind) or "" in kind):
        return JSON
    return {name: finalize_type(field, is_folded=is_folded, depth=depth + 1) for name, field in kind.items()}


def declared_types(schema: Mapping[str, Any] | None) -> dict[str, ColumnType]:
    """The types of the columns that a JSON schema describes."""
    if schema is None:
        return {}
    found = _schema_type(schema, schema, 0)
    return found if is_object(found) else {}


def _schema_type(schema: Any, root: Mapping[str, Any], depth: int) -> ColumnType:
    fields = as_object(schema)
    if not fields:
        return NULL
    if depth > _MAX_DEPTH:
        return JSON
    if "$ref" in fields:
        return _schema_type(_resolve_reference(str(fields["$ref"]), root), root, depth + 1)
    for keyword in ("anyOf", "oneOf", "allOf"):
        if keyword in fields:
            return _join_all([_schema_type(option, root, depth + 1) for option in as_array(fields[keyword]) or ()])
    declared = fields.get("type")
    names = as_array(declared) or [declared]
    if declared is None and (values := as_array(fields.get("enum"))) is not None:
        return type_of(values)
    if declared is None and "properties" in fields:
        names = ["object"]
    return _join_all([_named_type(name, fields, root, depth) for name in names])


def _named_type(name: Any, fields: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> ColumnType:
    if name == "object":
        properties = as_object(fields.get("properties")) or {}
        return {field: _schema_type(schema, root, depth + 1) for field, schema in properties.items()} or NULL
    if name == "array":
        return [_schema_type(fields.get("items"), root, depth + 1)]
    if name == "string" and fields.get("airbyte_type") != "timestamp_without_timezone":
        return _FORMATS.get(str(fields.get("format")), TEXT)
    return _DECLARED.get(str(name), NULL)


def _join_all(kinds: Sequence[ColumnType]) -> ColumnType:
    found: ColumnType = NULL
    for kind in kinds:
        found = join_types(found, kind)
    return found


def _resolve_reference(reference: str, root: Mapping[str, Any]) -> Any:
    """The part of the schema that a JSON pointer (RFC 6901) refers to; None if there is none."""
    node: Any = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        name = step.replace("~1", "/").replace("~0", "~")
        if name:
            node = (as_object(node) or {}).get(name)
    return node


def _type_of_objects(objects: Sequence[Mapping[str, Any]]) -> ColumnType:
    fields: dict[str, list[Any]] = {}
    for value in objects:
        for name, field in value.items():
            fields.setdefault(name, []).append(field)
    return {name: type_of(values) for name, values in fields.items()}


def _is_integer(value: Any) -> bool:
    return type(value) is int


def holds_integer(kind: ColumnType) -> bool:
    """Whether the type is an integer, or contains one at any depth."""
    if isinstance(kind, str):
        return kind in (INTEGER, BIGINT)
    return any(map(holds_integer, kind.values() if is_object(kind) else kind))


def with_integers(value: Any, kind: ColumnType) -> Any:
    """The value, with 1.0 as 1 wherever the type is an integer: JSON schema makes no difference between the two."""
    if type(value) is float:
        is_whole = kind in (INTEGER, BIGINT) and value.is_integer() and abs(value) <= MAX_EXACT_DOUBLE
        return int(value) if is_whole else value
    if is_list(kind) and (items := as_array(value)) is not None:
        return [with_integers(item, kind[0]) for item in items]
    if is_object(kind) and (fields := as_object(value)) is not None:
        return {name: with_integers(field, kind.get(name)) for name, field in fields.items()}
    return value


def key_value(value: Any) -> Any:
    """A value of a primary key, in the one form that equal values have: 1 for 1.0, JSON text for objects and arrays."""
    if type(value) is float and value.is_integer() and _MIN_BIGINT <= value <= _MAX_BIGINT:
        return int(value)
    return encode_canonical(value).decode() if isinstance(value, dict | list) else value


def key_text(value: Any) -> str | None:
    """The text by which values of a primary key are compared: the same for 1, 1.0 and "1"."""
    value = key_value(value)
    return value if value is None or isinstance(value, str) else encode(value).decode()


def holds_json(kind: ColumnType) -> bool:
    """Whether the type is JSON, or contains JSON at any depth."""
    if isinstance(kind, str):
        return kind == JSON
    if is_list(kind):
        return holds_json(kind[0])
    return is_object(kind) and any(map(holds_json, kind.values()))


def too_many_columns(count: int, max_columns: int) -> OutputWriteError:
    """The error for records with more fields than a table can have columns."""
    return OutputWriteError(
        f"too many columns: the records have {count:,} different fields, and a table holds at most {max_columns:,}",
        hint="if data is used as field names, move those fields into one object field in parse_response; "
        "or use JsonLines, which accepts any record",
    )
