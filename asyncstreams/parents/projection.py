"""Projection of parent records to the fields that a child needs."""

from __future__ import annotations

from collections.abc import Sequence
from types import GenericAlias
from typing import Any, TypedDict

import msgspec

from .._json import as_array, as_object, decode
from ..errors import ConfigError, MalformedJSON
from ..models import Record, shorten
from ..storage.framing import CorruptData
from .log import Decode

_MAX_FIELDS_SHOWN = 20


def decode_records(page: bytes | memoryview[int]) -> list[Record]:
    """All records of a page, with all fields. Raises CorruptData."""
    try:
        records = as_array(decode(bytes(page)))
    except MalformedJSON:
        records = None
    if records is None:
        raise CorruptData("a page is not an array")
    return records


def decoder_for(child: str, parent: str, fields: Sequence[str] | None) -> Decode:
    """The function that decodes a parent's pages for a child: complete records, or only `fields` if they are given.

    A field is a name, or a path of names joined by dots. The function raises ConfigError if a record lacks one.
    """
    if fields is None:
        return decode_records
    paths = [field.split(".") for field in fields]
    if all(len(path) == 1 for path in paths):
        return _FieldDecoder(child, parent, [path[0] for path in paths])

    def nested(page: bytes | memoryview[int]) -> list[Record]:
        return [_project(record, paths, child, parent) for record in decode_records(page)]

    return nested


class _FieldDecoder:
    """Decodes only the given top-level fields, in a third of the time that complete records take."""

    def __init__(self, child: str, parent: str, names: Sequence[str]) -> None:
        self._child, self._parent, self._names = child, parent, names
        kind: Any = TypedDict("kind", dict.fromkeys(names, Any))  # type: ignore[misc]  # pyright: ignore
        pages: Any = GenericAlias(list, (kind,))  # list[kind]; kind is only known at run time
        self._decoder: msgspec.json.Decoder[list[Record]] = msgspec.json.Decoder(pages)

    def __call__(self, page: bytes | memoryview[int]) -> list[Record]:
        try:
            return self._decoder.decode(page)
        except msgspec.ValidationError:
            pass
        except msgspec.DecodeError as error:
            raise CorruptData("a page is not JSON") from error
        for record in decode_records(page):
            for name in self._names:
                if name not in record:
                    raise _missing_field(name, record, self._child, self._parent)
        raise CorruptData("a page contains values that are not records")


def _project(record: Record, paths: Sequence[Sequence[str]], child: str, parent: str) -> Record:
    projected: Record = {}
    for path in paths:
        value: Any = record
        target = projected
        for name in path[:-1]:
            value = None if (fields := as_object(value)) is None else fields.get(name)
            target = target.setdefault(name, {})
        if (fields := as_object(value)) is None or path[-1] not in fields:
            raise _missing_field(".".join(path), record, child, parent)
        target[path[-1]] = fields[path[-1]]
    return projected


def _missing_field(field: str, record: Record, child: str, parent: str) -> ConfigError:
    names = ", ".join(list(record)[:_MAX_FIELDS_SHOWN]) + (", ..." if len(record) > _MAX_FIELDS_SHOWN else "")
    return ConfigError(
        f"parent_fields: {field!r} is not in a record of {parent}, which has {shorten(names)}",
        hint="correct the name, or omit parent_fields to get the complete record in the slice",
        stream=child,
    )
