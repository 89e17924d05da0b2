"""Lossless conversion of records to the types of their schema, in place and one page at a time.

A schema is compiled lazily into a tree of fields. Each field knows the Python types that need no conversion,
so that a valid value costs one type lookup. Nested values wait on a list rather than on the stack, so that
any depth is possible. Records are JSON, and thus never contain themselves.
"""

from __future__ import annotations

import inspect
import logging
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from enum import Flag, auto
from functools import cache, lru_cache, reduce
from itertools import chain
from typing import Any, TypeAlias, TypeVar, cast
from urllib.parse import unquote

from .. import _json
from .._json import as_array
from ..errors import ConfigError, MalformedJSON
from ..models import Record

_log = logging.getLogger("asyncstreams")

CustomTransform: TypeAlias = Callable[[Any, Mapping[str, Any]], Any]
_Custom = TypeVar("_Custom", bound=CustomTransform)
_PageTransform: TypeAlias = Callable[[list[Record]], None]
_Walk: TypeAlias = Callable[[Any, "_Pending"], None]
_Pending: TypeAlias = list[tuple[_Walk, Any]]
_Types: TypeAlias = tuple[str, ...]
_SchemaKey: TypeAlias = tuple[int, ...]
_Schemas: TypeAlias = list[Mapping[str, Any]]

_MAX_CACHED_SCHEMAS = 16
_MAX_CACHED_KEYS = 1024
_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list, tuple),
}
_INTEGER = re.compile(r"\s*(-?(?:0|[1-9][0-9]*))(?:\.0+)?\s*")
_NUMBER = re.compile(r"\s*-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?\s*")
_TRUE: frozenset[Any] = frozenset({1, "y", "yes", "t", "true", "on", "1"})
_FALSE: frozenset[Any] = frozenset({0, "n", "no", "f", "false", "off", "0"})


class TransformConfig(Flag):
    """What a TypeTransformer does, named as in the Airbyte CDK.

    The last two flags may be combined; the default conversion then comes first.
    """

    NoTransform = auto()
    """Leave records unchanged."""
    DefaultSchemaNormalization = auto()
    """Convert values to the types of the schema."""
    CustomSchemaNormalization = auto()
    """Call the function passed to `register_custom_transform`."""


class TypeTransformer:
    """Converts the values of records to the types of their schema, in place.

    Values of the right type and None are unchanged. A value that cannot be converted without loss is kept,
    and logged once per field. Schemas must not be modified after their first use.

    Raises ConfigError if NoTransform is combined with another flag.
    """

    def __init__(self, config: TransformConfig) -> None:
        if TransformConfig.NoTransform in config and config != TransformConfig.NoTransform:
            raise ConfigError(
                "TypeTransformer: NoTransform cannot be combined with other flags", hint="remove NoTransform"
            )
        self._config = config
        self._custom: CustomTransform | None = None
        self._cache: list[tuple[Any, _PageTransform | None]] = []

    def register_custom_transform(self, function: _Custom) -> _Custom:
        """Register `function(value, field_schema)`, which returns the value to store; usable as a decorator.

        It is called for each property and array item with a schema, outer values before inner ones, and after
        the default conversion if that is enabled. `field_schema` has `$ref` and `allOf` merged in. A later
        registration replaces an earlier one. Exceptions propagate, with a note that names the field.

        Raises ConfigError for an async function, and without CustomSchemaNormalization.
        """
        if TransformConfig.CustomSchemaNormalization not in self._config:
            hint = "create it with TransformConfig.CustomSchemaNormalization, alone or with the default"
            raise ConfigError("TypeTransformer: custom transforms are not enabled", hint=hint)
        if not callable(function) or inspect.iscoroutinefunction(function):
            raise ConfigError("TypeTransformer: a custom transform must be a plain function of (value, field_schema)")
        self._custom = function
        self._cache.clear()
        return function

    registerCustomTransform = register_custom_transform

    @property
    def is_active(self) -> bool:
        """Whether any transformation is enabled."""
        return bool(self._config & ~TransformConfig.NoTransform)

    def transform(self, record: Record, schema: Mapping[str, Any]) -> None:
        """Transform one record in place. The last 16 schemas are cached, by identity or equality."""
        for same in (operator.is_, operator.eq):
            for known, page in self._cache:
                if same(known, schema):
                    return page([record]) if page is not None else None
        del self._cache[: 1 - _MAX_CACHED_SCHEMAS]
        self._cache.append((schema, self.compile(schema)))
        return self.transform(record, schema)

    def compile(self, schema: Mapping[str, Any]) -> Callable[[list[Record]], None] | None:
        """A function that transforms the records of a page in place; None if the schema requires no change.

        It uses the custom transform that is registered now. Raises ConfigError if one is enabled, but none registered.
        """
        if TransformConfig.CustomSchemaNormalization in self._config and self._custom is None:
            hint = "decorate a function of (value, field_schema) with @transformer.register_custom_transform"
            raise ConfigError("TypeTransformer: no custom transform is registered", hint=hint)
        default = TransformConfig.DefaultSchemaNormalization in self._config
        return _TransformPlan(schema, default, self._custom).compile_page() if default or self._custom else None


class _TransformPlan:
    """A schema and the conversions that apply to it."""

    def __init__(self, schema: Any, default: bool, custom: CustomTransform | None) -> None:
        self.default = default
        self.custom = custom
        self._root = schema
        self.logged: set[tuple[str, _Types]] = set()

    def compile_page(self) -> _PageTransform | None:
        """A function that transforms a page; None if there is nothing to transform."""
        walk = _FieldTransform(self, (self._root,), "", {}).compile_object_walk()
        if walk is None:
            return None

        def transform(records: list[Record]) -> None:
            pending: _Pending = []
            for record in records:
                if isinstance(record, dict):
                    walk(record, pending)
                while pending:
                    deeper, value = pending.pop()
                    deeper(value, pending)

        return transform

    def resolve_ref(self, schema: Mapping[str, Any]) -> Any:
        """The target of a local `$ref` (RFC 6901, 6); None if it is unresolvable or not local."""
        ref = schema.get("$ref")
        if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")):
            return None
        steps = [step.replace("~1", "/").replace("~0", "~") for step in unquote(ref).split("/")[1:]]
        try:
            return reduce(lambda at, step: at[int(step) if as_array(at) is not None else step], steps, self._root)
        except (LookupError, TypeError, ValueError):
            return None

    def allowed_types(self, schema: Any, ancestors: frozenset[int] = frozenset()) -> _Types | None:
        """The types that a schema allows apart from null; None if they are unspecified or undecidable.

        `ancestors` holds the ids of the enclosing schemas, which stop the recursion.
        """
        if not isinstance(schema, Mapping) or id(cast(object, schema)) in ancestors:
            return () if schema is False else None
        known, inner = _mapping(schema), ancestors | {id(cast(object, schema))}
        found = _declared_types(known.get("type"))
        for conjunct in (self.resolve_ref(known), *(as_array(known.get("allOf")) or [])):
            found = _common_types(found, self.allowed_types(conjunct, inner))
        for branches in _alternatives(known):
            each = [self.allowed_types(branch, inner) for branch in branches]
            sure = [types for types in each if types is not None]
            found = _common_types(found, tuple(dict.fromkeys(chain(*sure))) if len(sure) == len(each) else None)
        return found

    def common_types(self, schemas: Iterable[Any]) -> _Types | None:
        """The types that all of the schemas allow."""
        return reduce(_common_types, map(self.allowed_types, schemas), None)

    def applicable_schemas(self, schemas: Iterable[Any]) -> _Schemas:
        """All schemas that apply to the same value: via `$ref`, `allOf`, and a single alternative to null."""
        found: dict[int, Mapping[str, Any]] = {}
        pending = [*schemas][::-1]
        while pending:
            schema = pending.pop()
            if isinstance(schema, Mapping) and id(cast(object, schema)) not in found:
                part = found[id(cast(object, schema))] = _mapping(schema)
                conjuncts = [self.resolve_ref(part), *(as_array(part.get("allOf")) or [])]
                for branches in _alternatives(part):
                    real = [branch for branch in branches if self.allowed_types(branch) != ()]
                    conjuncts += real if len(real) == 1 else []
                pending += conjuncts[::-1]
        return list(found.values())


class _FieldTransform:
    """The conversion of one field: the types it accepts, and the coercions for all others.

    `ancestors` holds the enclosing fields by their schemas: a recursive schema refers back to one of them.
    """

    def __init__(
        self,
        plan: _TransformPlan,
        schemas: tuple[Any, ...],
        pointer: str,
        ancestors: Mapping[_SchemaKey, _FieldTransform],
    ) -> None:
        self._plan = plan
        self._pointer = pointer
        self._custom = plan.custom if schemas else None
        self._ancestors = {**ancestors, tuple(map(id, schemas)): self}
        self._children: dict[tuple[str, _SchemaKey], _FieldTransform] = {}
        self._parts = plan.applicable_schemas(schemas)
        types = (plan.common_types(schemas) if plan.default else None) or ()
        wraps_scalars = "array" in types and self._wraps_scalars()
        self._conversion = _TypeConversion(types, pointer, plan.logged, wraps_scalars=wraps_scalars) if types else None
        self._object_walk = _compile_lazily(self.compile_object_walk) if self._has_keyword(_OBJECT_KEYWORDS) else None
        self._array_walk = _compile_lazily(self._compile_array_walk) if self._has_keyword(_ARRAY_KEYWORDS) else None
        self._schema: Mapping[str, Any] = {k: v for part in self._parts[::-1] for k, v in part.items() if k != "$ref"}
        if len(self._parts) == 1:
            self._schema = self._parts[0]
        self.is_noop = not (self._conversion or self._object_walk or self._array_walk or self._custom)
        right = {type(None), *(self._conversion.python if self._conversion else chain(*_PYTHON_TYPES.values()))}
        inside = {kind for kind, walk in ((dict, self._object_walk), (list, self._array_walk)) if walk is not None}
        self.accepted: frozenset[type] = frozenset() if self._custom else frozenset(right - inside)

    def convert(self, value: Any, pending: _Pending) -> Any:
        """The value to store. The contents of an object or array are appended to `pending`."""
        conversion = self._conversion
        if conversion is not None and value is not None and not _is_instance(value, conversion.python):
            value = conversion.convert(value)
        if self._custom is not None:
            try:
                value = self._custom(value, self._schema)
            except Exception as error:
                error.add_note(f"asyncstreams: in the custom transform, at {self._pointer}")
                raise
        walk = (
            self._object_walk
            if issubclass(type(value), dict)
            else self._array_walk
            if issubclass(type(value), list)
            else None
        )
        if walk is not None:
            pending.append((walk, value))
        return value

    def compile_object_walk(self) -> _Walk | None:
        """A function that converts the properties of an object; None if none of them needs it."""
        names = dict.fromkeys(name for part in self._parts for name in _mapping(part.get("properties")))
        inner = [(name, self._child(_property_schemas(self._parts, name), name)) for name in names]
        fields = tuple((name, field.accepted, field.convert) for name, field in inner if not field.is_noop)
        has_others = any("patternProperties" in part for part in self._parts) or self._has_keyword(
            ("additionalProperties",)
        )

        def walk(record: dict[str, Any], pending: _Pending) -> None:
            # An absent property looks like None, which needs no conversion except by a custom transform.
            get = record.get
            for name, fine, settle in fields:
                if type(get(name)) not in fine and name in record:
                    record[name] = settle(record[name], pending)

        @lru_cache(_MAX_CACHED_KEYS)
        def other(name: str) -> _FieldTransform:
            # Undeclared names may be data, so the pointer does not show them.
            return self._child(_property_schemas(self._parts, name), "*")

        def walk_all(record: dict[Any, Any], pending: _Pending) -> None:
            walk(record, pending)
            for name in [name for name in record if name not in names and isinstance(name, str)]:
                if type(record[name]) not in (field := other(name)).accepted:
                    record[name] = field.convert(record[name], pending)

        return walk_all if has_others else walk if fields else None

    def _compile_array_walk(self) -> _Walk:
        size = max(len(_positional_items(part)) for part in self._parts)
        fields = [self._child(_item_schemas(self._parts, index), str(index)) for index in range(size)]
        rest = self._child(_item_schemas(self._parts, size), "*")

        def walk(values: list[Any], pending: _Pending) -> None:
            for index, value in enumerate(values):
                field = fields[index] if index < size else rest
                if type(value) not in field.accepted:
                    values[index] = field.convert(value, pending)

        return walk

    def _child(self, schemas: tuple[Any, ...], step: str) -> _FieldTransform:
        key = tuple(map(id, schemas))
        if schemas and key in self._ancestors:
            return self._ancestors[key]
        if (step, key) not in self._children:
            pointer = f"{self._pointer}/{step.replace('~', '~0').replace('/', '~1')}"
            self._children[step, key] = _FieldTransform(self._plan, schemas, pointer, self._ancestors)
        return self._children[step, key]

    def _has_keyword(self, words: _Types) -> bool:
        return any(isinstance(part.get(word), Mapping | list) for part in self._parts for word in words)

    def _wraps_scalars(self) -> bool:
        """Whether a scalar may become an array of one item: the items may be scalars."""
        if any(_positional_items(part) or part.get("items") is False for part in self._parts):
            return False
        says_array = any("array" in (_declared_types(part.get("type")) or ()) for part in self._parts)
        types = self._plan.common_types(_item_schemas(self._parts, 0))
        return says_array and types != () and {"object", "array"}.isdisjoint(types or ())


class _TypeConversion:
    """The conversion of a value to one of several types. A value that it cannot convert is logged once per field."""

    def __init__(self, types: _Types, pointer: str, logged: set[tuple[str, _Types]], *, wraps_scalars: bool) -> None:
        self._types, self._pointer, self._logged = types, pointer, logged
        self.python = tuple(chain(*(_PYTHON_TYPES[name] for name in types)))
        """The Python types that need no conversion."""
        self._coercions = [
            _COERCIONS[name] for name in types if name in _COERCIONS and (name != "array" or wraps_scalars)
        ]

    def convert(self, value: Any) -> Any:
        """The converted value, or the value itself."""
        for coerce in self._coercions:
            try:
                coerced = coerce(value)
            except (MalformedJSON, RecursionError, TypeError, ValueError):
                # No JSON form, too many digits for an int, a lone surrogate, or nested too deeply.
                continue
            if coerced is not None:
                return coerced
        if (self._pointer, self._types) not in self._logged:
            self._logged.add((self._pointer, self._types))
            kind = next(
                (name for name in _PYTHON_TYPES if _is_instance(value, _PYTHON_TYPES[name])), type(value).__name__
            )
            message = "%s: a value of type %s was kept: it cannot be converted to %s"
            _log.warning(message, self._pointer, kind, " or ".join(self._types))
        return value


def _is_instance(value: Any, types: tuple[type, ...]) -> bool:
    """Whether a value is of one of these types; a bool is not an integer."""
    return isinstance(value, types) and (bool in types or not isinstance(value, bool))


def _to_string(value: Any) -> str:
    text = _json.encode(value)
    # Dates, decimals and similar values are encoded as JSON strings.
    return _json.decode(text) if text.startswith(b'"') else text.decode()


def _to_integer(value: Any) -> int | None:
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return int(match[1]) if (match := _INTEGER.fullmatch(value)) else None


def _to_number(value: Any) -> int | float | None:
    return _json.decode(value.strip().encode()) if _NUMBER.fullmatch(value) else None


def _to_boolean(value: Any) -> bool | None:
    word = value.strip().lower() if isinstance(value, str) else value
    return True if word in _TRUE else False if word in _FALSE else None


_COERCIONS: dict[str, Callable[[Any], Any]] = {
    "string": _to_string,
    "integer": _to_integer,
    "number": _to_number,
    "boolean": _to_boolean,
    "array": lambda value: [value] if isinstance(value, str | int | float) else None,
}
"""Conversion to each JSON type. The functions return None if a conversion would lose information.

For values without a JSON form they may raise MalformedJSON, TypeError, ValueError or RecursionError.
"""


_OBJECT_KEYWORDS = ("properties", "patternProperties", "additionalProperties")
_ARRAY_KEYWORDS = ("items", "prefixItems", "additionalItems")


def _compile_lazily(compiled: Callable[[], _Walk | None]) -> _Walk:
    """Compile on the first value, so that the compilation of a recursive schema terminates."""
    once = cache(compiled)

    def enter(value: Any, pending: _Pending) -> None:
        if (walk := once()) is not None:
            walk(value, pending)

    return enter


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast(Mapping[str, Any], value) if isinstance(value, Mapping) else {}


def _alternatives(schema: Mapping[str, Any]) -> list[list[Any]]:
    return [branches for word in ("anyOf", "oneOf") if (branches := as_array(schema.get(word)))]


def _declared_types(word: Any) -> _Types | None:
    names = [word] if isinstance(word, str) else as_array(word) or []
    is_known = all(isinstance(name, str) and (name == "null" or name in _PYTHON_TYPES) for name in names)
    return tuple(name for name in names if name != "null") if names and is_known else None


def _common_types(left: _Types | None, right: _Types | None) -> _Types | None:
    """The types that both allow, in the order of the first; an integer is a number."""
    if left is None or right is None:
        return right if left is None else left
    narrow = ("integer" if name == "number" and name not in right else name for name in left)
    return tuple(dict.fromkeys(name for name in narrow if name in right or (name == "integer" and "number" in right)))


def _property_schemas(parts: _Schemas, name: str) -> tuple[Any, ...]:
    found: list[Any] = []
    for part in parts:
        named, patterns = _mapping(part.get("properties")), _compiled_patterns(part)
        own = [named[name]] if name in named else []
        own += [schema for pattern, schema in patterns or () if pattern.search(name)]
        more = part.get("additionalProperties")
        found += own or ([more] if patterns is not None and isinstance(more, Mapping) else [])
    return tuple(found)


def _compiled_patterns(part: Mapping[str, Any]) -> list[tuple[re.Pattern[str], Any]] | None:
    """The compiled patterns. None if Python rejects one: which properties are additional is then undecidable."""
    try:
        return [(re.compile(text), schema) for text, schema in _mapping(part.get("patternProperties")).items()]
    except (re.error, TypeError):
        return None


def _positional_items(part: Mapping[str, Any]) -> list[Any]:
    return as_array(part.get("prefixItems")) or as_array(part.get("items")) or []


def _item_schemas(parts: _Schemas, index: int) -> tuple[Any, ...]:
    found: list[Any] = []
    for part in parts:
        heads, items = _positional_items(part), part.get("items")
        found.append(heads[index] if index < len(heads) else part.get("additionalItems") if items is heads else items)
    return tuple(_mapping(schema) for schema in found if isinstance(schema, Mapping))
