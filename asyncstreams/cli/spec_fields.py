"""The fields of a configuration as its spec describes them: their types, and which of them are secret."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from .._json import as_array, as_object, json_type_name
from ..redaction import is_secret_name

Schema: TypeAlias = Mapping[str, Any]
Path: TypeAlias = tuple[str | int, ...]
_ALTERNATIVES = ("oneOf", "anyOf")


class SpecFields:
    """The schemas of one spec, by the path of a value. Alternatives that the configuration contradicts do not apply.

    Without a spec no field is declared secret, and names such as `api_key` decide what is masked.
    """

    def __init__(self, spec: Schema | None) -> None:
        self._spec = spec

    def leaves(self, config: Any) -> Iterator[tuple[Path, Any, bool]]:
        """Each value that is neither an object nor an array: its path, the value, and whether its field is secret."""
        roots = [] if self._spec is None else [self._spec]
        yield from self._leaves((), config, roots, is_secret=False)

    def schemas_at(self, path: Path, config: Any) -> list[Schema]:
        """The schemas of the value at a path; empty if the spec does not describe it."""
        schemas: list[Schema] = [] if self._spec is None else [self._spec]
        for step in path:
            schemas = self._below(schemas, step, config)
            config = child(config, step)
        return list(self._applied(schemas, config))

    def names_at(self, path: Path, config: Any) -> list[str]:
        """The names of the properties that the spec declares in the object at a path."""
        found: dict[str, None] = {}
        for schema in self.schemas_at(path, config):
            found |= dict.fromkeys(as_object(schema.get("properties")) or {})
        return list(found)

    def types_at(self, path: Path, config: Any) -> set[str]:
        """The JSON types that the value at a path may have; empty if the spec does not say."""
        types: set[str] = set()
        for schema in self.schemas_at(path, config):
            declared = schema.get("type")
            types |= {declared} if isinstance(declared, str) else set(as_array(declared) or ())
            if declared is None:
                values = as_array(schema.get("enum")) or ([schema["const"]] if "const" in schema else [])
                types |= {json_type_name(value) for value in values}
        return types

    def _leaves(self, path: Path, value: Any, schemas: list[Schema], *, is_secret: bool) -> Iterator[Any]:
        applied = list(self._applied(schemas, value))
        is_secret = is_secret or any(map(_marks_secret, applied))
        if self._spec is None and path and isinstance(path[-1], str):
            is_secret = is_secret or is_secret_name(path[-1])
        if isinstance(value, dict | list):
            for step in steps(value):
                inner, below = child(value, step), self._below(applied, step, value)
                yield from self._leaves((*path, step), inner, below, is_secret=is_secret)
        else:
            yield path, value, is_secret

    def _below(self, schemas: Sequence[Schema], step: str | int, value: Any) -> list[Schema]:
        """The schemas of a property or an item of a value."""
        found: list[Schema] = []
        for schema in self._applied(schemas, value):
            if isinstance(step, int):
                prefix = as_array(schema.get("prefixItems")) or as_array(schema.get("items")) or []
                rest = [schema.get("items"), schema.get("additionalItems")]
                candidates = prefix[step : step + 1] or rest
            else:
                candidates = _property_schemas(schema, step)
            found += [inner for item in candidates if (inner := as_object(item)) is not None]
        return found

    def _applied(self, schemas: Sequence[Schema], value: Any) -> Iterator[Schema]:
        """The schemas with everything that they refer to and combine, each once: a schema may refer to itself."""
        found = {id(schema): schema for schema in schemas}
        pending = list(found.values())
        for schema in pending:  # the list grows during the iteration
            yield schema
            inner: list[Any] = [schema.get("then"), schema.get("else"), *(as_array(schema.get("allOf")) or ())]
            if isinstance(reference := schema.get("$ref"), str):
                inner.append(self._referenced(reference))
            for keyword in _ALTERNATIVES:
                options = [option for item in as_array(schema.get(keyword)) or () if (option := as_object(item))]
                fitting = [option for option in options if not self._contradicts(option, value)]
                inner += fitting or options
            added = [item for item in map(as_object, inner) if item and id(item) not in found]
            found |= {id(item): item for item in added}
            pending += added

    def _contradicts(self, option: Schema, value: Any) -> bool:
        """Whether a value of the configuration differs from a constant of an alternative, such as its `auth_type`."""
        if isinstance(reference := option.get("$ref"), str):
            option = as_object(self._referenced(reference)) or {}
        fields = as_object(value)
        for name, item in (as_object(option.get("properties")) or {}).items():
            schema = as_object(item) or {}
            allowed = [schema["const"]] if "const" in schema else as_array(schema.get("enum"))
            if allowed is not None and fields is not None and name in fields and fields[name] not in allowed:
                return True
        return False

    def _referenced(self, reference: str) -> Any:
        """The schema that `#/definitions/name` refers to; None for one outside of the spec."""
        found: Any = self._spec
        for part in reference.removeprefix("#").split("/")[1:]:
            found = (as_object(found) or {}).get(part.replace("~1", "/").replace("~0", "~"))
        return found if reference.startswith("#") else None


def pointer(path: Path) -> str:
    """The path as a JSON pointer (RFC 6901)."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)


def steps(value: Any) -> list[str | int]:
    """The keys of an object, or the positions of an array."""
    return list(fields) if (fields := as_object(value)) is not None else list(range(len(value)))


def child(value: Any, step: str | int) -> Any:
    """A property or an item of a value; None if it has none."""
    if (fields := as_object(value)) is not None:
        return fields.get(str(step))
    items = as_array(value)
    return items[step] if items is not None and isinstance(step, int) and step < len(items) else None


def _property_schemas(schema: Schema, name: str) -> list[Any]:
    properties = as_object(schema.get("properties")) or {}
    found = [properties[name]] if name in properties else []
    patterns = as_object(schema.get("patternProperties")) or {}
    found += [inner for pattern, inner in patterns.items() if _matches(pattern, name)]
    return found or [schema.get("additionalProperties")]


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error:  # a pattern of ECMAScript that Python does not have
        return False


def _marks_secret(schema: Schema) -> bool:
    return schema.get("airbyte_secret") is True or schema.get("writeOnly") is True or schema.get("format") == "password"
