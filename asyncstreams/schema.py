"""Does a record fit its JSON schema, and where does it not?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, cast

import jsonschema
import jsonschema_rs
import orjson
from jsonschema import exceptions

from .errors import ConfigError
from .exact_json import JSON_NAMES, json_name
from .model import Problem, Record
from .schema_files import bundled

_DEFAULT_DRAFT = "http://json-schema.org/draft-07/schema#"
_DRAFTS: dict[str, Any] = {
    "http://json-schema.org/draft-04/schema": jsonschema.Draft4Validator,
    "http://json-schema.org/draft-06/schema": jsonschema.Draft6Validator,
    "http://json-schema.org/draft-07/schema": jsonschema.Draft7Validator,
    "https://json-schema.org/draft/2019-09/schema": jsonschema.Draft201909Validator,
    "https://json-schema.org/draft/2020-12/schema": jsonschema.Draft202012Validator,
}
_SHOWN = 60


class RecordSchema:
    """A JSON schema of one record, compiled. Formats are notes, and not checked.

    Raises ConfigError for a schema that is none: of an unknown draft, with a keyword that its own
    meta-schema refuses, or with a reference that leads nowhere. Without `$schema` it is draft-07.
    """

    def __init__(self, schema: Mapping[str, Any], where: str = "the schema") -> None:
        self.json = bundled(schema, where=where)
        draft = self.json.get("$schema", _DEFAULT_DRAFT)
        _check(self.json, draft, where)
        try:
            self._record = _compiled({"$schema": draft, **self.json})
            self._page = _compiled(_of_page(self.json, draft))
        except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise ConfigError(f"{where} cannot be compiled: {reason}") from None

    def fits(self, records: list[Record]) -> bool:
        """Whether all records of a page fit: one call for the page."""
        return self._page.is_valid(records)

    def fits_one(self, record: Record) -> bool:
        return self._record.is_valid(record)

    def problems(self, record: Record) -> list[Problem]:
        """Every place where a record that does not fit does not; never empty."""
        found = [problem for error in self._record.iter_errors(record) for problem in _problems(error)]
        return found or [Problem("", "schema", "it does not fit")]


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


def _compiled(schema: dict[str, Any]) -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for(schema, validate_formats=False)


def _of_page(schema: dict[str, Any], draft: str) -> dict[str, Any]:
    # With an id of its own, the record's references keep their root.
    identity = "id" if "draft-04" in draft else "$id"
    record = {identity: "urn:asyncstreams:record", **schema, "$schema": draft}
    return {"$schema": draft, "type": "array", "items": record}


def _check(schema: Mapping[str, Any], draft: Any, where: str) -> None:
    """Raises ConfigError where the schema is not what its draft's meta-schema says."""
    checker = _DRAFTS.get(str(draft).rstrip("#"))
    if checker is None:
        raise ConfigError(
            f"{where} is of an unknown draft, $schema = {draft!r}", hint=f"known are {', '.join(_DRAFTS)}"
        )
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


def _problems(error: jsonschema_rs.ValidationError) -> Iterator[Problem]:
    kind: Any = error.kind
    keyword, at = kind.name, list(error.instance_path)
    if keyword == "required":
        yield Problem(pointer([*at, kind.property]), keyword, "it is missing")
    elif keyword == "additionalProperties":
        for name in kind.unexpected:
            yield Problem(pointer([*at, name]), keyword, "the schema does not know it")
    elif keyword == "type":
        wanted = " or ".join(kind.types)
        yield Problem(pointer(at), keyword, f"it is {json_name(error.instance)}, and should be {wanted}")
    else:
        yield Problem(pointer(at), keyword, _wanted(kind))


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
