"""Compiled JSON schemas, and the violations of a record."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import orjson

from .._json import JSON_TYPE_NAMES, as_array, as_object, json_type_name
from ..errors import ConfigError
from ..models import Record, SchemaViolation
from .schema_files import DATA_KEYWORDS, NAME_MAP_KEYWORDS, bundle

if TYPE_CHECKING:
    import jsonschema_rs

_DEFAULT_DRAFT = "http://json-schema.org/draft-07/schema"
# The class of jsonschema for each draft.
_DRAFTS = {
    "http://json-schema.org/draft-04/schema": "Draft4Validator",
    "http://json-schema.org/draft-06/schema": "Draft6Validator",
    "http://json-schema.org/draft-07/schema": "Draft7Validator",
    "https://json-schema.org/draft/2019-09/schema": "Draft201909Validator",
    "https://json-schema.org/draft/2020-12/schema": "Draft202012Validator",
}
_UNNAMED_DRAFT = "json-schema.org/schema"
"""The address in schemas that genson infers, which Airbyte's builder uses; it names no draft."""
_RECORD_URI = "urn:asyncstreams:record"
_TIME_FORMATS = {"date": "2026-01-31", "date-time": "2026-01-31T12:00:00Z"}
"""The formats that are checked with `checks_times`, with an example of each."""
_OTHER_FORMATS = (
    *("duration", "email", "hostname", "idn-email", "idn-hostname", "ipv4", "ipv6", "iri", "iri-reference"),
    *("json-pointer", "regex", "relative-json-pointer", "time", "uri", "uri-reference", "uri-template", "uuid"),
)
_ANNOTATIONS = frozenset(("contentEncoding", "contentMediaType"))
_MAX_VIOLATIONS = 100
_MAX_DETAIL_CHARS = 60


class RecordSchema:
    """A compiled JSON schema of one record. `format` and content keywords are annotations, and are not checked.

    With `checks_times`, the formats `date` and `date-time` are checked. Supports drafts 4, 6, 7, 2019-09 and 2020-12;
    draft 7 where `$schema` is missing or names no draft. Raises ConfigError for an unknown draft, for a schema that its
    meta-schema rejects, and for an unresolvable reference.
    """

    def __init__(self, schema: Mapping[str, Any], where: str = "the schema", *, checks_times: bool = False) -> None:
        import jsonschema_rs

        self.json = bundle(schema, where=where)
        draft = _draft(self.json, where)
        _check_schema(self.json, draft, where)
        record = {**_without_annotations(self.json), "$schema": draft}
        page = {"$schema": draft, "type": "array", "items": {"$ref": _RECORD_URI}}
        try:
            self._record = _compile(record, checks_times=checks_times)
            self._page = _compile(page, record, checks_times=checks_times)
        except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
            at = pointer(getattr(error, "instance_path", ()))
            reason = str(error).partition("\n")[0]
            raise ConfigError(f"{where}: cannot be compiled{f' at {at}' if at else ''}: {reason}") from None

    def all_valid(self, records: list[Record]) -> bool:
        """Whether all records of a page are valid; one call for the page."""
        try:
            return self._page.is_valid(records)
        except ValueError:  # not a JSON value, or nested too deeply
            return False

    def is_valid(self, record: Record) -> bool:
        """Whether one record is valid."""
        try:
            return self._record.is_valid(record)
        except ValueError:
            return False

    def find_violations(self, record: Record) -> list[SchemaViolation]:
        """The violations of an invalid record: at least 1, at most 100."""
        found: list[SchemaViolation] = []
        try:
            for error in self._record.iter_errors(record):
                found += _violations(error)
                if len(found) >= _MAX_VIOLATIONS:
                    return found[:_MAX_VIOLATIONS]
        except ValueError:
            # The error may contain the value: it must not become the context of a later one.
            pass
        return (
            found or list(_find_non_json(record, [])) or [SchemaViolation("", "type", "nested too deeply, or not JSON")]
        )


def record_schema(schema: Mapping[str, Any], where: str) -> RecordSchema:
    """The compiled schema, cached by content. Raises ConfigError."""
    try:
        text = orjson.dumps(schema)
    except TypeError:  # integers beyond 64 bits
        return RecordSchema(schema, where)
    return _cached_schema(text, where)


@lru_cache(maxsize=256)
def _cached_schema(text: bytes, where: str) -> RecordSchema:
    return RecordSchema(orjson.loads(text), where)


def _compile(
    schema: dict[str, Any], record: dict[str, Any] | None = None, *, checks_times: bool
) -> jsonschema_rs.Validator:
    import jsonschema_rs

    # Registered under its own URI, the schema of the record remains the root of its references.
    registry = None if record is None else jsonschema_rs.Registry([(_RECORD_URI, record)])
    return jsonschema_rs.validator_for(
        schema,
        validate_formats=checks_times,
        formats=dict.fromkeys(_OTHER_FORMATS, _accept) if checks_times else None,
        registry=registry,
        offline=True,
    )


def _accept(text: str) -> bool:
    return True


def _draft(schema: Mapping[str, Any], where: str) -> str:
    """The canonical URI of the schema's draft."""
    declared = schema.get("$schema", _DEFAULT_DRAFT)
    address = _address(str(declared))
    if address == _UNNAMED_DRAFT:
        return _DEFAULT_DRAFT
    for draft in _DRAFTS:
        if address == _address(draft):
            return draft
    raise ConfigError(f"{where}: unknown draft $schema = {declared!r}", hint=f"supported: {', '.join(_DRAFTS)}")


def _address(uri: str) -> str:
    """A URI without its scheme, and without the fragment or slash at its end."""
    return uri.strip().rstrip("#/").partition("://")[2].lower()


def _without_annotations(node: Any, *, is_name_map: bool = False) -> Any:
    """The schema without the keywords that drafts 6 and 7 allow, but do not require, validators to check.

    `is_name_map`: the node maps names to schemas.
    """
    if (items := as_array(node)) is not None:
        return [_without_annotations(item) for item in items]
    if (fields := as_object(node)) is None:
        return node
    return {
        key: value
        if key in DATA_KEYWORDS and not is_name_map
        else _without_annotations(value, is_name_map=key in NAME_MAP_KEYWORDS and not is_name_map)
        for key, value in fields.items()
        if is_name_map or key not in _ANNOTATIONS
    }


def _check_schema(schema: Mapping[str, Any], draft: str, where: str) -> None:
    """Raise ConfigError if the schema violates its draft's meta-schema, or does not describe an object."""
    import jsonschema
    from jsonschema import exceptions

    checker = getattr(jsonschema, _DRAFTS[draft])
    error = cast(Any, exceptions).best_match(checker(checker.META_SCHEMA).iter_errors(schema))
    if error is not None:
        at = pointer(error.absolute_path)
        raise ConfigError(
            f"{where}: invalid JSON schema at {at or 'its root'}: {error.message}",
            hint=f"valid types: {', '.join(sorted(JSON_TYPE_NAMES.values()))}" if at.endswith("/type") else None,
        )
    wanted = schema.get("type", "object")
    if wanted != "object" and "object" not in wanted:
        raise ConfigError(
            f'{where}: the "type" is {wanted!r}, but a record is an object',
            hint='pass the schema of one record, not that of the page: usually the one under "items"',
        )


def _find_non_json(value: Any, path: list[str | int]) -> Iterator[SchemaViolation]:
    """The first value in a record that has no JSON form."""
    if (fields := as_object(value)) is not None:
        for key, inner in cast(dict[Any, Any], fields).items():
            if not isinstance(key, str):
                yield SchemaViolation(
                    pointer(path), "type", f"got a key of type {json_type_name(key)}, expected string"
                )
                return
            yield from _find_non_json(inner, [*path, key])
    elif isinstance(value, list | tuple):
        for number, item in enumerate(cast(list[Any], value)):
            yield from _find_non_json(item, [*path, number])
    elif isinstance(value, str):
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            yield SchemaViolation(pointer(path), "type", "contains a lone surrogate")
    elif not isinstance(value, bool | int | float | Decimal | None):
        yield SchemaViolation(pointer(path), "type", f"got {json_type_name(value)}, which is not a JSON type")


def _violations(error: jsonschema_rs.ValidationError) -> Iterator[SchemaViolation]:
    kind: Any = error.kind
    keyword, at = kind.name, list(error.instance_path)
    if keyword == "required":
        yield SchemaViolation(pointer([*at, kind.property]), keyword, "missing property")
    elif keyword == "additionalProperties":
        for name in kind.unexpected:
            yield SchemaViolation(pointer([*at, name]), keyword, "unknown property")
    elif keyword == "type":
        wanted = " or ".join(kind.types)
        yield SchemaViolation(pointer(at), keyword, f"got {json_type_name(error.instance)}, expected {wanted}")
    elif keyword == "format" and kind.format in _TIME_FORMATS:
        yield SchemaViolation(pointer(at), keyword, f"not a {kind.format} such as {_TIME_FORMATS[kind.format]}")
    else:
        yield SchemaViolation(pointer(at), keyword, _expectation(kind))


def _expectation(kind: Any) -> str:
    """The keyword's value in the schema, shortened."""
    for name in ("limit", "pattern", "options", "expected_value", "multiple_of"):
        if hasattr(kind, name):
            text = json.dumps(getattr(kind, name), ensure_ascii=False, default=str)
            return f"the schema requires {text if len(text) <= _MAX_DETAIL_CHARS else text[:_MAX_DETAIL_CHARS] + '...'}"
    return "does not match"


def pointer(path: Iterable[str | int]) -> str:
    """A JSON pointer, escaped as in RFC 6901."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in path)
