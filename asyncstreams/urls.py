"""How is a URL written: base, path and parameters, of which nothing is ever dropped?"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any, cast
from urllib.parse import quote, unquote_plus

from .errors import ConfigError

_PLAIN_PATH = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=:@/]*")
_UNRESERVED = re.compile(r"[A-Za-z0-9\-._~]*")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


def join(owner: str, base: str, path: str | tuple[str | int, ...]) -> str:
    """Base and path, with one slash between them; no segment of either is ever dropped.

    An empty path is the base as it was written. The segments of a tuple are percent-encoded,
    whatever they hold. Raises ConfigError for an empty segment, and for `.` or `..` in a str.
    """
    if isinstance(path, tuple):
        path = "/".join([_segment(owner, segment) for segment in path])
    elif not isinstance(path, str):
        raise ConfigError(
            f"{owner}.path() returned {type(path).__name__}: a str or a tuple of segments is needed",
            hint="is there a `return` missing?" if path is None else None,
        )
    else:
        path = _checked_path(owner, path)
    return f"{base.rstrip('/')}/{path.lstrip('/')}" if path else base


def with_params(owner: str, url: str, params: Mapping[str, Any]) -> str:
    """The URL with these parameters; they win over equal names in it.

    None is left out, a list gives the name once for each of its values, booleans are lower case.
    """
    parts: list[str] = []
    for name, value in params.items():
        if isinstance(value, str):
            parts.append(f"{_quoted(name)}={_quoted(value)}")
        elif isinstance(value, list | tuple | set | frozenset):
            values = cast(Iterable[Any], value)
            parts += [f"{_quoted(name)}={_param(owner, name, item)}" for item in values if item is not None]
        elif value is not None:
            parts.append(f"{_quoted(name)}={_param(owner, name, value)}")
    if "?" in url:
        # What the URL holds already stays as it is written, byte for byte.
        url, _, query = url.partition("?")
        parts = [part for part in query.split("&") if unquote_plus(part.partition("=")[0]) not in params] + parts
    return f"{url}?{'&'.join(parts)}" if parts else url


def _quoted(text: str) -> str:
    if _UNRESERVED.fullmatch(text):
        return text
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:
        raise ConfigError("a parameter is not Unicode text: it holds a lone surrogate") from None


def _segment(owner: str, segment: Any) -> str:
    if type(segment) is int:
        return str(segment)
    if isinstance(segment, bool) or not isinstance(segment, str | int) or segment == "":
        raise ConfigError(
            f"{owner}.path() has a segment that is {'empty' if segment == '' else type(segment).__name__}: "
            "a str or an int is needed",
            hint="does the record, from which it is taken, always hold this field?",
        )
    text = str(segment)
    if _UNRESERVED.fullmatch(text):
        return text.replace(".", "%2E") if text in (".", "..") else text
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:
        raise ConfigError(f"{owner}.path() has a segment that is not Unicode text: a lone surrogate") from None


@functools.lru_cache(maxsize=1024)
def _checked_path(owner: str, path: str) -> str:
    path, mark, query = path.partition("?")
    if "/." in f"/{path}" and any(segment in (".", "..") for segment in path.split("/")):
        raise ConfigError(
            f"{owner}.path() leads upwards: {path!r}",
            hint="return a tuple of segments; each is then percent-encoded, whatever it holds",
        )
    if not _PLAIN_PATH.fullmatch(path):
        path = quote(_STRAY_PERCENT.sub("%25", path), safe="%!$&'()*+,;=:@/~")
    query = quote(_STRAY_PERCENT.sub("%25", query), safe="%!$&'()*+,;=:@/?~")
    return f"{path}{mark}{query}"


def _param(owner: str, name: str, value: Any) -> str:
    """One value as it stands in the query."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dict | bytes):
        kind = "dict" if isinstance(value, dict) else "bytes"
        raise ConfigError(f"{owner}: the parameter {name!r} is a {kind}: a str or a number is needed")
    return _quoted(str(value))
