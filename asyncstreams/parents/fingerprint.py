"""Fingerprints of streams: equal for streams that request the same records."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cached_property, lru_cache, partial, partialmethod
from importlib.util import find_spec
from pathlib import Path
from types import (
    BuiltinFunctionType,
    FunctionType,
    GenericAlias,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
    SimpleNamespace,
    UnionType,
)
from typing import Any, cast

import httpx

from ..auth.identity import NotFingerprintable, ValueEncoder, digest, is_own
from ..declaration.settings import SETTINGS
from ..declaration.stream import Stream
from ..schemas.schema_files import find_schema
from .source_text import SourceFiles

_OF_READING = {name for name, row in SETTINGS.items() if not row.is_in_fingerprint}
# Attributes of every stream that follow from the others. `__init__` acts through the attributes of the instance.
_DERIVED = {"binding", "_streams_body", "_uses_paginator", "_batch_size", "own_reader", "listeners", "__init__"}
# `parents` has the same streams with the options of the Source, such as its authenticator.
_SKIPPED = _OF_READING | _DERIVED | {"declared_parents"}

_INSTALLED = frozenset(("site-packages", "dist-packages"))
_LOGGERS = frozenset(("logging", "structlog", "loguru"))
_CALLABLES = (FunctionType, property, classmethod, staticmethod)
_PARTIALS = (partial, partialmethod)
_CACHED_FUNCTION = type(lru_cache(len))
_ENVIRONMENT = (os.environ, getattr(os, "environb", os.environ), os.getenv)


def fingerprint(stream: Stream, salt: bytes = b"") -> str:
    """Key of the cached records of a stream; 32 hex digits, the same in every process.

    It contains the settings, the attributes, the credential and the parents of the stream, and the source text of the
    author's classes, with the values of the globals that this text names. Code of the standard library and of
    installed packages counts by its name. Secrets are included only through the hash, which is keyed with `salt`.
    Raises NotFingerprintable.
    """
    return digest(_CacheKeyEncoder(stream).encode_key(stream), salt)


def process_fingerprint(stream: Stream) -> str:
    """Hash that is equal for streams of one class that request the same records, within this process.

    Raises NotFingerprintable.
    """
    return digest(_StreamEncoder().encode(stream, 0), b"")


class _StreamEncoder(ValueEncoder):
    """Encodes streams by their class, settings and attributes."""

    def encode_object(self, value: Any, depth: int) -> Iterator[bytes]:
        class_ = cast(type[object], type(value))
        if not _is_stream(class_):
            yield from super().encode_object(value, depth)
            return
        yield from self.encode_stream_class(class_, value.name)
        names: set[str] = {name for base in class_.__mro__ if _is_own_class(base) for name in _annotations(base)}
        names.update(cast(dict[str, object], vars(value)), ("parents",))
        for name in sorted(names - _SKIPPED):
            yield name.encode()
            try:
                yield from self.encode(getattr(value, name), depth + 1)
            except NotFingerprintable as error:
                raise NotFingerprintable(f"{name}: {error}") from None

    def encode_stream_class(self, class_: type, name: str) -> Iterator[bytes]:
        yield f"{id(class_)}".encode()


class _CacheKeyEncoder(_StreamEncoder):
    """Encodes streams and all that their hooks use, with the source text of the author's code."""

    def __init__(self, stream: Stream) -> None:
        self._sources = SourceFiles()
        # Code in the packages of the streams is the author's, also where it is installed.
        self._author_packages = {
            base.__module__.partition(".")[0]
            for ancestor in _ancestors(stream)
            for base in type(ancestor).__mro__
            if not _is_builtin(base.__module__)
        }
        self._enclosing: list[object] = []
        self._globals: dict[tuple[str, str], object] = {}
        """The globals that the encoded functions name, by module and name."""

    def encode_key(self, stream: Stream) -> Iterator[bytes]:
        """The parts of a stream, and then those of each global once, since functions may name one another."""
        yield from self.encode(stream, 0)
        encoded = set[tuple[str, str]]()
        while pending := sorted(self._globals.keys() - encoded):
            encoded.update(pending)
            for module, name in pending:
                yield f"{module}.{name}".encode()
                try:
                    yield from self.encode(self._globals[module, name], 0)
                except NotFingerprintable as error:
                    raise NotFingerprintable(f"{module}.{name}: {error}") from None

    def encode(self, value: object, depth: int) -> Iterator[bytes]:
        if any(value is enclosing for enclosing in self._enclosing):
            yield b"an enclosing value"
            return
        self._enclosing.append(value)
        yield b"("  # so that nested sequences differ from flat ones
        yield from self._encode_class_of(value, depth)
        if isinstance(value, type):
            yield from self._encode_class(value, depth)
        elif isinstance(value, ModuleType):
            if not self._is_library(value.__name__):
                raise NotFingerprintable(f"the module {value.__name__} is used as a value")
            yield value.__name__.encode()
        elif isinstance(value, Enum):
            yield from super().encode(value, depth)
            yield from self.encode(value.value, depth + 1)
        elif isinstance(value, BuiltinFunctionType | MethodDescriptorType):
            yield from self._encode_builtin(value, depth)
        elif isinstance(value, GenericAlias | UnionType) or type(value).__module__ == "typing":
            yield repr(value).encode()
        elif isinstance(value, httpx.QueryParams | httpx.Headers):
            yield from self.encode(value.multi_items(), depth + 1)
        elif any(value is known for known in _ENVIRONMENT):
            raise NotFingerprintable("the environment may differ in the next process")
        else:
            yield from super().encode(value, depth)
        yield b")"
        self._enclosing.pop()

    def encode_object(self, value: Any, depth: int) -> Iterator[bytes]:
        module = type(value).__module__
        if isinstance(value, re.Pattern):
            pattern = cast(re.Pattern[str], value)
            yield f"{pattern.pattern!r} {pattern.flags}".encode()
        elif isinstance(value, httpx.URL):
            yield str(value).encode()
        elif isinstance(value, _PARTIALS):
            yield from self.encode((value.func, value.args, value.keywords), depth + 1)
        elif isinstance(value, cached_property):
            yield from self.encode(value.func, depth + 1)
        elif isinstance(value, _CACHED_FUNCTION):
            yield from self.encode(value.__wrapped__, depth + 1)
        elif module.partition(".")[0] in _LOGGERS:
            pass
        elif self._is_library(module) and not (
            is_own(value) or is_dataclass(value) or isinstance(value, httpx.Auth | SimpleNamespace)
        ):
            raise NotFingerprintable(f"a {type(value).__name__} may hold anything")
        else:
            yield from super().encode_object(value, depth)

    def encode_callable(self, value: Any, depth: int) -> Iterator[bytes]:
        """The source text of a callable, with its defaults, its closure and the globals that it names."""
        if isinstance(value, MethodType):
            yield from self.encode(value.__self__, depth + 1)
            value = value.__func__
        if not isinstance(value, FunctionType):
            yield from super().encode_callable(value, depth)
            return
        module = _module_of(value)
        if self._is_library(module):
            yield f"{module}.{value.__code__.co_qualname}".encode()
        else:
            yield from self._encode_source(value, module)
            yield from self.encode((value.__defaults__, value.__kwdefaults__), depth + 1)
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            if name != "__class__":  # of `super()`
                yield name.encode()
                yield from self.encode(_content(cell), depth + 1)

    def encode_stream_class(self, class_: type, name: str) -> Iterator[bytes]:
        yield from self._encode_class(class_, 0)
        base = next(base for base in class_.__mro__ if _is_own_class(base))
        yield from self.encode(find_schema(class_, base, name), 0)

    def _encode_source(self, function: FunctionType, module: str) -> Iterator[bytes]:
        source = self._sources.find(function)
        yield source.text.encode()
        for imported in source.imports:
            if imported == "os" or not self._is_library(imported):  # `os` has the environment
                raise NotFingerprintable(f"{function.__qualname__} imports {imported} itself; import it in the module")
        for name, *attributes in source.globals:
            if name not in function.__globals__:
                continue  # a builtin
            key, value = (module, name), function.__globals__[name]
            for attribute in attributes:
                if not isinstance(value, ModuleType) or not hasattr(value, attribute):
                    break
                key, value = (value.__name__, attribute), getattr(value, attribute)
            self._globals[key] = value

    def _encode_class_of(self, value: object, depth: int) -> Iterator[bytes]:
        """The class of a value if it is the author's. That of a stream is encoded with its schema."""
        class_ = type(value)
        if self._is_library(class_.__module__) or _is_stream(class_):
            return
        if callable(value) and not isinstance(class_.__call__, FunctionType):
            raise NotFingerprintable(f"the source of a {class_.__name__} cannot be found")
        yield from self._encode_class(class_, depth)

    def _encode_class(self, class_: type, depth: int) -> Iterator[bytes]:
        """The names of a class and its bases, and what the author's classes among them contain."""
        for base in cast(Iterable[type], class_.__mro__):
            yield f"{base.__module__}.{base.__qualname__}".encode()
            if self._is_library(base.__module__):
                continue
            yield from self.encode([*_dataclass_factories(base), *_enum_members(base)], depth + 1)
            for name, content in sorted(vars(base).items()):
                if _is_declared(base, name, content):
                    yield name.encode()
                    try:
                        yield from self.encode(content, depth + 1)
                    except NotFingerprintable as error:
                        raise NotFingerprintable(f"{name}: {error}") from None

    def _encode_builtin(self, value: Any, depth: int) -> Iterator[bytes]:
        owner = value.__objclass__ if isinstance(value, MethodDescriptorType) else value.__self__
        yield value.__qualname__.encode()
        if isinstance(owner, ModuleType | type):
            if not self._is_library(owner.__name__ if isinstance(owner, ModuleType) else owner.__module__):
                raise NotFingerprintable(f"the source of {value.__qualname__} cannot be found")
        else:
            yield from self.encode(owner, depth + 1)

    def _is_library(self, module: str) -> bool:
        """Whether a module belongs to the standard library, to asyncstreams, or to an installed package of others."""
        package = module.partition(".")[0]
        if _is_builtin(module):
            return True
        if package in self._author_packages:
            return False
        try:
            spec = find_spec(package)
        except ValueError:  # `__main__`, and modules made at run time
            return False
        location = None if spec is None else spec.origin or next(iter(spec.submodule_search_locations or ()), None)
        return location is not None and not _INSTALLED.isdisjoint(Path(location).parts)


def _is_own_class(class_: type) -> bool:
    return class_.__module__.partition(".")[0] == "asyncstreams"


def _is_builtin(module: str) -> bool:
    package = module.partition(".")[0]
    return package == "asyncstreams" or package in sys.stdlib_module_names


def _module_of(function: FunctionType) -> str:
    """The module that contains a function's code. `__module__` is another one if functools.wraps has copied it."""
    return str(function.__globals__.get("__name__"))


def _is_stream(class_: type) -> bool:
    return hasattr(class_, "stream_slices") and hasattr(class_, "url_base")


def _ancestors(stream: Stream) -> Iterator[Stream]:
    yield stream
    for parent in stream.parents:
        yield from _ancestors(parent)


def _annotations(class_: type) -> Iterable[str]:
    return (name for name in vars(class_).get("__annotations__", {}) if not name.startswith("_"))


def _dataclass_factories(class_: type) -> Iterator[tuple[str, object]]:
    if is_dataclass(class_):
        yield from ((item.name, item.default_factory) for item in fields(class_) if item.default_factory is not MISSING)


def _enum_members(class_: type) -> Iterator[tuple[str, object]]:
    if issubclass(class_, Enum):
        yield from ((member.name, member.value) for member in class_)


def _is_declared(class_: type, name: str, content: object) -> bool:
    """Whether the author wrote this attribute of a class, and it matters."""
    if _is_stream(class_) and name in _SKIPPED:
        return False
    function = getattr(content, "__func__", content)
    has_fields = hasattr(class_, "__dataclass_fields__") or hasattr(class_, "_fields")
    if isinstance(function, FunctionType) and has_fields:
        # Methods that dataclasses and named tuples generate follow from the fields.
        return function.__code__.co_filename != "<string>" and not _is_builtin(_module_of(function))
    if isinstance(content, MemberDescriptorType | GetSetDescriptorType) or type(content).__name__ == "_tuplegetter":
        return False
    if issubclass(class_, Enum) or name.startswith("__"):
        return isinstance(content, _CALLABLES) and not name.startswith("__annotate")
    return name != "_abc_impl"


def _content(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return None
