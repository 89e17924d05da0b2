"""Fingerprint of a stream: equal for streams that request the same records."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FunctionType
from typing import Any

from ..auth.identity import NotFingerprintable, ValueEncoder, digest
from ..protocols import Stream

# Attributes that affect how a stream is read, but not which records.
_READ_OPTIONS = frozenset(
    ("adaptive", "adaptive_timeouts", "allow_insecure", "allowed_origins", "availability_strategy", "backoff")
    + ("body_limits", "cookies", "cache_dir", "cache_filename", "cache_ttl", "clock", "own_reader", "idempotent")
    + ("listeners", "detect_loops", "max_concurrency", "max_failed_slices", "max_pages", "max_quarantined")
    + ("max_server_wait", "max_time", "max_tries", "missing_child", "outage_timeout", "parallel_pages", "quota_group")
    + ("rate_limit",)
    + ("rate_limit_cost", "seed", "single_page", "timeouts", "transport", "trust_env", "uncredentialed_origins")
    + ("use_cache", "weight")
)
_DECLARATION = (
    "name",
    "url_base",
    "http_method",
    "paginator",
    "records_path",
    "missing_records",
    "transformer",
    "validation",
    "authenticator",
)
# Values that the stream derives from its other attributes.
_DERIVED = frozenset(("_streams_body", "_uses_paginator", "_batch_size"))


def fingerprint(stream: Stream, salt: bytes = b"") -> str:
    """Hash of a stream's declaration, attributes, parameters and credential; 32 hex digits.

    Code is compared by its names, constants and instructions: those of the author's classes, hooks and callables.
    Secrets are included only through the hash, which is keyed with `salt`. Raises NotFingerprintable.
    """
    return digest(_StreamEncoder().encode_stream(stream, 0), salt)


class _StreamEncoder(ValueEncoder):
    """Encodes streams by their declaration."""

    def encode_object(self, value: Any, depth: int) -> Iterator[bytes]:
        if hasattr(value, "stream_slices") and hasattr(value, "url_base"):
            return self.encode_stream(value, depth + 1)
        return super().encode_object(value, depth)

    def encode_stream(self, stream: object, depth: int) -> Iterator[bytes]:
        """The names of the author's classes, then each attribute that affects which records are read."""
        classes = _author_classes(type(stream))
        yield f"{sys.version_info[:2]}".encode()
        for class_ in classes:
            yield f"{class_.__module__}.{class_.__qualname__}".encode()
        names: set[str] = {*_DECLARATION, *vars(stream), *(name for class_ in classes for name in vars(class_))}
        for name in sorted(names - _READ_OPTIONS - _DERIVED):
            if name.startswith("__"):
                continue
            raw = next((vars(class_)[name] for class_ in type(stream).__mro__ if name in vars(class_)), None)
            yield name.encode()
            if name not in vars(stream) and isinstance(raw, property | classmethod | staticmethod | FunctionType):
                yield from self.encode_callable(raw, depth + 1)
                continue
            try:
                yield from self.encode(getattr(stream, name), depth + 1)
            except NotFingerprintable as error:
                raise NotFingerprintable(f"{name}: {error}") from None


def _author_classes(class_: type) -> list[type]:
    return [base for base in class_.__mro__ if base is not object and not _is_library_class(base)]


def _is_library_class(class_: type) -> bool:
    return class_.__module__.partition(".")[0] == "asyncstreams"
