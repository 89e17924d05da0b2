"""Validation of a configuration against the spec of its Source."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, cast

from .._json import as_object
from ..errors import ConfigError
from ..models import SchemaViolation, Secret
from .record_schema import RecordSchema

_MAX_SHOWN = 5
_MIN_SIMILARITY = 0.6


def check_config(class_name: str, spec: Mapping[str, Any] | None, config: Mapping[str, Any]) -> None:
    """Check a configuration against a JSON schema. Raises ConfigError, whose message contains no values.

    `spec` is the schema, or an Airbyte connector's spec with the schema under `connectionSpecification`;
    None: there is nothing to check. The formats `date` and `date-time` are checked (RFC 3339), other formats are not.
    """
    if spec is None:
        return
    if not isinstance(spec, Mapping):
        raise ConfigError(f"{class_name}.spec: must be a JSON schema as a dict, not {type(spec).__name__}")
    schema = RecordSchema(spec.get("connectionSpecification", spec), f"{class_name}.spec", checks_times=True)
    plain = _reveal(class_name, config)
    if schema.is_valid(plain):
        return
    problems = schema.find_violations(plain)
    shown = "; ".join(map(str, problems[:_MAX_SHOWN])) + ("; ..." if len(problems) > _MAX_SHOWN else "")
    hint = _key_hint(problems, plain, schema.json)
    raise ConfigError(f"{class_name}: the configuration does not match its spec: {shown}", hint=hint)


def _key_hint(problems: list[SchemaViolation], config: dict[str, Any], spec: Mapping[str, Any]) -> str | None:
    """A hint at a misspelt key; without one, the list of keys that the spec declares there."""
    known: list[str] = []
    for problem in problems:
        *path, name = problem.pointer.split("/")[1:] or [""]
        given, wanted = config, spec
        for step in path:
            given = as_object(given.get(step)) or {}
            wanted = as_object((as_object(wanted.get("properties")) or {}).get(step)) or {}
        properties = as_object(wanted.get("properties")) or {}
        foreign = [key for key in given if key not in properties]
        missing = [key for key in properties if key not in given]
        if problem.keyword == "required" and (close := difflib.get_close_matches(name, foreign, 1, _MIN_SIMILARITY)):
            return f"rename {close[0]!r} to {name!r}"
        if problem.keyword == "additionalProperties" and (
            close := difflib.get_close_matches(name, missing, 1, _MIN_SIMILARITY)
        ):
            return f"rename {name!r} to {close[0]!r}"
        known = known or list(properties)
    return f"declared keys: {', '.join(known)}" if known else None


def _reveal(class_name: str, value: Any, path: str = "") -> Any:
    """The configuration as plain JSON, with secrets as strings. Raises ConfigError for other types."""
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, Mapping):
        fields = cast(Mapping[str, Any], value)
        if not all(isinstance(key, str) for key in fields):
            raise ConfigError(f"{class_name}: a key of the configuration is not a string", hint="use string keys")
        return {key: _reveal(class_name, inner, f"{path}/{key}") for key, inner in fields.items()}
    if isinstance(value, list | tuple):
        return [_reveal(class_name, item, f"{path}/{n}") for n, item in enumerate(cast(list[Any], value))]
    if not isinstance(value, str | bool | int | float | None):
        kind = type(value).__name__
        raise ConfigError(
            f"{class_name}: the value at {path} of the configuration is not JSON, but {kind}", hint="use a string"
        )
    return value
