"""What of a parent's record does a child need?"""

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

_SHOWN = 20


def whole_records(page: bytes | memoryview[int]) -> list[Record]:
    """All of them as they are. Raises Damaged."""
    try:
        records = as_array(decode(bytes(page)))
    except MalformedJSON:
        records = None
    if records is None:
        raise CorruptData("a page is no array")
    return records


def decode_of(child: str, parent: str, fields: Sequence[str] | None) -> Decode:
    """How a child reads its parent's pages: whole, or no more than these fields, which every record must have."""
    if fields is None:
        return whole_records
    paths = [field.split(".") for field in fields]
    if all(len(path) == 1 for path in paths):
        return _Flat(child, parent, [path[0] for path in paths])

    def nested(page: bytes | memoryview[int]) -> list[Record]:
        return [_part(record, paths, child, parent) for record in whole_records(page)]

    return nested


class _Flat:
    """Decodes nothing but some fields, which takes a third of the time."""

    def __init__(self, child: str, parent: str, names: Sequence[str]) -> None:
        self._child, self._parent, self._names = child, parent, names
        kind: Any = TypedDict("kind", dict.fromkeys(names, Any))  # type: ignore[misc]  # pyright: ignore
        pages: Any = GenericAlias(list, (kind,))  # list[kind], of a kind that is known at run time only
        self._decoder: msgspec.json.Decoder[list[Record]] = msgspec.json.Decoder(pages)

    def __call__(self, page: bytes | memoryview[int]) -> list[Record]:
        try:
            return self._decoder.decode(page)
        except msgspec.ValidationError:
            pass
        except msgspec.DecodeError as error:
            raise CorruptData("a page is no JSON") from error
        for record in whole_records(page):
            for name in self._names:
                if name not in record:
                    raise _missing(name, record, self._child, self._parent)
        raise CorruptData("a page has something else than records")


def _part(record: Record, paths: Sequence[Sequence[str]], child: str, parent: str) -> Record:
    part: Record = {}
    for path in paths:
        value: Any = record
        here = part
        for name in path[:-1]:
            value = None if (fields := as_object(value)) is None else fields.get(name)
            here = here.setdefault(name, {})
        if (fields := as_object(value)) is None or path[-1] not in fields:
            raise _missing(".".join(path), record, child, parent)
        here[path[-1]] = fields[path[-1]]
    return part


def _missing(field: str, record: Record, child: str, parent: str) -> ConfigError:
    has = ", ".join(list(record)[:_SHOWN]) + (", ..." if len(record) > _SHOWN else "")
    return ConfigError(
        f"parent_fields names {field!r}, which a record of {parent} does not have; it has {shorten(has)}",
        hint="mend the name, or leave parent_fields out: then the whole record is in the slice",
        stream=child,
    )
