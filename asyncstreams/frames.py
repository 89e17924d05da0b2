"""How are pieces laid one after the other in a file, so that one that was cut or damaged is known?"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import TypeVar

_HEAD = struct.Struct("<cII")  # kind, length of what follows, CRC-32 of kind and that
HEAD_SIZE = _HEAD.size

Data = TypeVar("Data", bytes, "memoryview[int]")


class Damaged(Exception):
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
            raise Damaged("a checksum is wrong")
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
