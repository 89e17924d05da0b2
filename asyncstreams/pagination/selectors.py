"""Where in a response does a value lie: a dotted path, a header, or a function of the author's."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from .._json import as_array, as_object
from ..errors import ConfigError
from ..messages import Response
from .link_header import parse_link_header


@dataclass(frozen=True, slots=True)
class Header:
    """The value of one response header."""

    name: str


Selector: TypeAlias = str | Header | Callable[[Response], Any]
_PATH = re.compile(r"(?:[^.\[\]]+|\[-?\d+\])(?:\.[^.\[\]]+|\[-?\d+\])*")
_NEXT = re.compile(
    r"(?:@odata\.)?next(?:_?(?:page|cursor|token|url|link|uri|href|offset|start|records_?url))*", re.IGNORECASE
)
_MORE = re.compile(r"(?:has_?)?(?:more|next)(?:_?pages?)?", re.IGNORECASE)
_DEEPEST = 2
_STEP = re.compile(r"[^.\[\]]+|\[-?\d+\]")


def select(selector: Selector, response: Response) -> Any:
    """What the selector finds; None where there is nothing. Raises MalformedJSON for a path."""
    if isinstance(selector, str):
        return select_path(selector, response.json_at(selector))
    if isinstance(selector, Header):
        return response.headers.get(selector.name)
    return selector(response)


def select_path(path: str, value: Any) -> Any:
    """What lies at `"meta.next"` or `"data[-1].id"`; None where there is nothing.

    A key that holds the dot itself wins: `"@odata.nextLink"` needs no quoting.
    """
    fields = as_object(value)
    if fields is not None and path in fields:
        return fields[path]
    for step in _STEP.findall(path):
        value = _item(value, int(step[1:-1])) if step.startswith("[") else _key(value, step)
        if value is None:
            return None
    return value


def misses(selector: Selector, response: Response) -> str | None:
    """Why a path seems to be wrong for this body, and not only to find nothing; None where it may be right.

    An object on its way that is not there, or a key that is spelt almost so.
    """
    fields = as_object(response.decoded_json)
    if not isinstance(selector, str) or fields is None or selector in fields or "[" in selector:
        return None
    *outer, last = selector.split(".")
    for step in outer:
        inner = as_object(fields.get(step))
        if step not in fields:
            return f"{selector!r} is not in the body, whose keys are {sorted(fields)[:20]}"
        if inner is None:
            return None
        fields = inner
    close = difflib.get_close_matches(last, list(fields), 1, 0.75)
    meant = ".".join([*outer, *close])
    return f"{selector!r} is not in the body; is it {meant!r}?" if close and last not in fields else None


def unused_next(response: Response) -> str | None:
    """Where a response seems to tell of a next page: a Link, or a value under one of the usual names."""
    link = response.raw_header(b"link")
    if link is not None and "next" in parse_link_header(link.decode("latin-1")):
        return "the header Link"
    fields = as_object(response.decoded_json)
    return None if fields is None else _next(fields, "")


def _next(fields: dict[str, Any], at: str, depth: int = 0) -> str | None:
    for key, value in fields.items():
        if not value:
            continue
        where = f"{at}.{key}" if at else key
        if (_NEXT.fullmatch(key) and isinstance(value, str | int | dict)) or (_MORE.fullmatch(key) and value is True):
            return repr(where)
        if depth < _DEEPEST and (inner := as_object(value)) and (found := _next(inner, where, depth + 1)):
            return found
    return None


def check_selector(owner: str, name: str, selector: object) -> None:
    """Refuse what cannot be a selector, naming the argument. Raises ConfigError."""
    if isinstance(selector, str):
        if not _PATH.fullmatch(selector):
            raise ConfigError(
                f"{owner}({name}={selector!r}): not a path", hint='write it as "meta.next" or "data[-1].id"'
            )
    elif not isinstance(selector, Header) and not callable(selector):
        raise ConfigError(
            f"{owner}({name}={selector!r}): a dotted path, Header(...) or a function of the response is needed"
        )


def _key(value: Any, key: str) -> Any:
    fields = as_object(value)
    return None if fields is None else fields.get(key)


def _item(value: Any, index: int) -> Any:
    items = as_array(value)
    return items[index] if items is not None and -len(items) <= index < len(items) else None
