"""Selectors of a value in a response: a dotted path, a header, or a function."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, TypeAlias

import msgspec

from .._json import as_array, as_object, decode_literals
from ..content.error_text import shown_keys
from ..errors import ConfigError
from ..messages import Response


@dataclass(frozen=True, slots=True)
class Header:
    """Selects the value of a response header; `name` is case-insensitive."""

    name: str


Selector: TypeAlias = str | Header | Callable[[Response], Any]
"""Selects a value of a response: a path in the JSON body such as "meta.next", a Header, or a function."""
_PATH = re.compile(r"(?:[^.\[\]]+|\[-?\d+\])(?:\.[^.\[\]]+|\[-?\d+\])*")
_STEP = re.compile(r"[^.\[\]]+|\[-?\d+\]")
_DECIMAL = re.compile(r"\s*\d+(?:\.0*)?\s*", re.ASCII)
_FALSE_TEXTS = frozenset(("", "false", "0", "no", "n", "null", "none"))
ABSENT: Final = object()
"""Stands for a value that a body does not contain, unlike a null in it."""


def select_value(selector: Selector, response: Response, absent: Any = None) -> Any:
    """The selected value; `absent` if there is none. Raises MalformedJSON for a path into a body that is not JSON."""
    if isinstance(selector, str):
        return select_path(selector, response.json_at(selector), absent)
    if isinstance(selector, Header):
        return response.headers.get(selector.name, absent)
    return selector(response)


def select_path(path: str, value: Any, absent: Any = None) -> Any:
    """The value at a path such as `"meta.next"` or `"data[-1].id"`; `absent` if there is none.

    A key that contains the dot itself takes precedence, so `"@odata.nextLink"` needs no quoting.
    """
    fields = as_object(value)
    if fields is not None and path in fields:
        return fields[path]
    for step in _steps(path):
        value = _key(value, step) if isinstance(step, str) else _item(value, step)
        if value is ABSENT:
            return absent
    return value


@lru_cache(maxsize=1024)
def _steps(path: str) -> tuple[str | int, ...]:
    """The keys and indexes of a path."""
    return tuple([int(step[1:-1]) if step.startswith("[") else step for step in _STEP.findall(path)])


def select_flag(selector: Selector, response: Response) -> bool | None:
    """The selected flag, also as text or number; None if it is absent or null."""
    value = select_value(selector, response)
    if value is None:
        return None
    return value.strip().lower() not in _FALSE_TEXTS if isinstance(value, str) else bool(value)


def select_count(selector: Selector, response: Response) -> int | None:
    """The selected number of pages or rows, also as 3.0 or "3"; None if it is absent or no such number."""
    return as_count(select_value(selector, response))


def as_count(value: Any) -> int | None:
    """A number of at least 0 without a fraction, also 3.0 and "3", as an int; None for any other value."""
    if type(value) is int:
        return value if value >= 0 else None
    if isinstance(value, str):
        return int(value.partition(".")[0]) if _DECIMAL.fullmatch(value) else None
    return int(value) if isinstance(value, float) and value.is_integer() and value >= 0 else None


def select_literal(selector: Selector, response: Response) -> Any:
    """The selected value, with every JSON number that is not an integer as its literal text.

    Such a number may have more digits than a double, or a form that the API compares as text.
    """
    if not isinstance(selector, str) or not response.has_body:
        return select_value(selector, response)
    return select_path(selector, decode_literals(response.text.removeprefix("\ufeff").encode()))


def select_exact(selector: Selector, response: Response, value: Any) -> Any:
    """A selected value with each number that is not an integer as an exact one, encoded as it is written."""
    return _with_exact_numbers(value, select_literal(selector, response))


def has_float(value: Any) -> bool:
    """Whether a JSON value is or contains a number that is not an integer, as the sort values of a search may."""
    if (items := as_array(value)) is not None:
        return any(map(has_float, items))
    fields = as_object(value)
    return isinstance(value, float) if fields is None else any(map(has_float, fields.values()))


def _with_exact_numbers(value: Any, literal: Any) -> Any:
    """A JSON value with each float as an exact number. `literal` is the same value as by `select_literal`."""
    if (items := as_array(value)) is not None:
        return [_with_exact_numbers(*pair) for pair in zip(items, literal, strict=True)]
    if (fields := as_object(value)) is not None:
        return {key: _with_exact_numbers(item, literal[key]) for key, item in fields.items()}
    if not (isinstance(value, float) and isinstance(literal, str)):
        return value
    number = Decimal(literal)
    return number if str(number) == literal else msgspec.Raw(literal.encode())  # 1e5 is another text than 1E+5


def explain_miss(selector: Selector, response: Response) -> str | None:
    """The reason why a path seems to be wrong for this body, rather than absent on the last page; otherwise None.

    Such reasons are a missing object on the path, or a key of similar spelling.
    """
    fields = as_object(response.decoded_json)
    if not isinstance(selector, str) or fields is None or selector in fields or "[" in selector:
        return None
    *outer, last = selector.split(".")
    for step in outer:
        inner = as_object(fields.get(step))
        if step not in fields:
            return f"{selector!r} is not in the body; its keys are {shown_keys(fields)}"
        if inner is None:
            return None
        fields = inner
    close = None if last in fields else _most_similar(last, tuple(fields))
    return None if close is None else f"{selector!r} is not in the body, but {'.'.join([*outer, close])!r} is"


@lru_cache(maxsize=256)
def _most_similar(key: str, keys: tuple[str, ...]) -> str | None:
    return next(iter(difflib.get_close_matches(key, keys, 1, 0.75)), None)


def describe_selector(selector: Selector | None) -> str:
    """A selector as text for a message."""
    if isinstance(selector, Header):
        return f"header {selector.name}"
    return repr(selector) if isinstance(selector, str) else getattr(selector, "__name__", "a function")


def check_selector(class_name: str, argument: str, selector: object) -> None:
    """Raises ConfigError, naming the argument, for a value that is not a selector."""
    if isinstance(selector, str):
        if not _PATH.fullmatch(selector):
            raise ConfigError(
                f"{class_name}({argument}={selector!r}): invalid path", hint='write it as "meta.next" or "data[-1].id"'
            )
    elif not isinstance(selector, Header) and not callable(selector):
        raise ConfigError(
            f"{class_name}({argument}={selector!r}): expected a dotted path, Header(...) or a function of the response"
        )


def check_name(class_name: str, argument: str, value: object) -> None:
    """Raises ConfigError for a value that is not a name."""
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{class_name}({argument}={value!r}): expected a non-empty name")


def _key(value: Any, key: str) -> Any:
    fields = as_object(value)
    return ABSENT if fields is None else fields.get(key, ABSENT)


def _item(value: Any, index: int) -> Any:
    items = as_array(value)
    return items[index] if items is not None and -len(items) <= index < len(items) else ABSENT
