"""How is a body compressed, so that the same body gives the same bytes?"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

_GZIP = 16 + zlib.MAX_WBITS


def zipped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces as gzip, without a time in it."""
    coding = zlib.compressobj(6, zlib.DEFLATED, _GZIP)
    for piece in pieces:
        yield coding.compress(piece)
    yield coding.flush()


def damaged(body: bytes) -> bytes:
    """The body as gzip, with a checksum that does not fit."""
    whole = b"".join(zipped([body]))
    return whole[:-8] + bytes([whole[-8] ^ 0xFF]) + whole[-7:]
