"""How is a body unpacked: each content coding in pieces of bounded size, and with its end looked at?"""

from __future__ import annotations

import importlib
import importlib.util
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

from ..errors import DecodeError, TruncatedBody

_PIECE = 256 * 1024
_GZIP_MAGIC = b"\x1f\x8b"


class Decompressor(Protocol):
    def feed(self, data: bytes) -> Iterator[bytes]:
        """What `data` becomes, in pieces of bounded size."""
        ...

    def end(self) -> None:
        """No more data. Raises TruncatedBody or DecodeError where more was due."""
        ...


class _Zlib:
    """gzip (RFC 1952: all members, each checked) and deflate (zlib, or raw as some servers send it)."""

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._bits = 31 if coding == "gzip" else 15
        self._member = zlib.decompressobj(self._bits)
        self._begun = False
        self._ended = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._ended:
                data = data.lstrip(b"\0")  # padding, as tape archives have it
                if not data:
                    return
                self._next_member(data)
            if not self._begun and self._coding == "deflate" and (data[0] & 0x0F) != 8:
                self._member = zlib.decompressobj(-15)
            self._begun = True
            try:
                piece = self._member.decompress(data, _PIECE)
            except zlib.error as error:
                raise DecodeError(
                    f"sent a body labelled {self._coding} that is not: {error}; it begins with {data[:8].hex(' ')}"
                ) from None
            if piece:
                yield piece
            self._ended = self._member.eof
            data = self._member.unused_data if self._ended else self._member.unconsumed_tail
            if not piece and not self._ended and not data:
                return

    def end(self) -> None:
        if self._begun and not self._ended:
            raise TruncatedBody(f"sent a {self._coding} body without its end: it was cut on the way")

    def _next_member(self, data: bytes) -> None:
        if self._coding != "gzip" or not data.startswith(_GZIP_MAGIC[: len(data)]):
            raise DecodeError(f"sent bytes after the end of its {self._coding} body: {data[:8].hex(' ')}")
        self._member = zlib.decompressobj(self._bits)
        self._ended = False


class _Brotli:
    def __init__(self) -> None:
        self._library = importlib.import_module("brotli")
        self._inner = self._library.Decompressor()
        self._begun = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._begun = True
        while True:
            try:
                piece = self._inner.process(data, output_buffer_limit=_PIECE)
            except self._library.error as error:
                raise DecodeError(f"sent a body labelled br that is not: {error}") from None
            data = b""
            if piece:
                # It may hold more back, and says only after an empty piece that it does not.
                yield piece
            elif self._inner.is_finished() or self._inner.can_accept_more_data():
                return

    def end(self) -> None:
        if self._begun and not self._inner.is_finished():
            raise TruncatedBody("sent a br body without its end: it was cut on the way")


class _Zstd:
    def __init__(self, module: str) -> None:
        self._library = importlib.import_module(module)
        self._frame = self._library.ZstdDecompressor()
        self._begun = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        while True:
            if self._frame.eof:
                if not data:
                    return
                self._frame = self._library.ZstdDecompressor()
            self._begun = True
            try:
                piece = self._frame.decompress(data, max_length=_PIECE)
            except self._library.ZstdError as error:
                raise DecodeError(f"sent a body labelled zstd that is not: {error}") from None
            if piece:
                yield piece
            data = self._frame.unused_data if self._frame.eof else b""
            if not self._frame.eof and self._frame.needs_input:
                return

    def end(self) -> None:
        if self._begun and not self._frame.eof:
            raise TruncatedBody("sent a zstd body without its end: it was cut on the way")


def _available(*modules: str) -> str | None:
    return next(
        (module for module in modules if importlib.util.find_spec(module.partition(".")[0]) and _imports(module)), None
    )


def _imports(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


_ZSTD_MODULE = _available("compression.zstd", "backports.zstd")
_HAS_BROTLI = _available("brotli") is not None
ACCEPT_ENCODING = ", ".join(["gzip", "deflate", *(["br"] if _HAS_BROTLI else []), *(["zstd"] if _ZSTD_MODULE else [])])
"""Only what we can decode is asked for."""


def decompressor(coding: str) -> Decompressor:
    """What undoes a content coding. Raises DecodeError for one that was not asked for."""
    if coding in ("gzip", "x-gzip"):
        return _Zlib("gzip")
    if coding == "deflate":
        return _Zlib("deflate")
    if coding == "br" and _HAS_BROTLI:
        return _Brotli()
    if coding == "zstd" and _ZSTD_MODULE:
        return _Zstd(_ZSTD_MODULE)
    raise DecodeError(
        f"sent a body with Content-Encoding {coding!r}, which was not asked for",
        retryable=False,
        hint=f"pip install 'asyncstreams[{coding}]'" if coding in ("br", "zstd") else None,
    )


def through(
    chain: list[Decompressor], data: bytes, unpacked: Callable[[int, int], None], stage: int = 0
) -> Iterator[bytes]:
    """`data`, as it comes out of the whole chain, piece by piece; `unpacked` is told each stage and its bytes."""
    if stage == len(chain):
        yield data
        return
    for piece in chain[stage].feed(data):
        unpacked(stage, len(piece))
        yield from through(chain, piece, unpacked, stage + 1)
