"""Raw passthrough: records that are copied from the response into a file as bytes.

One scan of a body finds the bounds of each record. Only the required values are decoded: page tokens beside the
records, and the primary keys and cursors in them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypedDict, cast

import msgspec

from ..declaration.stream import Stream
from ..errors import RemoteError
from ..messages import Response
from ..models import Record, key_paths
from ..pagination.paginators import body_paths

DecodedRecords: TypeAlias = list[Record]
_TypeTree: TypeAlias = dict[str, Any]
_RAW_RECORDS = list[msgspec.Raw]
_NON_OBJECT_LINE = re.compile(rb"\n[^{]")
_PATH_KEY = re.compile(r"[^.\[\]]+")


class RawRecords:
    """The records of one page as the text that the API sent, each without line breaks."""

    __slots__ = ("_decode_fields", "items")

    def __init__(self, items: list[msgspec.Raw], decode_fields: Callable[[bytes], DecodedRecords]) -> None:
        self.items, self._decode_fields = items, decode_fields

    def __len__(self) -> int:
        return len(self.items)

    def fields(self) -> DecodedRecords:
        """The key and cursor fields of each record; absent fields are omitted."""
        return self._decode_fields(self._to_array())

    def decode(self) -> DecodedRecords:
        """The complete records."""
        return msgspec.json.decode(self._to_array(), type=list[Record])

    def select(self, fields: DecodedRecords, chosen: DecodedRecords) -> RawRecords:
        """The records whose own entries of `fields` are in `chosen`, which has the same order."""
        selected: list[msgspec.Raw] = []
        remaining = iter(chosen)
        wanted = next(remaining, None)
        for item, entry in zip(self.items, fields, strict=True):
            if entry is wanted:
                selected.append(item)
                wanted = next(remaining, None)
        return RawRecords(selected, self._decode_fields)

    def _to_array(self) -> bytes:
        return b"[" + b",".join(self.items) + b"]"


PageRecords: TypeAlias = DecodedRecords | RawRecords
"""The records of a page, as they come from a response."""


def visible_fields(records: PageRecords) -> DecodedRecords:
    """The records, or the decoded keys and cursors of raw records."""
    return records.fields() if isinstance(records, RawRecords) else records


class RawReader:
    """Extracts raw records from the bodies of one stream, for which `reason_to_decode` returns None."""

    def __init__(self, stream: Stream) -> None:
        self._paths = frozenset(body_paths(stream.resolved.paginator) or ())
        self._decoder = None if stream.resolved.records_path is None else _ObjectDecoder(_type_tree(stream) or {})
        kind: Any = _RAW_RECORDS if self._decoder is None else self._decoder.type
        fields = cast(Any, TypedDict)("fields", dict.fromkeys(_inspected_fields(stream), Any), total=False)
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(kind).decode
        self._decode_fields: Callable[[bytes], DecodedRecords] = msgspec.json.Decoder(list[fields]).decode  # type: ignore[valid-type]  # a type built at runtime

    def extract_records(self, response: Response) -> RawRecords | None:
        """The records of a complete body, each without line breaks.

        None if the body is not what the stream declares; decoding it in full then explains the problem. Attaches the
        decoded page tokens to the response.
        """
        try:
            body = response.json_text
            if not body.isascii():
                body.decode()
            if b"\n" in body or b"\r" in body:
                body = msgspec.json.format(body, indent=-1)
            decoded: Any = self._decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, RemoteError):
            return None
        items = decoded if self._decoder is None else self._decoder.records(decoded)
        if not _are_objects(items):
            return None
        if self._decoder is not None:
            response.set_partial_json(self._decoder.decoded_fields(decoded), self._paths)
        return RawRecords(items, self._decode_fields)


def reason_to_decode(stream: Stream, *, has_schema: bool) -> str | None:
    """Why the records of a stream must be decoded; None if raw passthrough is possible."""
    if not stream.uses_default_parser:
        return "it has a parse_response of its own"
    if stream.resolved.transformer is not None and stream.resolved.transformer.is_active:
        return "it has a transformer"
    if has_schema:
        return "its records are validated against a schema"
    if not stream.uses_paginator:
        return "it has a next_page_token of its own"
    if body_paths(stream.resolved.paginator) is None:
        return "its paginator inspects complete responses"
    if {"*", "$"}.intersection((stream.resolved.records_path or "").split(".")):
        return "its records_path does not lead to one array"
    if _type_tree(stream) is None:
        return "its records cannot be separated from what its paginator reads"
    if stream.resolved.cursor_field and not stream.resolved.primary_key:
        return "it has a cursor_field but no primary_key to identify its records"
    return None


def has_unmodified_records(stream: Stream) -> bool:
    """Whether the records are unmodified output of the JSON decoder, and thus can be encoded without checks."""
    return stream.uses_default_parser and (
        stream.resolved.transformer is None or not stream.resolved.transformer.is_active
    )


class _ObjectDecoder:
    """Decodes the fields of an object that are in `tree`, and skips all others."""

    def __init__(self, tree: _TypeTree) -> None:
        self._children = {
            name: _ObjectDecoder(cast(_TypeTree, kind)) for name, kind in tree.items() if isinstance(kind, dict)
        }
        self._names = {f"field_{number}": name for number, name in enumerate(tree)}
        self._records_field = next(
            (field for field, name in self._names.items() if _contains_records(tree[name])), None
        )
        required: list[Any] = []
        optional: list[Any] = []
        for field, name in self._names.items():
            kind = self._children[name].type if name in self._children else tree[name]
            # Only the records are required: other fields may be absent.
            if field == self._records_field:
                required.append((field, kind))
            else:
                optional.append((field, kind | None if name in self._children else Any, msgspec.UNSET))
        self.type: Any = msgspec.defstruct("Body", required + optional, rename=self._names, gc=False)

    def records(self, body: Any) -> list[msgspec.Raw]:
        """The records in a decoded body."""
        assert self._records_field is not None
        inner = getattr(body, self._records_field)
        name = self._names[self._records_field]
        return self._children[name].records(inner) if name in self._children else inner

    def decoded_fields(self, body: Any) -> Mapping[str, Any]:
        """The decoded fields without the records."""
        fields: dict[str, Any] = {}
        for field, name in self._names.items():
            value = getattr(body, field)
            if name in self._children and value is not None and value is not msgspec.UNSET:
                fields[name] = self._children[name].decoded_fields(value)
            elif field != self._records_field and value is not msgspec.UNSET:
                fields[name] = value
        return fields


def _type_tree(stream: Stream) -> _TypeTree | None:
    """The types of the body's fields that are decoded; None if the records cannot be separated from them."""
    path = stream.resolved.records_path
    tree: _TypeTree = {}
    if path is None:
        return None if body_paths(stream.resolved.paginator) else tree
    if "[" in path:
        return None
    _add_path(tree, path.split("."), _RAW_RECORDS)
    for token_path in body_paths(stream.resolved.paginator) or ():
        # The path may also be a single key that contains dots.
        steps = _PATH_KEY.findall(token_path.partition("[")[0])
        if not (_add_path(tree, [token_path], Any) and _add_path(tree, steps, Any)):
            return None
    return tree


def _add_path(tree: _TypeTree, steps: Sequence[str], leaf: Any) -> bool:
    """Add a path to the tree. Returns False if the path contains the records."""
    *outer, last = steps
    for step in outer:
        inner = tree.setdefault(step, {})
        if not isinstance(inner, dict):
            return inner is not _RAW_RECORDS
        tree = cast(_TypeTree, inner)
    if _contains_records(tree.get(last)):
        return False
    tree[last] = leaf
    return True


def _contains_records(kind: Any) -> bool:
    if isinstance(kind, dict):
        return any(map(_contains_records, cast(_TypeTree, kind).values()))
    return kind is _RAW_RECORDS


def _inspected_fields(stream: Stream) -> set[str]:
    field = stream.resolved.cursor_field
    cursor = [] if not field else [field if isinstance(field, str) else field[0]]
    return {*cursor, *(path[0] for path in key_paths(stream.resolved.primary_key))}


def _are_objects(records: Sequence[msgspec.Raw]) -> bool:
    """Whether each record, which has no line breaks and no leading whitespace, is a JSON object."""
    joined = b"\n".join(records)
    return not records or (joined.startswith(b"{") and _NON_OBJECT_LINE.search(joined) is None)
