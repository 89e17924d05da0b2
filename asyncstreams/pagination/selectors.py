"""Selectors of a value in a response: a dotted path, a header, or a function."""

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
    """Selects the value of a response header; `name` is case-insensitive."""

    name: str


Selector: TypeAlias = str | Header | Callable[[Response], Any]
"""Selects a value of a response: a path in the JSON body such as "meta.next", a Header, or a function."""
_PATH = re.compile(r"(?:[^.\[\]]+|\[-?\d+\])(?:\.[^.\[\]]+|\[-?\d+\])*")
_NEXT = re.compile(
    r"(?:@odata\.)?next(?:_?(?:page|cursor|token|url|link|uri|href|offset|start|records_?url))*", re.IGNORECASE
)
_MORE = re.compile(r"(?:has_?)?(?:more|next)(?:_?pages?)?", re.IGNORECASE)
_MAX_HINT_DEPTH = 2
_STEP = re.compile(r"[^.\[\]]+|\[-?\d+\]")


def select_value(selector: Selector, response: Response) -> Any:
    """The selected value, or None. Raises MalformedJSON if a path is applied to a body that is not JSON."""
    if isinstance(selector, str):
        return select_path(selector, response.json_at(selector))
    if isinstance(selector, Header):
        return response.headers.get(selector.name)
    return selector(response)


def select_path(path: str, value: Any) -> Any:
    """The value at a path such as `"meta.next"` or `"data[-1].id"`, or None.

    A key that contains the dot itself takes precedence, so `"@odata.nextLink"` needs no quoting.
    """
    fields = as_object(value)
    if fields is not None and path in fields:
        return fields[path]
    for step in _STEP.findall(path):
        value = _item(value, int(step[1:-1])) if step.startswith("[") else _key(value, step)
        if value is None:
            return None
    return value


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
            return f"{selector!r} is not in the body; its keys are {', '.join(sorted(fields)[:20])}"
        if inner is None:
            return None
        fields = inner
    close = difflib.get_close_matches(last, list(fields), 1, 0.75)
    similar = ".".join([*outer, *close])
    return f"{selector!r} is not in the body, but {similar!r} is" if close and last not in fields else None


def find_next_page_hint(response: Response) -> str | None:
    """The place of a probable link to a next page: the Link header, or a body field with a usual name."""
    link = response.raw_header(b"link")
    if link is not None and "next" in parse_link_header(link.decode("latin-1")):
        return "the header Link"
    fields = as_object(response.decoded_json)
    return None if fields is None else _find_hint(fields, "")


def _find_hint(fields: dict[str, Any], at: str, depth: int = 0) -> str | None:
    for key, value in fields.items():
        if not value:
            continue
        where = f"{at}.{key}" if at else key
        if (_NEXT.fullmatch(key) and isinstance(value, str | int | dict)) or (_MORE.fullmatch(key) and value is True):
            return repr(where)
        if depth < _MAX_HINT_DEPTH and (inner := as_object(value)) and (found := _find_hint(inner, where, depth + 1)):
            return found
    return None


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


def _key(value: Any, key: str) -> Any:
    fields = as_object(value)
    return None if fields is None else fields.get(key)


def _item(value: Any, index: int) -> Any:
    items = as_array(value)
    return items[index] if items is not None and -len(items) <= index < len(items) else None
