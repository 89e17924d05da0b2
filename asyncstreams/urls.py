"""URL construction from base, path and parameters, without loss of any part."""

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


def join(class_name: str, base: str, path: str | tuple[str | int, ...]) -> str:
    """Base and path, joined by one slash; every segment of both is kept.

    An empty path gives the base unchanged. The segments of a tuple are percent-encoded, whatever
    characters they contain. Raises ConfigError for an empty segment, and for `.` or `..` in a str.
    """
    if isinstance(path, tuple):
        path = "/".join([_encode_segment(class_name, segment) for segment in path])
    elif not isinstance(path, str):
        raise ConfigError(
            f"{class_name}.path() returned {type(path).__name__}: must be a str or a tuple of segments",
            hint="add the missing `return`" if path is None else None,
        )
    else:
        path = _check_path(class_name, path)
    return f"{base.rstrip('/')}/{path.lstrip('/')}" if path else base


def with_params(class_name: str, url: str, params: Mapping[str, Any]) -> str:
    """The URL with these parameters, which replace parameters of the same name in the URL.

    None is omitted, a list repeats the name for each of its values, and booleans are lower case.
    Raises ConfigError for a dict, bytes, or a lone surrogate.
    """
    parts: list[str] = []
    for name, value in params.items():
        if isinstance(value, str):
            parts.append(f"{_quote(name)}={_quote(value)}")
        elif isinstance(value, list | tuple | set | frozenset):
            values = cast(Iterable[Any], value)
            parts += [f"{_quote(name)}={_encode_param(class_name, name, item)}" for item in values if item is not None]
        elif value is not None:
            parts.append(f"{_quote(name)}={_encode_param(class_name, name, value)}")
    if "?" in url:
        # The other parameters of the URL stay unchanged, byte for byte.
        url, _, query = url.partition("?")
        parts = [part for part in query.split("&") if unquote_plus(part.partition("=")[0]) not in params] + parts
    return f"{url}?{'&'.join(parts)}" if parts else url


def _quote(text: str) -> str:
    if _UNRESERVED.fullmatch(text):
        return text
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:
        raise ConfigError("a parameter is not valid Unicode: it contains a lone surrogate") from None


def _encode_segment(class_name: str, segment: Any) -> str:
    if type(segment) is int:
        return str(segment)
    if isinstance(segment, bool) or not isinstance(segment, str | int) or segment == "":
        raise ConfigError(
            f"{class_name}.path() has a segment that is {'empty' if segment == '' else type(segment).__name__}: "
            "must be a str or an int",
            hint="check that every record contains the field used in the path",
        )
    text = str(segment)
    if _UNRESERVED.fullmatch(text):
        return text.replace(".", "%2E") if text in (".", "..") else text
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:
        raise ConfigError(
            f"{class_name}.path() has a segment that is not valid Unicode: it contains a lone surrogate"
        ) from None


@functools.lru_cache(maxsize=1024)
def _check_path(class_name: str, path: str) -> str:
    path, mark, query = path.partition("?")
    if "/." in f"/{path}" and any(segment in (".", "..") for segment in path.split("/")):
        raise ConfigError(
            f"{class_name}.path() contains '.' or '..': {path!r}",
            hint="return a tuple of segments; each one is then percent-encoded",
        )
    if not _PLAIN_PATH.fullmatch(path):
        path = quote(_STRAY_PERCENT.sub("%25", path), safe="%!$&'()*+,;=:@/~")
    query = quote(_STRAY_PERCENT.sub("%25", query), safe="%!$&'()*+,;=:@/?~")
    return f"{path}{mark}{query}"


def _encode_param(class_name: str, name: str, value: Any) -> str:
    """One value in its form for the query."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dict | bytes):
        kind = "dict" if isinstance(value, dict) else "bytes"
        raise ConfigError(f"{class_name}: the parameter {name!r} is a {kind}: must be a str or a number")
    return _quote(str(value))
