"""What is the type of a column: as a schema declares it, as values show it, and when the two do not agree? Pure.

A type is a JSON value: one of the names below, `[item]` for a list, `{field: type}` for an object. Where nothing else
holds all values, "json" does: each is the text that it has in JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeGuard

from .._json import as_array, as_object
from ..errors import OutputWriteError

Type: TypeAlias = Any
NULL: Final = "null"  # nothing but nulls so far
BOOLEAN: Final = "boolean"
INTEGER: Final = "integer"  # as far as a double holds each of them
BIGINT: Final = "bigint"  # 64 bits
NUMBER: Final = "number"  # double
TEXT: Final = "text"
DATE: Final = "date"
TIME: Final = "time"  # a moment, to the microsecond
JSON: Final = "json"

EXACT = 2**53
_SMALLEST, _LARGEST = -(2**63), 2**63 - 1
_MOST_FIELDS = 200
_DEEPEST = 8
_SCALARS = {bool: BOOLEAN, int: INTEGER, float: NUMBER, str: TEXT}
_DECLARED = {"boolean": BOOLEAN, "integer": INTEGER, "number": NUMBER, "string": TEXT}
_FORMATS = {"date": DATE, "date-time": TIME}


def is_object(kind: Type) -> TypeGuard[dict[str, Type]]:
    """Whether it is that of objects, with the types of their fields."""
    return isinstance(kind, dict)


def is_list(kind: Type) -> TypeGuard[list[Type]]:
    """Whether it is that of lists, with the type of their items."""
    return isinstance(kind, list)


def joined(one: Type, other: Type) -> Type:
    """The narrowest type that holds the values of both."""
    if one == other or other == NULL:
        return one
    if one == NULL:
        return other
    if isinstance(one, str) and isinstance(other, str):
        both = {one, other}
        if both == {INTEGER, NUMBER}:
            return NUMBER
        if both == {INTEGER, BIGINT}:
            return BIGINT
        return TEXT if both <= {TEXT, DATE, TIME} else JSON
    if is_list(one) and is_list(other):
        return [joined(one[0], other[0])]
    if is_object(one) and is_object(other):
        return {**one, **{name: joined(one.get(name, NULL), kind) for name, kind in other.items()}}
    return JSON


def type_of(values: Iterable[Any]) -> Type:
    """The narrowest type that holds these values, which JSON has."""
    some = [value for value in values if value is not None]
    kinds = set(map(type, some))
    if not kinds:
        return NULL
    if kinds == {dict}:
        return _type_of_objects(some)
    if kinds == {list}:
        return [type_of(item for value in some for item in value)]
    if int in kinds and kinds <= {int, float}:
        least, most = min(filter(_is_integer, some)), max(filter(_is_integer, some))
        if least >= -EXACT and most <= EXACT:
            return NUMBER if float in kinds else INTEGER
        return BIGINT if float not in kinds and least >= _SMALLEST and most <= _LARGEST else JSON
    return _SCALARS.get(kinds.pop(), JSON) if len(kinds) == 1 else JSON


def settled(kind: Type, *, nested: bool = True, is_folded: bool = False, depth: int = 0) -> Type:
    """What a column of this type is to be: objects without fields, with too many, and too deep ones are JSON.

    Not `nested`: so are all objects and lists. `is_folded`: so are objects with fields that differ in capitals only.
    """
    if isinstance(kind, str):
        return kind
    if not nested or depth >= _DEEPEST:
        return JSON
    if is_list(kind):
        return [settled(kind[0], is_folded=is_folded, depth=depth + 1)]
    if not is_object(kind) or not 0 < len(kind) <= _MOST_FIELDS:
        return JSON
    if is_folded and (len({name.casefold() for name in kind}) < len(kind) or "" in kind):
        return JSON
    return {name: settled(field, is_folded=is_folded, depth=depth + 1) for name, field in kind.items()}


def declared(schema: Mapping[str, Any] | None) -> dict[str, Type]:
    """The types of the columns of which a JSON schema says anything."""
    if schema is None:
        return {}
    found = _declared(schema, schema, 0)
    return found if is_object(found) else {}


def _declared(schema: Any, root: Mapping[str, Any], depth: int) -> Type:
    told = as_object(schema)
    if not told:
        return NULL
    if depth > _DEEPEST:
        return JSON
    if "$ref" in told:
        return _declared(_referred(str(told["$ref"]), root), root, depth + 1)
    for several in ("anyOf", "oneOf", "allOf"):
        if several in told:
            return _all([_declared(one, root, depth + 1) for one in as_array(told[several]) or ()])
    given = told.get("type")
    names = as_array(given) or [given]
    if given is None and (values := as_array(told.get("enum"))) is not None:
        return type_of(values)
    if given is None and "properties" in told:
        names = ["object"]
    return _all([_of_one(name, told, root, depth) for name in names])


def _of_one(name: Any, told: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Type:
    if name == "object":
        properties = as_object(told.get("properties")) or {}
        return {field: _declared(one, root, depth + 1) for field, one in properties.items()} or NULL
    if name == "array":
        return [_declared(told.get("items"), root, depth + 1)]
    if name == "string" and told.get("airbyte_type") != "timestamp_without_timezone":
        return _FORMATS.get(str(told.get("format")), TEXT)
    return _DECLARED.get(str(name), NULL)


def _all(kinds: Sequence[Type]) -> Type:
    found: Type = NULL
    for kind in kinds:
        found = joined(found, kind)
    return found


def _referred(reference: str, root: Mapping[str, Any]) -> Any:
    """What a reference into the schema itself leads to."""
    node: Any = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        name = step.replace("~1", "/").replace("~0", "~")
        if name:
            node = (as_object(node) or {}).get(name)
    return node


def _type_of_objects(some: Sequence[Mapping[str, Any]]) -> Type:
    fields: dict[str, list[Any]] = {}
    for value in some:
        for name, field in value.items():
            fields.setdefault(name, []).append(field)
    return {name: type_of(values) for name, values in fields.items()}


def _is_integer(value: Any) -> bool:
    return type(value) is int


def holds_json(kind: Type) -> bool:
    """Whether there is JSON anywhere in it."""
    if isinstance(kind, str):
        return kind == JSON
    if is_list(kind):
        return holds_json(kind[0])
    return is_object(kind) and any(map(holds_json, kind.values()))


def too_many_columns(count: int, most: int) -> OutputWriteError:
    """Of an output with columns."""
    return OutputWriteError(
        f"its records have {count:,} different fields, and a table has {most:,} columns at most",
        hint="fields that are named after data belong into one of their own, as an object: "
        "parse_response can put them there; or JsonLines takes any record",
    )
