"""Does a configuration fit the spec of its Source?"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, cast

from .errors import ConfigError
from .exact_json import as_array, as_object
from .model import Problem, Secret
from .schema import RecordSchema

_MOST_SHOWN = 5


def check_config(owner: str, spec: Mapping[str, Any] | None, config: Mapping[str, Any]) -> None:
    """Raises ConfigError with pointer and rule of what does not fit, and never a value.

    A spec may stand in an Airbyte connector's `connectionSpecification`.
    """
    if spec is None:
        return
    schema = RecordSchema(spec.get("connectionSpecification", spec), f"{owner}.spec")
    plain = _revealed(config)
    if schema.fits_one(plain):
        return
    problems = schema.problems(plain)
    told = "; ".join(map(str, problems[:_MOST_SHOWN])) + ("; ..." if len(problems) > _MOST_SHOWN else "")
    hint = _meant(problems, config, schema)
    raise ConfigError(f"{owner}: the configuration does not fit its spec: {told}", hint=hint)


def _meant(problems: list[Problem], config: Mapping[str, Any], schema: RecordSchema) -> str | None:
    """A key of the configuration that is almost one that is missing."""
    known = as_object(schema.json.get("properties")) or {}
    foreign = [key for key in config if key not in known]
    for problem in problems:
        if problem.keyword == "required":
            close = difflib.get_close_matches(problem.pointer[1:], foreign, 1, 0.6)
            if close:
                return f"there is {close[0]!r}: is it {problem.pointer[1:]!r}?"
    return f"known are {', '.join(known)}" if known else None


def _revealed(value: Any) -> Any:
    """The configuration as JSON has it: a Secret is a string."""
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, Mapping):
        return {key: _revealed(inner) for key, inner in cast(Mapping[str, Any], value).items()}
    items = as_array(value)
    return value if items is None else [_revealed(item) for item in items]
