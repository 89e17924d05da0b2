"""Decoders of content codings and compressed files, with bounded pieces and a check of the end."""

from __future__ import annotations

import importlib
import importlib.util
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from ..errors import DecodeError, TruncatedBody, UnexpectedContent

_MAX_PIECE_BYTES = 256 * 1024
_GZIP_MAGIC = b"\x1f\x8b"
_PLAIN_BODY_HINT = (
    "the body is a plain text, although Content-Encoding says that it is compressed: return "
    '{"Accept-Encoding": "identity"} from request_headers'
)


class Decompressor(Protocol):
    """An incremental decoder of one compression format."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The decoded form of `data`, in pieces of bounded size."""
        ...

    def finish(self) -> None:
        """Check that the data is complete. Raises TruncatedBody."""
        ...


class _Zlib:
    """gzip (RFC 1952: every member, each checked) and deflate (zlib, or raw as some servers send it)."""

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._bits = 31 if coding == "gzip" else 15
        self._member = zlib.decompressobj(self._bits)
        self._has_data = False
        self._member_ended = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._member_ended:
                data = data.lstrip(b"\0")  # zero padding, as in tape archives
                if not data:
                    return
                self._start_member(data)
            if not self._has_data and self._coding == "deflate" and (data[0] & 0x0F) != 8:
                self._member = zlib.decompressobj(-15)
            self._has_data = True
            try:
                piece = self._member.decompress(data, _MAX_PIECE_BYTES)
            except zlib.error as error:
                is_plain = data.lstrip()[:1] in (b"{", b"[", b"<")
                raise DecodeError(
                    f"sent a body that is not valid {self._coding}: {error}; it begins with {data[:8].hex(' ')}",
                    hint=_PLAIN_BODY_HINT if is_plain else None,
                ) from None
            if piece:
                yield piece
            self._member_ended = self._member.eof
            data = self._member.unused_data if self._member_ended else self._member.unconsumed_tail
            if not piece and not self._member_ended and not data:
                return

    def finish(self) -> None:
        if self._has_data and not self._member_ended:
            raise TruncatedBody(f"sent a truncated {self._coding} body: its end is missing")

    def _start_member(self, data: bytes) -> None:
        if self._coding != "gzip" or not data.startswith(_GZIP_MAGIC[: len(data)]):
            raise DecodeError(f"sent bytes after the end of its {self._coding} body: {data[:8].hex(' ')}")
        self._member = zlib.decompressobj(self._bits)
        self._member_ended = False


class _Brotli:
    def __init__(self) -> None:
        self._library = importlib.import_module("brotli")
        self._inner = self._library.Decompressor()
        self._has_data = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._has_data = True
        while True:
            try:
                piece = self._inner.process(data, output_buffer_limit=_MAX_PIECE_BYTES)
            except self._library.error as error:
                raise DecodeError(f"sent a body that is not valid br: {error}") from None
            data = b""
            if piece:
                # The decoder may hold more output; only an empty piece shows that it does not.
                yield piece
            elif self._inner.is_finished() or self._inner.can_accept_more_data():
                return

    def finish(self) -> None:
        if self._has_data and not self._inner.is_finished():
            raise TruncatedBody("sent a truncated br body: its end is missing")


class _Zstd:
    def __init__(self, module: str) -> None:
        self._library = importlib.import_module(module)
        self._frame = self._library.ZstdDecompressor()
        self._has_data = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        while True:
            if self._frame.eof:
                if not data:
                    return
                self._frame = self._library.ZstdDecompressor()
            self._has_data = True
            try:
                piece = self._frame.decompress(data, max_length=_MAX_PIECE_BYTES)
            except self._library.ZstdError as error:
                raise DecodeError(f"sent a body that is not valid zstd: {error}") from None
            if piece:
                yield piece
            data = self._frame.unused_data if self._frame.eof else b""
            if not self._frame.eof and self._frame.needs_input:
                return

    def finish(self) -> None:
        if self._has_data and not self._frame.eof:
            raise TruncatedBody("sent a truncated zstd body: its end is missing")


class _Bzip2:
    """bzip2: every stream of the file, each checked."""

    def __init__(self) -> None:
        # Imported here, because Python can be built without it.
        self._new_stream: Callable[[], Any] = importlib.import_module("bz2").BZ2Decompressor
        self._stream = self._new_stream()
        self._has_data = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        while True:
            if self._stream.eof:
                if not data:
                    return
                self._stream = self._new_stream()
            self._has_data = True
            try:
                piece = self._stream.decompress(data, max_length=_MAX_PIECE_BYTES)
            except (OSError, ValueError) as error:
                raise DecodeError(f"sent a body that is not valid bzip2: {error}") from None
            if piece:
                yield piece
            data = self._stream.unused_data if self._stream.eof else b""
            if not self._stream.eof and self._stream.needs_input:
                return

    def finish(self) -> None:
        if self._has_data and not self._stream.eof:
            raise TruncatedBody("sent a truncated bzip2 body: its end is missing")


def _first_available(*modules: str) -> str | None:
    return next(
        (module for module in modules if importlib.util.find_spec(module.partition(".")[0]) and _can_import(module)),
        None,
    )


def _can_import(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


_ZSTD_MODULE = _first_available("compression.zstd", "backports.zstd")
_HAS_BZIP2 = importlib.util.find_spec("_bz2") is not None
_HAS_BROTLI = _first_available("brotli") is not None
ACCEPT_ENCODING = ", ".join(["gzip", "deflate", *(["br"] if _HAS_BROTLI else []), *(["zstd"] if _ZSTD_MODULE else [])])
"""The codings that the installed packages can decode."""


def new_decompressor(coding: str) -> Decompressor:
    """A new decoder of a content coding. Raises DecodeError for a coding that was not requested."""
    if coding in ("gzip", "x-gzip"):
        return _Zlib("gzip")
    if coding in ("deflate", "x-deflate"):
        return _Zlib("deflate")
    if coding == "br" and _HAS_BROTLI:
        return _Brotli()
    if coding == "zstd" and _ZSTD_MODULE:
        return _Zstd(_ZSTD_MODULE)
    raise DecodeError(
        f"sent a body with Content-Encoding {coding!r}, which was not requested",
        retryable=False,
        hint=f"pip install 'asyncstreams[{coding}]'" if coding in ("br", "zstd") else None,
    )


def new_file_decoder(kind: str) -> Decompressor:
    """A new decoder of a compressed file: gzip, bzip2 or zstd. Raises UnexpectedContent if its library is missing."""
    if kind == "gzip":
        return _Zlib("gzip")
    if kind == "bzip2" and _HAS_BZIP2:
        return _Bzip2()
    if kind == "zstd" and _ZSTD_MODULE:
        return _Zstd(_ZSTD_MODULE)
    raise UnexpectedContent(
        f"sent a {kind} file, which needs a package that is not installed",
        hint="pip install 'asyncstreams[zstd]'" if kind == "zstd" else "install a Python that includes bz2",
    )


def decode_through(
    stages: list[Decompressor], data: bytes, on_bytes: Callable[[int, int], None], stage: int = 0
) -> Iterator[bytes]:
    """`data` decoded by all stages, piece by piece; `on_bytes` receives each stage and its output size."""
    if stage == len(stages):
        yield data
        return
    for piece in stages[stage].feed(data):
        on_bytes(stage, len(piece))
        yield from decode_through(stages, piece, on_bytes, stage + 1)
