"""Parsed requests, encoded responses, and the steps in which a response is sent."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from http import HTTPStatus
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, quote, unquote

import orjson

HEAD_END = b"\r\n\r\n"
# RFC 9110, 5.5: control characters that a header must not contain. A tab is allowed.
_CONTROL_CHARS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# 16 selects the gzip format in zlib.
_GZIP_WBITS = 16 + zlib.MAX_WBITS


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """A request as the server received it; `Fault(when=...)` gets one.

    Header names are lower case; the last value of a repeated header wins. `target` is the undecoded
    request target. `segments` are the decoded parts of the path, so a segment may contain a slash
    (from %2F). `params` are the parameters of the query and, for a POST, of the form or JSON body, as text.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = field(default=b"", repr=False)
    version: str = "HTTP/1.1"
    segments: tuple[str, ...] = ("",)
    params: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def path(self) -> str:
        """The decoded path, without leading and trailing slashes."""
        return "/".join(self.segments)

    @property
    def url(self) -> str:
        """The URL without the query. Its host is that of the Host header."""
        parts = (quote(segment, safe="") for segment in self.segments)
        return f"http://{self.headers.get('host', '')}/{'/'.join(parts)}"

    @property
    def keep_alive(self) -> bool:
        """Whether the connection stays open after the response (RFC 9112, 9.3)."""
        options = {option.strip() for option in self.headers.get("connection", "").lower().split(",")}
        return "close" not in options and (self.version == "HTTP/1.1" or "keep-alive" in options)

    @property
    def accepts_gzip(self) -> bool:
        """Whether Accept-Encoding contains gzip."""
        return "gzip" in self.headers.get("accept-encoding", "").lower()


class ConnectionEnd(Enum):
    """Abnormal ends of a connection. HANG sends nothing more and waits until the client disconnects."""

    CLOSE = "close"
    RESET = "reset"
    HANG = "hang"


# Bytes to write, seconds to wait, or the end of the connection.
Step: TypeAlias = bytes | float | ConnectionEnd


class BadRequest(Exception):
    """Raised while a request is handled; `response` is the JSON error to send instead."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.response = make_response(
            status, json_body({"error": {"status": status, "message": message, **more}}), headers
        )


@dataclass(slots=True)
class MockResponse:
    """A response. `start` is its head up to the headers that depend on the request.

    With `iter_pieces`, `body` is empty and each call of `iter_pieces` yields the body once.
    """

    status: int
    start: bytes
    body: bytes = b""
    iter_pieces: Callable[[], Iterable[bytes]] | None = None
    records: int = 0

    def encode(self, extra_headers: bytes = b"", *, keep_alive: bool = True, head_only: bool = False) -> bytes:
        """The complete response, for a body in memory. `extra_headers` are encoded header lines."""
        head = self.encode_head(len(self.body), extra_headers, keep_alive)
        return head if head_only else head + self.body

    def encode_head(self, length: int | None, extra_headers: bytes = b"", keep_alive: bool = True) -> bytes:
        """The head. `length` None announces a chunked body."""
        close = b"" if keep_alive else b"Connection: close\r\n"
        framing = b"Transfer-Encoding: chunked\r\n\r\n" if length is None else b"Content-Length: %d\r\n\r\n" % length
        return self.start + extra_headers + close + framing

    def stream_steps(self, extra_headers: bytes, *, keep_alive: bool, chunked: bool) -> Iterator[Step]:
        """The steps of a streamed body. Without `chunked`, closing the connection ends the body."""
        assert self.iter_pieces is not None
        if not chunked:
            yield self.start + extra_headers + b"Connection: close\r\n\r\n"
            yield from self.iter_pieces()
            yield ConnectionEnd.CLOSE
            return
        yield self.encode_head(None, extra_headers, keep_alive)
        for piece in self.iter_pieces():
            if piece:
                yield b"%x\r\n%b\r\n" % (len(piece), piece)
        yield b"0\r\n\r\n"

    def buffered(self) -> MockResponse:
        """The same response with its complete body in memory."""
        if self.iter_pieces is None:
            return self
        return MockResponse(self.status, self.start, b"".join(self.iter_pieces()), None, self.records)


def make_response(
    status: int, body: bytes = b"", headers: Mapping[str, str] | None = None, content_type: str = "application/json"
) -> MockResponse:
    return MockResponse(status, start_lines(status, content_type, headers or {}), body)


def start_lines(status: int, content_type: str, headers: Mapping[str, str]) -> bytes:
    """Status line and headers, without the empty line after them."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Status"
    return f"HTTP/1.1 {status} {phrase}\r\nContent-Type: {content_type}\r\n".encode() + header_lines(headers)


def header_lines(headers: Mapping[str, str]) -> bytes:
    """Encoded header lines. Raises ValueError for a control character, which could inject a header or a body."""
    lines = [f"{name}: {value}" for name, value in headers.items()]
    if any(map(_CONTROL_CHARS.search, lines)):
        raise ValueError(f"control character in the header {next(filter(_CONTROL_CHARS.search, lines))[:80]!r}")
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1", "replace")


def json_body(value: Any) -> bytes:
    return orjson.dumps(value)


def read_request(head: bytes, body: bytes = b"") -> ReceivedRequest:
    """Parse a head, including its empty line, and a body. Raises ValueError for an invalid request."""
    line, *fields = head[: -len(HEAD_END)].decode("latin-1").split("\r\n")
    method, target, version = line.split(" ")
    if version not in ("HTTP/1.1", "HTTP/1.0") or not method.isalpha():
        raise ValueError(f"the request line is not HTTP/1.1: {line[:80]!r}")
    headers: dict[str, str] = {}
    for name, colon, value in (text.partition(":") for text in fields):
        if not colon or not name or name != name.strip() or _CONTROL_CHARS.search(value):
            raise ValueError(f"invalid header: {name[:80]!r}")
        headers[name.lower()] = value.strip()
    # A client that uses a proxy sends the absolute form (RFC 9112, 3.2.2).
    path_and_query = target.partition("//")[2].partition("/")[2] if target.startswith("http") else target
    path, _, query = path_and_query.partition("#")[0].partition("?")
    params = dict(parse_qsl(query, keep_blank_values=True))
    if body and method == "POST":
        params |= body_params(body, headers)
    # Each segment is decoded separately: a %2F belongs to an id and separates nothing.
    segments = tuple(map(unquote, path.strip("/").split("/")))
    return ReceivedRequest(method.upper(), target, headers, body, version, segments, params)


def body_params(body: bytes, headers: Mapping[str, str]) -> dict[str, str]:
    """The fields of a form or a JSON object, as text. Raises ValueError for malformed JSON."""
    if "json" not in headers.get("content-type", ""):
        return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
    value: Any = orjson.loads(body)
    return {str(name): str(item) for name, item in value.items()} if isinstance(value, dict) else {}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]  # JSON


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
