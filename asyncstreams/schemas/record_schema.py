"""Does a record fit its JSON schema, and where does it not?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any, cast

import jsonschema
import jsonschema_rs
import orjson
from jsonschema import exceptions

from .._json import JSON_NAMES, as_array, as_object, json_name
from ..errors import ConfigError
from ..models import Record, SchemaViolation
from .schema_files import DATA, OF_NAMES, bundled

_DEFAULT_DRAFT = "http://json-schema.org/draft-07/schema#"
_DRAFTS: dict[str, Any] = {
    "http://json-schema.org/draft-04/schema": jsonschema.Draft4Validator,
    "http://json-schema.org/draft-06/schema": jsonschema.Draft6Validator,
    "http://json-schema.org/draft-07/schema": jsonschema.Draft7Validator,
    "https://json-schema.org/draft/2019-09/schema": jsonschema.Draft201909Validator,
    "https://json-schema.org/draft/2020-12/schema": jsonschema.Draft202012Validator,
}
_RECORD = "urn:asyncstreams:record"
_NOTES = frozenset(("contentEncoding", "contentMediaType"))
_MOST_PROBLEMS = 100
_SHOWN = 60


class RecordSchema:
    """A JSON schema of one record, compiled. Formats and content encodings are notes, and not checked.

    Raises ConfigError for a schema that is none: of an unknown draft, with a keyword that its own
    meta-schema refuses, or with a reference that leads nowhere. Without `$schema` it is draft-07.
    """

    def __init__(self, schema: Mapping[str, Any], where: str = "the schema") -> None:
        self.json = bundled(schema, where=where)
        draft = _draft(self.json, where)
        _check(self.json, draft, where)
        record = {**_asserted(self.json), "$schema": draft}
        page = {"$schema": draft, "type": "array", "items": {"$ref": _RECORD}}
        try:
            self._record = _compiled(record)
            self._page = _compiled(page, record)
        except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
            at = pointer(getattr(error, "instance_path", ()))
            reason = str(error).partition("\n")[0]
            raise ConfigError(f"{where} cannot be compiled{f': at {at}' if at else ''}: {reason}") from None

    def fits(self, records: list[Record]) -> bool:
        """Whether all records of a page fit: one call for the page."""
        try:
            return self._page.is_valid(records)
        except ValueError:  # something that is not JSON, or too deep
            return False

    def fits_one(self, record: Record) -> bool:
        try:
            return self._record.is_valid(record)
        except ValueError:
            return False

    def problems(self, record: Record) -> list[SchemaViolation]:
        """Where a record that does not fit does not: up to 100 places, and never none."""
        found: list[SchemaViolation] = []
        try:
            for error in self._record.iter_errors(record):
                found += _problems(error)
                if len(found) >= _MOST_PROBLEMS:
                    return found[:_MOST_PROBLEMS]
        except ValueError:
            # Outside the handler: what is raised there may hold the value.
            pass
        return found or list(_not_json(record, [])) or [SchemaViolation("", "type", "it is too deep, or holds no JSON")]


def record_schema(schema: Mapping[str, Any], where: str) -> RecordSchema:
    """The compiled schema; the same content is compiled once."""
    try:
        text = orjson.dumps(schema)
    except TypeError:  # integers beyond 64 bits
        return RecordSchema(schema, where)
    return _of_text(text, where)


@lru_cache(maxsize=256)
def _of_text(text: bytes, where: str) -> RecordSchema:
    return RecordSchema(orjson.loads(text), where)


def _compiled(schema: dict[str, Any], record: dict[str, Any] | None = None) -> jsonschema_rs.Validator:
    # Under a name of its own, the references within the record's schema keep their root.
    registry = None if record is None else jsonschema_rs.Registry([(_RECORD, record)])
    return jsonschema_rs.validator_for(schema, validate_formats=False, registry=registry, offline=True)


def _draft(schema: Mapping[str, Any], where: str) -> str:
    """The draft of a schema, as it is written in full."""
    told = schema.get("$schema", _DEFAULT_DRAFT)
    for draft in _DRAFTS:
        if str(told).rstrip("#").partition("://")[2] == draft.partition("://")[2]:
            return draft
    raise ConfigError(f"{where} is of an unknown draft, $schema = {told!r}", hint=f"known are {', '.join(_DRAFTS)}")


def _asserted(node: Any, *, of_names: bool = False) -> Any:
    """A schema without what drafts 6 and 7 leave open whether it is asserted; `of_names`: it maps names to schemas."""
    if (items := as_array(node)) is not None:
        return [_asserted(item) for item in items]
    if (fields := as_object(node)) is None:
        return node
    return {
        key: value if key in DATA and not of_names else _asserted(value, of_names=key in OF_NAMES and not of_names)
        for key, value in fields.items()
        if of_names or key not in _NOTES
    }


def _check(schema: Mapping[str, Any], draft: str, where: str) -> None:
    """Raises ConfigError where the schema is not what its draft's meta-schema says."""
    checker = _DRAFTS[draft]
    error = cast(Any, exceptions).best_match(checker(checker.META_SCHEMA).iter_errors(schema))
    if error is not None:
        at = pointer(error.absolute_path)
        raise ConfigError(
            f"{where} is no JSON schema: at {at or 'its root'}: {error.message}",
            hint=f"types are {', '.join(sorted(JSON_NAMES.values()))}" if at.endswith("/type") else None,
        )
    wanted = schema.get("type", "object")
    if wanted != "object" and "object" not in wanted:
        raise ConfigError(
            f'{where} describes {wanted!r}, and a record is an object: "type": "object"',
            hint='the schema is that of one record, not of the page: what stands under "items"',
        )


def _not_json(value: Any, path: list[str | int]) -> Iterator[SchemaViolation]:
    """The first place where a record holds what JSON has no form for."""
    if (fields := as_object(value)) is not None:
        for key, inner in cast(dict[Any, Any], fields).items():
            if not isinstance(key, str):
                yield SchemaViolation(
                    pointer(path), "type", f"it has a key that is {json_name(key)}, and JSON has no such keys"
                )
                return
            yield from _not_json(inner, [*path, key])
    elif isinstance(value, list | tuple):
        for number, item in enumerate(cast(list[Any], value)):
            yield from _not_json(item, [*path, number])
    elif isinstance(value, str):
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            yield SchemaViolation(pointer(path), "type", "it holds half a character (a lone surrogate)")
    elif not isinstance(value, bool | int | float | Decimal | None):
        yield SchemaViolation(pointer(path), "type", f"it is {json_name(value)}, which JSON has not")


def _problems(error: jsonschema_rs.ValidationError) -> Iterator[SchemaViolation]:
    kind: Any = error.kind
    keyword, at = kind.name, list(error.instance_path)
    if keyword == "required":
        yield SchemaViolation(pointer([*at, kind.property]), keyword, "it is missing")
    elif keyword == "additionalProperties":
        for name in kind.unexpected:
            yield SchemaViolation(pointer([*at, name]), keyword, "the schema does not know it")
    elif keyword == "type":
        wanted = " or ".join(kind.types)
        yield SchemaViolation(pointer(at), keyword, f"it is {json_name(error.instance)}, and should be {wanted}")
    else:
        yield SchemaViolation(pointer(at), keyword, _wanted(kind))


def _wanted(kind: Any) -> str:
    """What the schema says there, where it is short."""
    for name in ("limit", "pattern", "options", "expected_value", "multiple_of"):
        if hasattr(kind, name):
            text = json.dumps(getattr(kind, name), ensure_ascii=False, default=str)
            return f"the schema says {text if len(text) <= _SHOWN else text[:_SHOWN] + '...'}"
    return "it does not fit"


def pointer(path: Iterable[str | int]) -> str:
    """A JSON pointer, as RFC 6901 escapes it."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in path)
