"""Does a configuration fit the spec of its Source?"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, cast

from .._json import as_object
from ..errors import ConfigError
from ..models import SchemaViolation, Secret
from .record_schema import RecordSchema

_MOST_SHOWN = 5
_CLOSE = 0.6


def check_config(owner: str, spec: Mapping[str, Any] | None, config: Mapping[str, Any]) -> None:
    """Raises ConfigError with pointer and rule of what does not fit, and never a value.

    A spec may stand in an Airbyte connector's `connectionSpecification`.
    """
    if spec is None:
        return
    if not isinstance(spec, Mapping):
        raise ConfigError(f"{owner}.spec is a {type(spec).__name__}: a JSON schema, as a dict, is needed")
    schema = RecordSchema(spec.get("connectionSpecification", spec), f"{owner}.spec")
    plain = _revealed(owner, config)
    if schema.fits_one(plain):
        return
    problems = schema.problems(plain)
    told = "; ".join(map(str, problems[:_MOST_SHOWN])) + ("; ..." if len(problems) > _MOST_SHOWN else "")
    hint = _meant(problems, plain, schema.json)
    raise ConfigError(f"{owner}: the configuration does not fit its spec: {told}", hint=hint)


def _meant(problems: list[SchemaViolation], config: dict[str, Any], spec: Mapping[str, Any]) -> str | None:
    """A key that is almost one that the spec has at the same place; else the keys that it has there."""
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
        if problem.keyword == "required" and (close := difflib.get_close_matches(name, foreign, 1, _CLOSE)):
            return f"there is {close[0]!r}: is it {name!r}?"
        if problem.keyword == "additionalProperties" and (close := difflib.get_close_matches(name, missing, 1, _CLOSE)):
            return f"there is {name!r}: is it {close[0]!r}?"
        known = known or list(properties)
    return f"known are {', '.join(known)}" if known else None


def _revealed(owner: str, value: Any, at: str = "") -> Any:
    """The configuration as JSON has it: a Secret is a string. Raises ConfigError for what JSON has not."""
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, Mapping):
        fields = cast(Mapping[str, Any], value)
        if not all(isinstance(key, str) for key in fields):
            raise ConfigError(f"{owner}: a key of the configuration is no string", hint="JSON has no others")
        return {key: _revealed(owner, inner, f"{at}/{key}") for key, inner in fields.items()}
    if isinstance(value, list | tuple):
        return [_revealed(owner, item, f"{at}/{n}") for n, item in enumerate(cast(list[Any], value))]
    if not isinstance(value, str | bool | int | float | None):
        kind = type(value).__name__
        raise ConfigError(
            f"{owner}: the configuration holds a {kind} at {at}, and JSON has none", hint="write a string"
        )
    return value
