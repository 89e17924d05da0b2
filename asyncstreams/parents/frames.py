"""How is a parent log laid out: pages one after the other, each with a checksum, and an end that counts them?"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..errors import MalformedJSON
from ..exact_json import as_object, decode, encode

FORMAT = 1
_HEAD = struct.Struct("<cII")  # kind, length of what follows, CRC-32 of kind and that
_BEGIN, _PAGE, _END = b"B", b"P", b"E"
_SIGN = "asyncstreams parents"
HEAD_SIZE = _HEAD.size


class Damaged(Exception):
    """What is in a log is not what was written."""


class Begin(NamedTuple):
    """What a log says of itself: its format, and when the fetching began, in seconds of the epoch."""

    format: int
    at: float


class Counts(NamedTuple):
    """What a whole log holds."""

    pages: int
    records: int


def page_frame(page: bytes) -> bytes:
    return _frame(_PAGE, page)


def begin_frame(at: float) -> bytes:
    return _frame(_BEGIN, encode({"sign": _SIGN, "format": FORMAT, "at": at}))


def end_frame(counts: Counts) -> bytes:
    return _frame(_END, encode({"pages": counts.pages, "records": counts.records}))


def read_begin(payload: bytes) -> Begin:
    """Raises Damaged."""
    told = _told(payload)
    if told.get("sign") != _SIGN:
        raise Damaged("it is no parent log")
    return Begin(told["format"], told["at"])


def read_end(payload: bytes) -> Counts:
    """Raises Damaged."""
    told = _told(payload)
    return Counts(told["pages"], told["records"])


def length_at(data: bytes, offset: int) -> int:
    """Of the whole frame that begins there; its head must be in `data`."""
    return HEAD_SIZE + int(_HEAD.unpack_from(data, offset)[1])


def frames(data: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """The kind and payload of each whole frame from the beginning of `data`, with where it ends.

    Raises Damaged where a checksum is wrong.
    """
    offset = 0
    while len(data) - offset >= HEAD_SIZE:
        kind, length, checksum = _HEAD.unpack_from(data, offset)
        end = offset + HEAD_SIZE + length
        if end > len(data):
            return
        payload = data[offset + HEAD_SIZE : end]
        if zlib.crc32(payload, zlib.crc32(kind)) != checksum:
            raise Damaged("a checksum is wrong")
        yield kind, payload, end
        offset = end


def is_begin(kind: bytes) -> bool:
    return kind == _BEGIN


def is_page(kind: bytes) -> bool:
    return kind == _PAGE


def is_end(kind: bytes) -> bool:
    return kind == _END


def _frame(kind: bytes, payload: bytes) -> bytes:
    return _HEAD.pack(kind, len(payload), zlib.crc32(payload, zlib.crc32(kind))) + payload


def _told(payload: bytes) -> dict[str, Any]:
    try:
        told = as_object(decode(payload))
    except MalformedJSON:
        told = None
    if told is None:
        raise Damaged("what it says of itself cannot be read")
    return told
