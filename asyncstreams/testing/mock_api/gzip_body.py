"""Reproducible gzip compression of response bodies."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

# 16 selects the gzip format in zlib.
_GZIP_WBITS = 16 + zlib.MAX_WBITS


def compress(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces as gzip, without a modification time, so that equal input gives equal output."""
    compressor = zlib.compressobj(6, zlib.DEFLATED, _GZIP_WBITS)
    for piece in pieces:
        yield compressor.compress(piece)
    yield compressor.flush()


def compress_with_bad_checksum(body: bytes) -> bytes:
    """The body as gzip with a wrong CRC-32."""
    data = b"".join(compress([body]))
    return data[:-8] + bytes([data[-8] ^ 0xFF]) + data[-7:]
