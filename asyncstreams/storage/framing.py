"""Checksummed frames in files, and the layout of a parent log.

A frame is a head (kind, length, CRC-32) followed by its payload, so a reader recognizes one that is cut off or damaged.
Journals and parent logs are sequences of frames. A parent log is one header frame, any number of page frames, and one
footer frame; a log without its footer is incomplete.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

from .._json import as_object, decode, encode
from ..errors import MalformedJSON

_HEAD = struct.Struct("<cII")  # kind, length of the payload, CRC-32 of kind and payload
HEAD_SIZE = _HEAD.size

LOG_FORMAT = 2
_LOG_HEADER, _LOG_PAGE, _LOG_FOOTER = b"B", b"P", b"E"
_LOG_SIGNATURE = "asyncstreams parents"

Data = TypeVar("Data", bytes, "memoryview[int]")


class CorruptData(Exception):
    """A file does not hold what was written to it."""


class LogHeader(NamedTuple):
    """The header of a parent log: its format, and when the read began, in seconds since the epoch."""

    format: int
    started_at: float


class LogFooter(NamedTuple):
    """The footer of a complete parent log: the number of its pages and of its records."""

    pages: int
    records: int


def frame(kind: bytes, payload: bytes) -> bytes:
    """A frame with its head; `kind` is one byte."""
    return _HEAD.pack(kind, len(payload), zlib.crc32(payload, zlib.crc32(kind))) + payload


def frame_length_at(data: bytes, offset: int) -> int:
    """The length of the frame that begins at `offset`, head included; `data` must hold at least its head."""
    return HEAD_SIZE + int(_HEAD.unpack_from(data, offset)[1])


def iter_frames(data: Data, *, already_checked: bool = False) -> Iterator[tuple[bytes, Data, int]]:
    """The kind, payload and end offset of each complete frame, from the beginning of `data`.

    Payloads of a memoryview are views of it, not copies. Raises CorruptData for a wrong checksum; `already_checked`
    skips that check.
    """
    offset = 0
    while len(data) - offset >= HEAD_SIZE:
        kind, length, checksum = _HEAD.unpack_from(data, offset)
        end = offset + HEAD_SIZE + length
        if end > len(data):
            return
        payload = data[offset + HEAD_SIZE : end]
        if not already_checked and zlib.crc32(payload, zlib.crc32(kind)) != checksum:
            raise CorruptData("wrong checksum")
        yield kind, payload, end
        offset = end


def has_frame_after(data: bytes, kind: bytes, offset: int) -> bool:
    """Whether a complete frame of this kind begins at `offset` or anywhere after it."""
    while (offset := data.find(kind, offset)) >= 0:
        if len(data) - offset >= HEAD_SIZE:
            _, length, checksum = _HEAD.unpack_from(data, offset)
            payload = data[offset + HEAD_SIZE : offset + HEAD_SIZE + length]
            if len(payload) == length and zlib.crc32(payload, zlib.crc32(kind)) == checksum:
                return True
        offset += 1
    return False


def header_frame(started_at: float) -> bytes:
    return frame(_LOG_HEADER, encode({"sign": _LOG_SIGNATURE, "format": LOG_FORMAT, "at": started_at}))


def page_frame(page: bytes) -> bytes:
    return frame(_LOG_PAGE, page)


def footer_frame(footer: LogFooter) -> bytes:
    return frame(_LOG_FOOTER, encode({"pages": footer.pages, "records": footer.records}))


def is_header(kind: bytes) -> bool:
    return kind == _LOG_HEADER


def is_page(kind: bytes) -> bool:
    return kind == _LOG_PAGE


def is_footer(kind: bytes) -> bool:
    return kind == _LOG_FOOTER


def read_header(payload: bytes) -> LogHeader:
    """Raises CorruptData."""
    fields = _fields_of(payload)
    if fields.get("sign") != _LOG_SIGNATURE:
        raise CorruptData("not a parent log")
    return LogHeader(fields["format"], fields["at"])


def read_footer(payload: bytes) -> LogFooter:
    """Raises CorruptData."""
    fields = _fields_of(payload)
    return LogFooter(fields["pages"], fields["records"])


def _fields_of(payload: bytes) -> dict[str, Any]:
    try:
        fields = as_object(decode(payload))
    except MalformedJSON:
        fields = None
    if fields is None:
        raise CorruptData("unreadable header or footer")
    return fields
