"""Can the records of a stream go from the wire into a file as they came, and where in a body are they?

One scan of a body finds where each record begins and ends, without making it. What has to be looked at (a token beside
the records, their keys and cursors) is decoded, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypedDict, TypeGuard, cast

import msgspec

from ..messages import Response
from ..models import Record, key_paths
from ..pagination.paginators import body_paths
from ..protocols import Stream

Raw: TypeAlias = msgspec.Raw
_Tree: TypeAlias = dict[str, Any]
_RECORDS = list[msgspec.Raw]
_NO_OBJECT = re.compile(rb"\n[^{]")
_KEY = re.compile(r"[^.\[\]]+")


class RawReader:
    """Reads the bodies of one stream, for which `why_not` gives no reason."""

    def __init__(self, stream: Stream) -> None:
        self._paths = frozenset(body_paths(stream.paginator) or ())
        self._node = None if stream.records_path is None else _Node(_tree(stream) or {})
        kind: Any = _RECORDS if self._node is None else self._node.kind
        fields = cast(Any, TypedDict)("fields", dict.fromkeys(_looked_at(stream), Any), total=False)
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(kind).decode
        self._decode_fields: Callable[[bytes], list[Record]] = msgspec.json.Decoder(list[fields]).decode  # type: ignore[valid-type]  # made here

    def records(self, response: Response) -> list[Raw] | None:
        """The records of a whole body, none with a line break; None where the body is not what was declared.

        Whoever decodes all of it then finds out what is wrong, if anything is.
        """
        body = response.content
        try:
            if not body.isascii():
                body.decode()
            if b"\n" in body or b"\r" in body:
                body = msgspec.json.format(body, indent=-1)
            found: Any = self._decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        records = found if self._node is None else self._node.records(found)
        if not _are_objects(records):
            return None
        if self._node is not None:
            response.know(self._node.rest(found), self._paths)
        return records

    def fields(self, records: Sequence[Raw]) -> list[Record]:
        """Keys and cursors of the records, as far as they have them."""
        return self._decode_fields(b"[" + b",".join(records) + b"]")


def why_not(stream: Stream, *, has_schema: bool) -> str | None:
    """Why the records of a stream have to be made; None where they need not be."""
    if not stream.uses_default_parser:
        return "it has a parse_response of its own"
    if stream.transformer is not None and stream.transformer.is_active:
        return "it has a transformer"
    if has_schema:
        return "its records are held against a schema"
    if not stream.uses_paginator:
        return "it has a next_page_token of its own"
    if body_paths(stream.paginator) is None:
        return "its paginator looks at whole responses"
    if _tree(stream) is None:
        return "its records do not lie beside what its paginator looks at"
    if stream.cursor_field and not stream.primary_key:
        return "it has a cursor_field, and no primary_key to know its records by"
    return None


def is_as_decoded(stream: Stream) -> bool:
    """Whether nothing but the decoder has a hand in the records of a stream, so that they have a form in JSON."""
    return stream.uses_default_parser and (stream.transformer is None or not stream.transformer.is_active)


def are_raw(records: Sequence[object]) -> TypeGuard[Sequence[Raw]]:
    """Whether the records of a page are as they came: all of them are, or none."""
    return bool(records) and isinstance(records[0], Raw)


class _Node:
    """An object of which some fields are decoded, and of all others nothing."""

    def __init__(self, tree: _Tree) -> None:
        self._inner = {name: _Node(cast(_Tree, kind)) for name, kind in tree.items() if isinstance(kind, dict)}
        self._names = {f"field_{number}": name for number, name in enumerate(tree)}
        self._to_records = next((at for at, name in self._names.items() if _has_records(tree[name])), None)
        fields: list[Any] = []
        for at, name in self._names.items():
            kind = self._inner[name].kind if name in self._inner else tree[name]
            # What is not where it was declared is no reason to give up, unless the records are.
            fields.append((at, kind) if at == self._to_records else (at, kind | None if name in self._inner else Any))
        optional = [(*field, msgspec.UNSET) for field in fields if field[0] != self._to_records]
        fields = [field for field in fields if field[0] == self._to_records] + optional
        self.kind: Any = msgspec.defstruct("Body", fields, rename=self._names, gc=False)

    def records(self, found: Any) -> list[Raw]:
        assert self._to_records is not None
        inner = getattr(found, self._to_records)
        name = self._names[self._to_records]
        return self._inner[name].records(inner) if name in self._inner else inner

    def rest(self, found: Any) -> Mapping[str, Any]:
        """What was decoded, but for the records."""
        told: dict[str, Any] = {}
        for at, name in self._names.items():
            value = getattr(found, at)
            if name in self._inner and value is not None and value is not msgspec.UNSET:
                told[name] = self._inner[name].rest(value)
            elif at != self._to_records and value is not msgspec.UNSET:
                told[name] = value
        return told


def _tree(stream: Stream) -> _Tree | None:
    """What is decoded of a body; None where the records are part of that, or where nobody can tell."""
    path = stream.records_path
    tree: _Tree = {}
    if path is None:
        return None if body_paths(stream.paginator) else tree
    if "[" in path:
        return None
    _put(tree, path.split("."), _RECORDS)
    for told in body_paths(stream.paginator) or ():
        # A key may hold the dot itself.
        steps = _KEY.findall(told.partition("[")[0])
        if not (_put(tree, [told], Any) and _put(tree, steps, Any)):
            return None
    return tree


def _put(tree: _Tree, steps: Sequence[str], leaf: Any) -> bool:
    """Add a path; False where it meets the records."""
    *outer, last = steps
    for step in outer:
        inner = tree.setdefault(step, {})
        if not isinstance(inner, dict):
            return inner is not _RECORDS
        tree = cast(_Tree, inner)
    if _has_records(tree.get(last)):
        return False
    tree[last] = leaf
    return True


def _has_records(kind: Any) -> bool:
    if isinstance(kind, dict):
        return any(map(_has_records, cast(_Tree, kind).values()))
    return kind is _RECORDS


def _looked_at(stream: Stream) -> set[str]:
    field = stream.cursor_field
    cursor = [] if not field else [field if isinstance(field, str) else field[0]]
    return {*cursor, *(path[0] for path in key_paths(stream.primary_key))}


def _are_objects(records: Sequence[Raw]) -> bool:
    """Whether each is a JSON object, as they are without line breaks and with nothing before them."""
    joined = b"\n".join(records)
    return not records or (joined.startswith(b"{") and _NO_OBJECT.search(joined) is None)
