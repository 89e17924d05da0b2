"""Identity of a credential: a keyed hash, within this process or for the next one."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta, tzinfo
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any, Protocol, cast, runtime_checkable
from uuid import UUID

import httpx

from ..declaration.stream import Stream
from ..models import Secret

# State of our authenticators that changes while they are used.
_VOLATILE = frozenset(("_turn", "_refused", "_clock", "_on_refresh", "_tokens", "_token_store", "_sharing_key"))
_PROCESS_KEY = os.urandom(32)
_MAX_DEPTH = 12
_SCALARS = (str, bytes, int, float, complex, bool, type(None), Decimal, UUID, date, time, timedelta, tzinfo, PurePath)
_PROCESS_BOUND = frozenset(("asyncio", "threading", "socket", "_thread", "io", "_io"))


@runtime_checkable
class IdentifiedCredential(Protocol):
    """A credential that says itself what identifies it."""

    def credential_attributes(self) -> Mapping[str, object]:
        """What identifies the credential, by names that must not change: states keep a hash of them."""
        ...


class NotFingerprintable(Exception):
    """A value may differ in the next process, so it has no fingerprint; the text names the value."""


def credential_id(stream: Stream, salt: bytes) -> str | None:
    """Keyed hash of the stream's authenticator, 32 hex digits; None without one. Raises NotFingerprintable."""
    return (
        None
        if stream.resolved.authenticator is None
        else digest(ValueEncoder().encode(stream.resolved.authenticator, 0), salt)
    )


def credential_key(authenticator: httpx.Auth) -> Hashable:
    """A key that is equal for equal credentials: for their classes and the values of all constructor arguments.

    The hash is keyed with a random key of this process. An authenticator of another class is equal only to itself,
    by its id: keep it while its key is in use.
    """
    if type(authenticator) is not httpx.BasicAuth and not is_own(authenticator):
        return id(authenticator)
    try:
        return process_digest(ValueEncoder().encode(authenticator, 0))
    except NotFingerprintable:
        return id(authenticator)


def is_own(value: object) -> bool:
    """Whether the class of a value is of this package, so that its attributes are known to identify it."""
    return type(value).__module__.partition(".")[0] == "asyncstreams"


def process_digest(parts: Iterable[bytes]) -> str:
    """Hash of the parts, keyed with a random key of this process; 32 hex digits."""
    return digest(parts, _PROCESS_KEY)


def digest(parts: Iterable[bytes], salt: bytes) -> str:
    """BLAKE2b over the length-prefixed parts, keyed with `salt`; 32 hex digits."""
    hasher = hmac.new(salt, digestmod=hashlib.blake2b)
    for part in parts:
        hasher.update(len(part).to_bytes(4, "big") + part)
    return hasher.hexdigest()[:32]


class ValueEncoder:
    """Turns a value into byte strings that are equal for equal values, in every process.

    Secrets are encoded in the clear: hash the result with a salt. All methods raise NotFingerprintable.
    """

    def encode(self, value: object, depth: int) -> Iterator[bytes]:
        """The parts of a value, its type first. `depth` counts the levels of nesting, at most 12."""
        if depth > _MAX_DEPTH:
            raise NotFingerprintable("it is nested too deeply")
        if isinstance(value, Secret):
            value = value.reveal()
        yield f"{type(value).__module__}.{type(value).__qualname__}".encode()
        if isinstance(value, Enum):
            yield value.name.encode()
        elif isinstance(value, _SCALARS):
            yield repr(value).encode()
        elif isinstance(value, Mapping):
            # Sorted by their parts, which differ where the reprs of Secrets are equal.
            items = cast(Mapping[object, object], value).items()
            for parts in sorted([list(self.encode(item, depth + 1)) for item in items]):
                yield from parts
        elif isinstance(value, Set):
            for parts in sorted([list(self.encode(member, depth + 1)) for member in cast(Set[object], value)]):
                yield from parts
        elif isinstance(value, Sequence):
            for member in cast(Sequence[object], value):
                yield from self.encode(member, depth + 1)
        elif isinstance(value, type):
            yield f"{value.__module__}.{value.__qualname__}".encode()
        elif isinstance(value, FunctionType | MethodType | property | classmethod | staticmethod):
            yield from self.encode_callable(value, depth + 1)
        elif isinstance(value, BuiltinFunctionType):
            yield value.__qualname__.encode()
        else:
            yield from self.encode_object(value, depth)

    def encode_object(self, value: Any, depth: int) -> Iterator[bytes]:
        """The attributes of an object, such as a paginator or a credential."""
        if isinstance(value, IdentifiedCredential):
            attributes = value.credential_attributes()
            for name in sorted(attributes.keys() - _VOLATILE):
                yield name.encode()
                yield from self.encode(attributes[name], depth + 1)
            return
        if is_dataclass(value):
            names = [field.name for field in fields(value)]
        else:
            slots = [name for class_ in type(value).__mro__ for name in _slots(class_)]
            names = sorted({*getattr(value, "__dict__", {}), *slots} - _VOLATILE)
            if not names and not hasattr(value, "__dict__"):
                raise NotFingerprintable(f"a {type(value).__name__} has no attributes that can be read")
        if type(value).__module__.partition(".")[0] in _PROCESS_BOUND:
            raise NotFingerprintable(f"a {type(value).__name__} is bound to this process")
        for name in names:
            if hasattr(value, name):
                yield name.encode()
                yield from self.encode(getattr(value, name), depth + 1)

    def encode_callable(self, value: Any, depth: int) -> Iterator[bytes]:
        """The instructions and constants of a callable, with its defaults and closure."""
        if isinstance(value, property):
            for function in (value.fget, value.fset):
                if function is not None:
                    yield from self.encode_callable(function, depth + 1)
            return
        if isinstance(value, classmethod | staticmethod):
            yield from self.encode_callable(cast(Any, value).__func__, depth)
            return
        if isinstance(value, MethodType):
            # The bound object itself may hold this method: encoding it would not terminate.
            yield type(value.__self__).__qualname__.encode()
            value = value.__func__
        if not isinstance(value, FunctionType):
            yield from self.encode(value, depth + 1)
            return
        yield from code_parts(value.__code__)
        for default in (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()):
            yield from self.encode(default, depth + 1)
        for cell in value.__closure__ or ():
            try:
                content = cell.cell_contents
            except ValueError:  # an empty cell
                continue
            if not isinstance(content, type):  # `super()` holds the class
                yield from self.encode(content, depth + 1)


def _slots(class_: type) -> Sequence[str]:
    slots = vars(class_).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def code_parts(code: CodeType) -> Iterator[bytes]:
    """The instructions, names and constants of a code object; equal for equal source in one version of Python."""
    yield code.co_code
    yield repr((code.co_names, code.co_varnames, code.co_freevars)).encode()
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from code_parts(constant)
        elif isinstance(constant, frozenset):  # of `in {...}`, whose order varies
            yield repr(sorted(cast(Set[object], constant), key=repr)).encode()
        else:
            yield repr(constant).encode()
