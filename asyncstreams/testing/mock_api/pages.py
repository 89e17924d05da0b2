"""How does a page become bytes? Made once, and kept for as long as there is room."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeVar, cast

import orjson

from ...models import Record
from . import paging
from .dataset import Table
from .gzip_body import zipped
from .paging import PageWindow
from .wire_messages import MockResponse, start

_TYPES = {"json": "application/json", "ndjson": "application/x-ndjson", "csv": "text/csv; charset=utf-8"}
_T = TypeVar("_T", MockResponse, bytes)
_PIECE = 500
# An export of more records than this is sent piece by piece.
_HELD = 2_000


class Pages:
    """Encoded pages, the oldest of which give way once they hold more than `room` bytes."""

    def __init__(self, room: int) -> None:
        self._room, self._used = room, 0
        self._kept: dict[object, tuple[MockResponse | bytes, int]] = {}

    def page(self, table: Table, place: PageWindow, url: str, *, gzip: bool) -> MockResponse:
        """The answer with this window; `url` is what links in it lead to."""
        resource = table.resource
        if resource.style == "none" and place.total > _HELD:
            return self._export(table, place, gzip)
        where = url if resource.style in ("link", "next_url") else ""
        kept = (place.slots.start, place.slots.stop, place.offset, place.size, place.following, *place.params.items())
        return self._once(
            (resource.name, where, gzip, *kept), lambda: _encoded(table, place, url, gzip), lambda made: len(made.body)
        )

    def clear(self) -> None:
        self._kept, self._used = {}, 0

    def _export(self, table: Table, place: PageWindow, gzip: bool) -> MockResponse:
        def pieces() -> Iterator[bytes]:
            before, between, after = _frame(table, place)
            yield before
            for begin in range(0, place.total, _PIECE):
                slots = place.slots[begin : begin + _PIECE]
                yield (between if begin else b"") + self._piece(table, slots)
            yield after

        body: Callable[[], Iterable[bytes]] = (lambda: zipped(pieces())) if gzip else pieces
        return MockResponse(200, _start(table, place, "", gzip), b"", body, place.total)

    def _piece(self, table: Table, slots: range) -> bytes:
        return self._once(
            (table.resource.name, "piece", slots.start, slots.stop), lambda: _rows(table, slots), lambda made: len(made)
        )

    def _once(self, name: object, make: Callable[[], _T], size: Callable[[_T], int]) -> _T:
        found = self._kept.get(name)
        if found is not None:
            # A name says which kind it is.
            return cast(_T, found[0])
        made = make()
        self._kept[name] = made, size(made)
        self._used += size(made)
        while self._used > self._room and len(self._kept) > 1:
            _, gone = self._kept.pop(next(iter(self._kept)))
            self._used -= gone
        return made


def _encoded(table: Table, place: PageWindow, url: str, gzip: bool) -> MockResponse:
    before, _, after = _frame(table, place, url)
    body = before + _rows(table, place.shown) + after
    if gzip:
        body = b"".join(zipped([body]))
    return MockResponse(200, _start(table, place, url, gzip), body, None, len(place.shown))


def _start(table: Table, place: PageWindow, url: str, gzip: bool) -> bytes:
    told = paging.headers(table.resource, place, url)
    if gzip:
        told |= {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    return start(200, _TYPES[table.resource.format], told)


def _frame(table: Table, place: PageWindow, url: str = "") -> tuple[bytes, bytes, bytes]:
    """What stands before the records, between two pieces of them, and after them."""
    resource = table.resource
    if resource.format == "ndjson":
        return b"", b"", b""
    if resource.format == "csv":
        first = next(iter(place.slots), None)
        return b"" if first is None else _csv([list(table.record(first))]), b"", b""
    if not resource.has_object:
        return b"[", b",", b"]"
    # The object is encoded around a mark, which then gives way to the records.
    mark = "\x00records\x00"
    envelope: dict[str, Any] = {}
    for path, value in {resource.records_at or "": mark, **paging.fields(resource, place, url)}.items():
        _put(envelope, path, value)
    before, _, after = orjson.dumps(envelope).partition(orjson.dumps(mark))
    return before + b"[", b",", b"]" + after


def _put(target: dict[str, Any], path: str, value: Any) -> None:
    *outer, last = path.split(".")
    for step in outer:
        target = target.setdefault(step, {})
    target[last] = value


def _rows(table: Table, slots: range) -> bytes:
    records = [table.record(slot) for slot in slots]
    if table.resource.format == "json":
        return orjson.dumps(records)[1:-1]
    if table.resource.format == "ndjson":
        return b"".join([orjson.dumps(record) + b"\n" for record in records])
    return _csv([[_cell(value) for value in record.values()] for record in records])


def _csv(rows: list[list[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def one(table: Table, slot: int) -> MockResponse:
    """A single record."""
    record: Record = table.record(slot)
    return replace(MockResponse(200, start(200, "application/json", {}), orjson.dumps(record)), records=1)
