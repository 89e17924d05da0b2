"""When do two streams ask the same thing, so that one's records are the other's?"""

from __future__ import annotations

import hashlib
import hmac
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta, tzinfo
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any, cast
from uuid import UUID

from ..contracts import Stream
from ..model import Secret

# How something is read, and not what.
_HOW = frozenset(
    ("adaptive", "allow_insecure", "allowed_origins", "availability_strategy", "backoff", "body_limits")
    + ("cache_dir", "cache_filename", "cache_ttl", "clock", "home", "idempotent", "listeners", "loop_guard")
    + ("max_concurrency", "max_failed_slices", "max_pages", "max_quarantined", "max_server_wait", "max_time")
    + ("max_tries", "outage_patience", "parallel_pages", "quota_label", "rate_limit", "rate_limit_cost", "seed")
    + ("timeouts", "transport", "use_cache", "weight")
)
_BASE = ("name", "url_base", "http_method", "paginator", "records_path", "transformer", "validation", "authenticator")
_VOLATILE = frozenset(("_held", "_locks", "_turn", "_clock", "_on_refresh", "_refresh_token"))  # of our authenticators
_DEEPEST = 12
_PLAIN = (str, bytes, int, float, complex, bool, type(None), Decimal, UUID, date, time, timedelta, tzinfo, PurePath)


class Untold(Exception):
    """Of some value nobody can tell whether it will be the same next time; the text says which."""


def key_of(stream: Stream, salt: bytes = b"") -> str:
    """The same for streams of the same declaration, attributes, parameters and credential; and for no others.

    Code counts by what it does: names, constants and instructions of the author's classes, hooks and
    callables. Secrets go into it through a keyed hash. Raises Untold.
    """
    return _digest(_stream(stream, 0), salt)


def credential_of(stream: Stream, salt: bytes) -> str | None:
    """The same for the same credential; None without one. Raises Untold."""
    return None if stream.authenticator is None else _digest(_value(stream.authenticator, 0), salt)


def _digest(parts: Iterable[bytes], salt: bytes) -> str:
    digest = hmac.new(salt, digestmod=hashlib.blake2b)
    for part in parts:
        digest.update(len(part).to_bytes(4, "big") + part)
    return digest.hexdigest()[:32]


def _stream(stream: object, depth: int) -> Iterator[bytes]:
    yield f"{sys.version_info[:2]}".encode()
    yield from _kind(type(stream), depth)
    names: set[str] = {*_BASE, *vars(stream), *(name for kind in _own(type(stream)) for name in vars(kind))}
    for name in sorted(names - _HOW):
        if name.startswith("__") or name in ("_streams_body", "_pages_itself", "_fits"):
            continue
        raw = next((vars(kind)[name] for kind in type(stream).__mro__ if name in vars(kind)), None)
        yield name.encode()
        if name not in vars(stream) and isinstance(raw, property | classmethod | staticmethod | FunctionType):
            yield from _code(raw, depth + 1)
            continue
        try:
            yield from _value(getattr(stream, name), depth + 1)
        except Untold as error:
            raise Untold(f"{name}: {error}") from None


def _kind(kind: type, depth: int) -> Iterator[bytes]:
    for one in _own(kind):
        yield f"{one.__module__}.{one.__qualname__}".encode()


def _own(kind: type) -> Iterator[type]:
    """The author's classes."""
    return (one for one in kind.__mro__ if one is not object and not one.__module__.startswith("asyncstreams."))


def _value(value: object, depth: int) -> Iterator[bytes]:
    if depth > _DEEPEST:
        raise Untold("it is nested too deeply")
    if isinstance(value, Secret):
        value = value.reveal()
    yield f"{type(value).__module__}.{type(value).__qualname__}".encode()
    if isinstance(value, Enum):
        yield value.name.encode()
    elif isinstance(value, _PLAIN):
        yield repr(value).encode()
    elif isinstance(value, Mapping):
        for item in sorted(cast(Mapping[object, object], value).items(), key=repr):
            yield from _value(item, depth + 1)
    elif isinstance(value, Set):
        for one in sorted(cast(Set[object], value), key=repr):
            yield from _value(one, depth + 1)
    elif isinstance(value, Sequence):
        for one in cast(Sequence[object], value):
            yield from _value(one, depth + 1)
    elif isinstance(value, type):
        yield f"{value.__module__}.{value.__qualname__}".encode()
    elif isinstance(value, FunctionType | MethodType | property | classmethod | staticmethod):
        yield from _code(value, depth + 1)
    elif isinstance(value, BuiltinFunctionType):
        yield value.__qualname__.encode()
    elif hasattr(value, "stream_slices") and hasattr(value, "url_base"):
        yield from _stream(value, depth + 1)
    else:
        yield from _object(value, depth)


def _object(value: Any, depth: int) -> Iterator[bytes]:
    """An object by what it holds, such as a paginator or a credential."""
    if is_dataclass(value):
        names = [field.name for field in fields(value)]
    else:
        slots = [name for kind in type(value).__mro__ for name in _slots(kind)]
        names = sorted({*getattr(value, "__dict__", {}), *slots} - _VOLATILE)
        if not names and not hasattr(value, "__dict__"):
            raise Untold(f"a {type(value).__name__} does not say what it holds")
    if type(value).__module__.partition(".")[0] in ("asyncio", "threading", "socket", "_thread", "io", "_io"):
        raise Untold(f"a {type(value).__name__} is not the same twice")
    for name in names:
        if hasattr(value, name):
            yield name.encode()
            yield from _value(getattr(value, name), depth + 1)


def _slots(kind: type) -> Sequence[str]:
    slots = vars(kind).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _code(value: Any, depth: int) -> Iterator[bytes]:
    """What a callable does, with what it is bound to."""
    if isinstance(value, property):
        for function in (value.fget, value.fset):
            if function is not None:
                yield from _code(function, depth + 1)
        return
    if isinstance(value, classmethod | staticmethod):
        value = cast(Any, value).__func__
    if isinstance(value, MethodType):
        # Bound to the stream itself it would never end.
        yield type(value.__self__).__qualname__.encode()
        value = value.__func__
    if not isinstance(value, FunctionType):
        yield from _value(value, depth + 1)
        return
    yield from _instructions(value.__code__)
    for default in (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()):
        yield from _value(default, depth + 1)
    for cell in value.__closure__ or ():
        try:
            held = cell.cell_contents
        except ValueError:  # not filled yet
            continue
        if not isinstance(held, type):  # `super()` holds the class
            yield from _value(held, depth + 1)


def _instructions(code: CodeType) -> Iterator[bytes]:
    yield code.co_code
    yield repr((code.co_names, code.co_varnames, code.co_freevars)).encode()
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _instructions(constant)
        elif isinstance(constant, frozenset):  # of `in {...}`, in no order
            yield repr(sorted(cast(Set[object], constant), key=repr)).encode()
        else:
            yield repr(constant).encode()
