"""How are values brought to the types of a schema: in place, a page at a time, and only where nothing is lost.

A schema becomes a tree of fields on first need. Each knows the Python types that need nothing, so
that a value which is right costs one look at its type. What lies deeper waits on a list and not on
the stack, so no depth of data is too much. Records are JSON: nothing in them contains itself.
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

from .._json import as_array
from ..errors import ConfigError, MalformedJSON
from ..models import Record
from .coercion import CASTS, PYTHON_TYPES, fits

_log = logging.getLogger("asyncstreams")

CustomTransform: TypeAlias = Callable[[Any, Mapping[str, Any]], Any]
_Custom = TypeVar("_Custom", bound=CustomTransform)
_PageTransform: TypeAlias = Callable[[list[Record]], None]
_Walk: TypeAlias = Callable[[Any, "_Pending"], None]
_Pending: TypeAlias = list[tuple[_Walk, Any]]
_Types: TypeAlias = tuple[str, ...]
_Key: TypeAlias = tuple[int, ...]
_Parts: TypeAlias = list[Mapping[str, Any]]

_CACHED_SCHEMAS = 16
_KNOWN_KEYS = 1024


class TransformConfig(Flag):
    """What a TypeTransformer does; the last two may be combined, the cast then comes first."""

    NoTransform = auto()
    DefaultSchemaNormalization = auto()
    CustomSchemaNormalization = auto()


class TypeTransformer:
    """Casts the values of records to the types of their schema, in place.

    A value that fits, and None, stay as they are; so does one that cannot be cast without loss,
    which is logged once for each field. A schema is not changed after its first use.
    """

    def __init__(self, config: TransformConfig) -> None:
        if TransformConfig.NoTransform in config and config != TransformConfig.NoTransform:
            raise ConfigError("NoTransform cannot be combined with other flags", hint="leave NoTransform out")
        self._config = config
        self._custom: CustomTransform | None = None
        self._cache: list[tuple[Any, _PageTransform | None]] = []

    def register_custom_transform(self, function: _Custom) -> _Custom:
        """Call `function(value, field_schema)` for every property and array item, parents first; a decorator.

        It gets the value after the default cast, if that is on, and returns the one to store. `field_schema` has `$ref`
        and `allOf` merged in. The last function registered counts. What it raises leaves, with a note of the field.
        """
        if TransformConfig.CustomSchemaNormalization not in self._config:
            hint = "TypeTransformer(TransformConfig.CustomSchemaNormalization), alone or with the default one"
            raise ConfigError("a custom transform needs TransformConfig.CustomSchemaNormalization", hint=hint)
        if not callable(function) or inspect.iscoroutinefunction(function):
            raise ConfigError("a custom transform is a plain function of a value and its schema")
        self._custom = function
        self._cache.clear()
        return function

    registerCustomTransform = register_custom_transform

    @property
    def is_active(self) -> bool:
        """Whether it changes anything at all."""
        return bool(self._config & ~TransformConfig.NoTransform)

    def transform(self, record: Record, schema: Mapping[str, Any]) -> None:
        """Transform one record; schemas are remembered, by identity or else by equality."""
        for same in (operator.is_, operator.eq):
            for known, page in self._cache:
                if same(known, schema):
                    return page([record]) if page is not None else None
        del self._cache[: 1 - _CACHED_SCHEMAS]
        self._cache.append((schema, self.compiled(schema)))
        return self.transform(record, schema)

    def compiled(self, schema: Mapping[str, Any]) -> Callable[[list[Record]], None] | None:
        """What transforms the records of a page; None where there is nothing to do.

        It keeps the function that is registered now. Raises ConfigError where there should be one and is none.
        """
        if TransformConfig.CustomSchemaNormalization in self._config and self._custom is None:
            hint = "put @transformer.register_custom_transform on a function of (value, field_schema)"
            raise ConfigError("CustomSchemaNormalization is set, but no custom transform is registered", hint=hint)
        default = TransformConfig.DefaultSchemaNormalization in self._config
        return _Plan(schema, default, self._custom).page() if default or self._custom else None


class _Plan:
    """A schema, and what is done to all that it describes."""

    def __init__(self, schema: Any, default: bool, custom: CustomTransform | None) -> None:
        self.default = default
        self.custom = custom
        self._root = schema
        self.told: set[tuple[str, _Types]] = set()

    def page(self) -> _PageTransform | None:
        walk = _Field(self, (self._root,), "", {}).object_walk()
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

    def target(self, schema: Mapping[str, Any]) -> Any:
        """What a local `$ref` points to (RFC 6901, 6); None where it leads nowhere, or out of the schema."""
        ref = schema.get("$ref")
        if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")):
            return None
        steps = [step.replace("~1", "/").replace("~0", "~") for step in unquote(ref).split("/")[1:]]
        try:
            return reduce(lambda at, step: at[int(step) if as_array(at) is not None else step], steps, self._root)
        except (LookupError, TypeError, ValueError):
            return None

    def types(self, schema: Any, above: frozenset[int] = frozenset()) -> _Types | None:
        """The types that a schema allows beside null; None where it does not say, or nothing sure."""
        if not isinstance(schema, Mapping) or id(cast(object, schema)) in above:
            return () if schema is False else None
        known, inner = _mapping(schema), above | {id(cast(object, schema))}
        found = _declared(known.get("type"))
        for also in (self.target(known), *(as_array(known.get("allOf")) or [])):
            found = _common(found, self.types(also, inner))
        for branches in _alternatives(known):
            each = [self.types(branch, inner) for branch in branches]
            sure = [types for types in each if types is not None]
            found = _common(found, tuple(dict.fromkeys(chain(*sure))) if len(sure) == len(each) else None)
        return found

    def types_of_all(self, schemas: Iterable[Any]) -> _Types | None:
        return reduce(_common, map(self.types, schemas), None)

    def parts(self, schemas: Iterable[Any]) -> _Parts:
        """All schemas that hold for the same value: `$ref`, `allOf`, and the one alternative to null."""
        found: dict[int, Mapping[str, Any]] = {}
        waiting = [*schemas][::-1]
        while waiting:
            schema = waiting.pop()
            if isinstance(schema, Mapping) and id(cast(object, schema)) not in found:
                part = found[id(cast(object, schema))] = _mapping(schema)
                also = [self.target(part), *(as_array(part.get("allOf")) or [])]
                for branches in _alternatives(part):
                    real = [branch for branch in branches if self.types(branch) != ()]
                    also += real if len(real) == 1 else []
                waiting += also[::-1]
        return list(found.values())


class _Field:
    """One place in the records: what lies there already right, and what becomes of the rest.

    `above` holds the fields around it, by their schemas: one that lies within itself is the same.
    """

    def __init__(self, plan: _Plan, schemas: tuple[Any, ...], pointer: str, above: Mapping[_Key, _Field]) -> None:
        self._plan = plan
        self._pointer = pointer
        self._custom = plan.custom if schemas else None
        self._above = {**above, tuple(map(id, schemas)): self}
        self._inside: dict[tuple[str, _Key], _Field] = {}
        self._parts = plan.parts(schemas)
        self._types: _Types = (plan.types_of_all(schemas) if plan.default else None) or ()
        self._python = tuple(chain(*(PYTHON_TYPES[name] for name in self._types)))
        self._casts = [CASTS[name] for name in self._types if name in CASTS and (name != "array" or self._wraps())]
        self._object = _lazy(self.object_walk) if self._says(_OF_OBJECTS) else None
        self._array = _lazy(self._array_walk) if self._says(_OF_ARRAYS) else None
        self._schema: Mapping[str, Any] = {k: v for part in self._parts[::-1] for k, v in part.items() if k != "$ref"}
        if len(self._parts) == 1:
            self._schema = self._parts[0]
        self.is_idle = not (self._types or self._object or self._array or self._custom)
        right = {type(None), *(self._python or chain(*PYTHON_TYPES.values()))}
        inside = {kind for kind, walk in ((dict, self._object), (list, self._array)) if walk is not None}
        self.fine: frozenset[type] = frozenset() if self._custom else frozenset(right - inside)

    def settle(self, value: Any, pending: _Pending) -> Any:
        """The value to store; if it has an inside, that waits."""
        if self._types and value is not None and not fits(value, self._python):
            value = self._cast(value)
        if self._custom is not None:
            try:
                value = self._custom(value, self._schema)
            except Exception as error:
                error.add_note(f"raised by the custom transform, at {self._pointer}")
                raise
        walk = self._object if issubclass(type(value), dict) else self._array if issubclass(type(value), list) else None
        if walk is not None:
            pending.append((walk, value))
        return value

    def object_walk(self) -> _Walk | None:
        """What settles the properties of an object; None where there is none to settle."""
        names = dict.fromkeys(name for part in self._parts for name in _mapping(part.get("properties")))
        inner = [(name, self._inner(_property_schemas(self._parts, name), name)) for name in names]
        fields = tuple((name, field.fine, field.settle) for name, field in inner if not field.is_idle)
        has_others = any("patternProperties" in part for part in self._parts) or self._says(("additionalProperties",))

        def walk(record: dict[str, Any], pending: _Pending) -> None:
            # What is absent counts as None, which is right unless the author wants to see it.
            get = record.get
            for name, fine, settle in fields:
                if type(get(name)) not in fine and name in record:
                    record[name] = settle(record[name], pending)

        @lru_cache(_KNOWN_KEYS)
        def other(name: str) -> _Field:
            # Names that are not declared may be data: the pointer does not show them.
            return self._inner(_property_schemas(self._parts, name), "*")

        def walk_all(record: dict[Any, Any], pending: _Pending) -> None:
            walk(record, pending)
            for name in [name for name in record if name not in names and isinstance(name, str)]:
                if type(record[name]) not in (field := other(name)).fine:
                    record[name] = field.settle(record[name], pending)

        return walk_all if has_others else walk if fields else None

    def _array_walk(self) -> _Walk:
        size = max(len(_positions(part)) for part in self._parts)
        fields = [self._inner(_item_schemas(self._parts, index), str(index)) for index in range(size)]
        rest = self._inner(_item_schemas(self._parts, size), "*")

        def walk(values: list[Any], pending: _Pending) -> None:
            for index, value in enumerate(values):
                field = fields[index] if index < size else rest
                if type(value) not in field.fine:
                    values[index] = field.settle(value, pending)

        return walk

    def _inner(self, schemas: tuple[Any, ...], step: str) -> _Field:
        key = tuple(map(id, schemas))
        if schemas and key in self._above:
            return self._above[key]
        if (step, key) not in self._inside:
            pointer = f"{self._pointer}/{step.replace('~', '~0').replace('/', '~1')}"
            self._inside[step, key] = _Field(self._plan, schemas, pointer, self._above)
        return self._inside[step, key]

    def _says(self, words: _Types) -> bool:
        return any(isinstance(part.get(word), Mapping | list) for part in self._parts for word in words)

    def _wraps(self) -> bool:
        """Whether a scalar may become an array of one: the items are simple, or anything."""
        if any(_positions(part) or part.get("items") is False for part in self._parts):
            return False
        says_array = any("array" in (_declared(part.get("type")) or ()) for part in self._parts)
        types = self._plan.types_of_all(_item_schemas(self._parts, 0))
        return says_array and types != () and {"object", "array"}.isdisjoint(types or ())

    def _cast(self, value: Any) -> Any:
        for make in self._casts:
            try:
                made = make(value)
            except (MalformedJSON, RecursionError, TypeError, ValueError):
                # What JSON has no form for, integers beyond Python's digits, lone surrogates, too deep.
                continue
            if made is not None:
                return made
        if (self._pointer, self._types) not in self._plan.told:
            self._plan.told.add((self._pointer, self._types))
            kind = next((name for name in PYTHON_TYPES if fits(value, PYTHON_TYPES[name])), type(value).__name__)
            told = "%s: a value of type %s is kept: it cannot become %s"
            _log.warning(told, self._pointer, kind, " or ".join(self._types))
        return value


_OF_OBJECTS = ("properties", "patternProperties", "additionalProperties")
_OF_ARRAYS = ("items", "prefixItems", "additionalItems")


def _lazy(compiled: Callable[[], _Walk | None]) -> _Walk:
    """Compiled when the first value comes, so that a recursive schema ends."""
    once = cache(compiled)

    def enter(value: Any, pending: _Pending) -> None:
        if (walk := once()) is not None:
            walk(value, pending)

    return enter


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast(Mapping[str, Any], value) if isinstance(value, Mapping) else {}


def _alternatives(schema: Mapping[str, Any]) -> list[list[Any]]:
    return [branches for word in ("anyOf", "oneOf") if (branches := as_array(schema.get(word)))]


def _declared(word: Any) -> _Types | None:
    names = [word] if isinstance(word, str) else as_array(word) or []
    is_known = all(isinstance(name, str) and (name == "null" or name in PYTHON_TYPES) for name in names)
    return tuple(name for name in names if name != "null") if names and is_known else None


def _common(one: _Types | None, other: _Types | None) -> _Types | None:
    """What both allow, in the first's order; an integer is a number."""
    if one is None or other is None:
        return other if one is None else one
    narrow = ("integer" if name == "number" and name not in other else name for name in one)
    return tuple(dict.fromkeys(name for name in narrow if name in other or (name == "integer" and "number" in other)))


def _property_schemas(parts: _Parts, name: str) -> tuple[Any, ...]:
    found: list[Any] = []
    for part in parts:
        named, patterns = _mapping(part.get("properties")), _patterns(part)
        own = [named[name]] if name in named else []
        own += [schema for pattern, schema in patterns or () if pattern.search(name)]
        more = part.get("additionalProperties")
        found += own or ([more] if patterns is not None and isinstance(more, Mapping) else [])
    return tuple(found)


def _patterns(part: Mapping[str, Any]) -> list[tuple[re.Pattern[str], Any]] | None:
    """None where one of them is not for Python: nobody then knows which properties are additional."""
    try:
        return [(re.compile(text), schema) for text, schema in _mapping(part.get("patternProperties")).items()]
    except (re.error, TypeError):
        return None


def _positions(part: Mapping[str, Any]) -> list[Any]:
    return as_array(part.get("prefixItems")) or as_array(part.get("items")) or []


def _item_schemas(parts: _Parts, index: int) -> tuple[Any, ...]:
    found: list[Any] = []
    for part in parts:
        heads, items = _positions(part), part.get("items")
        found.append(heads[index] if index < len(heads) else part.get("additionalItems") if items is heads else items)
    return tuple(_mapping(schema) for schema in found if isinstance(schema, Mapping))
