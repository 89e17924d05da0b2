"""Projection of parent records to the fields that a child needs."""

from __future__ import annotations

from collections.abc import Sequence
from types import GenericAlias
from typing import Any, TypedDict

import msgspec

from .._json import as_array, as_object, decode
from ..errors import MalformedJSON
from ..models import Record, shorten
from ..storage.framing import CorruptData
from .log import Decode

_MAX_FIELDS_SHOWN = 20


class IncompleteRecord(dict[str, Any]):
    """A complete parent record that lacks a field of `parent_fields`; `problem` says which one. Its slice fails."""

    problem = ""


def decode_records(page: bytes | memoryview[int]) -> list[Record]:
    """All records of a page, with all fields. Raises CorruptData."""
    try:
        records = as_array(decode(bytes(page)))
    except MalformedJSON:
        records = None
    if records is None:
        raise CorruptData("a page is not an array")
    return records


def decoder_for(parent: str, fields: Sequence[str] | None) -> Decode:
    """The function that decodes a parent's pages for a child: complete records, or only `fields` if they are given.

    A field is a name, or a path of names joined by dots. A record that lacks one becomes an IncompleteRecord.
    """
    if fields is None:
        return decode_records
    paths = [field.split(".") for field in fields]

    def project_all(page: bytes | memoryview[int]) -> list[Record]:
        records: list[Any] = decode_records(page)
        if not all(isinstance(record, dict) for record in records):
            raise CorruptData("a page contains values that are not records")
        return [_project(record, paths, parent) for record in records]

    if all(len(path) == 1 for path in paths):
        return _FieldDecoder([path[0] for path in paths], project_all)
    return project_all


class _FieldDecoder:
    """Decodes only the given top-level fields, in a third of the time that complete records take."""

    def __init__(self, names: Sequence[str], project_all: Decode) -> None:
        self._project_all = project_all
        kind: Any = TypedDict("kind", dict.fromkeys(names, Any))  # type: ignore[misc]  # pyright: ignore
        pages: Any = GenericAlias(list, (kind,))  # list[kind]; kind is only known at run time
        self._decoder: msgspec.json.Decoder[list[Record]] = msgspec.json.Decoder(pages)

    def __call__(self, page: bytes | memoryview[int]) -> list[Record]:
        try:
            return self._decoder.decode(page)
        except msgspec.ValidationError:
            return self._project_all(page)  # a record lacks a field
        except msgspec.DecodeError as error:
            raise CorruptData("a page is not JSON") from error


def _project(record: Record, paths: Sequence[Sequence[str]], parent: str) -> Record:
    projected: Record = {}
    for path in paths:
        value: Any = record
        target = projected
        for name in path[:-1]:
            value = None if (fields := as_object(value)) is None else fields.get(name)
            target = target.setdefault(name, {})
        if (fields := as_object(value)) is None or path[-1] not in fields:
            return _incomplete(record, ".".join(path), parent)
        target[path[-1]] = fields[path[-1]]
    return projected


def _incomplete(record: Record, field: str, parent: str) -> IncompleteRecord:
    names = ", ".join(list(record)[:_MAX_FIELDS_SHOWN]) + (", ..." if len(record) > _MAX_FIELDS_SHOWN else "")
    incomplete = IncompleteRecord(record)
    incomplete.problem = f"parent_fields: {field!r} is not in a record of {parent}, which has {shorten(names)}"
    return incomplete
