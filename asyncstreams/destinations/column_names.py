"""Names of columns, made from the names of fields."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from .._json import encode
from ..storage.filesystem import short_hash

_MAX_BYTES = 255


def column_names(fields: Iterable[str]) -> dict[str, str]:
    """The column of each field: its name, or its beginning and a hash if it has more than 255 bytes.

    If columns differ only in case, the later ones get a number.
    """
    columns: dict[str, str] = {}
    used: set[str] = set()
    for field in fields:
        column = columns[field] = unused_name(shortened(field), used)
        used.add(column.casefold())
    return columns


class ColumnNames:
    """The names of the columns of one table, which stay the same as long as it exists.

    `fields` maps fields to columns, `nested` the JSON text of the path of a nested key. `known` and `earlier` are as in
    `Engine.open_table`; `taken` are other names in use.
    """

    def __init__(
        self, known: Mapping[str, Any] | None, earlier: Mapping[str, Any] | None, taken: Iterable[str]
    ) -> None:
        stored, kept = known or {}, earlier or {}
        self.fields: dict[str, str] = dict(stored.get("names", {}))
        self.nested: dict[str, str] = dict(stored.get("nested", {}))
        self._kept: dict[str, str] = dict(kept.get("names", {}))
        self._used = {name.casefold() for name in (*self.fields.values(), *self.nested.values(), *taken)}
        self._reserved = {name.casefold() for name in self._kept.values()}

    @property
    def kept_fields(self) -> Sequence[str]:
        """The fields of the table that this one replaces."""
        return list(self._kept)

    def add_field(self, field: str) -> str:
        """Name the column of a new field."""
        column = self._kept.get(field) or unused_name(shortened(field), self._used | self._reserved)
        return self._register(self.fields, field, column)

    def add_nested(self, path: Sequence[str]) -> str:
        """Name the column of a new nested key."""
        column = unused_name(shortened(".".join(path)), self._used | self._reserved)
        return self._register(self.nested, nested_key(path), column)

    def of_path(self, path: Sequence[str]) -> str | None:
        """The column of a path of the primary key; None: it has none yet."""
        return self.fields.get(path[0]) if len(path) == 1 else self.nested.get(nested_key(path))

    def to_json(self) -> dict[str, Any]:
        return {"names": self.fields, "nested": self.nested}

    def _register(self, columns: dict[str, str], key: str, column: str) -> str:
        if column.casefold() in self._used:
            column = unused_name(column, self._used)
        columns[key] = column
        self._used.add(column.casefold())
        return column


def nested_key(path: Sequence[str]) -> str:
    """The text that stands for the path of a nested key."""
    return encode(list(path)).decode()


def unused_name(key: str, used: Collection[str]) -> str:
    """The column name of a field: its own, with a number if that is used already; case makes no difference."""
    name = key.replace("\0", "") or "_"
    number = 1
    column = name
    while column.casefold() in used:
        number += 1
        column = f"{name}_{number}"
    return column


def shortened(name: str, *, is_used: bool = False) -> str:
    """The name, or its beginning and a hash if it has more than 255 bytes, or `is_used` already."""
    encoded = name.encode()
    if len(encoded) <= _MAX_BYTES and not is_used:
        return name
    ending = f"~{short_hash(name)}"
    return encoded[: _MAX_BYTES - len(ending)].decode(errors="ignore") + ending
