"""How are pieces laid one after the other in a file, so that one that was cut or damaged is known?"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

from .._json import as_object, decode, encode
from ..errors import MalformedJSON

_HEAD = struct.Struct("<cII")  # kind, length of what follows, CRC-32 of kind and that
HEAD_SIZE = _HEAD.size

Data = TypeVar("Data", bytes, "memoryview[int]")


class CorruptData(Exception):
    """What is in a file is not what was written."""


def frame(kind: bytes, payload: bytes) -> bytes:
    """A piece with its head; `kind` is one byte."""
    return _HEAD.pack(kind, len(payload), zlib.crc32(payload, zlib.crc32(kind))) + payload


def length_at(data: bytes, offset: int) -> int:
    """Of the whole frame that begins there; its head must be in `data`."""
    return HEAD_SIZE + int(_HEAD.unpack_from(data, offset)[1])


def frames(data: Data, *, are_checked: bool = False) -> Iterator[tuple[bytes, Data, int]]:
    """The kind and payload of each whole frame from the beginning of `data`, with where it ends.

    Payloads of a memoryview are parts of it, and not copied. Raises Damaged where a checksum is wrong, unless
    they have been looked at already.
    """
    offset = 0
    while len(data) - offset >= HEAD_SIZE:
        kind, length, checksum = _HEAD.unpack_from(data, offset)
        end = offset + HEAD_SIZE + length
        if end > len(data):
            return
        payload = data[offset + HEAD_SIZE : end]
        if not are_checked and zlib.crc32(payload, zlib.crc32(kind)) != checksum:
            raise CorruptData("a checksum is wrong")
        yield kind, payload, end
        offset = end


def is_followed(data: bytes, kind: bytes, offset: int) -> bool:
    """Whether a whole frame of this kind begins anywhere from `offset` on."""
    while (offset := data.find(kind, offset)) >= 0:
        if len(data) - offset >= HEAD_SIZE:
            _, length, checksum = _HEAD.unpack_from(data, offset)
            payload = data[offset + HEAD_SIZE : offset + HEAD_SIZE + length]
            if len(payload) == length and zlib.crc32(payload, zlib.crc32(kind)) == checksum:
                return True
        offset += 1
    return False


FORMAT = 2
_BEGIN, _PAGE, _END = b"B", b"P", b"E"
_SIGN = "asyncstreams parents"


class LogHeader(NamedTuple):
    """What a log says of itself: its format, and when the fetching began, in seconds of the epoch."""

    format: int
    at: float


class LogFooter(NamedTuple):
    """What a whole log holds."""

    pages: int
    records: int


def page_frame(page: bytes) -> bytes:
    return frame(_PAGE, page)


def begin_frame(at: float) -> bytes:
    return frame(_BEGIN, encode({"sign": _SIGN, "format": FORMAT, "at": at}))


def end_frame(counts: LogFooter) -> bytes:
    return frame(_END, encode({"pages": counts.pages, "records": counts.records}))


def read_begin(payload: bytes) -> LogHeader:
    """Raises Damaged."""
    told = _told(payload)
    if told.get("sign") != _SIGN:
        raise CorruptData("it is no parent log")
    return LogHeader(told["format"], told["at"])


def read_end(payload: bytes) -> LogFooter:
    """Raises Damaged."""
    told = _told(payload)
    return LogFooter(told["pages"], told["records"])


def is_begin(kind: bytes) -> bool:
    return kind == _BEGIN


def is_page(kind: bytes) -> bool:
    return kind == _PAGE


def is_end(kind: bytes) -> bool:
    return kind == _END


def _told(payload: bytes) -> dict[str, Any]:
    try:
        told = as_object(decode(payload))
    except MalformedJSON:
        told = None
    if told is None:
        raise CorruptData("what it says of itself cannot be read")
    return told
