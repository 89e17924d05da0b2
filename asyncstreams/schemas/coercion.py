"""What does one value become, as another type of JSON: where nothing is lost, or not at all?"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from .. import _json

PYTHON_TYPES: dict[str, tuple[type, ...]] = {
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


def fits(value: Any, types: tuple[type, ...]) -> bool:
    """Whether a value is of one of these types; a bool is no integer."""
    return isinstance(value, types) and (bool in types or not isinstance(value, bool))


def _string(value: Any) -> str:
    text = _json.encode(value)
    # Dates, decimals and the like are strings in JSON.
    return _json.decode(text) if text.startswith(b'"') else text.decode()


def _integer(value: Any) -> int | None:
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return int(found[1]) if (found := _INTEGER.fullmatch(value)) else None


def _number(value: Any) -> int | float | None:
    return _json.decode(value.strip().encode()) if _NUMBER.fullmatch(value) else None


def _boolean(value: Any) -> bool | None:
    word = value.strip().lower() if isinstance(value, str) else value
    return True if word in _TRUE else False if word in _FALSE else None


CASTS: dict[str, Callable[[Any], Any]] = {
    "string": _string,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "array": lambda value: [value] if isinstance(value, str | int | float) else None,
}
"""To each type of JSON; None where it cannot be. Raise what decoding raises for what has no form in JSON."""
