"""Lossless conversion of a value to another JSON type."""

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


def is_instance(value: Any, types: tuple[type, ...]) -> bool:
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


COERCIONS: dict[str, Callable[[Any], Any]] = {
    "string": _to_string,
    "integer": _to_integer,
    "number": _to_number,
    "boolean": _to_boolean,
    "array": lambda value: [value] if isinstance(value, str | int | float) else None,
}
"""Conversion to each JSON type. The functions return None if a conversion would lose information.

For values without a JSON form they may raise MalformedJSON, TypeError, ValueError or RecursionError.
"""
