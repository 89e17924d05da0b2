"""Encoded pages of records, and the cache that holds them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeVar, cast

import orjson

from ...models import Record
from . import paging
from .dataset import Dataset
from .paging import PageWindow
from .wire_messages import MockResponse, compress, start_lines

_CONTENT_TYPES = {"json": "application/json", "ndjson": "application/x-ndjson", "csv": "text/csv; charset=utf-8"}
_T = TypeVar("_T", MockResponse, bytes)
_RECORDS_PER_PIECE = 500
# An export of more records is streamed in pieces.
_MAX_BUFFERED_RECORDS = 2_000


class PageCache:
    """Encoded pages. Above `max_bytes` the oldest ones are dropped."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._used_bytes = max_bytes, 0
        self._entries: dict[object, tuple[MockResponse | bytes, int]] = {}

    def get_page(self, dataset: Dataset, window: PageWindow, url: str, *, gzip: bool) -> MockResponse:
        """The response for a window. Links to other pages start with `url`."""
        resource = dataset.resource
        if resource.layout.effective_paging == "none" and window.total > _MAX_BUFFERED_RECORDS:
            return self._stream_export(dataset, window, gzip)
        link_url = url if resource.layout.effective_paging in ("link", "next_url") else ""
        slots = window.slots
        position = (slots.start, slots.stop, window.offset, window.size, window.next_offset, *window.params.items())
        return self._get_or_build(
            (resource.name, link_url, gzip, *position),
            lambda: _build_response(dataset, window, url, gzip),
            lambda response: len(response.body),
        )

    def clear(self) -> None:
        self._entries, self._used_bytes = {}, 0

    def _stream_export(self, dataset: Dataset, window: PageWindow, gzip: bool) -> MockResponse:
        def pieces() -> Iterator[bytes]:
            before, between, after = _envelope(dataset, window)
            yield before
            for begin in range(0, window.total, _RECORDS_PER_PIECE):
                slots = window.slots[begin : begin + _RECORDS_PER_PIECE]
                yield (between if begin else b"") + self._get_piece(dataset, slots)
            yield after

        body: Callable[[], Iterable[bytes]] = (lambda: compress(pieces())) if gzip else pieces
        return MockResponse(200, _response_start(dataset, window, "", gzip), b"", body, window.total)

    def _get_piece(self, dataset: Dataset, slots: range) -> bytes:
        return self._get_or_build(
            (dataset.resource.name, "piece", slots.start, slots.stop),
            lambda: _encode_records(dataset, slots),
            lambda piece: len(piece),
        )

    def _get_or_build(self, key: object, build: Callable[[], _T], size_of: Callable[[_T], int]) -> _T:
        entry = self._entries.get(key)
        if entry is not None:
            # The key determines the type of its entry.
            return cast(_T, entry[0])
        built = build()
        self._entries[key] = built, size_of(built)
        self._used_bytes += size_of(built)
        while self._used_bytes > self._max_bytes and len(self._entries) > 1:
            _, dropped_bytes = self._entries.pop(next(iter(self._entries)))
            self._used_bytes -= dropped_bytes
        return built


def _build_response(dataset: Dataset, window: PageWindow, url: str, gzip: bool) -> MockResponse:
    before, _, after = _envelope(dataset, window, url)
    body = before + _encode_records(dataset, window.visible_slots) + after
    if gzip:
        body = b"".join(compress([body]))
    return MockResponse(200, _response_start(dataset, window, url, gzip), body, None, len(window.visible_slots))


def _response_start(dataset: Dataset, window: PageWindow, url: str, gzip: bool) -> bytes:
    headers = paging.paging_headers(dataset.resource, window, url)
    if gzip:
        headers |= {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    return start_lines(200, _CONTENT_TYPES[dataset.resource.layout.format], headers)


def _envelope(dataset: Dataset, window: PageWindow, url: str = "") -> tuple[bytes, bytes, bytes]:
    """The bytes before the records, between two pieces of them, and after them."""
    resource = dataset.resource
    if resource.layout.format == "ndjson":
        return b"", b"", b""
    if resource.layout.format == "csv":
        first = next(iter(window.slots), None)
        return b"" if first is None else _encode_csv([list(dataset.record(first))]), b"", b""
    if not resource.layout.has_envelope:
        return b"[", b",", b"]"
    # The object is encoded with a placeholder, at which it is then split.
    placeholder = "\x00records\x00"
    envelope: dict[str, Any] = {}
    records_at = resource.layout.records_at or ""
    for path, value in {records_at: placeholder, **paging.paging_fields(resource, window, url)}.items():
        _set_path(envelope, path, value)
    before, _, after = orjson.dumps(envelope).partition(orjson.dumps(placeholder))
    return before + b"[", b",", b"]" + after


def _set_path(target: dict[str, Any], path: str, value: Any) -> None:
    *outer, last = path.split(".")
    for step in outer:
        target = target.setdefault(step, {})
    target[last] = value


def _encode_records(dataset: Dataset, slots: range) -> bytes:
    records = [dataset.record(slot) for slot in slots]
    if dataset.resource.layout.format == "json":
        return orjson.dumps(records)[1:-1]
    if dataset.resource.layout.format == "ndjson":
        return b"".join([orjson.dumps(record) + b"\n" for record in records])
    return _encode_csv([[_csv_cell(value) for value in record.values()] for record in records])


def _encode_csv(rows: list[list[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _csv_cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def record_response(dataset: Dataset, slot: int) -> MockResponse:
    """The response with a single record."""
    record: Record = dataset.record(slot)
    return replace(MockResponse(200, start_lines(200, "application/json", {}), orjson.dumps(record)), records=1)
