"""Schemas inferred from records, and their differences from declared ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime
from typing import Any, NamedTuple
from urllib.parse import unquote

from .._json import JSON_TYPE_NAMES, as_array, as_object

MAX_COLUMNS, MAX_PROPERTIES, MAX_DEPTH, MAX_SCHEMAS = 2_000, 200, 16, 10_000
_TYPE_ORDER = ("boolean", "integer", "number", "string", "object", "array", "null")
_MAX_REFERENCES = 16
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


class SchemaInference:
    """The narrowest JSON schema (draft 7) that all records fit, without `required`.

    "null" is a type of a property only if one was seen, and `format` is "date-time" or "date" if all its strings are
    (RFC 3339). Properties stand in the order of their first appearance. An object with more than 200 different keys, or
    a record with more than 2,000, is described as a map: one schema for all its values. What is nested more than 16
    levels deep, and what comes after 10,000 properties, is not described, so that any value is valid there;
    `is_complete` is False then.
    """

    def __init__(self) -> None:
        self._root = _ValueShape()
        self._limits = _Limits()
        self.records = 0

    @property
    def is_complete(self) -> bool:
        """Whether everything in the records is described."""
        return not self._limits.is_exceeded

    def add(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Widen the schema so that these records fit."""
        for record in records:
            self._root.add(dict(record), self._limits, 0)
            self.records += 1

    def to_json(self) -> dict[str, Any]:
        """The schema; `{"type": "object"}` apart from its draft before the first record."""
        return {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", **self._root.to_json()}


class SchemaDifference(NamedTuple):
    """A property that two schemas describe differently, as texts; "" where one of them does not have it."""

    path: str
    declared: str
    inferred: str


def find_differences(declared: Mapping[str, Any], inferred: Mapping[str, Any]) -> list[SchemaDifference]:
    """The properties of the records that a declared schema does not have, or describes as something else.

    Also those that it has and no record does. A declared type that no record has, such as "null", is no difference.
    """
    return list(_differences(_DescribedValue(declared, [declared]), _DescribedValue(inferred, [inferred]), ""))


def describe_columns(schema: Mapping[str, Any]) -> dict[str, str]:
    """The properties that a schema declares for a record, and their types as texts, such as "string or null"."""
    return {name: str(value) for name, value in _DescribedValue(schema, [schema]).properties().items()}


class _Limits:
    """The number of schemas that an inference may still create."""

    def __init__(self) -> None:
        self.left = MAX_SCHEMAS
        self.is_exceeded = False


class _ValueShape:
    """What the values at one place of the records have in common.

    `values` describes all values of an object that is a map. `is_cut`: beyond the limits, some properties or items are
    not described. `is_any`: some value is no JSON.
    """

    __slots__ = ("formats", "is_any", "is_cut", "items", "properties", "types", "values")

    def __init__(self) -> None:
        self.types: set[str] = set()
        self.formats: set[str] | None = None
        self.properties: dict[str, _ValueShape] = {}
        self.values: _ValueShape | None = None
        self.items: _ValueShape | None = None
        self.is_cut = self.is_any = False

    def add(self, value: Any, limits: _Limits, depth: int) -> None:
        """Widen the shape so that the value fits."""
        kind = JSON_TYPE_NAMES.get(type(value).__name__)
        if kind is None:  # an object of Python, which a hook has put into the record
            self.is_any = True
            return
        self.types.add(kind)
        if isinstance(value, str):
            found = _formats_of(value) if self.formats is None or self.formats else self.formats
            self.formats = found if self.formats is None else self.formats & found
        elif (fields := as_object(value)) is not None:
            self._add_object(fields, limits, depth)
        elif items := as_array(value):
            self.items = self.items or self._new_shape(limits, depth)
            if self.items is not None:
                for item in items:
                    self.items.add(item, limits, depth + 1)

    def merge(self, other: _ValueShape) -> None:
        """Widen the shape so that all values of another one, which is not used any more, fit."""
        self.types |= other.types
        self.is_any = self.is_any or other.is_any or self.is_cut or other.is_cut
        if other.formats is not None:
            self.formats = other.formats if self.formats is None else self.formats & other.formats
        if other.items is not None:
            self.items = _merged(self.items, other.items)
        for name, shape in other.properties.items():
            if self.values is not None:
                self.values.merge(shape)
            else:
                self.properties[name] = _merged(self.properties.get(name), shape)
        if other.values is not None or len(self.properties) > MAX_PROPERTIES:
            self._become_map().merge(other.values or _ValueShape())

    def to_json(self) -> dict[str, Any]:
        """The shape as a JSON schema."""
        if self.is_any:
            return {}
        types = [kind for kind in _TYPE_ORDER if kind in self.types]
        if "number" in types and "integer" in types:
            types.remove("integer")
        schema: dict[str, Any] = {"type": types[0] if len(types) == 1 else types} if types else {}
        if self.formats:
            schema["format"] = min(self.formats)
        if self.values is not None:
            schema["additionalProperties"] = self.values.to_json()
        elif self.properties:
            schema["properties"] = {name: shape.to_json() for name, shape in self.properties.items()}
        if self.items is not None:
            schema["items"] = self.items.to_json()
        return schema

    def _add_object(self, fields: Mapping[Any, Any], limits: _Limits, depth: int) -> None:
        for name, value in fields.items():
            shape = self.values or self.properties.get(name)
            if shape is None and not isinstance(name, str):
                self.is_any = True
                continue
            if shape is None and len(self.properties) >= (MAX_PROPERTIES if depth else MAX_COLUMNS):
                shape = self._become_map()
            elif shape is None:
                shape = self._new_shape(limits, depth)
                if shape is None:
                    continue
                self.properties[name] = shape
            shape.add(value, limits, depth + 1)

    def _become_map(self) -> _ValueShape:
        """Describe the values of all keys together from now on; return their shape."""
        if self.values is None:
            self.values = _ValueShape()
            self.values.is_any = self.is_cut
            for shape in self.properties.values():
                self.values.merge(shape)
            self.properties = {}
        return self.values

    def _new_shape(self, limits: _Limits, depth: int) -> _ValueShape | None:
        """A shape for a property or the items; None beyond the limits."""
        if depth >= MAX_DEPTH or not limits.left:
            self.is_cut = limits.is_exceeded = True
            return None
        limits.left -= 1
        return _ValueShape()


def _merged(shape: _ValueShape | None, other: _ValueShape) -> _ValueShape:
    if shape is None:
        return other
    shape.merge(other)
    return shape


def _formats_of(text: str) -> set[str]:
    """The format of a text, if it has one."""
    try:
        if _DATE.fullmatch(text):
            date.fromisoformat(text)
            return {"date"}
        if _TIME.fullmatch(text):
            datetime.fromisoformat(text)
            return {"date-time"}
    except ValueError:  # such as February 30
        pass
    return set()


class _DescribedValue:
    """What a schema says of the values at one place, with everything that it refers to and combines."""

    def __init__(self, root: Mapping[str, Any], schemas: Iterable[Any]) -> None:
        self._root = root
        self._schemas = list(_combined(root, schemas, 0))

    @property
    def types(self) -> set[str]:
        """The declared types; empty if any is allowed."""
        found: set[str] = set()
        for schema in self._schemas:
            declared = schema.get("type")
            found |= {declared} if isinstance(declared, str) else set(as_array(declared) or ())
            values = [schema["const"]] if "const" in schema else as_array(schema.get("enum")) or []
            if declared is None:
                found |= {JSON_TYPE_NAMES.get(type(value).__name__, "") for value in values}
        return found

    @property
    def format(self) -> str:
        """The format "date-time" or "date"; "" without one."""
        formats = [schema.get("format") for schema in self._schemas]
        return next((name for name in ("date-time", "date") if name in formats), "")

    def properties(self) -> dict[str, _DescribedValue]:
        found: dict[str, list[Any]] = {}
        for schema in self._schemas:
            for name, inner in (as_object(schema.get("properties")) or {}).items():
                found.setdefault(name, []).append(inner)
        return {name: _DescribedValue(self._root, schemas) for name, schemas in found.items()}

    def inner(self, keyword: str) -> _DescribedValue | None:
        """What `items` or `additionalProperties` says; None without it."""
        found = [inner for schema in self._schemas if as_object(inner := schema.get(keyword)) is not None]
        return _DescribedValue(self._root, found) if found else None

    def covers(self, other: _DescribedValue) -> bool:
        """Whether everything that the other one allows is allowed here too, by type and format."""
        types = self.types | {"integer"} if "number" in self.types else self.types
        is_same_format = "string" not in other.types or self.format == other.format
        return not types or (other.types <= types and is_same_format and bool(other.types))

    def __str__(self) -> str:
        names = [f"string {self.format}".rstrip() if kind == "string" else kind for kind in _TYPE_ORDER]
        shown = [name for name, kind in zip(names, _TYPE_ORDER, strict=True) if kind in self.types]
        return " or ".join(shown) or "any"


def _combined(root: Mapping[str, Any], schemas: Iterable[Any], depth: int) -> Iterator[Mapping[str, Any]]:
    for item in schemas if depth <= _MAX_REFERENCES else ():
        if (schema := as_object(item)) is None:
            continue
        yield schema
        inner = [part for keyword in ("allOf", "anyOf", "oneOf") for part in as_array(schema.get(keyword)) or ()]
        if isinstance(reference := schema.get("$ref"), str):
            inner.append(_referenced(root, reference))
        yield from _combined(root, inner, depth + 1)


def _referenced(root: Mapping[str, Any], reference: str) -> Any:
    """The schema at a reference such as `#/$defs/money.json`; None for one outside of the root."""
    found: Any = root
    for part in unquote(reference.removeprefix("#")).split("/")[1:]:
        found = (as_object(found) or {}).get(part.replace("~1", "/").replace("~0", "~"))
    return found if reference.startswith("#") else None


def _differences(
    declared: _DescribedValue, inferred: _DescribedValue, path: str, depth: int = 0
) -> Iterator[SchemaDifference]:
    if depth > MAX_DEPTH:  # a schema that refers to itself
        return
    if path and not declared.covers(inferred):
        yield SchemaDifference(path, str(declared), str(inferred))
    names, found = declared.properties(), inferred.properties()
    is_described = bool(names) or not path
    for name, value in found.items() if is_described else ():
        at = f"{path}.{name}" if path else name
        if name in names:
            yield from _differences(names[name], value, at, depth + 1)
        else:
            yield SchemaDifference(at, "", str(value))
    for name in names.keys() - found.keys() if found else ():
        yield SchemaDifference(f"{path}.{name}" if path else name, str(names[name]), "")
    for keyword, suffix in (("items", "[]"), ("additionalProperties", ".*")):
        left, right = declared.inner(keyword), inferred.inner(keyword)
        if left is not None and right is not None:
            yield from _differences(left, right, f"{path}{suffix}", depth + 1)
