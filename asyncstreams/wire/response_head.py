"""Parser of response heads: llhttp judges the characters, this module the framing (RFC 9112, 6).

llhttp is strict here. A head that it rejects is parsed again after `_repair`, which accepts what other
clients accept and what has only one meaning: folded lines, bare line feeds, control characters in values,
equal lengths, and a length beside chunked.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import httptools

from ..messages import HeaderIndex, HeaderLayout
from .transport_errors import InvalidResponse

MAX_HEAD_BYTES = 256 * 1024
MAX_HEADERS = 512
_MAX_LENGTH_DIGITS = 18
_PROTOCOL = b"HTTP/1."
_KEEP_ALIVE_TIMEOUT = re.compile(rb"timeout\s*=\s*(\d{1,6})", re.IGNORECASE)


class ResponseHead(NamedTuple):
    """The head of one response.

    `length` is the number of bytes of the body; None if the body is chunked or ends with the connection.
    `keep_alive` is the number of seconds for which the server keeps the connection open afterwards: 0 if it
    closes it, infinity if it does not say.
    """

    status: int
    version: bytes
    headers: list[tuple[bytes, bytes]]
    layout: HeaderLayout
    length: int | None
    is_chunked: bool
    keep_alive: float


def find_head_end(data: bytes | bytearray, start: int, end: int) -> int:
    """The offset of the first byte after a head within `data[start:end]`; -1 if the head is incomplete.

    With bare line feeds, the head may end earlier: see `parse_head`.
    """
    position = data.find(b"\r\n\r\n", start, end)
    return position + 4 if position >= 0 else _find_empty_line(data, start, end)


def parse_head(data: bytes, method: str) -> tuple[ResponseHead, int]:
    """The head at the beginning of `data`, which `find_head_end` delimits, and the number of its bytes.

    Raises InvalidResponse, which names the broken rule.
    """
    check_protocol(data)
    if b"\0" in data and b"\0" in data[: _find_empty_line(data, 0, len(data))]:
        raise InvalidResponse("a NUL character in the head")
    headers: list[tuple[bytes, bytes]] = []
    parser = httptools.HttpResponseParser(_Fields(headers))
    size = len(data)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError:
        headers.clear()
        size = _find_empty_line(data, 0, size)
        data = _repair(data[:size])
        parser = httptools.HttpResponseParser(_Fields(headers))
        parser.set_dangerous_leniencies(lenient_headers=True, lenient_chunked_length=True)
        _feed_repaired(parser, data)
    if b" \r\n" in data or b"\t\r\n" in data:
        headers[:] = [(name, value.rstrip(b" \t")) for name, value in headers]
    return _judge(parser.get_status_code(), data[5:8], headers, method), size


def check_protocol(data: bytes) -> None:
    """Raise InvalidResponse unless `data` begins like a response of HTTP/1, as far as it goes."""
    if data[:7] != _PROTOCOL[: len(data)]:
        raise InvalidResponse("the response does not begin with a version, HTTP/1.0 or HTTP/1.1")


class _Fields:
    """httptools' protocol; adds the header fields that the parser finds to a list."""

    __slots__ = ("_add",)

    def __init__(self, headers: list[tuple[bytes, bytes]]) -> None:
        self._add = headers.append

    def on_header(self, name: bytes, value: bytes) -> None:
        self._add((name, value))


def _find_empty_line(data: bytes | bytearray, start: int, end: int) -> int:
    """The offset after the first empty line, whether lines end in CRLF or LF; -1 without one."""
    position = data.find(b"\n\r\n", start, end)
    bare = data.find(b"\n\n", start, end if position < 0 else position + 1)
    if bare >= 0:
        return bare + 2
    return -1 if position < 0 else position + 3


def _judge(status: int, version: bytes, headers: list[tuple[bytes, bytes]], method: str) -> ResponseHead:
    if len(headers) > MAX_HEADERS:
        raise InvalidResponse(f"more than {MAX_HEADERS} header lines")
    if status < 100:
        raise InvalidResponse("a status below 100")
    layout = HeaderLayout.of(headers)
    length_text, coding = _value(layout.content_length, headers), _value(layout.transfer_encoding, headers)
    keep_alive = _keep_alive(version, headers, layout)
    length: int | None = 0
    is_chunked = False
    if status < 200 or status in (204, 304) or method == "HEAD" or (method == "CONNECT" and status < 300):
        # A length after 204, and content after 304, are common mistakes of servers, which then send a body.
        is_suspicious = status in (204, 304) and (coding is not None or length_text not in (None, b"0"))
        if is_suspicious or status == 101:
            keep_alive = 0.0
    elif coding is not None and _is_chunked(coding):
        length, is_chunked = None, True
        # A length beside chunked may be an attempt at response splitting (RFC 9112, 6.3).
        if length_text is not None or version != b"1.1":
            keep_alive = 0.0
    elif length_text is not None:
        length = _parse_length(length_text)
    else:
        length, keep_alive = None, 0.0
    return ResponseHead(status, version, headers, layout, length, is_chunked, keep_alive)


def _value(index: HeaderIndex | None, headers: list[tuple[bytes, bytes]]) -> bytes | None:
    return None if index is None else index.value(headers)


def _keep_alive(version: bytes, headers: list[tuple[bytes, bytes]], layout: HeaderLayout) -> float:
    options = (_value(layout.connection, headers) or b"").lower()
    if b"close" in options or (version != b"1.1" and b"keep-alive" not in options):
        return 0.0
    announced = _value(layout.keep_alive, headers)
    match = None if announced is None else _KEEP_ALIVE_TIMEOUT.search(announced)
    return math.inf if match is None else float(match[1])


def _is_chunked(coding: bytes) -> bool:
    """Whether the body is chunked; False if it ends with the connection. Raises InvalidResponse."""
    names = [name.strip().lower() for name in coding.split(b",")]
    if names == [b"chunked"]:
        return True
    if all(name in (b"", b"identity") for name in names):
        return False
    shown = coding[:40].decode("ascii", "replace")
    raise InvalidResponse(
        f"Transfer-Encoding is {shown!r}; only chunked is defined for a client that asks for no other"
    )


def _parse_length(text: bytes) -> int:
    if text.isdigit() and len(text) <= _MAX_LENGTH_DIGITS:
        return int(text)
    raise InvalidResponse("Content-Length is not a number of bytes")


def _feed_repaired(parser: httptools.HttpResponseParser, data: bytes) -> None:
    failure: InvalidResponse
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        return
    except httptools.HttpParserError as error:
        failure = invalid_response(error)
    else:
        return
    raise failure


def invalid_response(error: httptools.HttpParserError) -> InvalidResponse:
    """The error for a response that llhttp rejects; llhttp's reasons are constant texts."""
    reason = str(error.args[0]) if error.args else "unknown reason"
    return InvalidResponse(reason[:1].lower() + reason[1:])


def _repair(data: bytes) -> bytes:
    """The head with one line for each field, CRLF line ends, and one framing. Raises InvalidResponse."""
    lines = [line.removesuffix(b"\r") for line in data.split(b"\n")]
    while len(lines) > 1 and not lines[-1]:
        lines.pop()
    if any(b"\r" in line for line in lines):
        raise InvalidResponse("a carriage return without a line feed in the head")
    unfolded = lines[:1]
    for line in lines[1:]:
        if line[:1] in (b" ", b"\t") and len(unfolded) > 1:
            unfolded[-1] += b" " + line.strip(b" \t")
        else:
            unfolded.append(line)
    return b"\r\n".join([*_unambiguous(unfolded), b"", b""])


def _unambiguous(lines: list[bytes]) -> list[bytes]:
    """The lines, with Content-Length at most once. Raises InvalidResponse for lengths that differ."""
    names = [line.partition(b":")[0].lower() for line in lines]
    if any(name[-1:] in (b" ", b"\t") for name in names[1:]):
        raise InvalidResponse("a space after the name of a header")
    values = {
        value.strip(b" \t")
        for line, name in zip(lines, names, strict=True)
        if name == b"content-length"
        for value in line.partition(b":")[2].split(b",")
    }
    if len(values) > 1:
        raise InvalidResponse("several different values of Content-Length")
    kept: list[bytes] = []
    for line, name in zip(lines, names, strict=True):
        if name != b"content-length":
            kept.append(line)
        elif values:
            kept.append(b"Content-Length: " + values.pop())
    return kept
