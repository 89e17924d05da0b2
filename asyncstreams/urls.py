"""URL construction from base, path and parameters, without loss of any part."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast
from urllib.parse import quote, unquote_plus

import httpx

from .errors import ConfigError
from .models import ParamsInput, Secret
from .redaction import MASK

_PLAIN_PATH = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=:@/]*")
_UNRESERVED = re.compile(r"[A-Za-z0-9\-._~]*")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


def join(
    class_name: str,
    base: str,
    path: str | Secret | tuple[str | int | Secret, ...],
    reveal: Callable[[Secret], str] = Secret.reveal,
) -> str:
    """Base and path, joined by one slash; every segment of both is kept.

    An empty path gives the base unchanged. The segments of a tuple are percent-encoded, whatever
    characters they contain. `reveal` gives the text of a Secret. Raises ConfigError for an empty segment, for `.` or
    `..` in a str, and for the `***` of a Secret that was formatted.
    """
    if isinstance(path, tuple):
        path = "/".join([_encode_segment(class_name, segment, reveal) for segment in path])
    elif isinstance(path, Secret):
        path = _check_path.__wrapped__(class_name, reveal(path), is_secret=True)  # not kept in the cache
    elif not isinstance(path, str):
        raise ConfigError(
            f"{class_name}.path() returned {type(path).__name__}: must be a str or a tuple of segments",
            hint="add the missing `return`" if path is None else None,
        ).of_data()
    else:
        path = _check_path(class_name, path)
    return f"{base.rstrip('/')}/{path.lstrip('/')}" if path else base


@dataclass(frozen=True, slots=True)
class EncodedParam:
    """A parameter of a text query, with its name, in the encoding of the author."""

    text: str = field(repr=False)


Pairs: TypeAlias = list[tuple[str, Any]]


def param_pairs(class_name: str, params: Any, reveal: Callable[[Secret], str], what: str = "the parameters") -> Pairs:
    """Parameters in any form as names and values: a mapping, pairs, httpx.QueryParams, or the text of a query.

    `what` names the parameters in the ConfigError for anything else.
    """
    if isinstance(params, httpx.QueryParams):
        return [*params.multi_items()]
    if isinstance(params, Mapping):
        return [*cast(Mapping[str, Any], params).items()]
    if isinstance(params, Secret):
        return _text_pairs(reveal(params))
    if isinstance(params, str):
        if MASK in params:
            raise formatted_secret(class_name, what)
        return _text_pairs(params)
    has_items = isinstance(params, Iterable) and not isinstance(params, bytes)
    pairs: list[Any] = [*cast(Iterable[Any], params)] if has_items else [params]
    if not all(isinstance(pair, tuple | list) and len(cast(Any, pair)) == 2 for pair in pairs):
        kind = type(cast(object, params)).__name__
        raise ConfigError(
            f"{class_name}: {what} are of type {kind}: expected a mapping, a list of (name, value), httpx.QueryParams "
            "or the text of a query",
            hint='for example {"state": "open"}, [("id", 1), ("id", 2)] or "id=1&id=2"',
        ).of_data()
    return [(name, value) for name, value in pairs]


def merge_params(
    class_name: str, params: Any, winners: Any, reveal: Callable[[Secret], str], what: str = "the parameters"
) -> Mapping[str, Any] | Pairs:
    """Parameters and those that replace them, by name."""
    if isinstance(params, dict) and isinstance(winners, Mapping) and not isinstance(winners, httpx.QueryParams):
        return {**cast(dict[str, Any], params), **cast(Mapping[str, Any], winners)}
    if not winners:
        return param_pairs(class_name, params, reveal, what)
    replacing = param_pairs(class_name, winners, reveal, what)
    names = {name for name, _ in replacing}
    return [pair for pair in param_pairs(class_name, params, reveal, what) if pair[0] not in names] + replacing


def with_params(
    class_name: str,
    url: str,
    params: ParamsInput,
    reveal: Callable[[Secret], str] = Secret.reveal,
) -> str:
    """The URL with these parameters, which replace parameters of the same name in the URL.

    None is omitted, a list repeats the name for each of its values, and booleans are lower case. The text of a query
    is kept as it is, except for characters that a URL cannot contain. `reveal` gives the text of a Secret. Raises
    ConfigError for a dict, bytes, a lone surrogate, or the `***` of a Secret that was formatted.
    """
    parts: list[str] = []
    items: Iterable[tuple[str, Any]]
    if isinstance(params, dict):
        items, names = params.items(), cast(Container[str], params)
    else:
        items = param_pairs(class_name, params, reveal)
        names = {name for name, _ in items}
    for name, value in items:
        if not isinstance(name, str):
            raise ConfigError(f"{class_name}: the name of a parameter is of type {type(name).__name__}: must be a str")
        if isinstance(value, str):
            parts.append(f"{_quote(name)}={_quote_value(class_name, name, value)}")
        elif isinstance(value, list | tuple | set | frozenset):
            values = cast(Iterable[Any], value)
            encoded = [_encode_param(class_name, name, item, reveal) for item in values if item is not None]
            parts += [f"{_quote(name)}={item}" for item in encoded]
        elif isinstance(value, EncodedParam):
            parts.append(value.text)
        elif value is not None:
            parts.append(f"{_quote(name)}={_encode_param(class_name, name, value, reveal)}")
    if "?" in url:
        # The other parameters of the URL stay unchanged, byte for byte.
        url, _, query = url.partition("?")
        parts = [part for part in query.split("&") if unquote_plus(part.partition("=")[0]) not in names] + parts
    return f"{url}?{'&'.join(parts)}" if parts else url


def _text_pairs(query: str) -> Pairs:
    """The parameters of a query that is written as a text, each one with its encoded form."""
    parts = [_encode_query(part) for part in query.removeprefix("?").split("&") if part]
    return [(unquote_plus(part.partition("=")[0]), EncodedParam(part)) for part in parts]


def _encode_query(query: str) -> str:
    """A query with the characters percent-encoded that a URL cannot contain, and all others unchanged."""
    try:
        return quote(_STRAY_PERCENT.sub("%25", query), safe="%!$&'()*+,;=:@/?~")
    except UnicodeEncodeError:
        raise ConfigError("a parameter is not valid Unicode: it contains a lone surrogate").of_data() from None


def _quote(text: str) -> str:
    if _UNRESERVED.fullmatch(text):
        return text
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:
        raise ConfigError("a parameter is not valid Unicode: it contains a lone surrogate").of_data() from None


def _quote_value(class_name: str, name: str, value: str) -> str:
    if _UNRESERVED.fullmatch(value):
        return value
    if value == MASK:
        raise formatted_secret(class_name, f"the parameter {name!r}")
    return _quote(value)


def formatted_secret(class_name: str, what: str) -> ConfigError:
    """The error for the `***` that str() and f-strings make of a Secret, which no API expects."""
    return ConfigError(
        f"{class_name}: {what} contains {MASK!r}, the text that is shown in place of a Secret",
        hint='use the Secret itself, or "text" + secret, which is a Secret again; str() and f-strings hide it',
    ).of_data()


def _encode_segment(class_name: str, segment: Any, reveal: Callable[[Secret], str]) -> str:
    if type(segment) is int:
        return str(segment)
    if isinstance(segment, Secret):
        segment = reveal(segment)
    elif segment == MASK:
        raise formatted_secret(class_name, "a segment of path()")
    if isinstance(segment, bool) or not isinstance(segment, str | int) or segment == "":
        raise ConfigError(
            f"{class_name}.path() has a segment that is {'empty' if segment == '' else type(segment).__name__}: "
            "must be a str or an int",
            hint="check that every record contains the field used in the path",
        ).of_data()
    text = str(segment)
    if _UNRESERVED.fullmatch(text):
        return text.replace(".", "%2E") if text in (".", "..") else text
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:
        raise ConfigError(
            f"{class_name}.path() has a segment that is not valid Unicode: it contains a lone surrogate"
        ).of_data() from None


@functools.lru_cache(maxsize=1024)
def _check_path(class_name: str, path: str, *, is_secret: bool = False) -> str:
    if MASK in path and not is_secret:
        raise formatted_secret(class_name, "path()")
    path, mark, query = path.partition("?")
    if "/." in f"/{path}" and any(segment in (".", "..") for segment in path.split("/")):
        raise ConfigError(
            f"{class_name}.path() contains '.' or '..'" + ("" if is_secret else f": {path!r}"),
            hint="return a tuple of segments; each one is then percent-encoded",
        ).of_data()
    if not _PLAIN_PATH.fullmatch(path):
        path = quote(_STRAY_PERCENT.sub("%25", path), safe="%!$&'()*+,;=:@/~")
    return f"{path}{mark}{_encode_query(query)}"


def _encode_param(class_name: str, name: str, value: Any, reveal: Callable[[Secret], str]) -> str:
    """One value in its form for the query."""
    if isinstance(value, Secret):
        return _quote(reveal(value))
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dict | bytes):
        kind = "dict" if isinstance(value, dict) else "bytes"
        raise ConfigError(f"{class_name}: the parameter {name!r} is a {kind}: must be a str or a number").of_data()
    return _quote_value(class_name, name, str(value))
